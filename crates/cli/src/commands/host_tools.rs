//! Programs of the host that some commands need, and where to get them.

use std::path::Path;

use anyhow::Result;

use crate::failure::hinted;

/// Where programs are looked for, as `base::process` does.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    /// The package of Debian and Ubuntu that has it.
    pub(crate) package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// Makes every sandbox's disk.
pub(crate) const MKE2FS: Tool = tool("mke2fs", "e2fsprogs");
/// Sets the packet rules of sandboxes' networks.
pub(crate) const NFT: Tool = tool("nft", "nftables");
/// Make kernels and images.
pub(crate) const MKFS_EROFS: Tool = tool("mkfs.erofs", "erofs-utils");
pub(crate) const DEPMOD: Tool = tool("depmod", "kmod");
pub(crate) const MMDEBSTRAP: Tool = tool("mmdebstrap", "mmdebstrap");
pub(crate) const UNSHARE: Tool = tool("unshare", "util-linux");
pub(crate) const DPKG_DEB: Tool = tool("dpkg-deb", "dpkg");
pub(crate) const APT_GET: Tool = tool("apt-get", "apt");
pub(crate) const NPM: Tool = tool("npm", "npm");

/// Those of `tools` that the host does not have.
pub(crate) fn missing(tools: &[Tool]) -> Vec<Tool> {
    let there =
        |tool: &Tool| DIRECTORIES.iter().any(|dir| Path::new(dir).join(tool.program).is_file());
    tools.iter().filter(|tool| !there(tool)).copied().collect()
}

/// Fails before anything is downloaded if one of `tools` is missing.
pub(crate) fn require(tools: &[Tool]) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    Err(hinted(not_installed(&missing), install_line(&missing)))
}

/// Says which programs are missing.
pub(crate) fn not_installed(missing: &[Tool]) -> String {
    let names: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb} not installed", names.join(", "))
}

/// Says how to get them.
pub(crate) fn install_line(missing: &[Tool]) -> String {
    if missing.contains(&APT_GET) {
        return "this needs Debian or Ubuntu, or anything else that has apt".to_owned();
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    format!("apt-get install {}", packages.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let unknown = tool("no-such-program", "nothing");
        assert_eq!(missing(&[tool("sh", "dash"), unknown]), [unknown]);
        let error = require(&[unknown, unknown]).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program, no-such-program are not installed");
        assert_eq!(
            install_line(&[MKFS_EROFS, MMDEBSTRAP]),
            "apt-get install erofs-utils mmdebstrap"
        );
        assert!(install_line(&[APT_GET]).contains("Debian"));
        assert!(require(&[]).is_ok());
    }
}
