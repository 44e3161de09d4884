//! Falling asleep and waking up without leaving memory.

use super::{Driver, Phase};
use crate::{
    Result,
    model::{StoppedBy, Thermal},
    record::State,
    thermal::policy::Step,
};

impl Driver {
    /// How warm it is for those who decide about its sleep.
    pub(super) fn sleepiness(phase: &Phase) -> Thermal {
        match phase {
            // A guest that waits for room on the host's disk is in the middle of something.
            Phase::Hot(live) | Phase::Warm(live) if live.starved => Thermal::Cold,
            Phase::Hot(_) => Thermal::Hot,
            Phase::Warm(_) => Thermal::Warm,
            Phase::Beginning | Phase::Cold | Phase::Failed | Phase::Gone => Thermal::Cold,
        }
    }

    /// Takes a step that idleness asks for, unless something is under way after all. A failure
    /// does no harm: the sandbox goes on, and it is tried again later.
    pub(super) async fn fall_asleep(&mut self, step: Step) {
        if !self.shut_if_quiet() {
            self.schedule.given_up();
            return;
        }
        let done = match step {
            Step::GoWarm => self.go_warm().await,
            Step::GoCold => self.stop(StoppedBy::Idleness).await,
        };
        match done {
            Ok(()) => {
                tracing::debug!(sandbox = %self.record.id, ?step, "idle");
                self.schedule.done(step);
            }
            Err(error) => {
                tracing::warn!(sandbox = %self.record.id, ?step, error = base::chain(&error),
                    "an idle sandbox could not be put to sleep");
                self.schedule.failed(step);
                self.show_again();
            }
        }
    }

    /// Stops the vCPUs for the owner.
    pub(super) async fn pause(&mut self) -> Result<()> {
        match &self.phase {
            Phase::Warm(_) => Ok(()),
            Phase::Hot(_) => {
                self.shut().await;
                let paused = self.go_warm().await;
                if paused.is_err() {
                    self.show_again();
                }
                paused
            }
            _ => Err(self.not_running("paused")),
        }
    }

    /// Lets the vCPUs run for the owner.
    pub(super) async fn resume(&mut self) -> Result<()> {
        match &self.phase {
            Phase::Hot(_) => Ok(()),
            Phase::Warm(_) => self.warm_to_hot().await,
            _ => Err(self.not_running("resumed")),
        }
    }

    /// From hot to warm; the gate is shut.
    async fn go_warm(&mut self) -> Result<()> {
        let resting = self.come_to_rest(false).await;
        self.keep_resting(resting.as_deref());
        let Phase::Hot(live) = &self.phase else { return Err(self.not_running("paused")) };
        live.vm.pause().await?;
        self.phase.cool_down();
        self.set_resting(resting);
        self.note(self.running_state(true)?).await;
        Ok(())
    }

    /// From warm to hot. Nobody is let in before the guest has the time and fresh randomness.
    pub(super) async fn warm_to_hot(&mut self) -> Result<()> {
        let thawed = self.thaw().await;
        if matches!(self.phase, Phase::Hot(_)) {
            self.note(self.running_state(false)?).await;
        }
        thawed
    }

    /// Lets a warm guest run, with a connection to its agent. Nobody is told yet.
    pub(super) async fn thaw(&mut self) -> Result<()> {
        // First, so that it is never taken for what rests in a guest that has run since.
        self.keep_resting(None);
        if let Phase::Warm(live) = &self.phase {
            live.vm.resume().await?;
            self.phase.warm_up();
        }
        self.connect().await
    }

    /// Notes and shows a state that can be seen from the VM itself. Nobody waits for the store: if
    /// it is lost, the next daemon finds out by looking.
    pub(super) async fn note(&mut self, state: State) {
        self.record.generation += 1;
        self.record.state = state;
        self.show_again();
        let (record, store) = (&self.record, &self.node.store);
        store.note_state(&record.id, record.generation, &record.state).await;
    }
}
