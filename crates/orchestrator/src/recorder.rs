//! Recording a template: boot once, wait until the agent is ready, keep what is there.

use std::{
    fs::Permissions,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use base::files;
use disk::kernel::KernelBundle;
use vmm::{Boot, Disks, Plan, Vm, Volume, memory::Ram};

use crate::{
    Error, Kind, Result,
    chain::Chain,
    guest::{Channel, Patience},
    node::{Engine, Node, blocking},
    processes::Processes,
    template::{self, About, Shape, Template},
};

/// Kernel messages would only slow the boot down; a panic must end the VM.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on";

/// Tells the agent that the disk may be of another sandbox.
const NEW: &str = "bhatti.new";

/// Tell the agent whether the image wants its services.
const SERVICES: [&str; 2] = ["bhatti.services=off", "bhatti.services=on"];

/// How often the guest forks before it is recorded, so that its page cache holds what every
/// command needs.
const WARM_UP: usize = 3;

/// How often a boot is tried: a host that is very busy may starve one.
const BOOT_ATTEMPTS: usize = 2;

/// Boots a VM of this shape and makes a template of it.
pub(crate) async fn record(node: &Arc<Node>, shape: &Shape, key: String) -> Result<Template> {
    let mut attempt = 1;
    loop {
        match attempt_to_record(node, shape, key.clone()).await {
            Err(error) if error.kind == Kind::AgentUnreachable && attempt < BOOT_ATTEMPTS => {
                tracing::warn!(attempt, error = base::chain(&error), "recording once more");
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn attempt_to_record(node: &Arc<Node>, shape: &Shape, key: String) -> Result<Template> {
    let templates = node.layout.templates();
    let directory = files::temporary_sibling(&templates.join("recording"));
    fs_err::create_dir_all(&directory)?;
    let name = format!("t{}", base::random::hex::<7>());
    let recorded = record_in(node, shape, key, &directory, &name).await;
    node.clean_run(&name);
    if recorded.is_err() {
        let _ = files::remove_any(&directory);
    }
    recorded
}

async fn record_in(
    node: &Arc<Node>,
    shape: &Shape,
    key: String,
    directory: &Path,
    name: &str,
) -> Result<Template> {
    let engine = node.engine().await?;
    let disks = disk_of(shape, directory).await?;
    let ram = Ram::fresh(shape.machine.memory_mib)?;
    let plan = Plan {
        machine: shape.machine,
        ram: ram.clone(),
        disks: Disks {
            scratch: disks.0,
            layers: disks.1,
            base: template::open_all(shape.image.files())?,
            modules: template::open(&shape.bundle.modules_image())?,
            volumes: awaited_volumes(shape.volumes),
        },
        nic: Some(node.networking.loose().await?),
        boot: first_boot(shape, &engine)?,
        run_dir: node.make_run(name)?,
        confinement: Some(node.confinement(name, 0, shape.machine, false)?),
    };
    let vm = engine.qemu.launch(plan)?;
    let saved = boot_and_save(&vm, directory).await;
    vm.kill().await;
    drop(vm);
    saved?;
    let (templates, directory) = (node.layout.templates(), directory.to_owned());
    let about = About {
        key,
        fingerprint: engine.qemu.fingerprint(),
        image: shape.image.digest().to_owned(),
        kernel: shape.bundle.id().to_owned(),
    };
    blocking(move || {
        let ram = ram.seal()?;
        let checksum = ram.save(&directory.join("ram"))?;
        fs_err::File::open(template::disk(&directory))?.sync_all()?;
        Chain::at(directory.clone()).flush()?;
        template::commit(&templates, &directory, about, ram, checksum)
    })
    .await
}

/// Places for so many volumes that any could take.
fn awaited_volumes(count: usize) -> Vec<Volume> {
    (0..count).map(|_| Volume::Awaited { read_only: false }).collect()
}

/// The disk of a template in the making: an empty one, or what the image was saved with under a new layer.
async fn disk_of(shape: &Shape, directory: &Path) -> Result<(OwnedFd, Vec<vmm::Layer>)> {
    let (saved, mib) = (shape.image.disk().cloned(), shape.disk_mib);
    let (disk, template) = (template::disk(directory), Chain::at(directory.to_owned()));
    blocking(move || {
        let Some(saved) = saved else {
            disk::scratch::create_ext4(&disk, mib)?;
            let scratch = fs_err::OpenOptions::new().read(true).write(true).open(&disk)?;
            return Ok((scratch.into_parts().0.into(), Vec::new()));
        };
        template.begin_saved(&saved.raw, &saved.layers)?;
        template.add_layer(mib << 20)?;
        let layers = template.open_layers(&template.layers()?, true)?;
        Ok((template::open(&disk)?, layers))
    })
    .await
}

async fn boot_and_save(vm: &Vm, directory: &Path) -> Result<()> {
    let channel = meet_booting(vm).await?;
    for _ in 0..WARM_UP {
        channel.time_spawn().await?;
    }
    if !channel.hang_up(vm).await {
        let message = "the guest agent did not notice that the host hung up";
        return Err(Error::new(Kind::AgentUnreachable, message));
    }
    vm.pause().await?;
    vm.save_devices(&directory.join("devices")).await?;
    Ok(())
}

/// Waits until a guest that is booting answers, and is nobody.
pub(crate) async fn meet_booting(vm: &Vm) -> Result<Channel> {
    let channel = match Channel::open(vm, Patience::Booting).await {
        Ok(channel) => channel,
        Err(error) => {
            let message = match vm.console_tail().await.0.as_str() {
                "" => "the guest did not boot, and printed nothing".to_owned(),
                console => format!("the guest did not boot; its console ends with: {console}"),
            };
            return Err(Error::new(Kind::AgentUnreachable, message).caused_by(error));
        }
    };
    channel.meet_blank().await?;
    Ok(channel)
}

/// Opens a file that a monitor opens once more through its descriptor, which the file's mode has to
/// allow. There is nothing secret in a kernel, but whoever prepared it may have had a strict umask.
fn open_to_monitors(path: &Path) -> Result<OwnedFd> {
    let mode = fs_err::metadata(path)?.permissions().mode();
    if mode & 0o004 == 0 {
        fs_err::set_permissions(path, Permissions::from_mode(0o644))?;
    }
    template::open(path)
}

/// The first boot of an image: what an earlier sandbox left of itself is not its business.
fn first_boot(shape: &Shape, engine: &Engine) -> Result<Boot> {
    match cold_boot(shape, engine)? {
        Boot::Cold { kernel, initramfs, command_line } => {
            let command_line = format!("{command_line} {NEW}");
            Ok(Boot::Cold { kernel, initramfs, command_line })
        }
        other => Ok(other),
    }
}

/// A boot from the kernel.
pub(crate) fn cold_boot(shape: &Shape, engine: &Engine) -> Result<Boot> {
    boot(&shape.bundle, &shape.initramfs, engine, Processes::of(&shape.image)?.services)
}

/// The same, with nothing of the image started.
pub(crate) fn bare_boot(bundle: &KernelBundle, initramfs: &Path, engine: &Engine) -> Result<Boot> {
    boot(bundle, initramfs, engine, Some(false))
}

fn boot(
    bundle: &KernelBundle,
    initramfs: &Path,
    engine: &Engine,
    services: Option<bool>,
) -> Result<Boot> {
    let mut command_line = format!("{COMMAND_LINE} {}", engine.qemu.kernel_arguments());
    if let Some(wanted) = services {
        command_line = format!("{command_line} {}", SERVICES[usize::from(wanted)]);
    }
    Ok(Boot::Cold {
        kernel: open_to_monitors(&bundle.vmlinux())?,
        initramfs: open_to_monitors(initramfs)?,
        command_line,
    })
}
