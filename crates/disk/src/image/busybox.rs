//! The `busybox` image: one static executable and links to it.

use std::path::Path;

use base::process::Command;
use fs_err as fs;

use super::{ImageError, Made, tree::Tree};
use crate::{
    DiskError, Listener,
    apt::Apt,
    erofs::{self, Meta},
    report,
};

const PACKAGE: &str = "busybox-static";

const DIRECTORIES: [(&str, u32); 20] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("lib", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

const FILES: [(&str, &str, u32); 11] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\ndisk:x:6:\nusers:x:100:\nnogroup:x:65534:\n", 0o644),
    ("etc/shadow", "root:*:0:0:99999:7:::\nnobody:*:0:0:99999:7:::\n", 0o640),
    ("etc/hostname", "", 0o644),
    ("etc/machine-id", "", 0o444),
    ("etc/resolv.conf", "", 0o644),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n", 0o644),
    ("etc/shells", "/bin/sh\n/bin/ash\n", 0o644),
    (
        "etc/profile",
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         export LANG=C.UTF-8\nexport PS1='\\u@\\h:\\w\\$ '\n",
        0o644,
    ),
    ("etc/os-release", "ID=busybox\nNAME=busybox\nPRETTY_NAME=\"busybox\"\n", 0o644),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
];

pub(super) fn make(work: &Path, image: &Path, progress: Listener<'_>) -> Result<Made, ImageError> {
    let unpacked = Apt::default().unpack(&[PACKAGE.to_owned()], &work.join("package"), progress)?;
    let executable = ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.join(path));
    let executable = executable.iter().find(|path| path.is_file()).ok_or_else(|| {
        let reason = format!("{PACKAGE} has no busybox");
        DiskError::Damaged { path: unpacked.clone(), reason }
    })?;

    let tree = Tree::new(work.join("root"));
    for (path, mode) in DIRECTORIES {
        tree.directory(path, mode)?;
    }
    for (path, content, mode) in FILES {
        tree.put(path, content, mode)?;
    }
    let target = tree.root().join("bin/busybox");
    fs::copy(executable, &target)?;
    rustix::fs::chmod(&target, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(std::io::Error::from)?;
    let applets = Command::new(&target).arg("--list-full").output()?;
    for applet in String::from_utf8_lossy(&applets).lines() {
        if applet != "bin/busybox" && crate::manifest::is_inside(applet) {
            tree.link(applet, "/bin/busybox")?;
        }
    }

    report(progress, "writing the image");
    let time = fs::metadata(executable)?.modified()?;
    let time = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    erofs::make(tree.root(), image, Meta::Fixed(i64::try_from(time).unwrap_or(0)))?;
    let banner = Command::new(&target).arg("--help").output()?;
    let banner = String::from_utf8_lossy(&banner).lines().next().unwrap_or(PACKAGE).to_owned();
    Ok(Made { source: format!("package {PACKAGE}: {banner}"), packages: Vec::new() })
}
