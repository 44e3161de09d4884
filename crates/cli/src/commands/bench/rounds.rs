//! Rows that are a time: measured round by round, each row directly beside what it is compared
//! with, so that a machine whose speed drifts favours neither.

use std::{rc::Rc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use api::{CreateSandbox, ExecRequest, Network, client::Client};
use base::process::Exit;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Bench,
    bare::Kit,
    calls::COMMANDS,
    daemon,
    rows::{
        Row::{self, *},
        milliseconds,
    },
};

/// Rounds that are measured and forgotten first, of those that start VMs and of the others.
pub(super) const WARM_UP_VMS: usize = 2;
pub(super) const WARM_UP_CALLS: usize = 10;
/// Sandboxes of `create_10`.
const AT_ONCE: usize = 10;
/// How long what stands ready for the next sandbox may take; a host that is short of memory keeps
/// nothing ready.
const READY: Duration = Duration::from_secs(3);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Does `work` and says how long it took.
pub(super) async fn timed<T, E: Into<anyhow::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<(Duration, T)> {
    let start = Instant::now();
    let done = work.await.map_err(Into::into)?;
    Ok((start.elapsed(), done))
}

impl Bench<'_> {
    /// Every row of this file that was asked for.
    pub(super) async fn rounds(&mut self, n: usize, n_at_once: usize) -> Result<()> {
        let launches = [Floor, Create, CreateNetShare, Destroy];
        let sleeps = [FloorExec, CreateExec, Stop, Wake];
        let calls = [GuestForkExec, ExecApi, ExecCli];
        let pauses = [Pause, Resume];
        let others = [&COMMANDS[..], &[Create10]].concat();
        let timed = [&launches[..], &sleeps, &calls, &pauses, &others].concat();
        if !self.samples.want(&timed) {
            return Ok(());
        }
        let kit = self.kit().await?;
        if self.samples.want(&launches) {
            self.announce(&launches, n, WARM_UP_VMS);
            for round in 0..n + WARM_UP_VMS {
                self.samples.warming_up = round < WARM_UP_VMS;
                self.launch_round(&kit).await?;
            }
        }
        if self.samples.want(&sleeps) {
            self.announce(&sleeps, n, WARM_UP_VMS);
            for round in 0..n + WARM_UP_VMS {
                self.samples.warming_up = round < WARM_UP_VMS;
                self.sleep_round(&kit).await?;
            }
        }
        if self.samples.want(&calls) {
            self.call_rounds(&kit, n).await?;
        }
        self.commands(&kit, n, n_at_once).await?;
        if self.samples.want(&pauses) {
            self.pause_rounds(n).await?;
        }
        if self.samples.want(&[Create10]) {
            self.at_once_rounds(&kit, n_at_once).await?;
        }
        Ok(())
    }

    pub(super) fn announce(&self, rows: &[Row], n: usize, warm_up: usize) {
        let wanted = rows.iter().filter(|row| self.samples.want(&[**row]));
        let names: Vec<String> = wanted.map(|row| row.name()).collect();
        self.say(&format!("{}: {n} rounds after {warm_up} to warm up", names.join(", ")));
    }

    /// What bare VMs are made of. The template that it is taken from is recorded if there is none
    /// yet.
    pub(super) async fn kit(&mut self) -> Result<Rc<Kit>> {
        if let Some(kit) = &self.kit {
            return Ok(Rc::clone(kit));
        }
        self.say("recording the template");
        let sandbox = self.create().await?;
        let machine = vmm::Machine { cpus: sandbox.cpus, memory_mib: sandbox.memory_mb };
        let kit = Kit::like(self.daemon.data(), &sandbox.id, machine, self.qemu.clone())?;
        self.client.destroy(&sandbox.id).await?;
        Ok(Rc::clone(self.kit.insert(Rc::new(kit))))
    }

    /// Waits until the daemon has ready what it keeps ready, so that every sample finds the same, and
    /// nothing goes on beside it.
    async fn ready(&mut self) -> Result<()> {
        let mut again = tokio::time::interval(LOOK);
        let looking = async {
            loop {
                again.tick().await;
                let ready = self.client.health().await?.prestarted;
                if ready.guests > 0 && ready.monitors > 0 {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(READY, looking).await.unwrap_or(Ok(()))
    }

    pub(super) async fn create(&mut self) -> Result<api::Sandbox> {
        Ok(self.client.create(&self.request, |_| {}).await?.sandbox)
    }

    /// How long a create takes. The sandbox is gone afterwards.
    pub(super) async fn create_once(&mut self, request: &CreateSandbox) -> Result<Duration> {
        let (time, created) = timed(self.client.create(request, |_| {})).await?;
        self.client.destroy(&created.sandbox.id).await?;
        Ok(time)
    }

    /// Has what stands ready be for sandboxes like this. The first create says so; what is ready just after
    /// it may still be for others.
    pub(super) async fn settle(&mut self, request: &CreateSandbox) -> Result<()> {
        for _ in 0..2 {
            self.create_once(request).await?;
            self.ready().await?;
        }
        Ok(())
    }

    /// A create as in [`Create`], in a round with creates of another kind.
    pub(super) async fn create_beside(&mut self, kit: &Kit) -> Result<Duration> {
        let request = self.request.clone();
        self.settle(&request).await?;
        self.floor(kit).await?;
        let time = self.create_once(&request).await?;
        self.samples.add_time(Create, time);
        Ok(time)
    }

    /// From the process's start to the agent's first answer.
    pub(super) async fn floor(&mut self, kit: &Kit) -> Result<()> {
        self.ready().await?;
        if !self.samples.want(&[Floor]) {
            return Ok(());
        }
        let plan = kit.plan()?;
        let (time, vm) = timed(async {
            let vm = kit.launch(plan).await?;
            vm.hello().await.map(|()| vm)
        })
        .await?;
        self.samples.add_time(Floor, time);
        vm.end().await
    }

    /// From the process's start to the end of a first command.
    async fn floor_exec(&mut self, kit: &Kit) -> Result<()> {
        self.ready().await?;
        if !self.samples.want(&[FloorExec]) {
            return Ok(());
        }
        let plan = kit.plan()?;
        let (time, vm) = timed(async {
            let vm = kit.launch(plan).await?;
            vm.identify().await?;
            vm.exec_true().await.map(|()| vm)
        })
        .await?;
        self.samples.add_time(FloorExec, time);
        vm.end().await
    }

    async fn launch_round(&mut self, kit: &Kit) -> Result<()> {
        self.floor(kit).await?;
        if !self.samples.want(&[Create, CreateNetShare, Destroy]) {
            return Ok(());
        }
        let (connected, sandbox) = timed(self.create()).await?;
        self.samples.add_time(Create, connected);
        let (time, _) = timed(self.client.destroy(&sandbox.id)).await?;
        self.samples.add_time(Destroy, time);
        if self.samples.want(&[CreateNetShare]) {
            self.ready().await?;
            let without = CreateSandbox { network: Some(Network::None), ..self.request.clone() };
            let alone = self.create_once(&without).await?;
            self.samples.add(CreateNetShare, milliseconds(connected) - milliseconds(alone));
        }
        Ok(())
    }

    async fn sleep_round(&mut self, kit: &Kit) -> Result<()> {
        self.floor_exec(kit).await?;
        if !self.samples.want(&[CreateExec, Stop, Wake]) {
            return Ok(());
        }
        let (time, id) = timed(async {
            let id = self.create().await?.id;
            exec_true(&mut self.client, &id).await.map(|()| id)
        })
        .await?;
        self.samples.add_time(CreateExec, time);
        if self.samples.want(&[Stop, Wake]) {
            self.floor(kit).await?;
            let (time, _) = timed(self.client.stop(&id, |_| {})).await?;
            self.samples.add_time(Stop, time);
            self.floor_exec(kit).await?;
            let (time, ()) = timed(exec_true(&mut self.client, &id)).await?;
            self.samples.add_time(Wake, time);
        }
        self.client.destroy(&id).await?;
        Ok(())
    }

    async fn call_rounds(&mut self, kit: &Kit, n: usize) -> Result<()> {
        self.announce(&[GuestForkExec, ExecApi, ExecCli], n, WARM_UP_CALLS);
        let vm = kit.launch(kit.plan()?).await?;
        vm.hello().await?;
        let id = self.create().await?.id;
        for round in 0..n + WARM_UP_CALLS {
            self.samples.warming_up = round < WARM_UP_CALLS;
            self.samples.add_time(GuestForkExec, vm.time_spawn().await?);
            if self.samples.want(&[ExecApi]) {
                let (time, ()) = timed(exec_true(&mut self.client, &id)).await?;
                self.samples.add_time(ExecApi, time);
            }
            if self.samples.want(&[ExecCli]) {
                let command = daemon::command(self.daemon.data(), &["exec", &id, "--", "true"])?;
                let (time, exit) = timed(async {
                    let process = command.spawn()?;
                    anyhow::Ok(process.exited().await)
                })
                .await?;
                ensure!(exit == Exit::Code(0), "bhatti exec ended with {exit}");
                self.samples.add_time(ExecCli, time);
            }
        }
        self.client.destroy(&id).await?;
        vm.end().await
    }

    async fn pause_rounds(&mut self, n: usize) -> Result<()> {
        self.announce(&[Pause, Resume], n, WARM_UP_CALLS);
        let id = self.create().await?.id;
        for round in 0..n + WARM_UP_CALLS {
            self.samples.warming_up = round < WARM_UP_CALLS;
            let (time, _) = timed(self.client.pause(&id)).await?;
            self.samples.add_time(Pause, time);
            let (time, _) = timed(self.client.resume(&id)).await?;
            self.samples.add_time(Resume, time);
        }
        self.client.destroy(&id).await?;
        Ok(())
    }

    async fn at_once_rounds(&mut self, kit: &Kit, n: usize) -> Result<()> {
        self.announce(&[Create10], n, WARM_UP_VMS);
        let mut clients = self.connections(AT_ONCE).await?;
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            self.floor(kit).await?;
            let start = Instant::now();
            let mut creates = JoinSet::new();
            for mut client in clients.drain(..) {
                let request = self.request.clone();
                creates.spawn(
                    async move { create(&mut client, &request).await.map(|id| (client, id)) },
                );
            }
            let created: Result<Vec<(Client, String)>> =
                creates.join_all().await.into_iter().collect();
            let time = start.elapsed();
            for (mut client, id) in created? {
                client.destroy(&id).await?;
                clients.push(client);
            }
            self.samples.add_time(Create10, time);
        }
        Ok(())
    }
}

async fn create(client: &mut Client, request: &CreateSandbox) -> Result<String> {
    Ok(client.create(request, |_| {}).await?.sandbox.id)
}

pub(super) async fn exec_true(client: &mut Client, id: &str) -> Result<()> {
    let request = ExecRequest { cmd: vec!["true".to_owned()], ..ExecRequest::default() };
    let answer = client.exec(id, &request).await.context("run true")?;
    if answer.exit_code != 0 {
        bail!("true ended with {}: {}", answer.exit_code, answer.stderr);
    }
    Ok(())
}
