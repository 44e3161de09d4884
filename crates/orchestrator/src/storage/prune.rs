//! Finding what nobody needs, and taking it away.
//!
//! Only what can be made again is ever taken away: templates are recorded again, kernels and images
//! prepared or pulled again. What belongs to a user goes when the user says so and not before.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use base::{fault, files};
use disk::{
    image::{Collector, Packings},
    kernel,
};

use super::{StorageKind, files::Files, pins::Pinned, references::References};
use crate::{
    Result,
    node::Node,
    template::{self, Manifest},
};

/// What nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) kind: StorageKind,
    /// What it is called below its kind's directory.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// What would be needed if somebody created a sandbox now.
#[derive(Debug)]
pub(super) struct Present {
    /// The engine's fingerprint, if an engine was chosen.
    pub(super) engine: Option<String>,
    /// Digests of images that somebody can name.
    pub(super) images: HashSet<String>,
    /// Templates of which something stands ready.
    pub(super) stocked: HashSet<String>,
}

/// What nobody needs now; without a collector nothing about images is said. With `all` that includes templates that the next create would take.
pub(super) fn victims(
    node: &Node,
    present: &Present,
    pinned: &Pinned<'_>,
    collector: Option<&Collector>,
    all: bool,
) -> Result<Vec<Victim>> {
    let references = References::of(&node.layout)?;
    let mut victims = templates(node, present, &references, pinned, all)?;
    victims.extend(kernels(node.layout.data(), &references, pinned)?);
    victims.extend(initramfs(node)?);
    let Some(collector) = collector else { return Ok(victims) };
    let mut used = references.images;
    used.extend(present.images.iter().cloned());
    used.extend(pinned.names());
    let packings = if all { Packings::Dropped } else { Packings::Kept };
    for unused in collector.unused(&used, packings)? {
        let kind = if unused.layer { StorageKind::Layers } else { StorageKind::Images };
        victims.push(Victim { kind, name: unused.digest, path: unused.path });
    }
    Ok(victims)
}

/// What was taken out of everybody's sight. Whatever happens then, it goes when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Aside(Vec<PathBuf>);

impl Aside {
    /// Takes a victim out of everybody's sight.
    pub(super) fn take(&mut self, node: &Node, victim: &Victim) -> Result<()> {
        fault::point("prune.take")?;
        if victim.kind == StorageKind::Templates {
            forget_template(node, victim)?;
        }
        let aside = files::temporary_sibling(&victim.path);
        fs_err::rename(&victim.path, &aside)?;
        self.0.push(aside.clone());
        fault::point("prune.taken")?;
        Ok(files::sync_parent(&aside)?)
    }

    /// Removes all of it, as far as that is possible, and says what was not.
    pub(super) fn remove(mut self) -> Result<()> {
        Ok(self.remove_all()?)
    }

    fn remove_all(&mut self) -> std::io::Result<()> {
        let mut removed = Ok(());
        for path in std::mem::take(&mut self.0) {
            // Nothing fails here that could be undone; but the process may die between two of them.
            let _ = fault::point("prune.remove");
            removed = removed.and(files::remove_any(&path));
        }
        removed
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = self.remove_all() {
            tracing::warn!(%error, "what nobody needs stays until the next start");
        }
    }
}

/// Nobody finds the template by its key any more.
fn forget_template(node: &Node, victim: &Victim) -> Result<()> {
    if let Some(manifest) = template::read_manifest(&victim.path) {
        let pointer = node.layout.template_key(&manifest.key);
        if points_to(&pointer, &victim.name) {
            fs_err::remove_file(pointer)?;
        }
        node.templates.forget(&manifest.key, &victim.name);
    }
    Ok(())
}

fn templates(
    node: &Node,
    present: &Present,
    references: &References,
    pinned: &Pinned<'_>,
    all: bool,
) -> Result<Vec<Victim>> {
    let current = kernel::current(node.layout.data()).ok();
    let mut victims = Vec::new();
    for (name, path) in directories(&node.layout.templates())? {
        if name == "keys" || references.templates.contains(&name) || present.stocked.contains(&name)
        {
            continue;
        }
        let manifest = template::read_manifest(&path);
        if manifest.as_ref().is_some_and(|manifest| pinned.has(&manifest.key)) {
            continue;
        }
        let wanted = |manifest: &Manifest| {
            points_to(&node.layout.template_key(&manifest.key), &name)
                && present.engine.as_ref().is_none_or(|engine| *engine == manifest.fingerprint)
                && current.as_ref().is_some_and(|kernel| kernel.id() == manifest.kernel)
                && present.images.contains(&manifest.image)
        };
        if all || !manifest.as_ref().is_some_and(wanted) {
            victims.push(Victim { kind: StorageKind::Templates, name, path });
        }
    }
    Ok(victims)
}

fn points_to(pointer: &Path, instance: &str) -> bool {
    fs_err::read_to_string(pointer).is_ok_and(|text| text.trim() == instance)
}

fn kernels(data: &Path, references: &References, pinned: &Pinned<'_>) -> Result<Vec<Victim>> {
    let Ok(current) = kernel::current(data) else { return Ok(Vec::new()) };
    let unused = kernel::list(data)?.into_iter().filter(|kernel| {
        kernel.id() != current.id()
            && !references.kernels.contains(kernel.id())
            && !pinned.has(kernel.id())
    });
    let victim = |kernel: kernel::KernelBundle| {
        let (name, path) = (kernel.id().to_owned(), kernel.path().to_owned());
        Victim { kind: StorageKind::Kernels, name, path }
    };
    Ok(unused.map(victim).collect())
}

/// Archives that are not of the current kernel and agent. They are made again in milliseconds.
fn initramfs(node: &Node) -> Result<Vec<Victim>> {
    let Ok(current) = kernel::current(node.layout.data()) else { return Ok(Vec::new()) };
    let current = node.initramfs(&current)?;
    let mut victims = Vec::new();
    let Some(directory) = current.parent() else { return Ok(victims) };
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path != current && !name.starts_with('.') && entry.file_type()?.is_file() {
            victims.push(Victim { kind: StorageKind::Kernels, name, path });
        }
    }
    Ok(victims)
}

/// The finished directories in `parent`.
fn directories(parent: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.file_type()?.is_dir() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// What would be free without them, bytes.
pub(super) fn freed(victims: &[Victim], kind: StorageKind) -> Result<u64> {
    let mut files = Files::default();
    for victim in victims.iter().filter(|victim| victim.kind == kind) {
        files.add(&victim.path)?;
    }
    Ok(files.freed())
}
