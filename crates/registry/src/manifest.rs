//! From a reference to the layers of the image that this machine can run.

use http::header::CONTENT_TYPE;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use crate::{
    Digest, Error, Limits, Reference,
    session::{Ask, Session},
};

/// Longest manifest, index or configuration, in bytes.
const DOCUMENT_MAX: u64 = 4 << 20;
/// How many platforms are named when none fits.
const NAMED_MAX: usize = 20;

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What an image has to run on. The system is Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: String,
}

impl Default for Platform {
    /// This machine.
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned() }
    }
}

impl Platform {
    fn shown(&self) -> String {
        format!("linux/{}", self.architecture)
    }

    fn is(&self, os: &str, architecture: &str) -> bool {
        os == "linux" && architecture == self.architecture
    }
}

/// One layer of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// SHA-256 of the layer's tar: what it is, however it is compressed.
    pub diff_id: Digest,
    /// SHA-256 of the blob, which is compressed as its first bytes say.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
}

/// What a reference means.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Of the image for this platform.
    pub(crate) digest: Digest,
    /// Of what the reference itself means: the index, if there is one.
    pub(crate) top: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
}

/// As much of a manifest as says what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// A manifest or an index.
struct Document {
    digest: Digest,
    body: Vec<u8>,
    is_index: bool,
}

/// Follows a reference to the image for `platform`.
pub(crate) async fn resolve(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
    limits: &Limits,
) -> Result<Resolved, Error> {
    let document = document(session, &reference.selector(), reference.digest()).await?;
    let top = document.digest.clone();
    let document =
        if document.is_index { choose(session, &document, platform).await? } else { document };
    let host = &session.host();
    let manifest: ImageManifest = parse(host, "its manifest", &document.body)?;
    let config = config(session, manifest.config()).await?;
    let layers = layers_of(host, &manifest, &config, platform, limits)?;
    Ok(Resolved { digest: document.digest, top, config, layers })
}

async fn document(
    session: &Session,
    selector: &str,
    expected: Option<&Digest>,
) -> Result<Document, Error> {
    let ask = Ask { accept: Some(ACCEPT), from: 0 };
    let answer = session.fetch(&format!("manifests/{selector}"), ask).await?;
    let header = |name: &str| answer.headers.get(name)?.to_str().ok().map(str::to_owned);
    let (kind, said) = (header(CONTENT_TYPE.as_str()), header("docker-content-digest"));
    let body = answer.read(DOCUMENT_MAX, "the manifest", session.patience().document).await?;
    let digest = Digest::of(&body);
    let said = said.and_then(|said| said.parse::<Digest>().ok());
    for expected in expected.into_iter().chain(said.as_ref()) {
        if *expected != digest {
            return Err(bad_digest("the manifest", expected, &digest));
        }
    }
    let is_index = is_index(&session.host(), &body, kind.as_deref())?;
    Ok(Document { digest, body, is_index })
}

/// Whether it is an index.
fn is_index(host: &str, body: &[u8], content_type: Option<&str>) -> Result<bool, Error> {
    let head: Head = parse(host, "its manifest", body)?;
    if head.schema_version != 2 {
        let what = format!("a manifest of schema {}", head.schema_version);
        return Err(Error::Unsupported { what });
    }
    let content_type = content_type.map(|kind| kind.split(';').next().unwrap_or(kind).trim());
    let is_index = match head.media_type.as_deref().or(content_type) {
        Some(OCI_INDEX | DOCKER_INDEX) => true,
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
        Some(other) => {
            let what = format!("a manifest of type {:?}", shortened(other));
            return Err(Error::Unsupported { what });
        }
        None => head.manifests.is_some(),
    };
    // What can be read in two ways is what tricks are made of.
    if head.manifests.is_some() && head.layers.is_some() {
        return Err(malformed(host, "its manifest is an image and an index at once"));
    }
    Ok(is_index)
}

/// The image of an index for `platform`.
async fn choose(
    session: &Session,
    index: &Document,
    platform: &Platform,
) -> Result<Document, Error> {
    let index: ImageIndex = parse(&session.host(), "its index", &index.body)?;
    chosen(session, entry_for(&index, platform)?).await
}

/// What an index has for `platform`.
fn entry_for<'a>(index: &'a ImageIndex, platform: &Platform) -> Result<&'a Descriptor, Error> {
    let mut found = Vec::new();
    for entry in index.manifests() {
        let Some(of) = entry.platform() else { continue };
        let (os, architecture) = (of.os().to_string(), of.architecture().to_string());
        if platform.is(&os, &architecture) {
            return Ok(entry);
        }
        let name = shortened(&format!("{os}/{architecture}"));
        // Attestations are listed as images for nobody.
        if os != "unknown" && !found.contains(&name) && found.len() < NAMED_MAX {
            found.push(name);
        }
    }
    if found.is_empty() {
        found.push("nothing".to_owned());
    }
    Err(Error::WrongArchitecture { wanted: platform.shown(), found })
}

async fn chosen(session: &Session, entry: &Descriptor) -> Result<Document, Error> {
    let digest = digest(&session.host(), entry)?;
    let image = document(session, &digest.to_string(), Some(&digest)).await?;
    if image.is_index {
        return Err(Error::Unsupported { what: "an index inside of an index".to_owned() });
    }
    check_size("the manifest", entry, image.body.len())?;
    Ok(image)
}

async fn config(session: &Session, entry: &Descriptor) -> Result<Vec<u8>, Error> {
    let kind = entry.media_type().to_string();
    if kind != OCI_CONFIG && kind != DOCKER_CONFIG {
        let what = format!("something that is no container image but {:?}", shortened(&kind));
        return Err(Error::Unsupported { what });
    }
    let expected = digest(&session.host(), entry)?;
    let answer = session.fetch(&format!("blobs/{expected}"), Ask::default()).await?;
    let what = "the image's configuration";
    let limit = DOCUMENT_MAX.min(entry.size());
    let body = match answer.read(limit, what, session.patience().document).await {
        Err(Error::TooLarge { size, .. }) if size <= DOCUMENT_MAX => {
            let reason =
                format!("it has more than the {} bytes that its manifest says", entry.size());
            return Err(Error::BadDigest { what: what.to_owned(), reason });
        }
        other => other?,
    };
    check_size(what, entry, body.len())?;
    let found = Digest::of(&body);
    if found == expected { Ok(body) } else { Err(bad_digest(what, &expected, &found)) }
}

/// The layers of an image that a configuration says to be for `platform`.
fn layers_of(
    host: &str,
    manifest: &ImageManifest,
    config: &[u8],
    platform: &Platform,
    limits: &Limits,
) -> Result<Vec<Layer>, Error> {
    let config: ImageConfiguration = parse(host, "the image's configuration", config)?;
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if !platform.is(&os, &architecture) {
        let found = vec![format!("{os}/{architecture}")];
        return Err(Error::WrongArchitecture { wanted: platform.shown(), found });
    }
    layers(host, manifest.layers(), config.rootfs().diff_ids(), limits)
}

fn layers(
    host: &str,
    entries: &[Descriptor],
    diff_ids: &[String],
    limits: &Limits,
) -> Result<Vec<Layer>, Error> {
    let too_large =
        |what: &str, size, limit| Err(Error::TooLarge { what: what.to_owned(), size, limit });
    if entries.len() != diff_ids.len() {
        let (has, named) = (entries.len(), diff_ids.len());
        let reason = format!("its image has {has} layers, and its configuration names {named}");
        return Err(malformed(host, &reason));
    }
    if entries.len() > limits.layers {
        return too_large("the number of layers", entries.len() as u64, limits.layers as u64);
    }
    let mut all = 0_u64;
    let mut layers = Vec::with_capacity(entries.len());
    for (entry, diff_id) in entries.iter().zip(diff_ids) {
        if !is_layer(entry.media_type()) {
            let kind = shortened(entry.media_type().as_ref());
            return Err(Error::Unsupported { what: format!("a layer of type {kind:?}") });
        }
        if entry.size() > limits.layer_bytes {
            return too_large("a layer", entry.size(), limits.layer_bytes);
        }
        all = all.saturating_add(entry.size());
        let diff_id = diff_id.parse().map_err(|e| malformed(host, &format!("a layer: {e}")))?;
        layers.push(Layer { diff_id, digest: digest(host, entry)?, size: entry.size() });
    }
    if all > limits.image_bytes {
        return too_large("the image", all, limits.image_bytes);
    }
    Ok(layers)
}

/// Whether it is a tar, compressed or not, that comes from the registry itself. How it is
/// compressed its first bytes say better than its type.
fn is_layer(kind: &MediaType) -> bool {
    let kind = kind.to_string();
    [OCI_LAYER, DOCKER_LAYER].iter().any(|plain| {
        kind.strip_prefix(plain)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

fn digest(host: &str, entry: &Descriptor) -> Result<Digest, Error> {
    entry
        .digest()
        .to_string()
        .parse()
        .map_err(|e: crate::InvalidDigest| malformed(host, &e.to_string()))
}

fn check_size(what: &str, entry: &Descriptor, found: usize) -> Result<(), Error> {
    if entry.size() == found as u64 {
        return Ok(());
    }
    let reason = format!("it has {found} bytes instead of {}", entry.size());
    Err(Error::BadDigest { what: what.to_owned(), reason })
}

pub(crate) fn bad_digest(what: &str, expected: &Digest, found: &Digest) -> Error {
    let reason = format!("its digest is {found} instead of {expected}");
    Error::BadDigest { what: what.to_owned(), reason }
}

fn parse<'a, T: Deserialize<'a>>(host: &str, what: &str, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| malformed(host, &shortened(&format!("{what} cannot be read: {error}"))))
}

/// What strangers wrote, as much of it as is shown.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn malformed(host: &str, reason: &str) -> Error {
    Error::Malformed { host: host.to_owned(), reason: reason.to_owned() }
}

/// What a manifest, or an index of just one step, and a configuration come to, without a registry.
///
/// # Errors
/// As for a registry that says so.
#[cfg(fuzzing)]
pub fn read_documents(
    manifest: &[u8],
    config: &[u8],
    limits: &Limits,
) -> Result<Vec<Layer>, Error> {
    let (host, platform) = ("fuzz", Platform::default());
    if is_index(host, manifest, None)? {
        let index: ImageIndex = parse(host, "its index", manifest)?;
        digest(host, entry_for(&index, &platform)?)?;
        return Ok(Vec::new());
    }
    let manifest: ImageManifest = parse(host, "its manifest", manifest)?;
    digest(host, manifest.config())?;
    layers_of(host, &manifest, config, &platform, limits)
}
