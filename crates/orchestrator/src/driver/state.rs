//! The states of a driver and what others see of them.

use std::sync::Arc;

use base::ids::Name;
use proto::{message::Resting, mux::Session};

use super::Live;
use crate::{
    model::{Failure, Policy, Spec, Status, StoppedBy, Thermal},
    record::{Record, State},
};

/// What exists only in a state lives only in that state.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Being made or taken up.
    Beginning,
    /// vCPUs run.
    Hot(Live),
    /// vCPUs are paused.
    Warm(Live),
    /// No VM.
    Cold,
    /// No VM, and nobody asked for that.
    Failed,
    /// Nothing is left.
    Gone,
}

impl Phase {
    pub(super) fn of_record(state: &State) -> Self {
        match state {
            State::Creating | State::Running { .. } | State::Destroying => Self::Beginning,
            State::Stopped { .. } => Self::Cold,
            State::Failed(_) => Self::Failed,
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Hot(live) | Self::Warm(live) => Some(live),
            Self::Beginning | Self::Cold | Self::Failed | Self::Gone => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            Self::Hot(live) | Self::Warm(live) => Some(live),
            Self::Beginning | Self::Cold | Self::Failed | Self::Gone => None,
        }
    }

    /// Takes the VM out, leaving no state but `Beginning` behind: the caller says what is next.
    pub(super) fn take_live(&mut self) -> Option<Live> {
        self.live()?;
        match std::mem::replace(self, Self::Beginning) {
            Self::Hot(live) | Self::Warm(live) => Some(live),
            Self::Beginning | Self::Cold | Self::Failed | Self::Gone => None,
        }
    }

    pub(super) fn cool_down(&mut self) {
        if let Some(live) = self.take_live() {
            *self = Self::Warm(live);
        }
    }

    pub(super) fn warm_up(&mut self) {
        if let Some(live) = self.take_live() {
            *self = Self::Hot(live);
        }
    }
}

/// What everybody may see at any time without asking the driver.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub name: Name,
    pub spec: Arc<Spec>,
    pub policy: Policy,
    pub status: Status,
    pub thermal: Option<Thermal>,
    pub failure: Option<Failure>,
    pub generation: u64,
    pub snapshot_bytes: Option<u64>,
    pub stopped_at: Option<i64>,
    /// The way to the agent while the sandbox is hot and nothing is about to change that.
    pub session: Option<Session>,
    /// It is being paused or stopped: who finds no session need not believe it lost.
    pub closing: bool,
    /// What was going on in the guest when it fell asleep, if that is known.
    pub resting: Option<Arc<Resting>>,
    /// The guest stands still until the host's disk has room for what it writes.
    pub starved: bool,
}

impl Published {
    /// Whether it is warm or cold, and not on its way there.
    pub(crate) fn sleeps(&self) -> bool {
        matches!(self.thermal, Some(Thermal::Warm | Thermal::Cold)) && !self.closing
    }

    pub(super) fn of(record: &Record, phase: &Phase, snapshot_bytes: Option<u64>) -> Self {
        let (status, thermal) = match (&record.state, phase) {
            (State::Creating, _) => (Status::Creating, None),
            (State::Running { .. }, Phase::Warm(_)) => (Status::Running, Some(Thermal::Warm)),
            (State::Running { .. }, Phase::Hot(_)) => (Status::Running, Some(Thermal::Hot)),
            (State::Running { .. }, _) => (Status::Starting, None),
            // It answers, only later: nobody has to know that it sleeps.
            (State::Stopped { by: StoppedBy::Idleness, .. }, _) => {
                (Status::Running, Some(Thermal::Cold))
            }
            (State::Stopped { .. }, _) => (Status::Stopped, Some(Thermal::Cold)),
            (State::Failed(_), _) => (Status::Failed, None),
            (State::Destroying, _) => (Status::Destroying, None),
        };
        let failure = match &record.state {
            State::Failed(failure) => Some(failure.clone()),
            _ => None,
        };
        let stopped_at = match record.state {
            State::Stopped { since, .. } => Some(since),
            _ => None,
        };
        let session = match phase {
            Phase::Hot(live) => live.channel.as_ref().map(|c| c.session().clone()),
            _ => None,
        };
        Self {
            name: record.name.clone(),
            spec: Arc::clone(&record.spec),
            policy: record.policy,
            status,
            thermal,
            failure,
            generation: record.generation,
            snapshot_bytes,
            stopped_at,
            session,
            closing: false,
            resting: None,
            starved: phase.live().is_some_and(|live| live.starved),
        }
    }
}
