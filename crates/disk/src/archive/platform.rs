//! What this machine is called in the world of containers.

/// The processor, as Go calls it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// System and processor, for people.
pub(super) fn shown() -> String {
    format!("linux/{}", architecture())
}
