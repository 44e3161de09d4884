//! Guest memory: what a template keeps, what a child changed, and getting both in and out.
//!
//! A VM that booted by itself owns its memory file. A child maps its template's
//! memory privately, so the pages that it wrote are exactly the anonymous ones in its monitor's
//! mapping. [`GuestMemory`] treats both alike.

mod capture;
mod crew;
mod dirty;
mod pages;
mod ram;
mod scan;
mod spans;

pub use capture::Capture;
pub use dirty::GuestMemory;
pub use pages::{PageFile, PageStats};
pub use ram::Ram;

/// The size of a page on every host that we run on, in bytes.
pub const PAGE: usize = 4096;
