//! A real Podman with images of its own, away from those that the machine may have.

use std::path::Path;

use base::process::Command;
use fs_err as fs;
use tempfile::TempDir;

use crate::registry::{Layout, installed};

/// It and all that it keeps. Nothing of it runs between its commands, and what it keeps goes with this.
#[derive(Debug)]
pub struct Podman(TempDir);

impl Podman {
    /// One without images.
    ///
    /// # Panics
    /// If its files cannot be written.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            at("root"),
            at("run")
        );
        // Else there are locks in shared memory, and a directory in /run.
        let engine = format!(
            "[engine]\nlock_type = \"file\"\nevents_logger = \"none\"\ntmp_dir = {:?}\n",
            at("tmp")
        );
        fs::write(dir.path().join("storage.conf"), storage).expect("a file can be written");
        fs::write(dir.path().join("containers.conf"), engine).expect("a file can be written");
        Self(dir)
    }

    /// Gives it an image of this name.
    ///
    /// # Panics
    /// If that fails.
    pub fn load(&self, image: &Layout, name: &str) {
        let archive = self.0.path().join("archive.tar");
        image.archive(&archive, name);
        self.run(&["load", "--quiet", "--input", &archive.display().to_string()]);
        fs::remove_file(archive).expect("a file can be removed");
    }

    /// Runs it to its end, and gives what it said.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> String {
        let command = self.know(Command::new("podman")).args(args);
        let said = command.output().unwrap_or_else(|error| installed(&error));
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// Where it keeps everything.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Has a program find these images.
    pub fn know(&self, command: Command) -> Command {
        let file = |name: &str| self.0.path().join(name);
        command
            .env("HOME", self.0.path())
            .env("CONTAINERS_STORAGE_CONF", file("storage.conf"))
            .env("CONTAINERS_CONF", file("containers.conf"))
    }
}
