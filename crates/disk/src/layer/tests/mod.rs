//! Layers from archives made here, good and hostile ones.

mod tarball;
mod whole;

pub(crate) use tarball::Tarball;
