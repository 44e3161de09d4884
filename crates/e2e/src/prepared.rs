//! What every daemon of a test run starts from: the binary, the kernel and images, and templates
//! that were recorded once.
//!
//! ```text
//! target/e2e/<key>.lock        held shared by every process that uses <key>/
//! target/e2e/<key>/bhatti      the binary as it was when the run began
//!                  faulty      the one for tests of faults, if there is one
//!                  verdict     what it found out about KVM, which takes seconds
//!                  templates/  as in a data directory
//! ```
//! Recorded templates are never written to, neither by us nor by a daemon: a data directory gets
//! its own `templates` with links to the instances, and what it records stays its own.

use std::{
    env, io,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use fs_err as fs;
use rustix::fs::{FlockOperation, flock};

use crate::{
    daemon::{ORDINARY, RunAs},
    node::{Node, Options},
};

const BINARY: &str = "BHATTI_BIN";
const FAULTS_BINARY: &str = "BHATTI_FAULTS_BIN";
const TEST_DATA: &str = "BHATTI_TEST_DATA";

/// Which template serves a shape, below the templates.
const KEYS: &str = "keys";

/// See the module.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) binary: PathBuf,
    /// Has `kernels`, `images` and `initramfs`.
    pub(crate) data: PathBuf,
    directory: PathBuf,
    _in_use: fs::File,
}

/// The preparations of this run; made by whoever comes first on this machine.
pub(crate) fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| prepare().unwrap_or_else(|error| panic!("prepare a test run: {error}")))
}

fn prepare() -> io::Result<Prepared> {
    assert!(rustix::process::geteuid().is_root(), "these tests start real VMs and have to be root");
    let target = target_directory()?;
    let (binary, data) = (find_binary(&target), find_data(&target));
    let faulty = env::var_os(FAULTS_BINARY)
        .map_or_else(|| binary.with_file_name("bhatti-faults"), PathBuf::from);
    let identity = format!(
        "{} {} {}",
        identity(&binary)?,
        identity(&faulty).unwrap_or_default(),
        data.display()
    );
    let key = base::hash::bytes(identity.as_bytes())[..16].to_owned();
    let home = target.join("e2e");
    fs::create_dir_all(&home)?;
    remove_unused(&home, &key)?;
    let lock = open_lock(&home, &key)?;
    let directory = home.join(&key);
    let complete = directory.join("complete");
    flock(&lock, FlockOperation::LockShared)?;
    if !complete.exists() {
        // Of several processes one records and the others wait for it. Whoever only uses what is
        // there must not wait for others who do.
        flock(&lock, FlockOperation::LockExclusive)?;
    }
    let prepared = Prepared {
        binary: directory.join("bhatti"),
        data,
        directory: directory.clone(),
        _in_use: lock,
    };
    if !complete.exists() {
        base::files::remove_any(&directory)?;
        fs::create_dir_all(directory.join("templates"))?;
        fs::copy(&binary, &prepared.binary)?;
        if faulty.is_file() {
            fs::copy(&faulty, directory.join("faulty"))?;
        }
        record(&prepared)?;
        fs::write(complete, "")?;
    }
    flock(&prepared._in_use, FlockOperation::LockShared)?;
    Ok(prepared)
}

/// What tells a file from another that was at the same place earlier.
fn identity(file: &Path) -> io::Result<String> {
    let meta = fs::metadata(file)?;
    let (inode, length, seconds) = (meta.ino(), meta.len(), meta.mtime());
    Ok(format!("{} {inode} {length} {seconds} {}", file.display(), meta.mtime_nsec()))
}

impl Prepared {
    /// The binary for tests of faults.
    pub(crate) fn faulty(&self) -> PathBuf {
        let binary = self.directory.join("faulty");
        assert!(
            binary.is_file(),
            "there is no program for tests of faults: build it with `make faulty`, or name one in \
             {FAULTS_BINARY}"
        );
        binary
    }

    /// Gives a data directory on another file system what a sandbox of `busybox` needs, as files that it
    /// can share.
    fn furnish_apart(&self, data: &Path) -> io::Result<()> {
        symlink(self.data.join("kernels"), data.join("kernels"))?;
        link_all(&self.data.join("initramfs"), &data.join("initramfs"))?;
        let name = fs::read_to_string(self.data.join("images/names/busybox"))?;
        fs::create_dir_all(data.join("images/names"))?;
        fs::write(data.join("images/names/busybox"), &name)?;
        let digest = name.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 64);
        let digest = digest.ok_or_else(|| io::Error::other("a name without content"))?;
        let content = Path::new("images/content").join(digest);
        fs::create_dir_all(data.join("images/content"))?;
        copy_all(&self.data.join(&content), &data.join(&content))
    }

    /// Gives a new data directory what there is.
    pub(crate) fn furnish(&self, data: &Path, options: &Options) -> io::Result<()> {
        if options.data_bytes.is_some() {
            return self.furnish_apart(data);
        }
        if options.kernels {
            symlink(self.data.join("kernels"), data.join("kernels"))?;
            if options.run_as == RunAs::Root {
                // What a test stores and removes is its own.
                link_all(&self.data.join("initramfs"), &data.join("initramfs"))?;
                link_all(&self.data.join("images/content"), &data.join("images/content"))?;
                copy_all(&self.data.join("images/names"), &data.join("images/names"))?;
            } else {
                symlink(self.data.join("images"), data.join("images"))?;
            }
        }
        if options.run_as != RunAs::Root {
            return Ok(());
        }
        if let Ok(verdict) = fs::read_to_string(self.directory.join("verdict")) {
            let verdict = verdict.replace("DATA", &data.to_string_lossy());
            fs::write(data.join("kvm-verdict.json"), verdict)?;
        }
        if !options.recorded_templates {
            return Ok(());
        }
        let (from, to) = (self.directory.join("templates"), data.join("templates"));
        link_all(&from, &to)?;
        copy_all(&from.join(KEYS), &to.join(KEYS))
    }
}

/// Makes the directory `to` with links to what is in `from`, if that is there.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != KEYS {
            symlink(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Makes the directory `to` with copies of the files in `from`.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Makes a data directory an ordinary user's, with a program that it can run wherever this one's is.
pub(crate) fn give_away(data: &Path, binary: &Path) -> io::Result<PathBuf> {
    fs::create_dir(data.join("root"))?;
    let own = data.join("bhatti");
    fs::copy(binary, &own)?;
    for entry in fs::read_dir(data)? {
        std::os::unix::fs::lchown(entry?.path(), Some(ORDINARY), Some(ORDINARY))?;
    }
    std::os::unix::fs::chown(data, Some(ORDINARY), Some(ORDINARY))?;
    Ok(own)
}

/// Has a daemon record the templates that most tests use, and keeps them.
fn record(prepared: &Prepared) -> io::Result<()> {
    let options = Options { recorded_templates: false, ..Options::default() };
    let node = Node::start_on(prepared, &options);
    // Nothing is known of the machine yet, so a slow first boot fails no test.
    node.expect_warning("recording once more");
    for (image, memory) in [("busybox", "128"), ("minimal", "256"), ("services", "256")] {
        let line = ["create", "--name", image, "--image", image, "--memory", memory, "--disk-size"];
        let made = node.cli(&[&line[..], &["512"]].concat());
        assert!(
            made.status.success(),
            "a sandbox of image {image} cannot be made ({}), so nothing can be tested: {}",
            made.status,
            String::from_utf8_lossy(&made.stderr)
        );
    }
    let made = node.cli(&["volume", "create", "data", "--size", "16M"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let line = ["create", "--name", "volume", "--image", "busybox", "--memory", "128"];
    let line = [&line[..], &["--disk-size", "512", "--volume", "data:/data"]].concat();
    let made = node.cli(&line);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let data = node.data().to_string_lossy().into_owned();
    if let Ok(verdict) = fs::read_to_string(node.data().join("kvm-verdict.json")) {
        fs::write(prepared.directory.join("verdict"), verdict.replace(&data, "DATA"))?;
    }
    let aside = prepared.directory.join("templates");
    // Linked, not moved: the node's daemon still has it, and sparse files stay sparse.
    link_tree(&node.data().join("templates"), &aside)
}

fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let target = to.join(name);
        if entry.is_dir() {
            link_tree(&entry, &target)?;
        } else {
            match fs::hard_link(&entry, &target) {
                // A data directory may lie elsewhere than what tests share.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    fs::copy(&entry, &target).map(drop)?;
                }
                linked => linked?,
            }
        }
    }
    Ok(())
}

/// The directory that holds this test executable's profile directory.
fn target_directory() -> io::Result<PathBuf> {
    let executable = env::current_exe()?;
    // target/<profile>/deps/<test>
    let target = executable.ancestors().nth(3).map(Path::to_owned);
    target.ok_or_else(|| io::Error::other("the test executable is not in a target directory"))
}

fn find_binary(target: &Path) -> PathBuf {
    let binary = match env::var_os(BINARY) {
        Some(path) => PathBuf::from(path),
        None => {
            let profile = env::current_exe().ok().and_then(|exe| {
                exe.ancestors().nth(2).and_then(Path::file_name).map(ToOwned::to_owned)
            });
            target.join(profile.unwrap_or_else(|| "release".into())).join("bhatti")
        }
    };
    assert!(
        binary.is_file(),
        "{} is not there: build it with `cargo build --release`, or name another in {BINARY}",
        binary.display()
    );
    binary
}

fn find_data(target: &Path) -> PathBuf {
    let data = env::var_os(TEST_DATA).map_or_else(|| target.join("test-data"), PathBuf::from);
    assert!(
        data.join("kernels/current").exists() && data.join("images/names").is_dir(),
        "{0} has no kernel and images: prepare them with `bhatti --data-dir {0} kernel` and \
         `... image prepare busybox minimal`, or name another directory in {TEST_DATA}",
        data.display()
    );
    fs::create_dir_all(data.join("initramfs")).unwrap_or_else(|error| panic!("{error}"));
    data
}

fn open_lock(home: &Path, key: &str) -> io::Result<fs::File> {
    let path = home.join(format!("{key}.lock"));
    fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Removes preparations for other binaries that no process uses. Their locks stay: one that is
/// removed while another process opens it would be two.
fn remove_unused(home: &Path, key: &str) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == key || !entry.path().is_dir() {
            continue;
        }
        let lock = open_lock(home, &name)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            base::files::remove_any(&entry.path())?;
        }
    }
    Ok(())
}
