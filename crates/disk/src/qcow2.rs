//! Empty qcow2 overlays, written directly: `qemu-img create` would take longer than the rest of
//! making a sandbox's disk.
//!
//! An overlay never names its backing file. QEMU is given the backing node explicitly
//! (`"backing": "node-name"` in `-blockdev`), which it accepts for a file that names none, and so
//! nothing that a compromised QEMU writes into the file can make a later QEMU open another one.
//!
//! ```text
//! cluster 0    header                      everything not mentioned is a hole,
//!         1    refcount table              and zeros mean "take it from the backing node"
//!         2…   refcount blocks
//!         …    L1 table, all zeros
//! ```
//!
//! The format is `docs/interop/qcow2.txt` of QEMU; numbers are big-endian.

mod chain;

use std::{fs::File, io, os::unix::fs::FileExt as _};

use base::fault;

pub use chain::Chain;

const MAGIC: &[u8; 4] = b"QFI\xfb";
const VERSION: u32 = 3;
const HEADER_LENGTH: u32 = 104;
/// Reference counts of 16 bits, which is what `qemu-img` makes.
const REFCOUNT_ORDER: u32 = 4;

/// The cluster sizes that are made and read, as powers of two: 4 KiB to 2 MiB.
pub const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 12..=21;

/// The largest virtual disk, in bytes: 16 TiB.
pub const SIZE_MAX: u64 = 16 << 40;

/// The largest L1 table that QEMU reads, in bytes (`QCOW_MAX_L1_SIZE`).
const L1_MAX: u64 = 32 << 20;

/// Incompatible feature: reference counts may be wrong and QEMU repairs them when it opens it.
const DIRTY: u64 = 1;

/// Header extensions: end of the list, and the name of an external data file.
const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Why a qcow2 file cannot be made or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// Reading or writing failed.
    #[error("access the qcow2 file")]
    Io(#[from] io::Error),
    /// The wanted geometry is impossible.
    #[error("a disk of {size} bytes with clusters of 2^{cluster_bits} bytes is not possible")]
    Geometry {
        /// The virtual size in bytes.
        size: u64,
        /// The cluster size as a power of two.
        cluster_bits: u32,
    },
    /// The file is not something that [`create_overlay`] made and QEMU wrote data to.
    #[error("refusing the qcow2 file: {0}")]
    Refused(&'static str),
}

impl From<Qcow2Error> for io::Error {
    /// Keeps what the system said: that a disk is full is told to people.
    fn from(error: Qcow2Error) -> Self {
        match error {
            Qcow2Error::Io(error) => error,
            Qcow2Error::Geometry { .. } | Qcow2Error::Refused(_) => Self::other(error),
        }
    }
}

/// What the header of an accepted overlay says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The cluster size as a power of two.
    pub cluster_bits: u32,
    /// QEMU did not close the file properly and will check it when it opens it.
    pub dirty: bool,
}

/// Where the parts of an empty overlay lie.
#[derive(Debug)]
struct Layout {
    cluster: u64,
    l1_entries: u64,
    refcount_blocks: u64,
    /// Clusters in the file.
    clusters: u64,
}

impl Layout {
    fn new(size: u64, cluster_bits: u32) -> Option<Self> {
        if !CLUSTER_BITS.contains(&cluster_bits)
            || size == 0
            || size > SIZE_MAX
            || !size.is_multiple_of(512)
        {
            return None;
        }
        let cluster = 1u64 << cluster_bits;
        // An L2 table is one cluster of 8-byte entries, one for each cluster of data.
        let l1_entries = size.div_ceil(cluster * (cluster / 8));
        if l1_entries * 8 > L1_MAX {
            return None;
        }
        let fixed = 2 + (l1_entries * 8).div_ceil(cluster);
        // The blocks count themselves too.
        let per_block = cluster / 2;
        let refcount_blocks = fixed.div_ceil(per_block - 1);
        let clusters = fixed + refcount_blocks;
        // One cluster of refcount table has room for all blocks: L1_MAX sees to that.
        (refcount_blocks <= cluster / 8).then_some(Self {
            cluster,
            l1_entries,
            refcount_blocks,
            clusters,
        })
    }

    fn l1_offset(&self) -> u64 {
        (2 + self.refcount_blocks) * self.cluster
    }

    fn header(&self, size: u64, cluster_bits: u32) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        put(&VERSION.to_be_bytes());
        // No backing file: offset and length.
        put(&[0; 12]);
        put(&cluster_bits.to_be_bytes());
        put(&size.to_be_bytes());
        // No encryption.
        put(&[0; 4]);
        put(&u32::try_from(self.l1_entries).unwrap_or(u32::MAX).to_be_bytes());
        put(&self.l1_offset().to_be_bytes());
        // The refcount table: cluster 1, one cluster long.
        put(&self.cluster.to_be_bytes());
        put(&1u32.to_be_bytes());
        // No internal snapshots; no incompatible, compatible or autoclear features.
        put(&[0; 12 + 24]);
        put(&REFCOUNT_ORDER.to_be_bytes());
        put(&HEADER_LENGTH.to_be_bytes());
        // The end of the header extensions.
        put(&[0; 8]);
        out
    }
}

/// Makes the empty file `file` an overlay of `virtual_size` bytes, a multiple of 512, with
/// clusters of `1 << cluster_bits` bytes (16 is QEMU's own choice). It takes a few small writes
/// and hardly any blocks; it is not flushed.
///
/// # Errors
/// [`Qcow2Error::Geometry`] for sizes over [`SIZE_MAX`], or over 8 TiB with 4 KiB clusters;
/// [`Qcow2Error::Io`] if writing fails.
pub fn create_overlay(file: &File, virtual_size: u64, cluster_bits: u32) -> Result<(), Qcow2Error> {
    let layout = Layout::new(virtual_size, cluster_bits)
        .ok_or(Qcow2Error::Geometry { size: virtual_size, cluster_bits })?;
    fault::point("qcow.create")?;
    file.set_len(layout.clusters * layout.cluster)?;
    let table: Vec<u8> = (0..layout.refcount_blocks)
        .flat_map(|block| ((2 + block) * layout.cluster).to_be_bytes())
        .collect();
    file.write_all_at(&table, layout.cluster)?;
    // Counts run on from one block to the next, and so do the blocks.
    let counts: Vec<u8> = (0..layout.clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * layout.cluster)?;
    fault::point("qcow.header")?;
    // The header last: without it this is no qcow2 file.
    Ok(file.write_all_at(&layout.header(virtual_size, cluster_bits), 0)?)
}

/// Reads the header of an overlay that an untrusted QEMU may have written to, and refuses it if
/// opening it could reach any other file or use any feature that [`create_overlay`] does not.
/// The caller compares the size with what it knows.
///
/// # Errors
/// [`Qcow2Error::Refused`] says why the file is not accepted.
pub fn validate_header(file: &File) -> Result<Info, Qcow2Error> {
    let mut header = vec![0; 1 << CLUSTER_BITS.start()];
    let length = read_up_to(file, &mut header, 0)?;
    check_header(&header[..length])
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn check_header(header: &[u8]) -> Result<Info, Qcow2Error> {
    let refused = |reason| Err(Qcow2Error::Refused(reason));
    let cut = Qcow2Error::Refused("its header is cut short");
    let Some(fixed) = header.get(..HEADER_LENGTH as usize) else { return Err(cut) };
    let u32_at = |at: usize| fixed[at..at + 4].iter().fold(0u32, |v, b| v << 8 | u32::from(*b));
    let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
    if !fixed.starts_with(MAGIC) || u32_at(4) != VERSION {
        return refused("it is not qcow2 version 3");
    }
    // A name of no bytes is what QEMU leaves where layers were put together.
    if u32_at(16) != 0 {
        return refused("it names a backing file");
    }
    if u32_at(32) != 0 {
        return refused("it is encrypted");
    }
    if u32_at(60) != 0 {
        return refused("it has internal snapshots");
    }
    let incompatible = u64_at(72);
    if incompatible & !DIRTY != 0 {
        return refused("it uses incompatible features, such as an external data file");
    }
    let (cluster_bits, virtual_size) = (u32_at(20), u64_at(24));
    if Layout::new(virtual_size, cluster_bits).is_none() {
        return refused("its geometry is not possible");
    }
    let length = u32_at(100) as usize;
    if length < fixed.len() || !length.is_multiple_of(8) || length > header.len() {
        return refused("its header length is not possible");
    }
    check_extensions(&header[length..])?;
    Ok(Info { virtual_size, cluster_bits, dirty: incompatible & DIRTY != 0 })
}

/// Extensions are a type, a length and that many bytes padded to eight. QEMU adds a table of
/// feature names, which is harmless; the name of a data file is not.
fn check_extensions(mut rest: &[u8]) -> Result<(), Qcow2Error> {
    let cut = || Qcow2Error::Refused("its header extensions do not end");
    loop {
        let (head, tail) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let kind = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => return Err(Qcow2Error::Refused("it names a data file")),
            _ => {}
        }
        let padded = length.checked_next_multiple_of(8).ok_or_else(cut)?;
        rest = tail.get(padded..).ok_or_else(cut)?;
    }
}

#[cfg(test)]
mod tests;
