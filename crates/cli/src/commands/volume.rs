//! Disks that outlive sandboxes.

mod clone;
mod create;
mod delete;
mod inspect;
mod list;
mod resize;

use std::process::ExitCode;

use anyhow::Result;
use api::{SandboxVolume, VolumeMount};

use crate::app::App;

/// Keep files on disks that outlive sandboxes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(create::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    #[command(visible_alias = "info")]
    Inspect(inspect::Args),
    Resize(resize::Args),
    #[command(visible_alias = "snapshot")]
    Clone(clone::Args),
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    match &args.command {
        Command::Create(args) => create::run(args, app),
        Command::List(args) => list::run(args, app),
        Command::Inspect(args) => inspect::run(args, app),
        Command::Resize(args) => resize::run(args, app),
        Command::Clone(args) => clone::run(args, app),
        Command::Delete(args) => delete::run(args, app),
    }
}

/// Reads a size such as `500M`, `20G` or `1T`; a bare number is MB.
pub(crate) fn size_mb(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 500M, 20G or 1T");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "M" | "MB" | "MIB" => 1,
        "G" | "GB" | "GIB" => 1 << 10,
        "T" | "TB" | "TIB" => 1 << 20,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|mb| *mb > 0).ok_or_else(wrong)
}

/// Reads `NAME:PATH[:ro]`.
pub(super) fn mount(text: &str) -> Result<VolumeMount, String> {
    let (name, rest) = text
        .split_once(':')
        .filter(|(name, rest)| !name.is_empty() && rest.starts_with('/'))
        .ok_or("it has to be NAME:PATH[:ro], and PATH absolute")?;
    let (mount, read_only) = match rest.rsplit_once(':') {
        Some((mount, "ro")) => (mount, true),
        Some((mount, "rw")) => (mount, false),
        Some((_, other)) => return Err(format!("{other:?} is neither ro nor rw")),
        None => (rest, false),
    };
    Ok(VolumeMount { name: name.to_owned(), mount: mount.to_owned(), read_only })
}

/// What a sandbox has of a volume, in a line.
pub(super) fn of_sandbox(volume: &SandboxVolume) -> String {
    let SandboxVolume { name, mount, read_only, copied_at } = volume;
    let access = if *read_only { ", read-only" } else { "" };
    match copied_at {
        None => format!("{name} at {mount}{access}"),
        Some(at) => format!("{name} at {mount}{access}: private copy of data as of {at}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, mb) in [("16", 16), ("500M", 500), ("1g", 1024), ("2TiB", 2 << 20)] {
            assert_eq!(size_mb(text), Ok(mb));
        }
        for bad in ["", "G", "0", "1.5G", "-1", "1K", "1 G", "99999999999999T", "é"] {
            assert!(size_mb(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_volume_has_a_name_and_a_path() {
        let is = |name: &str, mount: &str, read_only| {
            Ok(VolumeMount { name: name.into(), mount: mount.into(), read_only })
        };
        assert_eq!(mount("a:/b"), is("a", "/b", false));
        assert_eq!(mount("a:/b/c:ro"), is("a", "/b/c", true));
        assert_eq!(mount("a:/b:rw"), is("a", "/b", false));
        for bad in ["a", ":/b", "a:b", "a:", "a:/b:rx", "/b"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
        assert!(try_args("create --volume a:/b --volume c:/d:ro").is_ok());
        assert!(try_args("create --volume a").is_err());
        assert!(try_args("volume create a --size 1G").is_ok());
        assert!(try_args("volume snapshot a b").is_ok());
    }

    #[test]
    fn a_copy_is_told_from_the_volume_itself() {
        let attached = SandboxVolume {
            name: "a".into(),
            mount: "/a".into(),
            read_only: true,
            copied_at: None,
        };
        assert_eq!(of_sandbox(&attached), "a at /a, read-only");
        let copy = SandboxVolume { read_only: false, copied_at: Some("t".into()), ..attached };
        assert_eq!(of_sandbox(&copy), "a at /a: private copy of data as of t");
    }
}
