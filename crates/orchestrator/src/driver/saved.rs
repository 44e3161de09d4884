//! Putting a saved memory into a new VM.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use base::fault;
use vmm::{
    Boot, Vm,
    memory::{Capture, PAGE, PageFile, Ram},
};

use super::{Driver, end::blame, launch::BootFiles};
use crate::{
    Result,
    copying::Room,
    fingerprint::Fingerprint,
    node::{Engine, blocking},
    sandbox_dir::{Facts, Layers, Snapshot},
    template::{self, BLANK},
};

/// A memory that was copied from a running VM and is in no file.
#[derive(Debug)]
pub(crate) struct Captured {
    pub facts: Facts,
    pub devices: OwnedFd,
    pub memory: Capture,
    /// Held for as long as the memory is.
    pub _room: Room,
}

/// Where a saved memory is.
pub(super) enum Saved<'a> {
    File(&'a Snapshot),
    Memory(&'a Arc<Captured>),
}

/// A saved memory that fits this host, ready to be loaded.
pub(super) struct Opened {
    engine: Engine,
    files: BootFiles,
    pages: Pages,
    connected: bool,
}

enum Pages {
    File(PageFile),
    Memory(Arc<Captured>),
}

impl Saved<'_> {
    fn facts(&self) -> &Facts {
        match self {
            Self::File(snapshot) => &snapshot.manifest.facts,
            Self::Memory(captured) => &captured.facts,
        }
    }
}

impl Opened {
    /// Reads everything that has not been checked yet and checks it.
    pub(super) async fn verify(self) -> Result<Self> {
        let Self { engine, files, pages, connected } = self;
        let pages = match pages {
            Pages::File(file) => {
                blocking(move || Ok(Pages::File(file.verify().map(|()| file)?))).await?
            }
            memory @ Pages::Memory(_) => memory,
        };
        Ok(Self { engine, files, pages, connected })
    }
}

impl Driver {
    /// Opens a saved memory.
    ///
    /// # Errors
    /// [`Kind::SnapshotIncompatible`](crate::Kind::SnapshotIncompatible) and
    /// [`Kind::SnapshotCorrupt`](crate::Kind::SnapshotCorrupt).
    pub(super) async fn open_saved(&self, saved: Saved<'_>) -> Result<Opened> {
        let facts = saved.facts();
        let engine = self.node.engine().await?;
        let origin = self.directory.origin()?;
        let spec = &self.record.spec;
        let host = Fingerprint::new(engine.qemu.fingerprint(), &origin.kernel_id, spec);
        facts.fingerprint.accepts(&host)?;
        let shape = self.node.shape_again(spec, &origin)?;
        let ram = match facts.memory_base.as_str() {
            BLANK => Ram::fresh(spec.memory_mib)?,
            instance => self.node.templates.of_instance(&self.node, instance).await?.ram.clone(),
        };
        let tag = template::tag(&facts.memory_base);
        let (pages, state) = match saved {
            Saved::File(snapshot) => {
                let guest_pages = ram.bytes() / PAGE as u64;
                let pages = PageFile::open(&snapshot.pages(), &tag, guest_pages)?;
                (Pages::File(pages), snapshot.devices()?)
            }
            Saved::Memory(captured) => {
                (Pages::Memory(Arc::clone(captured)), reopen(&captured.devices)?)
            }
        };
        let connected = facts.connected;
        let files = BootFiles {
            ram,
            image: shape.image.files().to_vec(),
            modules: shape.bundle.modules_image(),
            scratch: template::disk(&self.node.layout.template(&origin.template)),
            boot: Boot::RestoreLater { state },
            template: (facts.memory_base == origin.template).then_some(origin.template),
        };
        Ok(Opened { engine, files, pages, connected })
    }

    /// Starts a VM on a saved memory, over layers of which the last is a new one. Its guest runs
    /// then, and its agent waits for a call.
    pub(super) async fn launch_saved(&self, opened: Opened, layers: &Layers) -> Result<Vm> {
        let Opened { engine, files, pages, connected } = opened;
        let vm = self.launch(&engine, files, layers).await?;
        match self.load(&vm, pages, connected).await {
            Ok(()) => Ok(vm),
            Err(error) => Err(blame(&vm, error).await),
        }
    }

    async fn load(&self, vm: &Vm, pages: Pages, connected: bool) -> Result<()> {
        fault::point("saved.launched")?;
        vm.answers().await?;
        let memory = vm.memory()?;
        let fill = move || match pages {
            Pages::File(file) => Ok(memory.restore(&file)?),
            Pages::Memory(captured) => Ok(memory.place(&captured.memory)?),
        };
        blocking(fill).await?;
        fault::point("saved.filled")?;
        // An agent that was connected finds that nobody is there any more. A call that came before
        // it has found out would go unheard.
        let noticing = match connected {
            true => Some(vm.guest_port().watch().await?),
            false => None,
        };
        vm.load().await?;
        fault::point("saved.loaded")?;
        if let Some(noticing) = noticing
            && !noticing.noticed(crate::guest::NOTICE).await
        {
            tracing::debug!(sandbox = %self.record.id, "a copy did not notice that it is one");
        }
        Ok(())
    }
}

/// The same file from its beginning: whoever reads a descriptor moves it for all who share it.
fn reopen(file: &OwnedFd) -> Result<OwnedFd> {
    let again: File = fs_err::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into();
    Ok(again.into())
}
