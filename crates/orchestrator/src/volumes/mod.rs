//! Disks that outlive sandboxes.
//!
//! ```text
//! volumes/<id>/ disk.raw ◄─ layer-0 ◄─ layer-1   written by one sandbox, or read by any number
//!                  ▲            ▲
//!                  └────────────┴── hard links: clones, and what forks and snapshots have alone
//! ```
//! Which sandbox has a volume is decided with the sandbox's row, and it has it until that is gone: also
//! while it is stopped, for its memory knows what is on the volume.

mod facade;
mod mounts;

pub(crate) use self::{
    facade::{copy, find, new_record, of, remove, settle_size},
    mounts::check,
};
