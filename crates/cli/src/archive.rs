//! Tar archives on their way between this machine and a sandbox: packed and unpacked while they are
//! sent, in a thread of their own.

mod pack;
mod pipe;
mod unpack;

pub(crate) use pack::pack;
pub(crate) use unpack::{open_root, unpack};
