//! Layers of an image from elsewhere, and a registry on the loopback interface that has it.
//!
//! The layers are the files of an image of this machine, in the order of their names and in parts of about
//! the same size, so they are as mixed as a distribution is, and a sandbox can be made of them. The
//! registry is a task of the measuring program and serves from memory.

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use base::{hash, process::Command};
use bytes::Bytes;
use fs_err as fs;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// How many layers there are.
pub(super) const LAYERS: usize = 5;

/// What this machine's architecture is called in an image.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The name of the image in the registry.
const NAME: &str = "bench";

/// See the module.
#[derive(Debug)]
pub(super) struct Layers {
    /// Archives with gzip, lowest first.
    pub(super) archives: Vec<PathBuf>,
    /// SHA-256 of each without gzip.
    ids: Vec<String>,
    /// Of all without gzip.
    pub(super) bytes: u64,
}

impl Layers {
    /// Of the files of an image's tree. What is made lies in the new directory `place`.
    pub(super) fn of(image: &Path, place: &Path) -> Result<Self> {
        let tree = place.join("tree");
        fs::create_dir(place)?;
        let extract = format!("--extract={}", tree.display());
        Command::new("fsck.erofs").arg(extract).arg(image).output().context("extract the image")?;
        let mut files = Vec::new();
        list(&tree, Path::new(""), &mut files)?;
        let mut layers = Self { archives: Vec::new(), ids: Vec::new(), bytes: 0 };
        for (number, names) in (1..).zip(split(&files, LAYERS)) {
            let (archive, names_file) =
                (place.join(format!("layer-{number}.tar")), place.join("names"));
            fs::write(&names_file, joined(&names))?;
            let tar = Command::new("tar").arg("-C").arg(&tree).args(["--no-recursion", "--null"]);
            tar.arg("-cf").arg(&archive).arg("-T").arg(&names_file).output()?;
            layers.bytes += fs::metadata(&archive)?.len();
            layers.ids.push(hash::file(&archive)?);
            Command::new("gzip").arg(&archive).output()?;
            layers.archives.push(archive.with_extension("tar.gz"));
        }
        base::files::remove_any(&tree)?;
        Ok(layers)
    }
}

/// All that is below a directory, by name, with its size in bytes.
fn list(tree: &Path, below: &Path, into: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(tree.join(below))? {
        names.push(below.join(entry?.file_name()));
    }
    names.sort();
    for name in names {
        let meta = fs::symlink_metadata(tree.join(&name))?;
        into.push((name.clone(), if meta.is_file() { meta.len() } else { 0 }));
        if meta.is_dir() {
            list(tree, &name, into)?;
        }
    }
    Ok(())
}

/// Files in so many parts of about the same size, each with the directories that lead to them.
fn split(files: &[(PathBuf, u64)], parts: usize) -> Vec<BTreeSet<PathBuf>> {
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let mut split = vec![BTreeSet::new(); parts];
    let mut before = 0;
    for (name, bytes) in files {
        let part = u128::from(before) * parts as u128 / u128::from(total.max(1));
        let part = usize::try_from(part).unwrap_or(parts).min(parts - 1);
        let leading = name.ancestors().filter(|above| !above.as_os_str().is_empty());
        split[part].extend(leading.map(Path::to_owned));
        before += bytes;
    }
    split
}

/// Names as `tar --null` takes them.
fn joined(names: &BTreeSet<PathBuf>) -> Vec<u8> {
    names.iter().flat_map(|name| [name.as_os_str().as_bytes(), b"\0"].concat()).collect()
}

/// A registry with one image. It ends with this.
#[derive(Debug)]
pub(super) struct Registry {
    address: SocketAddr,
    content: Arc<Content>,
    /// The layers as manifests describe them.
    described: Vec<Value>,
    /// SHA-256 of each without gzip.
    ids: Vec<String>,
    _serving: JoinSet<()>,
}

/// What is served, by path.
#[derive(Debug, Default)]
struct Content {
    by_path: Mutex<HashMap<String, (&'static str, Bytes)>>,
    /// How many layers were asked for.
    layers: AtomicUsize,
}

impl Registry {
    /// Serves `layers`.
    pub(super) async fn serve(layers: &Layers) -> Result<Self> {
        let content = Arc::<Content>::default();
        let mut described = Vec::new();
        for archive in &layers.archives {
            described.push(content.blob(LAYER, fs::read(archive)?));
        }
        let ids = layers.ids.clone();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("listen as a registry")?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&content)));
        Ok(Self { address, content, described, ids, _serving: serving })
    }

    /// Makes an image of the layers, another one for each `label`, and says how it is named.
    pub(super) fn publish(&self, label: &str) -> String {
        let config = json!({
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Labels": {"bhatti.bench": label}},
            "rootfs": {
                "type": "layers",
                "diff_ids": self.ids.iter().map(|id| digest(id)).collect::<Vec<_>>(),
            },
        });
        let config = self.content.blob(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": self.described,
        });
        self.content.put(
            &format!("manifests/{label}"),
            MANIFEST,
            manifest.to_string().into_bytes(),
        );
        self.content.layers.store(0, Ordering::Relaxed);
        format!("{}/{NAME}:{label}", self.address)
    }

    /// How many layers were asked for since something was published.
    pub(super) fn layers_asked_for(&self) -> usize {
        self.content.layers.load(Ordering::Relaxed)
    }
}

impl Content {
    /// Adds a blob, and describes it.
    fn blob(&self, media: &'static str, bytes: Vec<u8>) -> Value {
        let id = hash::bytes(&bytes);
        let digest = digest(&id);
        let described = json!({"mediaType": media, "digest": digest, "size": bytes.len()});
        self.put(&format!("blobs/{digest}"), media, bytes);
        described
    }

    fn put(&self, path: &str, media: &'static str, bytes: Vec<u8>) {
        let mut all = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(format!("/v2/{NAME}/{path}"), (media, bytes.into()));
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let all = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((media, bytes)) = all.get(path) else {
            let known = path == "/v2/";
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
            return answer;
        };
        if *media == LAYER {
            self.layers.fetch_add(1, Ordering::Relaxed);
        }
        let mut answer = Response::new(Full::new(bytes.clone()));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        answer
    }
}

fn digest(id: &str) -> String {
    format!("sha256:{id}")
}

async fn accept(listener: TcpListener, content: Arc<Content>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let content = Arc::clone(&content);
        connections.spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let answer = content.answer(request.uri().path());
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            // Whoever asked tells what is missing.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_one_part_below_its_directories() {
        let files: Vec<(PathBuf, u64)> =
            [("a", 0), ("a/x", 30), ("a/y", 30), ("b", 0), ("b/z", 40)]
                .map(|(name, bytes)| (name.into(), bytes))
                .to_vec();
        let parts: Vec<Vec<String>> = split(&files, 3)
            .iter()
            .map(|part| part.iter().map(|path| path.display().to_string()).collect())
            .collect();
        assert_eq!(parts, [vec!["a", "a/x", "a/y"], vec!["b", "b/z"], vec![]]);
        assert_eq!(split(&files[..1], 2)[0].len(), 1);
        let names = [PathBuf::from("a"), PathBuf::from("a/x")].into_iter().collect();
        assert_eq!(joined(&names), b"a\0a/x\0");
    }

    #[test]
    fn the_registry_has_what_was_put_into_it_and_counts_layers() {
        let content = Content::default();
        let layer = content.blob(LAYER, b"layer".to_vec());
        content.put("manifests/one", MANIFEST, b"{}".to_vec());
        assert_eq!((layer["size"].as_u64(), &layer["mediaType"]), (Some(5), &LAYER.into()));
        let blob = format!("/v2/{NAME}/blobs/{}", layer["digest"].as_str().unwrap());
        for (path, status) in [
            ("/v2/", StatusCode::OK),
            ("/v2/bench/manifests/one", StatusCode::OK),
            (&blob, StatusCode::OK),
            ("/v2/bench/manifests/two", StatusCode::NOT_FOUND),
            ("/v2/other/manifests/one", StatusCode::NOT_FOUND),
        ] {
            assert_eq!(content.answer(path).status(), status, "{path}");
        }
        assert_eq!(content.layers.load(Ordering::Relaxed), 1);
    }
}
