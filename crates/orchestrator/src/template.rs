//! Templates: VMs that were booted once and are copied ever after.
//!
//! ```text
//! templates/keys/<key>     which template serves a shape now
//! templates/<instance>/    manifest.json, devices, ram, disk.raw
//! ```
//! A key stands for everything that shapes a VM; an instance for one recording. Snapshots and
//! disks of sandboxes belong to an instance, so an instance is never changed or replaced in place:
//! a damaged one is left to those who depend on its disk, and the key gets a new one.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use base::{files, hash, ids::Name};
use disk::{image::Image, kernel::KernelBundle};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use vmm::{Machine, memory::Ram};

use crate::{Error, Kind, Result, facade::Progress, node::Node};

const FORMAT: u32 = 1;

/// Everything that decides which template a sandbox is copied from.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub machine: Machine,
    pub disk_mib: u64,
    /// How many volumes it has.
    pub volumes: usize,
    /// What whoever wants it calls the image.
    pub name: Name,
    pub image: Image,
    pub bundle: KernelBundle,
    pub initramfs: PathBuf,
}

impl Shape {
    /// The key under which the shape's template is found.
    pub(crate) fn key(&self, fingerprint: &str) -> String {
        let initramfs = self.initramfs.file_name().unwrap_or_default().to_string_lossy();
        let Machine { cpus, memory_mib } = self.machine;
        let numbers = format!("{cpus} {memory_mib} {} {}", self.disk_mib, self.volumes);
        hash::key([
            fingerprint.as_bytes(),
            self.bundle.id().as_bytes(),
            initramfs.as_bytes(),
            self.image.digest().as_bytes(),
            numbers.as_bytes(),
        ])
    }
}

/// What a template's directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub format: u32,
    pub key: String,
    pub fingerprint: String,
    pub devices_sha256: String,
    pub ram_checksum: u64,
    pub ram_bytes: u64,
    /// Digest of the image that it was recorded with.
    #[serde(default)]
    pub image: String,
    /// The kernel that it was recorded with.
    #[serde(default)]
    pub kernel: String,
}

/// A template that children can be made of.
#[derive(Debug)]
pub(crate) struct Template {
    pub instance: String,
    pub directory: PathBuf,
    pub ram: Ram,
}

impl Template {
    /// The device state, at offset 0 of a file of its own.
    pub(crate) fn devices(&self) -> Result<OwnedFd> {
        open(&devices(&self.directory))
    }

    /// Reads an instance from the disk and checks it.
    fn load(directory: PathBuf, instance: String) -> Result<Self> {
        let damaged = |what: &str| {
            Error::new(Kind::SnapshotCorrupt, format!("template {instance} is damaged: {what}"))
                .hint("the sandbox's disk is untouched: bhatti start NAME --from disk")
        };
        let manifest = read_manifest(&directory).ok_or_else(|| damaged("its manifest"))?;
        if hash::file(&directory.join("devices"))? != manifest.devices_sha256 {
            return Err(damaged("its device state"));
        }
        let (ram, checksum) = Ram::load(&directory.join("ram"))?;
        if checksum != manifest.ram_checksum || ram.bytes() != manifest.ram_bytes {
            return Err(damaged("its memory"));
        }
        Ok(Self { instance, directory, ram })
    }
}

/// What stands in a page file for the template or, for `blank`, for zeroed memory.
pub(crate) fn tag(instance: &str) -> [u8; 32] {
    let mut tag = [0; 32];
    if instance != BLANK {
        let bytes = instance.as_bytes();
        let n = bytes.len().min(32);
        tag[..n].copy_from_slice(&bytes[..n]);
    }
    tag
}

/// The instance name of no template: memory that began as zeros.
pub(crate) const BLANK: &str = "blank";

/// The lowest part of the disk of a template in `directory`.
pub(crate) fn disk(directory: &Path) -> PathBuf {
    directory.join("disk.raw")
}

/// The device state of a template in `directory`.
pub(crate) fn devices(directory: &Path) -> PathBuf {
    directory.join("devices")
}

pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    Ok(fs_err::File::open(path)?.into_parts().0.into())
}

/// Opens several files in order.
pub(crate) fn open_all(paths: &[PathBuf]) -> Result<Vec<OwnedFd>> {
    paths.iter().map(|path| open(path)).collect()
}

/// What a template's directory says of itself, if it can be read.
pub(crate) fn read_manifest(directory: &Path) -> Option<Manifest> {
    let text = fs_err::read(directory.join("manifest.json")).ok()?;
    serde_json::from_slice(&text).ok().filter(|m: &Manifest| m.format == FORMAT)
}

type Slot = Arc<OnceCell<Arc<Template>>>;

/// The templates in memory. Whoever comes first loads or records, the others wait for it.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    by_key: Mutex<HashMap<String, Slot>>,
    by_instance: Mutex<HashMap<String, Slot>>,
}

fn slot(map: &Mutex<HashMap<String, Slot>>, name: &str) -> Slot {
    let mut map = map.lock().unwrap_or_else(|e| e.into_inner());
    Arc::clone(map.entry(name.to_owned()).or_default())
}

impl Templates {
    /// The template of a shape, recorded now if there is none yet.
    pub(crate) async fn of_shape(
        &self,
        node: &Arc<Node>,
        shape: &Shape,
        progress: &Progress,
    ) -> Result<Arc<Template>> {
        let fingerprint = node.engine().await?.qemu.fingerprint();
        let key = shape.key(&fingerprint);
        let slot = slot(&self.by_key, &key);
        let template = slot
            .get_or_try_init(|| async {
                let pointer = node.layout.template_key(&key);
                if let Ok(instance) = fs_err::read_to_string(&pointer) {
                    match self.of_instance(node, instance.trim()).await {
                        Ok(template) => return Ok(template),
                        Err(error) => {
                            tracing::warn!(%error, "a template is not usable, recording a new one");
                        }
                    }
                }
                let (name, machine) = (&shape.name, shape.machine);
                progress.say(format!(
                    "recording a template (first use of image {name} with {} vCPU, {} MB)",
                    machine.cpus, machine.memory_mib
                ));
                let template = Arc::new(crate::recorder::record(node, shape, key.clone()).await?);
                files::write_atomic(&pointer, template.instance.as_bytes(), 0o600)?;
                let loaded = self::slot(&self.by_instance, &template.instance);
                // Fails only if somebody was faster with the very same instance.
                let _ = loaded.set(Arc::clone(&template));
                Ok::<_, Error>(template)
            })
            .await?;
        Ok(Arc::clone(template))
    }

    /// Forgets a template that is about to go.
    pub(crate) fn forget(&self, key: &str, instance: &str) {
        let forget = |map: &Mutex<HashMap<String, Slot>>, name: &str| {
            let mut map = map.lock().unwrap_or_else(|e| e.into_inner());
            let of_this = |slot: &Slot| slot.get().is_some_and(|known| known.instance == instance);
            if map.get(name).is_some_and(of_this) {
                map.remove(name);
            }
        };
        forget(&self.by_key, key);
        forget(&self.by_instance, instance);
    }

    /// The template that a sandbox's memory or snapshot belongs to.
    pub(crate) async fn of_instance(
        &self,
        node: &Arc<Node>,
        instance: &str,
    ) -> Result<Arc<Template>> {
        let slot = slot(&self.by_instance, instance);
        let template = slot
            .get_or_try_init(|| async {
                let directory = node.layout.template(instance);
                let instance = instance.to_owned();
                let load = move || Template::load(directory, instance).map(Arc::new);
                crate::node::blocking(load).await
            })
            .await?;
        Ok(Arc::clone(template))
    }
}

/// What a template was recorded of.
#[derive(Debug)]
pub(crate) struct About {
    pub key: String,
    pub fingerprint: String,
    pub image: String,
    pub kernel: String,
}

/// Turns a finished recording into an instance. `directory` is complete but for its manifest.
pub(crate) fn commit(
    templates: &Path,
    directory: &Path,
    about: About,
    ram: Ram,
    ram_checksum: u64,
) -> Result<Template> {
    let About { key, fingerprint, image, kernel } = about;
    let manifest = Manifest {
        format: FORMAT,
        key,
        fingerprint,
        devices_sha256: hash::file(&devices(directory))?,
        ram_checksum,
        ram_bytes: ram.bytes(),
        image,
        kernel,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| Error::internal("a manifest cannot be written", error))?;
    files::write_atomic(&directory.join("manifest.json"), &text, 0o600)?;
    let instance = base::random::hex::<12>();
    let place = templates.join(&instance);
    files::commit_directory(directory, &place)?;
    Ok(Template { instance, directory: place, ram })
}
