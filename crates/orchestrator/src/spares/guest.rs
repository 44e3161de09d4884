//! A guest that was restored from a template and has not been told who it is.

use std::path::PathBuf;

use base::files;
use net::fabric::SpareLink;
use proto::message::{Defaults, Identify};
use vmm::{Claim, Vm, Volume};

use super::{Monitor, Recipe};
use crate::{
    Result,
    chain::Chain,
    guest::{Channel, Patience, fresh},
    node::{Node, blocking},
    record::Identity,
    sandbox_dir::SandboxDir,
    template,
};

/// Where a volume for the rehearsal lies, beside the control sockets, and its size in MiB.
const TRIED: &str = "tried";
const TRIED_MIB: u64 = 16;
/// How often it forks in advance. The first time costs several times the second.
const WARM_UP: usize = 2;

/// A guest that waits, paused, and what belongs to it. Its disk's layer lies in the directory of its
/// control sockets.
#[derive(Debug)]
pub(crate) struct Guest {
    /// What that directory is called.
    pub name: String,
    pub vm: Vm,
    pub channel: Channel,
    /// Its interface, which leads nowhere yet, if it can be connected.
    pub link: Option<SpareLink>,
}

impl Guest {
    /// Makes a guest of a monitor.
    pub(super) async fn restore(node: &Node, recipe: &Recipe, monitor: Monitor) -> Result<Self> {
        let name = monitor.name.clone();
        let restored = Self::restore_as(node, recipe, monitor).await;
        if restored.is_err() {
            node.clean_run(&name);
        }
        restored
    }

    async fn restore_as(node: &Node, recipe: &Recipe, monitor: Monitor) -> Result<Self> {
        let Monitor { name, process, link } = monitor;
        let directory = SandboxDir::at(node.layout.run(&name));
        let template = Chain::at(recipe.template.clone());
        let layers = directory.begin(&template, recipe.disk_mib)?;
        node.note_group(&name)?;
        let claim = Claim {
            run_dir: node.layout.run(&name),
            layers: directory.open_disk(&layers)?,
            // Which they are is known when it is known whose.
            volumes: Vec::new(),
            state: template::open(&template::devices(&recipe.template))?,
            cgroup: node.make_group(&name, recipe.machine),
        };
        let vm = process.claim(claim).await?;
        let ready = async {
            vm.load().await?;
            let channel = Channel::open(&vm, Patience::Running).await?;
            vm.limits_hold().await?;
            match recipe.volumes.iter().position(|read_only| !read_only) {
                Some(slot) => {
                    let place = node.layout.run(&name).join(TRIED);
                    let tried = Tried::attach(&vm, place, u32::try_from(slot).unwrap_or(0)).await?;
                    rehearse(node, &channel).await?;
                    tried.detach(&vm).await?;
                }
                None => rehearse(node, &channel).await?,
            }
            vm.pause().await?;
            Ok(channel)
        };
        match ready.await {
            Ok(channel) => Ok(Self { name, vm, channel, link }),
            Err(error) => {
                vm.kill().await;
                Err(error)
            }
        }
    }

    pub(super) async fn discard(self, node: &Node) {
        self.vm.kill().await;
        node.clean_run(&self.name);
    }
}

/// A volume that is only there for a rehearsal. Whoever has mounted one mounts others several times as fast
/// where the guest is emulated.
struct Tried {
    chain: Chain,
    layers: Vec<u32>,
    slot: u32,
}

impl Tried {
    /// Makes it in the new directory `place` and shows it to the guest.
    async fn attach(vm: &Vm, place: PathBuf, slot: u32) -> Result<Self> {
        let chain = Chain::at(place);
        let made = chain.clone();
        let (volume, layers) = blocking(move || {
            fs_err::create_dir(made.directory())?;
            disk::scratch::create_volume(&made.raw(), TRIED_MIB)?;
            let layers = made.begin(made.bytes()?)?;
            let raw = template::open(&made.raw())?;
            let opened = made.open_layers(&layers, true)?;
            Ok((Volume::Kept { raw, layers: opened, read_only: false }, layers))
        })
        .await?;
        let before = (0..slot).map(|_| Volume::Awaited { read_only: true });
        vm.attach(before.chain([volume]).collect()).await?;
        Ok(Self { chain, layers, slot })
    }

    /// Takes it away. Nothing of it stays.
    async fn detach(self, vm: &Vm) -> Result<()> {
        vm.detach(self.slot, &self.layers).await?;
        let place = self.chain.directory().to_owned();
        blocking(move || Ok(files::remove_any(&place)?)).await
    }
}

/// Has the guest do once what it will do when somebody waits for it.
async fn rehearse(node: &Node, channel: &Channel) -> Result<()> {
    channel.meet_blank().await?;
    for _ in 0..WARM_UP {
        channel.time_spawn().await?;
    }
    let identity = Identity::random();
    channel
        .rehearse(Identify {
            sandbox_id: "0".repeat(16),
            hostname: "rehearsal".to_owned(),
            machine_id: identity.machine_id,
            token: identity.token,
            env: std::collections::BTreeMap::default(),
            defaults: Defaults::default(),
            interface: node.networking.any_interface(),
            refresh: fresh(),
        })
        .await
}
