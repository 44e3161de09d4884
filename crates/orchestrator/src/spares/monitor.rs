//! A monitor with the memory of a template, and nothing of a sandbox.

use base::fault;
use net::fabric::SpareLink;
use vmm::{Boot, Disks, Plan, Volume, cgroup::Cgroup};

use super::Recipe;
use crate::{Result, node::Node, template};

/// A monitor that waits, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// What its directory of control sockets is called.
    pub name: String,
    pub process: vmm::Spare,
    /// Its interface, if it can be connected.
    pub link: Option<SpareLink>,
}

impl Monitor {
    pub(super) async fn start(node: &Node, recipe: &Recipe) -> Result<Self> {
        let name = super::name();
        let started = Self::start_as(node, recipe, &name).await;
        if started.is_err() {
            node.clean_run(&name);
        }
        started
    }

    async fn start_as(node: &Node, recipe: &Recipe, name: &str) -> Result<Self> {
        let slot = node.spares.slots.give(name)?;
        let (nic, link) = node.networking.spare().await?;
        let confinement =
            node.jail(name, slot, recipe.machine, nic.connects(), Cgroup::default())?;
        let volumes = recipe.volumes.iter();
        let plan = Plan {
            machine: recipe.machine,
            ram: recipe.ram.clone(),
            disks: Disks {
                base: template::open_all(&recipe.image)?,
                modules: template::open(&recipe.modules)?,
                scratch: template::open(&template::disk(&recipe.template))?,
                layers: Vec::new(),
                volumes: volumes.map(|only| Volume::Awaited { read_only: *only }).collect(),
            },
            nic: Some(nic),
            boot: Boot::Awaited,
            run_dir: node.make_run(name)?,
            confinement: Some(confinement),
        };
        let process = recipe.qemu.prepare(plan)?;
        process.ready().await?;
        fault::point("spare.started")?;
        Ok(Self { name: name.to_owned(), process, link })
    }

    pub(super) async fn discard(self, node: &Node) {
        self.process.kill().await;
        node.clean_run(&self.name);
    }
}
