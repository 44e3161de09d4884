//! Images as people have them.
//!
//! ```text
//!   reference ── pull.rs ──┐                             ┌─ own: a row of his
//!   uploaded tar ─ import ─┼─► content ◄── name of a user ┼─ shared: a row of another's
//!   prepared offline ──────┘  (disk)                      └─ global: a file that all may use
//! ```
//! A name means content; whoever was made of that content keeps it, whatever becomes of the name.

mod record;

pub use record::{ImageRecord, NewImage};
