//! Tar archives on their way between this machine and a sandbox: packed and unpacked while they are
//! sent, in a thread of their own.

mod pack;
mod pipe;
mod send;
mod unpack;

pub(crate) use pack::{Packer, pack};
pub(crate) use pipe::{AsyncReader, AsyncWriter};
pub(crate) use send::{Sending, send, send_from};
pub(crate) use unpack::{open_root, unpack};
