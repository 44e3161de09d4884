//! Debian's own registry, filled by skopeo with images that umoci made.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what cannot be made ready fails the test, and what was said is shown then"
)]

use std::{io::BufRead as _, io::BufReader, path::Path, time::Duration};

use base::process::{Command, Process, ProcessError};
use fs_err as fs;
use registry::{
    Client, Credentials, Digest, Error, Kind, Options, Platform, Reach, Remote, Request,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

struct Registry {
    port: u16,
    dir: TempDir,
    _process: Process,
}

fn run(command: Command) -> Vec<u8> {
    match command.output() {
        Ok(output) => output,
        Err(ProcessError::Missing { program }) => {
            panic!("{program} is not installed: run scripts/bootstrap.sh tests")
        }
        Err(error) => panic!("{error}"),
    }
}

impl Registry {
    async fn start(user: Option<&str>) -> Self {
        Self::at("127.0.0.1", user, TempDir::new().unwrap()).await
    }

    /// One at an address of this host, with what is in the directory.
    async fn at(address: &str, user: Option<&str>, dir: TempDir) -> Self {
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}},
            "http": {"addr": format!("{address}:0")},
        });
        if let Some(user) = user {
            let (name, password) = user.split_once(':').unwrap();
            let line = run(Command::new("htpasswd").args(["-Bbn", name, password]));
            let path = dir.path().join("htpasswd");
            fs::write(&path, line).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "r", "path": path}});
        }
        let path = dir.path().join("config.yml");
        // YAML can be written as JSON.
        fs::write(&path, config.to_string()).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let command = Command::new("docker-registry").arg("serve").arg(&path);
        let command =
            command.env("OTEL_TRACES_EXPORTER", "none").stderr(writer.try_clone().unwrap());
        let process = match command.stdout(writer).spawn() {
            Ok(process) => process,
            Err(error) => panic!("{error}; run scripts/bootstrap.sh tests"),
        };
        let (told, port) = tokio::sync::oneshot::channel();
        let sign = format!("listening on {address}:");
        // Ends with the registry; until then nothing that it says may fill the pipe.
        std::thread::spawn(move || {
            let mut told = Some(told);
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let port = line.split(&sign).nth(1);
                let port = port.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
                if let Some((told, port)) = told.take_if(|_| port.is_some()).zip(port) {
                    let port: String = port;
                    let _ = told.send(port.parse::<u16>().unwrap());
                }
            }
        });
        let port = timeout(Duration::from_secs(20), port).await.unwrap().unwrap();
        Self { port, dir, _process: process }
    }

    /// Ends it, and leaves what is in it.
    fn end(self) -> TempDir {
        self.dir
    }

    /// Copies an image of a layout to this registry under a name.
    fn push(&self, layout: &Path, image: &str, name: &str, options: &[&str]) {
        let from = format!("oci:{}:{image}", layout.display());
        let to = format!("docker://localhost:{}/{name}", self.port);
        let command = Command::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]);
        let policy = self.dir.path().join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let command = command.args(options).arg("--policy").arg(policy).args([from, to]);
        run(command.env("HOME", self.dir.path()));
    }

    async fn resolve(&self, name: &str, user: Option<&str>) -> Result<Remote, Error> {
        self.resolve_for(name, user, Platform::default()).await
    }

    async fn resolve_for(
        &self,
        name: &str,
        user: Option<&str>,
        platform: Platform,
    ) -> Result<Remote, Error> {
        self.resolve_at("localhost", name, user, platform).await
    }

    async fn resolve_at(
        &self,
        host: &str,
        name: &str,
        user: Option<&str>,
        platform: Platform,
    ) -> Result<Remote, Error> {
        let reach = Reach { loopback: true, ..Reach::default() };
        let client = Client::new(Options { reach, ..Options::default() }).unwrap();
        let reference = format!("{host}:{}/{name}", self.port).parse().unwrap();
        let credentials: Option<Credentials> = user.map(|user| user.parse().unwrap());
        client.resolve(&Request { reference, credentials, platform }).await
    }
}

/// A layout with the image `one` of three layers, one of which is large and two are compressed
/// alike; for this machine and the two that registries have most.
fn layout() -> TempDir {
    let dir = TempDir::new().unwrap();
    let layout = dir.path().join("layout");
    let image = format!("{}:one", layout.display());
    let umoci = |args: &[&str]| run(Command::new("umoci").args(args));
    umoci(&["init", "--layout", &layout.display().to_string()]);
    umoci(&["new", "--image", &image]);
    for (name, size) in [("a", 10_usize), ("b", 5 << 20), ("c", 1)] {
        let file = dir.path().join(name);
        let noise: Vec<u8> =
            (0..size).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        fs::write(&file, noise).unwrap();
        umoci(&["insert", "--image", &image, &file.display().to_string(), &format!("/{name}")]);
    }
    umoci(&["config", "--image", &image, "--config.env", "A=b=c", "--config.user", "7:8"]);
    dir
}

/// All layers, checked.
async fn download(remote: &Remote) -> usize {
    let directory = TempDir::new().unwrap();
    let mut downloads = remote.download(directory.path(), |_| false, |_| ());
    let mut count = 0;
    while let Some(layer) = downloads.next().await {
        let layer = layer.unwrap();
        let content = fs::read(&layer.path).unwrap();
        assert_eq!(Digest::of(&content), layer.layer.digest);
        assert_eq!(content.len() as u64, layer.layer.size);
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_out_of_a_real_registry_as_they_went_in() {
    let registry = Registry::start(None).await;
    let made = layout();
    let path = made.path().join("layout");
    registry.push(&path, "one", "team/one:v1", &[]);
    registry.push(&path, "one", "team/docker", &["--format", "v2s2"]);
    let oci = registry.resolve("team/one:v1", None).await.unwrap();
    let docker = registry.resolve("team/docker", None).await.unwrap();
    for remote in [&oci, &docker] {
        assert_eq!(remote.layers().len(), 3);
        assert_eq!(download(remote).await, 3);
        assert!(String::from_utf8_lossy(remote.config()).contains("A=b=c"));
    }
    assert_ne!(oci.digest(), docker.digest());
    let ids =
        |remote: &Remote| remote.layers().iter().map(|l| l.diff_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&oci), ids(&docker));

    let by_digest = registry.resolve(&format!("team/one@{}", oci.digest()), None).await.unwrap();
    assert_eq!(by_digest.digest(), oci.digest());
    let other = Digest::of(b"nothing");
    for missing in ["team/one:v2", "team/none", &format!("team/one@{other}")] {
        let error = registry.resolve(missing, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_passwords_is_told_them_and_only_them() {
    let registry = Registry::start(Some("who:s3cret")).await;
    let made = layout();
    let path = made.path().join("layout");
    registry.push(&path, "one", "one", &["--dest-creds", "who:s3cret"]);
    let remote = registry.resolve("one", Some("who:s3cret")).await.unwrap();
    assert_eq!(download(&remote).await, 3);
    for wrong in [None, Some("who:else"), Some("else:s3cret")] {
        let error = registry.resolve("one", wrong).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_in_a_real_registry_leads_to_each_machine_its_own() {
    let registry = Registry::start(None).await;
    let made = layout();
    let path = made.path().join("layout");
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = format!("{}:one", path.display());
        run(Command::new("umoci")
            .args(["config", "--image", &image, "--tag", architecture])
            .args(["--architecture", architecture]));
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        let mut entry = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["annotations"]["org.opencontainers.image.ref.name"] == architecture)
            .unwrap()
            .clone();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry.as_object_mut().unwrap().remove("annotations");
        entries.push(entry);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string();
    let digest = Digest::of(index.as_bytes());
    fs::write(path.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": kind, "digest": digest.to_string(), "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": "all"},
    }]});
    fs::write(path.join("index.json"), top.to_string()).unwrap();
    registry.push(&path, "all", "all", &["--all"]);

    let mut found = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let platform = Platform { architecture: architecture.to_owned() };
        let remote = registry.resolve_for("all", None, platform).await.unwrap();
        assert_eq!(*remote.top_digest(), digest);
        assert!(String::from_utf8_lossy(remote.config()).contains(architecture));
        found.push(remote.digest().clone());
    }
    assert_ne!(found[0], found[1]);
    let platform = Platform { architecture: "riscv64".to_owned() };
    let error = registry.resolve_for("all", None, platform).await.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongArchitecture);
    assert!(error.to_string().contains("linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test]
async fn a_registry_is_reached_by_an_address_of_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("NOT TESTED: this machine has no IPv6");
        return;
    }
    // What fills it knows no such addresses.
    let (images, first) = (layout(), Registry::start(None).await);
    first.push(&images.path().join("layout"), "one", "x:1", &[]);
    let registry = Registry::at("[::1]", None, first.end()).await;
    let at = async |host| registry.resolve_at(host, "x:1", None, Platform::default()).await;
    let remote = at("[::1]").await.unwrap();
    assert_eq!(download(&remote).await, 3);
    assert_eq!(at("[0:0::1]").await.unwrap().digest(), remote.digest());
    // The same port of another address is another registry.
    assert_eq!(at("127.0.0.1").await.unwrap_err().kind(), Kind::Unreachable);
}
