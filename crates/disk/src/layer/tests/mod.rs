//! Layers from archives made here, good and hostile ones.

mod fuzz;
mod hostile;
mod outer;
mod store;
mod tarball;
mod whole;

pub(crate) use self::hostile::tried;
pub(crate) use tarball::Tarball;
