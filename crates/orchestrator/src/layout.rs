//! Where things lie below the data directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use base::{
    files,
    ids::{BackupId, SandboxId, SnapshotId, VolumeId},
};

/// The longest path that a Unix socket can have, bytes, without the terminating zero.
const SOCKET_PATH_MAX: usize = 107;

/// The data directory of one node.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data: PathBuf,
}

impl Layout {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { data }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("state.db")
    }

    pub(crate) fn kvm_verdict(&self) -> PathBuf {
        self.data.join("kvm-verdict.json")
    }

    pub(crate) fn templates(&self) -> PathBuf {
        self.data.join("templates")
    }

    pub(crate) fn template(&self, key: &str) -> PathBuf {
        self.templates().join(key)
    }

    /// The file that says which template serves a shape.
    pub(crate) fn template_key(&self, key: &str) -> PathBuf {
        self.template_keys().join(key)
    }

    /// Where keys of shapes lead to templates.
    pub(crate) fn template_keys(&self) -> PathBuf {
        self.templates().join("keys")
    }

    /// Removes what an earlier daemon had begun to write or to remove. Must not run while another does.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        let directories = [
            self.data.clone(),
            self.data.join("initramfs"),
            self.templates(),
            self.template_keys(),
            self.snapshots(),
            self.volumes(),
        ];
        for directory in directories.iter().filter(|directory| directory.is_dir()) {
            files::sweep_temporary(directory)?;
        }
        Ok(())
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.data.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    /// Archives and layers while they come in.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.data.join("incoming")
    }

    /// Named snapshots.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    pub(crate) fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(id.as_str())
    }

    /// Volumes.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    pub(crate) fn volume(&self, id: &VolumeId) -> PathBuf {
        self.volumes().join(id.as_str())
    }

    /// What is under way of backups.
    pub(crate) fn backups(&self) -> PathBuf {
        self.data.join("backups")
    }

    pub(crate) fn backup(&self, id: &BackupId) -> PathBuf {
        self.backups().join(id.as_str())
    }

    /// Control sockets of running VMs.
    pub(crate) fn runs(&self) -> PathBuf {
        self.data.join("run")
    }

    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.runs().join(name)
    }

    /// Why no control socket could be made below this data directory, if so.
    pub(crate) fn too_long(&self) -> Option<String> {
        let longest = self.run("0123456789abcdef").join("agent.sock");
        let length = longest.as_os_str().len();
        (length > SOCKET_PATH_MAX).then(|| {
            format!(
                "the data directory's path is {} bytes too long for control sockets below it",
                length - SOCKET_PATH_MAX
            )
        })
    }
}
