use std::{collections::BTreeMap, io::Read as _};

use proptest::prelude::*;

use super::*;
use crate::source::{Source, Target};

/// A disk in memory, mostly of zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) size: u64,
    /// What is not zero, by position.
    pub(crate) data: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    /// Pieces of that length at these positions; later ones win.
    pub(crate) fn new(size: u64, pieces: &[(u64, Vec<u8>)]) -> Self {
        let mut made = Self { size, data: BTreeMap::new() };
        for (at, piece) in pieces {
            for (index, byte) in piece.iter().enumerate() {
                let at = at + index as u64;
                if at < size {
                    let cell = made.data.entry(at / 4096).or_insert_with(|| vec![0; 4096]);
                    cell[(at % 4096) as usize] = *byte;
                }
            }
        }
        made.data.retain(|_, cell| cell.iter().any(|byte| *byte != 0));
        made
    }
}

impl Source for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&mut self, from: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        let next = self.data.range(from / 4096..).next();
        Ok(next.map(|(at, _)| from.max(at * 4096)..(at + 1) * 4096))
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(offset + buffer.len() as u64 <= self.size);
        for (index, byte) in buffer.iter_mut().enumerate() {
            let at = offset + index as u64;
            *byte = self.data.get(&(at / 4096)).map_or(0, |cell| cell[(at % 4096) as usize]);
        }
        Ok(())
    }
}

impl Target for Memory {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.size = size;
        Ok(())
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let added = Self::new(self.size, &[(offset, data.to_vec())]);
        self.data.extend(added.data);
        Ok(())
    }
}

fn stream(disk: &Memory) -> Vec<u8> {
    let mut out = Vec::new();
    let manifest = Manifest::new("data".to_owned(), disk.size, false);
    write(&mut disk.clone(), &manifest, &mut out, &mut |_| Ok(())).unwrap();
    out
}

fn back(mut stream: &[u8]) -> Result<Memory, FormatError> {
    let mut disk = Memory::default();
    read(&mut stream, &mut disk, &mut |_| Ok(()))?;
    Ok(disk)
}

fn disk() -> impl Strategy<Value = Memory> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..600),
        (any::<u8>(), 1usize..5000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let pieces = move |size| prop::collection::vec((0..size, piece.clone()), 0..8);
    (1u64..6 << 20)
        .prop_flat_map(move |size| (Just(size), pieces(size)))
        .prop_map(|(size, pieces)| Memory::new(size, &pieces))
}

/// Small enough for damage to be tried everywhere.
fn small() -> Memory {
    let pieces = [(5000, vec![1; 3000]), (2 << 20, (0..=255).collect()), (3 << 20, vec![9])];
    Memory::new((3 << 20) + 100, &pieces)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_on_a_disk_comes_back(disk in disk()) {
        prop_assert_eq!(back(&stream(&disk)).unwrap(), disk);
    }

    #[test]
    fn a_reader_takes_anything_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(back(&bytes).is_err());
    }

    #[test]
    fn a_reader_takes_a_good_beginning_and_then_anything_without_harm(
        keep in 0usize..2000, bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let good = stream(&small());
        let mut mixed = good[..keep.min(good.len() - 1)].to_vec();
        mixed.extend(bytes);
        prop_assume!(mixed != good);
        prop_assert!(back(&mixed).is_err());
    }
}

#[test]
fn chunks_in_another_order_or_from_another_backup_are_noticed() {
    let mut pieces: Vec<_> = (0..3u8).map(|n| (u64::from(n) << 20, vec![n + 1; 50])).collect();
    let (start, all) = records(&stream(&Memory::new(3 << 20, &pieces)));
    let with = |records: &[Vec<u8>]| back(&[start.clone(), records.concat()].concat());
    with(&all).unwrap();
    for (first, second) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        let mut swapped = all.clone();
        swapped.swap(first, second);
        with(&swapped).unwrap_err();
        let mut twice = all.clone();
        twice[first] = all[second].clone();
        with(&twice).unwrap_err();
        let mut without = all.clone();
        without.remove(first);
        with(&without).unwrap_err();
    }
    // The same disk, but for one byte, in a chunk that comes with its own checksum.
    pieces[1].1[0] = 99;
    let (_, others) = records(&stream(&Memory::new(3 << 20, &pieces)));
    let mut foreign = all;
    foreign[1] = others[1].clone();
    let error = with(&foreign).unwrap_err();
    assert!(matches!(error, FormatError::Damaged("its hash is wrong")), "{error}");
}

/// The header, and the records behind it.
fn records(stream: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let number = |at: usize| {
        u32::from_le_bytes([stream[at], stream[at + 1], stream[at + 2], stream[at + 3]]) as usize
    };
    let mut at = 16 + number(12) + 8;
    let start = stream[..at].to_vec();
    let mut records = Vec::new();
    while stream[at] == TAG_CHUNK {
        let end = at + CHUNK_HEAD + number(at + 8) + 8;
        records.push(stream[at..end].to_vec());
        at = end;
    }
    records.push(stream[at..].to_vec());
    (start, records)
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let good = stream(&small());
    assert!(good.len() < 2000, "{}", good.len());
    back(&good).unwrap();
    for at in 0..good.len() {
        assert!(back(&good[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(back(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
    let mut longer = good;
    longer.push(0);
    let error = back(&longer).unwrap_err();
    assert_eq!(error.to_string(), "the backup is damaged: something follows its end");
}

#[test]
fn errors_say_what_it_is_about() {
    let good = stream(&small());
    assert!(matches!(back(b"hello"), Err(FormatError::NotABackup)));
    assert!(matches!(back(&[0; 100]), Err(FormatError::NotABackup)));
    assert!(matches!(back(&good[..good.len() - 1]), Err(FormatError::Cut)));
    let mut newer = good.clone();
    newer[8] = 2;
    assert!(matches!(back(&newer), Err(FormatError::Newer(2))));
    let manifest = peek(&mut good.as_slice()).unwrap();
    assert_eq!((manifest.volume.as_str(), manifest.size), ("data", (3 << 20) + 100));
}

#[test]
fn what_is_zero_takes_no_room_and_what_has_no_pattern_is_kept_as_it_is() {
    let empty = Memory::new(SIZE_MAX, &[]);
    assert!(stream(&empty).len() < 400);
    let mut noise = vec![0; 1 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    let noise = Memory::new(1 << 20, &[(0, noise)]);
    let kept = stream(&noise);
    assert!(kept.len() < (1 << 20) + 500, "{}", kept.len());
    assert_eq!(back(&kept).unwrap(), noise);
}

#[test]
fn a_chunk_that_would_become_more_than_it_says_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let (mut bad, _) = records(&stream(&small()));
    let mut chunk = vec![TAG_CHUNK, CODING_ZSTD, 0, 0];
    chunk.extend((1u32 << 20).to_le_bytes());
    chunk.extend(u32::try_from(bomb.len()).unwrap().to_le_bytes());
    chunk.extend(0u64.to_le_bytes());
    chunk.extend(bomb);
    chunk.extend(xxhash_rust::xxh3::xxh3_64(&chunk).to_le_bytes());
    bad.extend(chunk);
    let error = back(&bad).unwrap_err();
    assert!(error.to_string().contains("a chunk cannot be decompressed"), "{error}");
}

#[test]
fn the_one_who_hears_of_progress_may_end_it() {
    let disk = Memory::new(8 << 20, &[(0, vec![1; 10]), (5 << 20, vec![1; 10])]);
    let manifest = Manifest::new("data".to_owned(), disk.size, false);
    let mut heard = Vec::new();
    write(&mut disk.clone(), &manifest, &mut io::sink(), &mut |at| {
        heard.push(at >> 20);
        Ok(())
    })
    .unwrap();
    assert_eq!(heard, [1, 6, 8]);
    let stop = &mut |_| Err(io::Error::from(io::ErrorKind::Interrupted));
    let mut disk = disk;
    assert!(write(&mut disk, &manifest, &mut io::sink(), stop).is_err());
}
