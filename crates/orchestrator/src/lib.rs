//! Turns requests about sandboxes into running VMs and keeps them true.
//!
//! ```text
//! Orchestrator ─► Registry ─► Sandbox (handle) ─ commands ─► Driver (task, one a sandbox)
//!      │                                                        │
//!      └─► Store (SQLite: rows)          vmm, disk, guest agent ┘
//! ```
//! Invariant: knows nothing of HTTP. Everything that changes a sandbox happens in its driver.

mod activity;
mod admission;
pub mod backups;
pub mod build;
mod chain;
mod contents;
mod convert;
mod copies;
mod copying;
mod driver;
pub mod error;
mod facade;
mod fingerprint;
mod guest;
pub mod images;
mod layout;
pub mod model;
mod networking;
mod node;
mod processes;
pub mod publications;
mod record;
mod recorder;
mod recovery;
mod registry;
mod sandbox;
mod sandbox_dir;
pub mod shares;
mod spares;
mod standing;
pub mod storage;
pub mod store;
mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod thermal;
pub mod traffic;
mod volumes;

pub use activity::ActivityView;
pub use admission::Defaults;
pub use contents::{Archive, ArchiveSender, Contents, NewFile, Unwanted};
pub use copies::{MOST_COPIES, SavedImage};
pub use driver::Destroyed;
pub use error::{Error, Kind, Result};
pub use facade::{Created, NodeInfo, Orchestrator, Progress, Settings, Started};
pub use guest::{
    AttachEvent, AttachInput, Attachment, ExecEvent, ExecInput, Execution, FileReading,
    FileWriting, Hold, JobEvent, JobReading, Joined, Listing, Ready, Started as StartedCommand,
    Tunnel, Watching,
};
pub use net::{
    address::Pool,
    egress,
    fabric::{Finding, Uplink},
};

/// What sandboxes may reach, and how fast.
pub mod policy {
    pub use net::{
        fabric::{Caps, Policy},
        policy::{Egress, HostPattern, Mode, Reach},
    };
}
pub use networking::{Connection, EgressLog, NetworkMode, NetworkSettings, UserEgress};
pub use node::node_tag;
pub use proto::message;
pub use sandbox::Sandbox;
