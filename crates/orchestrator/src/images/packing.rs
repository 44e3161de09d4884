//! From an image that is not made of layers alone to layers.
//!
//! ```text
//!   root of a recipe ────┐    a VM that is nobody's sandbox
//!   disk of a saved one ─┴─► agent ─ archive ─► disk::layer::add ─► kept by its digest
//! ```
//! No file system of an image is looked into on the host: a kernel does that in a VM without a network, in
//! which nothing of the image is started. What comes out of it is believed as little as what a registry sends.
//!
//! Invariant: whoever asked and leaves takes the VM along, and nothing is kept but whole layers.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use base::{chain, fault, random};
use bytes::Bytes;
use disk::{
    image::{self, Image, ImageError, Packed},
    kernel,
    layer::{self, LayerError, LayerId, Limits},
};
use tokio::sync::{mpsc, oneshot};
use vmm::{Disks, Machine, Plan, Vm, Volume, memory::Ram};

use super::{Making, making, places::Incoming};
use crate::{
    Error, Kind, Result,
    chain::Chain,
    guest::LayerReading,
    node::{Node, blocking},
    recorder,
    storage::Pin,
    template,
    thermal::pressure,
};

/// What a VM that packs has: its agent and the kernel's cache are all that is in it.
const MACHINE: Machine = Machine { cpus: 1, memory_mib: 256 };

/// Its own disk, to which nothing is written that matters, MiB.
const SCRATCH_MIB: u64 = 64;

/// The slot of a volume in which a saved disk is.
const DISK: u32 = 0;

/// Pieces of an archive that wait to be stored.
const AHEAD: usize = 4;

/// Layers that are all of an image. They are not collected while this lives.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) layers: Vec<LayerId>,
    _pin: Pin,
}

/// The layers of an image, packed now if they are not known yet.
///
/// # Errors
/// [`Kind::ImageInvalid`] if what is in it fits into no layer; [`Kind::HostDiskFull`],
/// [`Kind::HostOverloaded`], and those of a guest that does not boot or answer.
pub(super) async fn whole(node: &Arc<Node>, image: &Image) -> Result<Whole> {
    if let Some(whole) = stored(node, image).await? {
        return Ok(whole);
    }
    let turn = node.images.packing_turn().await?;
    // Somebody may have packed the same meanwhile.
    if let Some(whole) = stored(node, image).await? {
        return Ok(whole);
    }
    // Dropped with whoever waits.
    let (stays, gone) = oneshot::channel();
    let packing = Packing { node: Arc::clone(node), image: image.clone() };
    let packing = tokio::spawn(async move {
        let _turn = turn;
        packing.whole(gone).await
    });
    let whole = packing.await;
    drop(stays);
    whole.map_err(|error| Error::internal("a task failed", error))?
}

/// The layers of an image, if all are known and there.
async fn stored(node: &Arc<Node>, image: &Image) -> Result<Option<Whole>> {
    let (node, image) = (Arc::clone(node), image.clone());
    blocking(move || {
        let data = node.layout.data();
        let digest = image.digest().to_owned();
        let _pin = node.pins.keep([digest.clone()]);
        // Nobody removes it any more, but somebody may have.
        image::open_digest(data, &digest)?;
        let Some(layers) = image::packed(data, &image).whole(&image) else { return Ok(None) };
        let pin = node.pins.keep(layers.iter().map(ToString::to_string).chain([digest]));
        let there = layers.iter().all(|id| layer::exists(data, id));
        Ok(there.then_some(Whole { layers, _pin: pin }))
    })
    .await
}

/// An image that is being packed.
struct Packing {
    node: Arc<Node>,
    image: Image,
}

impl Packing {
    /// Packs what is not known yet, unless whoever waits for it goes.
    async fn whole(self, gone: oneshot::Receiver<()>) -> Result<Whole> {
        let making = Making::begin(&self.node).await?;
        let packed = self.in_guest(&making, gone).await?;
        let (node, image) = (Arc::clone(&self.node), self.image.clone());
        let keep = move || {
            making::hide_layers(node.layout.data())?;
            match image::keep_packed(node.layout.data(), &image, &packed) {
                Err(ImageError::Layer(error)) => Err(refused(error)),
                kept => Ok(kept?),
            }
        };
        blocking(keep).await?;
        let whole = stored(&self.node, &self.image).await?;
        making.done();
        whole.ok_or_else(|| Error::new(Kind::Internal, "what was packed is gone at once"))
    }

    async fn in_guest(&self, making: &Arc<Making>, gone: oneshot::Receiver<()>) -> Result<Packed> {
        pressure::make_room(&self.node).await?;
        let turn = self.node.turn().await?;
        let node = Arc::clone(&self.node);
        let incoming = blocking(move || Incoming::make(&node.layout)).await?;
        let name = format!("p{}", random::hex::<7>());
        let packed = match self.launch(incoming.path(), &name).await {
            Ok(vm) => {
                // From here on it is one of those that run.
                drop(turn);
                let packed = tokio::select! {
                    biased;
                    _ = gone => Err(Error::new(Kind::Cancelled, "nobody waits for it any more")),
                    packed = self.parts(&vm, making) => packed,
                };
                vm.kill().await;
                packed
            }
            Err(error) => Err(error),
        };
        self.node.clean_run(&name);
        packed
    }

    /// Starts the VM, with the image and its saved disk, if it has one, beside a disk of its own.
    async fn launch(&self, directory: &Path, name: &str) -> Result<Vm> {
        let node = &self.node;
        let engine = node.engine().await?;
        let bundle = kernel::current(node.layout.data())?;
        let initramfs = node.initramfs(&bundle)?;
        let (image, modules) = (self.image.clone(), bundle.modules_image());
        let place = directory.to_owned();
        let disks = blocking(move || disks(&image, &modules, &place)).await?;
        let plan = Plan {
            machine: MACHINE,
            ram: Ram::fresh(MACHINE.memory_mib)?,
            disks,
            nic: Some(node.networking.loose().await?),
            boot: recorder::bare_boot(&bundle, &initramfs, &engine)?,
            run_dir: node.make_run(name)?,
            confinement: Some(node.confinement(name, 0, MACHINE, false)?),
        };
        let vm = engine.qemu.launch(plan)?;
        node.pressure.look();
        Ok(vm)
    }

    /// Has the guest pack what is not known yet.
    async fn parts(&self, vm: &Vm, making: &Arc<Making>) -> Result<Packed> {
        fault::point("packing.launched")?;
        let (node, image) = (Arc::clone(&self.node), self.image.clone());
        let known = blocking(move || Ok(image::packed(node.layout.data(), &image)));
        let mut packed = known.await?;
        let channel = recorder::meet_booting(vm).await?;
        let session = channel.session();
        if packed.root.is_none() {
            let reading = LayerReading::start(session, None).await.map_err(unfit)?;
            packed.root = Some(vec![self.add(reading, making).await?]);
        }
        if self.image.disk().is_some() && packed.disk.is_none() {
            let reading = LayerReading::start(session, Some(DISK)).await.map_err(unfit)?;
            packed.disk = Some(self.add(reading, making).await?);
        }
        Ok(packed)
    }

    /// Stores what a guest packs.
    async fn add(&self, mut reading: LayerReading, making: &Arc<Making>) -> Result<LayerId> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (data, held) = (self.node.layout.data().to_owned(), Arc::clone(making));
        let adding = blocking(move || {
            let _held = held;
            let mut archive = Archive { pieces: receiver, piece: Bytes::new(), ended: false };
            layer::add(&data, &mut archive, None, &Limits::default()).map_err(refused)
        });
        let adding = tokio::spawn(adding);
        let told = async {
            loop {
                let piece = reading.next().await.map_err(unfit)?;
                let last = piece.is_none();
                // Who stores them has an error to tell if he does not take them.
                if sender.send(piece).await.is_err() || last {
                    return Ok(());
                }
            }
        };
        let told: Result<()> = told.await;
        // Without its end it is not taken for whole.
        drop(sender);
        let added = adding.await.map_err(|error| Error::internal("a task failed", error))?;
        told.and(added)
    }
}

/// The disks of the VM: the image, its saved disk, if it has one, and one of its own.
fn disks(image: &Image, modules: &Path, directory: &Path) -> Result<Disks> {
    let scratch = directory.join("scratch.raw");
    disk::scratch::create_ext4(&scratch, SCRATCH_MIB)?;
    let scratch = fs_err::OpenOptions::new().read(true).write(true).open(&scratch)?;
    let mut volumes = Vec::new();
    if let Some(saved) = image.disk() {
        let chain = Chain::at(directory.join("disk"));
        fs_err::create_dir(chain.directory())?;
        chain.begin_saved(&saved.raw, &saved.layers)?;
        // Here goes what a journal still has to write, and nothing else.
        chain.add_layer(saved.size_mib << 20)?;
        let layers = chain.open_layers(&chain.layers()?, true)?;
        volumes.push(Volume::Kept { raw: template::open(&chain.raw())?, layers, read_only: false });
    }
    Ok(Disks {
        base: template::open_all(image.files())?,
        modules: template::open(modules)?,
        scratch: scratch.into_parts().0.into(),
        layers: Vec::new(),
        volumes,
    })
}

/// What a guest sends, to be read. It ends with a `None`; if that does not come it broke off.
struct Archive {
    pieces: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Archive {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
            }
        }
        let count = to.len().min(self.piece.len());
        to[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// What was packed is no layer.
fn refused(error: LayerError) -> Error {
    if !error.is_of_the_image() {
        return error.into();
    }
    let told = cannot(&chain(&error));
    match error {
        LayerError::TooLarge { .. } => told.hint(
            "remove what nobody needs in a sandbox of the image, and save that: bhatti image save",
        ),
        _ => told,
    }
}

/// What a guest says of an image that it cannot pack is the image's fault.
fn unfit(error: Error) -> Error {
    match error.kind {
        Kind::AgentUnreachable | Kind::VmDied | Kind::Timeout => error,
        _ => cannot(&error.message),
    }
}

fn cannot(why: &str) -> Error {
    Error::new(Kind::ImageInvalid, format!("the image cannot be exported: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: Vec<Option<&'static [u8]>>) -> io::Result<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(pieces.len());
        for piece in pieces {
            sender.try_send(piece.map(Bytes::from_static)).unwrap();
        }
        drop(sender);
        let mut archive = Archive { pieces: receiver, piece: Bytes::new(), ended: false };
        let mut all = Vec::new();
        archive.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn an_archive_without_its_end_is_not_whole() {
        assert_eq!(read(vec![Some(b"ab"), Some(b""), Some(b"c"), None]).unwrap(), b"abc");
        assert_eq!(read(vec![None, Some(b"d")]).unwrap(), b"");
        let error = read(vec![Some(b"ab"), Some(b"c")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_a_guest_says_is_the_image_s_fault_and_its_silence_is_not() {
        for (said, told) in [
            (Kind::Internal, Kind::ImageInvalid),
            (Kind::FileNotFound, Kind::ImageInvalid),
            (Kind::AgentUnreachable, Kind::AgentUnreachable),
            (Kind::VmDied, Kind::VmDied),
        ] {
            assert_eq!(unfit(Error::new(said, "x")).kind, told);
        }
        let large = LayerError::TooLarge { what: "entries", limit: 1 };
        let told = refused(large);
        assert_eq!(told.kind, Kind::ImageInvalid);
        assert!(told.hint.is_some_and(|hint| hint.contains("image save")));
    }
}
