//! The floor: a QEMU with the same command line, memory and disks as a sandbox's, started by
//! nothing but a fork and an exec. What a sandbox takes beyond that is ours.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base::{clock, files, random};
use disk::{image, kernel, qcow2};
use fs_err as fs;
use proto::{
    frame::FrameKind,
    message::{Defaults, Exec, Hello, Identify, Refresh, Request, Response},
    mux::{MuxError, Session, Side, Stream, establish},
    preamble::VERSION,
};
use serde::Deserialize;
use tokio::{task::JoinHandle, time::timeout};
use vmm::{Boot, Disks, Layer, Machine, Nic, Plan, Qemu, Vm, memory::Ram};

/// Clusters as sandboxes have them.
const CLUSTER_BITS: u32 = 16;
/// How long the agent may take to notice a call, and a hang-up, before it is called again: what a
/// sandbox's driver allows.
const GREETING: Duration = Duration::from_millis(1500);
const NOTICE: Duration = Duration::from_secs(2);
/// How long anything may take altogether.
const PATIENCE: Duration = Duration::from_secs(30);
/// The timeout that the daemon gives a command that names none.
const COMMAND_TIMEOUT_MS: u64 = api::DEFAULT_TIMEOUT_SEC * 1000;

/// A sandbox's description as it lies on the disk; its checksum does not matter here.
#[derive(Debug, Deserialize)]
struct Description {
    body: Origin,
}

/// What a sandbox's directory says of where it comes from.
#[derive(Debug, Deserialize)]
struct Origin {
    template: String,
    image_digest: String,
    kernel_id: String,
}

/// Everything that bare VMs are made of, loaded once.
#[derive(Debug)]
pub(super) struct Kit {
    qemu: Qemu,
    machine: Machine,
    ram: Ram,
    image: Vec<PathBuf>,
    modules: PathBuf,
    template: PathBuf,
    /// Where disks and control sockets are made.
    workshop: PathBuf,
}

impl Kit {
    /// Of the template that sandbox `id` of the node in `data` was made of.
    pub(super) fn like(data: &Path, id: &str, machine: Machine, qemu: Qemu) -> Result<Self> {
        let origin = fs::read(data.join("sandboxes").join(id).join("origin.json"))?;
        let Description { body: origin } =
            serde_json::from_slice(&origin).context("read origin.json")?;
        let template = data.join("templates").join(origin.template);
        let (ram, _) = Ram::load(&template.join("ram")).context("load the template's memory")?;
        let workshop = data.join("bare");
        fs::create_dir_all(&workshop)?;
        Ok(Self {
            qemu,
            machine,
            ram,
            image: image::open_digest(data, &origin.image_digest)?.files().to_vec(),
            modules: kernel::open(data, &origin.kernel_id)?.modules_image(),
            template,
            workshop,
        })
    }

    /// All that can be done beforehand: open files, an empty disk layer, a directory for sockets.
    pub(super) fn plan(&self) -> Result<Plan> {
        let run_dir = self.workshop.join(random::hex::<4>());
        fs::create_dir(&run_dir)?;
        let scratch = self.template.join("disk.raw");
        let bytes = fs::metadata(&scratch)?.len();
        let layer = run_dir.join("layer");
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&layer)?;
        qcow2::create_overlay(file.file(), bytes, CLUSTER_BITS)?;
        fs::remove_file(&layer)?;
        Ok(Plan {
            machine: self.machine,
            ram: self.ram.clone(),
            disks: Disks {
                base: self.image.iter().map(|file| open(file)).collect::<Result<_>>()?,
                modules: open(&self.modules)?,
                scratch: open(&scratch)?,
                layers: vec![Layer { number: 0, file: file.into_parts().0.into() }],
                volumes: Vec::new(),
            },
            nic: Some(Nic::Tap { tap: net::fabric::Tap::loose()?.into_fd(), namespace: None }),
            boot: Boot::Restore { state: open(&self.template.join("devices"))? },
            run_dir,
            confinement: None,
        })
    }

    /// What all sandboxes of the template read from the disk.
    pub(super) fn shared_files(&self) -> Vec<&Path> {
        let own = [&self.template, &self.modules];
        own.into_iter().chain(&self.image).map(PathBuf::as_path).collect()
    }

    /// Starts a VM; returns when its agent has greeted us.
    pub(super) async fn launch(&self, plan: Plan) -> Result<BareVm> {
        let run_dir = plan.run_dir.clone();
        let vm = self.qemu.launch(plan)?;
        let called = async {
            loop {
                if let Some(called) = call(&vm).await? {
                    return anyhow::Ok(called);
                }
            }
        };
        let called = tokio::select! {
            biased;
            called = timeout(PATIENCE, called) => called.context("the bare VM does not answer")?,
            ended = vm.ended() => Err(ended.into()),
        };
        let (session, driver) = called?;
        Ok(BareVm { vm, session, driver, run_dir })
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    Ok(fs::File::open(path)?.into_parts().0.into())
}

type Called = (Session, JoinHandle<Result<(), MuxError>>);

/// One attempt; `None` if nobody answered, which the agent has then noticed.
async fn call(vm: &Vm) -> Result<Option<Called>> {
    let stream = vm.guest_port().connect().await?;
    let mut greeting = Box::pin(establish(stream, Side::Host, random::bytes::<32>()));
    if let Ok(Ok((session, _, driver))) = timeout(GREETING, &mut greeting).await {
        return Ok(Some((session, tokio::spawn(driver))));
    }
    let watch = vm.guest_port().watch().await?;
    drop(greeting);
    watch.noticed(NOTICE).await;
    Ok(None)
}

/// A VM that nobody manages. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct BareVm {
    vm: Vm,
    session: Session,
    driver: JoinHandle<Result<(), MuxError>>,
    run_dir: PathBuf,
}

impl BareVm {
    /// Asks the agent who it is.
    pub(super) async fn hello(&self) -> Result<()> {
        let hello = Request::Hello(Hello { version: VERSION, proof: None, refresh: None });
        match self.ask(&hello).await? {
            (_, Response::Welcome(_)) => Ok(()),
            (_, other) => bail!("odd answer to hello: {other:?}"),
        }
    }

    /// Makes it somebody, without which it runs no commands.
    pub(super) async fn identify(&self) -> Result<()> {
        let time_ns = u64::try_from(clock::since_epoch().as_nanos()).unwrap_or(u64::MAX);
        let identify = Request::Identify(Identify {
            sandbox_id: random::hex::<8>(),
            hostname: "bare".to_owned(),
            machine_id: random::hex::<16>(),
            token: random::hex::<32>(),
            env: std::collections::BTreeMap::new(),
            defaults: Defaults::default(),
            interface: None,
            refresh: Refresh { time_ns, seed: random::hex::<32>() },
        });
        match self.ask(&identify).await? {
            (_, Response::Identified) => Ok(()),
            (_, other) => bail!("odd answer to identify: {other:?}"),
        }
    }

    /// Runs `true` to its end, as the daemon would.
    pub(super) async fn exec_true(&self) -> Result<()> {
        let exec = Request::Exec(Exec {
            argv: vec!["true".to_owned()],
            env: std::collections::BTreeMap::new(),
            cwd: None,
            user: None,
            timeout_ms: Some(COMMAND_TIMEOUT_MS),
            stdin: false,
            detach: None,
        });
        let (mut stream, mut response) = self.ask(&exec).await?;
        while let Response::Started { .. } = response {
            response = next_response(&mut stream).await?;
        }
        match response {
            Response::Exited(exited) if exited.code == 0 => Ok(()),
            other => bail!("odd end of a command: {other:?}"),
        }
    }

    /// How long fork, exec and exit take inside the guest.
    pub(super) async fn time_spawn(&self) -> Result<Duration> {
        match self.ask(&Request::TimeSpawn).await? {
            (_, Response::SpawnTimed { nanos }) => Ok(Duration::from_nanos(nanos)),
            (_, other) => bail!("odd answer to a timed spawn: {other:?}"),
        }
    }

    /// Kills it and removes what it leaves.
    pub(super) async fn end(self) -> Result<()> {
        self.vm.kill().await;
        self.driver.abort();
        Ok(files::remove_any(&self.run_dir)?)
    }

    async fn ask(&self, request: &Request) -> Result<(Stream, Response)> {
        let asked = async {
            let mut stream = self.session.open().await?;
            stream.send_json(request).await?;
            let response = next_response(&mut stream).await?;
            anyhow::Ok((stream, response))
        };
        timeout(PATIENCE, asked).await.context("the bare VM does not answer")?
    }
}

/// The next message; output of a command is not of interest.
async fn next_response(stream: &mut Stream) -> Result<Response> {
    loop {
        let frame = stream.recv().await?.context("the agent broke off")?;
        if frame.kind == FrameKind::Json {
            return serde_json::from_slice(&frame.payload).context("read the agent's answer");
        }
    }
}
