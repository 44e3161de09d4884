//! Directories that lie on the writable disk itself, because what is in them cannot live on an
//! overlay, as another overlay cannot.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::mount::mount_bind;

use super::{BootError, Doing};
use crate::log;

/// On the disk, beside what the overlay has there.
const BELOW: &str = "plain";

/// Puts each of `directories` on `disk`, of which this is the root directory. What the image has in
/// them cannot be seen then.
pub(super) fn set_up(disk: &OwnedFd, directories: &[std::path::PathBuf]) -> Result<(), BootError> {
    for directory in directories {
        let shown = directory.display();
        fs::create_dir_all(directory).doing(|| format!("make directory {shown}"))?;
        let below = directory.strip_prefix("/").unwrap_or(directory);
        let source = Path::new("/proc/self/fd").join(disk.as_raw_fd().to_string());
        let source = source.join(BELOW).join(below);
        if !source.exists() {
            if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
                log::warn(&format!("what the image has in {shown} cannot be seen"));
            }
            prepare(&source, directory).doing(|| format!("prepare the disk for {shown}"))?;
        }
        mount_bind(&source, directory).doing(|| format!("mount {shown} from the disk"))?;
    }
    Ok(())
}

/// Makes the directory as the one in whose place it comes.
fn prepare(source: &Path, like: &Path) -> std::io::Result<()> {
    let meta = fs::metadata(like)?;
    fs::create_dir_all(source)?;
    chown(source, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(source, fs::Permissions::from_mode(meta.mode()))
}
