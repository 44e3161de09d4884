use std::path::Path;

use base::process::{Command, ProcessError};
use fs_err as fs;
use proptest::prelude::*;

use super::{super::create_overlay, *};

const SIZE: u64 = 4 << 20;
const CLUSTER_BITS: u32 = 12;

/// What the next layer is made to hold at a cluster.
#[derive(Debug, Clone, Copy)]
enum Write {
    Data(u8),
    Zero,
}

/// A layer as QEMU would leave it, with clusters one after the other at its end.
fn layer(path: &Path, size: u64, writes: &[(u64, Write)]) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path).unwrap();
    create_overlay(&file, size, CLUSTER_BITS).unwrap();
    let cluster = 1u64 << CLUSTER_BITS;
    let mut end = file.metadata().unwrap().len();
    let l1 = u64_at(&file, 40);
    for (index, write) in writes {
        let slot = l1 + index / (cluster / 8) * 8;
        if u64_at(&file, slot) == 0 {
            file.write_all_at(&(end | 1 << 63).to_be_bytes(), slot).unwrap();
            end += cluster;
            file.set_len(end).unwrap();
        }
        let l2 = u64_at(&file, slot) & OFFSET;
        let entry = match write {
            Write::Zero => ZERO,
            Write::Data(byte) => {
                file.write_all_at(&vec![*byte; 4096], end).unwrap();
                end += cluster;
                (end - cluster) | 1 << 63
            }
        };
        file.write_all_at(&entry.to_be_bytes(), l2 + index % (cluster / 8) * 8).unwrap();
    }
    file
}

fn u64_at(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

fn raw(path: &Path, size: u64, clusters: &[(u64, u8)]) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(size).unwrap();
    for (index, byte) in clusters {
        file.write_all_at(&vec![*byte; 4096], index * 4096).unwrap();
    }
    file
}

/// All of the disk, read only where it says that there is anything.
fn whole(chain: &mut Chain) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(chain.size()).unwrap()];
    let mut from = 0;
    while let Some(range) = chain.next_data(from).unwrap() {
        assert!(range.start >= from && range.start < range.end, "{range:?} after {from}");
        let end = range.end.min(chain.size());
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let part = &mut content[at(range.start)..at(end)];
        chain.read_at(part, range.start).unwrap();
        from = range.end;
    }
    content
}

fn writes() -> impl Strategy<Value = Vec<(u64, Write)>> {
    let write = prop_oneof![(1u8..).prop_map(Write::Data), Just(Write::Zero)];
    prop::collection::vec((0..SIZE >> CLUSTER_BITS, write), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_chain_reads_as_what_was_written_last(
        bottom in prop::collection::vec((0..SIZE >> CLUSTER_BITS, 1u8..), 0..12),
        above in prop::collection::vec(writes(), 0..4),
        offset in 0..SIZE - 9000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = vec![0; usize::try_from(SIZE).unwrap()];
        let mut put = |index: u64, byte: u8| {
            let at = usize::try_from(index << CLUSTER_BITS).unwrap();
            expected[at..at + 4096].fill(byte);
        };
        for (index, byte) in &bottom {
            put(*index, *byte);
        }
        let raw = raw(&dir.path().join("raw"), SIZE, &bottom);
        let mut layers = Vec::new();
        for (number, writes) in above.iter().enumerate() {
            for (index, write) in writes {
                put(*index, match write { Write::Data(byte) => *byte, Write::Zero => 0 });
            }
            layers.push(layer(&dir.path().join(format!("{number}")), SIZE, writes));
        }
        let mut chain = Chain::open(raw, layers).unwrap();
        prop_assert_eq!(chain.size(), SIZE);
        prop_assert!(whole(&mut chain) == expected);
        // Anywhere, not only where clusters begin.
        let mut part = vec![1; 9000];
        chain.read_at(&mut part, offset).unwrap();
        let at = usize::try_from(offset).unwrap();
        prop_assert!(part == expected[at..at + 9000]);
    }

    #[test]
    fn whatever_a_guest_made_of_its_layer_is_read_or_refused(
        damage in prop::collection::vec((0u64..24 << 10, any::<u8>()), 1..40),
        cut in 0u64..24 << 10,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let raw = raw(&dir.path().join("raw"), SIZE, &[(3, 3)]);
        let writes = [(0, Write::Data(1)), (1, Write::Zero), (700, Write::Data(2))];
        let layer = layer(&dir.path().join("layer"), SIZE, &writes);
        for (at, byte) in damage {
            // The size stays: whoever opens a disk compares that with what is known.
            if !(20..32).contains(&at) {
                layer.write_all_at(&[byte], at).unwrap();
            }
        }
        if cut % 2 == 0 {
            layer.set_len(cut).unwrap();
        }
        let Ok(mut chain) = Chain::open(raw, vec![layer]) else { return Ok(()) };
        let mut from = 0;
        while let Ok(Some(range)) = chain.next_data(from) {
            prop_assert!(range.start >= from && range.start < range.end);
            let mut part = vec![0; 4096];
            let _ = chain.read_at(&mut part, range.start);
            from = range.end;
        }
    }
}

#[test]
fn what_reaches_out_of_the_file_or_is_compressed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let raw = |name: &str| raw(&dir.path().join(name), SIZE, &[]);
    let writes = [(5, Write::Data(1))];
    let open = |name: &str, change: &dyn Fn(&File, u64)| {
        let file = layer(&dir.path().join(name), SIZE, &writes);
        let l2 = u64_at(&file, u64_at(&file, 40)) & OFFSET;
        change(&file, l2 + 5 * 8);
        Chain::open(raw(&format!("{name}.raw")), vec![file])
            .map_err(io::Error::from)
            .and_then(|mut chain| chain.next_data(0))
    };
    let set = |entry: u64| {
        move |file: &File, at: u64| file.write_all_at(&entry.to_be_bytes(), at).unwrap()
    };
    assert_eq!(open("good", &|_, _| {}).unwrap(), Some(5 << 12..6 << 12));
    for (name, entry) in [
        ("compressed", 1 << 62 | 4096),
        ("beyond", 1 << 63 | 1 << 40),
        ("oblique", (1 << 63) | (4096 + 512)),
    ] {
        let error = base::chain(&open(name, &set(entry)).unwrap_err());
        assert!(error.contains("refusing the qcow2 file"), "{name}: {error}");
    }
    let tables = |file: &File, _: u64| file.write_all_at(&(1u64 << 40).to_be_bytes(), 40).unwrap();
    assert!(open("table", &tables).is_err());
}

#[test]
fn a_disk_that_grew_reads_as_zeros_where_it_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw(&dir.path().join("raw"), 1 << 20, &[(255, 7)]);
    let lower = layer(&dir.path().join("0"), 1 << 20, &[(254, Write::Data(8))]);
    let upper = layer(&dir.path().join("1"), SIZE, &[(1000, Write::Data(9))]);
    let mut chain = Chain::open(raw, vec![lower, upper]).unwrap();
    let content = whole(&mut chain);
    assert_eq!(content.len() as u64, SIZE);
    assert_eq!((content[254 << 12], content[255 << 12], content[1000 << 12]), (8, 7, 9));
    assert!(content[256 << 12..1000 << 12].iter().all(|byte| *byte == 0));
}

#[test]
fn what_qemu_wrote_reads_the_same_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    drop(raw(&dir.path().join("raw"), 64 << 20, &[(1, 1), (5000, 2)]));
    for name in ["0", "1"] {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path(name)).unwrap();
        create_overlay(&file, 64 << 20, 16).unwrap();
    }
    let below = format!(
        "driver=qcow2,file.driver=file,file.filename={},backing.driver=raw,\
         backing.file.driver=file,backing.file.filename={}",
        path("0"),
        path("raw")
    );
    let above = format!(
        "driver=qcow2,file.driver=file,file.filename={},backing.driver=qcow2,\
         backing.file.driver=file,backing.file.filename={},backing.backing.driver=raw,\
         backing.backing.file.driver=file,backing.backing.file.filename={}",
        path("1"),
        path("0"),
        path("raw")
    );
    for (options, commands) in [
        (&below, ["write -P 3 1M 100k", "write -z 20480000 64k", "write -P 4 63M 1M"]),
        (&above, ["write -P 5 1100k 7", "write -P 6 33M 3M", "discard 0 1M"]),
    ] {
        for command in commands {
            let run = Command::new("qemu-io").args(["--image-opts", "-c", command, options]);
            match run.output() {
                Ok(_) => {}
                Err(ProcessError::Missing { .. }) => {
                    println!("SKIPPED: qemu-io is not installed");
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    let flat = path("flat");
    let convert = ["convert", "--image-opts", "-O", "raw", &above, &flat];
    Command::new("qemu-img").args(convert).output().unwrap();
    let open = |name: &str| File::open(path(name)).unwrap();
    let mut chain = Chain::open(open("raw"), vec![open("0"), open("1")]).unwrap();
    assert!(whole(&mut chain) == fs::read(flat).unwrap());
}
