//! What a raw disk with qcow2 layers over it reads as, read in this process.
//!
//! The layers were written by a monitor that a guest may have taken over, so nothing in them is
//! believed: a table or cluster outside of its file, compressed clusters and everything else that
//! [`super::create_overlay`] does not lead to is refused. What is lied about within these bounds
//! changes what the guest's own disk reads as, and nothing else.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::{Qcow2Error, read_up_to, validate_header};

/// Most layers of a chain.
const LAYERS_MAX: usize = 64;
/// The bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros.
const ZERO: u64 = 1;

/// A disk in layers that nobody writes to.
#[derive(Debug)]
pub struct Chain {
    size: u64,
    raw: File,
    raw_size: u64,
    /// A range of `raw` that is known to be a hole.
    hole: Range<u64>,
    /// The highest first.
    layers: Vec<Layer>,
}

/// Where the bytes at some place are, and up to where that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In this layer's file, at this offset.
    Layer(usize, u64),
    /// In the raw disk, at the same place.
    Raw,
    /// Nowhere: they are zeros.
    Zero,
}

impl Chain {
    /// A raw disk and layers over it, lowest first; all of them open for reading.
    ///
    /// # Errors
    /// [`Qcow2Error::Refused`] for layers that are not as this host makes them.
    pub fn open(raw: File, layers: Vec<File>) -> Result<Self, Qcow2Error> {
        if layers.len() > LAYERS_MAX {
            return Err(Qcow2Error::Refused("there are too many layers"));
        }
        let raw_size = raw.metadata()?.len();
        let layers: Vec<Layer> =
            layers.into_iter().rev().map(Layer::open).collect::<Result<_, _>>()?;
        let size = layers.first().map_or(raw_size, |top| top.size);
        Ok(Self { size, raw, raw_size, hole: 0..0, layers })
    }

    /// The length of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first range at or after `from` that may hold anything but zeros.
    ///
    /// # Errors
    /// If a file cannot be read, or a layer is refused.
    pub fn next_data(&mut self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = from;
        while at < self.size {
            let (place, end) = self.find(at)?;
            match place {
                Place::Layer(..) => return Ok(Some(at..end)),
                Place::Zero => at = end,
                Place::Raw => {
                    let data = self.raw_data(at)?;
                    if data < end {
                        return Ok(Some(data.max(at)..end));
                    }
                    at = end;
                }
            }
        }
        Ok(None)
    }

    /// Fills `buffer` with what is at `offset`; zeros are beyond the end.
    ///
    /// # Errors
    /// If a file cannot be read, or a layer is refused.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            if at >= self.size {
                buffer[done..].fill(0);
                break;
            }
            let (place, end) = self.find(at)?;
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len() - done);
            let part = &mut buffer[done..done + length];
            match place {
                Place::Zero => part.fill(0),
                Place::Raw => read_or_zero(&self.raw, part, at)?,
                Place::Layer(layer, host) => read_or_zero(&self.layers[layer].file, part, host)?,
            }
            done += length;
        }
        Ok(())
    }

    /// Where what is at `at` comes from, and the end of what comes from there in one piece.
    fn find(&mut self, at: u64) -> io::Result<(Place, u64)> {
        let mut end = self.size;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            if at >= layer.size {
                return Ok((Place::Zero, end));
            }
            let (entry, until) = layer.find(at)?;
            end = end.min(until).min(layer.size);
            match entry {
                Entry::Data(host) => return Ok((Place::Layer(index, host), end)),
                Entry::Zero => return Ok((Place::Zero, end)),
                Entry::Below => {}
            }
        }
        if at >= self.raw_size {
            return Ok((Place::Zero, end));
        }
        Ok((Place::Raw, end.min(self.raw_size)))
    }

    /// The first place at or after `at` where the raw disk has data, or its end.
    fn raw_data(&mut self, at: u64) -> io::Result<u64> {
        if !self.hole.contains(&at) {
            let data = match seek(&self.raw, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => self.raw_size,
                // A file system that does not know holes has data everywhere.
                Err(Errno::INVAL) => at,
                Err(error) => return Err(error.into()),
            };
            self.hole = at..data;
        }
        Ok(self.hole.end)
    }
}

/// What a layer says of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// It is in the file, at this offset.
    Data(u64),
    /// It is zeros.
    Zero,
    /// It says nothing: whatever is below.
    Below,
}

#[derive(Debug)]
struct Layer {
    file: File,
    /// The length of the file.
    length: u64,
    size: u64,
    cluster_bits: u32,
    l1: Vec<u64>,
    /// The L2 table that was looked at last, by where it is in the file.
    l2: Option<(u64, Vec<u64>)>,
}

impl Layer {
    fn open(file: File) -> Result<Self, Qcow2Error> {
        let info = validate_header(&file)?;
        let length = file.metadata()?.len();
        let mut fields = [0; 12];
        file.read_exact_at(&mut fields, 36)?;
        let (entries, at) = fields.split_at(4);
        let entries = entries.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let at = at.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let cluster = 1u64 << info.cluster_bits;
        let needed = info.virtual_size.div_ceil(cluster * (cluster / 8));
        // As long as QEMU has made it longer, what is beyond the disk is of no interest.
        let within = at.checked_add(needed * 8).is_some_and(|end| end <= length);
        if entries < needed || !at.is_multiple_of(cluster) || !within {
            return Err(Qcow2Error::Refused("its first table is not where it can be"));
        }
        let l1 = table(&file, at, usize::try_from(needed).unwrap_or(0))?;
        let (size, cluster_bits) = (info.virtual_size, info.cluster_bits);
        Ok(Self { file, length, size, cluster_bits, l1, l2: None })
    }

    /// What is said of `at`, which is within the disk, and up to where it is said in one piece.
    fn find(&mut self, at: u64) -> io::Result<(Entry, u64)> {
        let cluster = 1u64 << self.cluster_bits;
        let per_table = cluster / 8;
        let index = at >> self.cluster_bits;
        let (first, second) = (index / per_table, index % per_table);
        let l1 = usize::try_from(first).ok().and_then(|first| self.l1.get(first));
        let table = l1.copied().unwrap_or(0) & OFFSET;
        if table == 0 {
            return Ok((Entry::Below, (first + 1).saturating_mul(cluster * per_table)));
        }
        let entry = self.second(table)?[usize::try_from(second).unwrap_or(0)];
        let end = (index + 1) << self.cluster_bits;
        if entry & COMPRESSED != 0 {
            return Err(refused("it has compressed clusters"));
        }
        if entry & ZERO != 0 {
            return Ok((Entry::Zero, end));
        }
        let host = entry & OFFSET;
        if host == 0 {
            return Ok((Entry::Below, end));
        }
        self.check(host)?;
        Ok((Entry::Data(host + at % cluster), end))
    }

    fn second(&mut self, at: u64) -> io::Result<&[u64]> {
        if self.l2.as_ref().is_none_or(|(known, _)| *known != at) {
            self.check(at)?;
            let entries = 1usize << (self.cluster_bits - 3);
            self.l2 = Some((at, table(&self.file, at, entries)?));
        }
        Ok(self.l2.as_ref().map_or(&[], |(_, table)| table))
    }

    /// A cluster begins at a multiple of its size and within the file. It may end beyond: what was
    /// never written there reads as zeros.
    fn check(&self, at: u64) -> io::Result<()> {
        if !at.is_multiple_of(1 << self.cluster_bits) || at >= self.length {
            return Err(refused("a cluster is not where it can be"));
        }
        Ok(())
    }
}

fn refused(reason: &'static str) -> io::Error {
    Qcow2Error::Refused(reason).into()
}

fn table(file: &File, at: u64, entries: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; entries * 8];
    read_or_zero(file, &mut bytes, at)?;
    let entry = |bytes: &[u8]| bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    Ok(bytes.chunks_exact(8).map(entry).collect())
}

/// Fills the buffer, with zeros beyond the file's end.
fn read_or_zero(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let filled = read_up_to(file, buffer, at)?;
    buffer[filled..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests;
