//! Tar archives on their way between this machine and a sandbox: packed and unpacked while they are
//! sent, in a thread of their own.

mod pack;
mod pipe;
mod unpack;

pub(crate) use pack::{Packer, Packing, pack};
pub(crate) use pipe::AsyncWriter;
pub(crate) use unpack::{Skipped, Unpacking, open_root, unpack};
