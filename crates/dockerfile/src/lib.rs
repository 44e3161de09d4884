//! What a Dockerfile and a `.dockerignore` say. Pure: reads no file and runs nothing.
//!
//! ```text
//! text ─► lines ─► parse ─► Dockerfile ─► plan: the stages that a target needs, in order
//!                                └─► Scope: one stage's variables, which its words are expanded with
//! ```
//! Invariant: no text makes anything in here panic, and nothing is understood halfway: what is not
//! known is an error that names its line.

mod expand;
mod ignore;
mod lines;
mod model;
mod parse;
mod pattern;
mod plan;
mod scope;
mod words;

pub use ignore::Ignore;
pub use model::{Argument, Command, Copy, Dockerfile, Instruction, Notice, Source, Stage, Step};
pub use parse::parse;
pub use pattern::{InvalidPattern, Pattern};
pub use plan::{Base, Planned, plan};
pub use scope::Scope;

/// Most bytes of a Dockerfile.
pub const DOCKERFILE_MAX: usize = 1 << 20;

/// Why a Dockerfile cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Invalid {
    /// The line that it is about, counted from 1.
    pub line: usize,
    /// What is wrong, and where there is something, what to do.
    pub message: String,
}

impl Invalid {
    pub(crate) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// A text of somebody else's, short enough for a message.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
