//! Tar archives on their way between this machine and a sandbox: packed and unpacked while they are
//! sent, in a thread of their own.

mod pack;
mod pipe;
mod send;
mod unpack;

pub(crate) use pack::{Packer, pack};
pub(crate) use pipe::AsyncReader;
pub(crate) use send::{Sending, send};
pub(crate) use unpack::{open_root, unpack};
