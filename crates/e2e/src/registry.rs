//! A registry on this host, and images made by hand to be put into it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use base::{
    hash,
    process::{Command, Process, ProcessError},
};
use fs_err as fs;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A registry that has not said where it listens by then is none.
const PATIENCE: Duration = Duration::from_secs(20);

/// The architecture of this machine, as Go calls it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Debian's registry, on a port of the loopback interface. It ends with this, and what it has goes.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    process: Option<Process>,
    dir: TempDir,
}

impl Registry {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let config = json!({
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": dir.path().join("data")},
                "delete": {"enabled": true},
            },
            "http": {"addr": "127.0.0.1:0"},
        });
        let path = dir.path().join("config.yml");
        // YAML can be written as JSON.
        fs::write(&path, config.to_string()).expect("a file can be written");
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        let command = Command::new("docker-registry").arg("serve").arg(&path);
        let command = command.env("OTEL_TRACES_EXPORTER", "none");
        let command = command.stderr(writer.try_clone().expect("a pipe has two ends"));
        let process = command.stdout(writer).spawn().unwrap_or_else(|error| installed(&error));
        let (told, port) = mpsc::sync_channel(1);
        // Ends with the registry; until then nothing that it says may fill the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if let Some(rest) = line.split("listening on 127.0.0.1:").nth(1) {
                    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    let _ = told.try_send(port);
                }
            }
        });
        let port = port.recv_timeout(PATIENCE).expect("the registry says where it listens");
        let port = port.parse().expect("a port");
        Self { port, process: Some(process), dir }
    }

    /// How an image there is named.
    pub fn reference(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Puts an image into it.
    ///
    /// # Panics
    /// If that fails.
    pub fn push(&self, image: &Layout, name: &str) {
        let to = format!("docker://{}", self.reference(name));
        image.copy_to(&to);
    }

    /// Damages the content of the largest blob, so that it is not what it is said to be.
    ///
    /// # Panics
    /// If there is none.
    pub fn damage_largest_blob(&self) {
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        let prefixes = fs::read_dir(blobs).expect("blobs").map(|entry| entry.expect("entry"));
        let blobs = prefixes.flat_map(|prefix| fs::read_dir(prefix.path()).expect("blobs"));
        let data = blobs.map(|entry| entry.expect("an entry").path().join("data"));
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let largest = data.max_by_key(size).expect("there is a blob");
        crate::flip_bit(&largest, 500);
    }

    /// Ends it; its port answers nobody then.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

pub(crate) fn installed<T>(error: &ProcessError) -> T {
    panic!("{error}; run scripts/bootstrap.sh tests")
}

/// A layer of an image in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(Builder::new(Vec::new()))
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").finish_non_exhaustive()
    }
}

fn header(kind: EntryType, mode: u32, owner: (u64, u64), size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_size(size as u64);
    header.set_mtime(1_700_000_000);
    header
}

impl Layer {
    /// A directory of root's.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, &mut header(EntryType::Directory, 0o755, (0, 0), 0), b"")
    }

    /// A file of root's.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.owned(path, mode, (0, 0), content)
    }

    /// A file of somebody's.
    #[must_use]
    pub fn owned(self, path: &str, mode: u32, owner: (u64, u64), content: &[u8]) -> Self {
        self.entry(path, &mut header(EntryType::Regular, mode, owner, content.len()), content)
    }

    /// A file with an extended attribute.
    ///
    /// # Panics
    /// If the archive cannot be written.
    #[must_use]
    pub fn with_attribute(
        mut self,
        path: &str,
        mode: u32,
        content: &[u8],
        xattr: (&str, &[u8]),
    ) -> Self {
        let key = format!("SCHILY.xattr.{}", xattr.0);
        let told = [(key.as_str(), xattr.1)];
        self.0.append_pax_extensions(told).expect("a layer can be written");
        self.file(path, mode, content)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    /// Another name of a file.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = header(kind, 0o777, (0, 0), 0);
        self.0.append_link(&mut header, path, target).expect("a layer can be written");
        self
    }

    fn entry(mut self, path: &str, header: &mut Header, content: &[u8]) -> Self {
        self.0.append_data(header, path, content).expect("a layer can be written");
        self
    }

    /// The archive.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("a layer can be written")
    }
}

/// An image as a directory that skopeo reads.
#[derive(Debug)]
pub struct Layout(TempDir);

impl Layout {
    /// An image of these layers, lowest first, with what it says about processes.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn new(layers: Vec<Layer>, config: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory can be made");
        let put = |bytes: &[u8], media: &str| {
            let digest = hash::bytes(bytes);
            let mut file = fs::File::create(blobs.join(&digest)).expect("a file can be written");
            file.write_all(bytes).expect("a file can be written");
            json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len()})
        };
        let layers: Vec<Value> = layers
            .into_iter()
            .map(|layer| put(&layer.bytes(), "application/vnd.oci.image.layer.v1.tar"))
            .collect();
        let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers});
        let manifest = put(manifest.to_string().as_bytes(), media);
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(dir.path().join("index.json"), index.to_string()).expect("a file can be written");
        let version = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        fs::write(dir.path().join("oci-layout"), version).expect("a file can be written");
        Self(dir)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes it as an archive of Docker's.
    ///
    /// # Panics
    /// If that fails.
    pub fn archive(&self, path: &Path, name: &str) {
        self.copy_to(&format!("docker-archive:{}:{name}", path.display()));
    }

    fn copy_to(&self, to: &str) {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let policy = home.path().join("policy.json");
        let any = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(&policy, any).expect("a file can be written");
        let from = format!("oci:{}", self.path().display());
        let command = Command::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]);
        let command = command.arg("--policy").arg(policy).args([&from, to]);
        let copied = command.env("HOME", home.path()).output();
        copied.unwrap_or_else(|error| installed(&error));
    }

    /// What the layers are called whoever has the image, lowest first.
    ///
    /// # Panics
    /// If the directory was changed.
    pub fn layers(&self) -> Vec<String> {
        let read = |path: &str| -> Value {
            let text = fs::read(self.path().join(path)).expect("a file of the layout");
            serde_json::from_slice(&text).expect("JSON")
        };
        let hex = |digest: &Value| {
            let digest = digest.as_str().and_then(|text| text.strip_prefix("sha256:"));
            digest.expect("a digest").to_owned()
        };
        let index = read("index.json");
        let manifest = format!("blobs/sha256/{}", hex(&index["manifests"][0]["digest"]));
        // They are not compressed.
        let layers = read(&manifest)["layers"].as_array().cloned().expect("layers");
        layers.iter().map(|layer| hex(&layer["digest"])).collect()
    }
}

/// The program that the image `busybox` of a data directory consists of.
///
/// # Panics
/// If there is no such image.
pub fn busybox(data: &Path) -> Vec<u8> {
    let name = fs::read(data.join("images/names/busybox")).expect("there is an image busybox");
    let text = String::from_utf8_lossy(&name);
    let digest = text.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 64);
    let digest = digest.expect("a name says which content it means");
    let to = tempfile::tempdir().expect("a temporary directory can be made");
    let root = data.join("images/content").join(digest).join("root.erofs");
    let extract = format!("--extract={}", to.path().join("root").display());
    Command::new("fsck.erofs").arg(extract).arg(root).output().expect("an image can be read");
    fs::read(to.path().join("root/bin/busybox")).expect("it has a busybox")
}
