//! From a [`Plan`] to a running virtual machine, and from a running one to a snapshot.
//!
//! ```text
//! Plan ──► Qemu::launch ──────────────────► Vm ── pause, resume, save, kill
//!   │        │  jail                          ▲ │
//!   │        │  cgroup                        │ └─ memory: dirty pages out of a stopped VM, pages
//!   │        └─ argv (pure)                   │    into a new one
//!   └──► Qemu::prepare ──► Spare ── claim ────┘
//! ```
//!
//! Invariant: knows no users, images or database, and never speaks to the guest agent; it hands
//! out the socket that leads there.

pub mod accel;
pub mod cgroup;
mod error;
mod jail;
pub mod memory;
mod plan;
mod qemu;
mod tsc;

pub use error::VmError;
pub use jail::{Confinement, NetworkNamespace, UserWalls, Walls, is_root, marked};
pub use plan::{Boot, Disks, Drive, Layer, Machine, Nic, Plan, UserNetwork, Volume};
pub use qemu::{Claim, Console, GuestPort, PortWatch, Qemu, Spare, Vm, VmHandle, namespace_of};
