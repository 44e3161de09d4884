//! Named snapshots, what is made of them, and copies of living sandboxes.
//!
//! ```text
//! sandbox ── copy ──► directory with shared layers ──► image
//! sandbox ── copy ──► directory with shared layers (+ memory) ──► snapshot: kept under a name
//!                                     ▲                       └─► fork: a driver takes it over
//!                                     └── resume: a copy of a snapshot's directory
//! ```

mod fork;
mod saved;
mod snapshots;

use std::sync::Arc;

use base::{
    clock,
    ids::{Name, SandboxId, UserId},
};

pub(crate) use self::snapshots::remove;
pub use self::{fork::MOST_COPIES, saved::SavedImage};

use crate::{
    Orchestrator, Result, admission,
    model::{Edit, Policy, SandboxView, Spec, User, UserLimits},
    record::{Address, Identity, Record, State},
    sandbox::Sandbox,
    sandbox_dir::Readers,
};

impl Orchestrator {
    /// Changes what its owner may change of a sandbox.
    pub async fn edit(&self, owner: &User, sandbox: &Sandbox, edit: Edit) -> Result<SandboxView> {
        if edit.egress.is_some() || edit.caps.is_some() {
            self.node.networking.changeable()?;
        }
        if let Some(Some(egress)) = &edit.egress {
            admission::check_egress(egress, &self.node.networking.forbidden(), owner)?;
        }
        sandbox.edit(edit).await
    }
}

/// The record of a copy: everything of its source but who it is.
fn copy_of(owner: &UserId, name: Name, spec: &Arc<Spec>, policy: Policy) -> Record {
    Record {
        id: SandboxId::random(),
        owner: owner.clone(),
        name,
        spec: Arc::clone(spec),
        policy,
        identity: Identity::random(),
        slot: 0,
        address: Address::default(),
        generation: 0,
        state: State::Creating,
        created_at: clock::unix_seconds(),
    }
}

/// What a copy is made of: volumes that its source writes to become data that it has alone, as of now.
fn spec_of_copy(mut spec: Spec, readers: Readers) -> Spec {
    for volume in &mut spec.volumes {
        let attached = volume.copied_at.is_none();
        if !volume.read_only || (attached && readers == Readers::Alone) {
            volume.copied_at = Some(clock::unix_seconds());
        }
    }
    spec
}

/// Whether a user may have another sandbox like one that is there; limits may have changed since.
fn allowed(spec: &Spec, limits: UserLimits) -> Result<()> {
    admission::within(spec, limits, admission::host())
}
