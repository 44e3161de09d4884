//! On a real monitor, whose guest does nothing: what it would write is written in its name.

use std::{
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    Boot, Disks, Drive, Layer, Machine, Plan, Qemu, Vm, VmHandle, Volume,
    accel::Accelerator,
    memory::{PageFile, Ram},
};

/// Size of the writable disk, bytes.
const DISK: u64 = 8 << 20;
/// Size of a cluster, bytes; what is written at a time.
const CLUSTER: u64 = 64 << 10;

/// A program that halts, as an ELF file with the note by which QEMU finds the entry of a kernel.
fn halting_kernel() -> Vec<u8> {
    const AT: u64 = 0x10_0000;
    const CODE: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
    let note = [4u32.to_le_bytes(), 8u32.to_le_bytes(), 18u32.to_le_bytes(), *b"Xen\0"].concat();
    let mut elf = vec![0u8; 0x200];
    elf[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf[0x10..0x18].copy_from_slice(&[2, 0, 0x3e, 0, 1, 0, 0, 0]);
    elf[0x18..0x20].copy_from_slice(&AT.to_le_bytes());
    elf[0x20..0x28].copy_from_slice(&64u64.to_le_bytes());
    elf[0x34..0x3a].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    let mut header = |at: usize, kind: u32, offset: u64, address: u64, size: u64, align: u64| {
        elf[at..at + 8].copy_from_slice(&[kind.to_le_bytes(), 5u32.to_le_bytes()].concat());
        let numbers = [offset, address, address, size, size, align];
        elf[at + 8..at + 56].copy_from_slice(&numbers.map(u64::to_le_bytes).concat());
    };
    header(64, 1, 0x180, AT, CODE.len() as u64, 1);
    header(120, 4, 0x100, 0, 24, 4);
    elf[0x100..0x110].copy_from_slice(&note);
    elf[0x110..0x118].copy_from_slice(&AT.to_le_bytes());
    elf[0x180..0x184].copy_from_slice(&CODE);
    elf
}

/// A qcow2 file that holds nothing, see docs/interop/qcow2.txt in QEMU's sources.
fn empty_layer(path: &Path) {
    let file = fs_err::OpenOptions::new().write(true).create_new(true).open(path).unwrap();
    let file = file.file();
    let mut header = b"QFI\xfb".to_vec();
    let number = |header: &mut Vec<u8>, value: u32| header.extend(value.to_be_bytes());
    let long = |header: &mut Vec<u8>, value: u64| header.extend(value.to_be_bytes());
    number(&mut header, 3);
    header.extend([0; 12]);
    number(&mut header, CLUSTER.trailing_zeros());
    long(&mut header, DISK);
    header.extend([0; 4]);
    number(&mut header, 1);
    long(&mut header, 3 * CLUSTER);
    long(&mut header, CLUSTER);
    number(&mut header, 1);
    header.extend([0; 36]);
    number(&mut header, 4);
    number(&mut header, 104);
    file.write_all_at(&header, 0).unwrap();
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER).unwrap();
    file.write_all_at(&[0, 1, 0, 1, 0, 1, 0, 1], 2 * CLUSTER).unwrap();
    file.set_len(4 * CLUSTER).unwrap();
}

struct Bench {
    directory: TempDir,
    vm: Vm,
}

impl Bench {
    /// A guest over a raw disk and `layers`.
    fn launch(layers: &[u32]) -> Self {
        Self::launch_with(&["base"], layers, None)
    }

    fn launch_with(base: &[&str], layers: &[u32], volume: Option<&[u32]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for disk in base.iter().chain(&["modules", "scratch", "volume"]) {
            fs_err::File::create(path(disk)).unwrap().set_len(DISK).unwrap();
        }
        fs_err::write(path("kernel"), halting_kernel()).unwrap();
        fs_err::write(path("initramfs"), [0; 512]).unwrap();
        let chain = |name: &str, numbers: &[u32]| -> Vec<Layer> {
            let layers = numbers.iter().enumerate().map(|(index, number)| {
                let file = path(&format!("{name}-{number}"));
                empty_layer(&file);
                Layer { number: *number, file: open(&file, index + 1 == numbers.len()) }
            });
            layers.collect()
        };
        let layers = chain("layer", layers);
        let volume = volume.map(|numbers| Volume::Kept {
            raw: open(&path("volume"), false),
            layers: chain("volume-layer", numbers),
            read_only: false,
        });
        let disks = Disks {
            base: base.iter().map(|name| open(&path(name), false)).collect(),
            modules: open(&path("modules"), false),
            scratch: open(&path("scratch"), layers.is_empty()),
            layers,
            // A volume's place, one that is only to be read, or the other way round.
            volumes: [Volume::Awaited { read_only: false }]
                .into_iter()
                .chain(volume)
                .chain([Volume::Awaited { read_only: true }])
                .collect(),
        };
        let plan = Plan {
            machine: Machine { cpus: 1, memory_mib: 32 },
            ram: Ram::fresh(32).unwrap(),
            disks,
            nic: None,
            boot: Boot::Cold {
                kernel: open(&path("kernel"), false),
                initramfs: open(&path("initramfs"), false),
                command_line: String::new(),
            },
            run_dir: directory.path().to_owned(),
            confinement: None,
        };
        let vm = Qemu::find(Accelerator::Tcg).unwrap().launch(plan).unwrap();
        Self { directory, vm }
    }

    fn layer(&self, number: u32) -> PathBuf {
        self.directory.path().join(format!("layer-{number}"))
    }

    async fn prepare(&self, number: u32) {
        let path = self.layer(number);
        empty_layer(&path);
        self.vm
            .prepare_layer(Drive::Scratch, number, open(&path, true), open(&path, false))
            .await
            .unwrap();
    }

    /// Fills a cluster of the guest's disk with `byte` and flushes it.
    async fn write(&self, cluster: u64, byte: u8) {
        self.write_to(Drive::Scratch, cluster, byte).await;
    }

    async fn write_to(&self, drive: Drive, cluster: u64, byte: u8) {
        let blocks = self.vm.command("query-block", json!({})).await.unwrap();
        let devices = blocks.as_array().unwrap().iter().filter_map(|block| block["qdev"].as_str());
        let is_its = |path: &&str| path.split('/').any(|part| part == drive.device());
        let device = devices.into_iter().find(is_its).unwrap();
        let write = format!("write -P {byte} {} {CLUSTER}", cluster * CLUSTER);
        for command in [&write, "flush"] {
            let line = format!("qemu-io -d {device} \"{command}\"");
            let said = self.vm.command("human-monitor-command", json!({"command-line": line}));
            assert_eq!(said.await.unwrap(), "", "{line}");
        }
    }

    /// Which of the bytes that were written a layer holds in its own file.
    fn holds(&self, number: u32) -> Vec<u8> {
        Self::in_file(&self.layer(number))
    }

    fn in_file(path: &Path) -> Vec<u8> {
        let content = fs_err::read(path).unwrap();
        let clusters = content.chunks(usize::try_from(CLUSTER).unwrap());
        let mut bytes: Vec<u8> = clusters
            .filter(|cluster| cluster[0] != 0 && cluster.iter().all(|byte| *byte == cluster[0]))
            .map(|cluster| cluster[0])
            .collect();
        bytes.sort_unstable();
        bytes
    }

    fn content(&self, number: u32) -> Vec<u8> {
        fs_err::read(self.layer(number)).unwrap()
    }

    /// How often the monitor has the layer's file open for writing, and at all.
    fn open_in_monitor(&self, number: u32) -> (usize, usize) {
        self.opened(&self.layer(number))
    }

    fn opened(&self, file: &Path) -> (usize, usize) {
        let process = PathBuf::from(format!("/proc/{}", self.vm.handle().pid));
        let mut count = (0, 0);
        for entry in fs_err::read_dir(process.join("fd")).unwrap() {
            let name = entry.unwrap().file_name();
            let Ok(path) = fs_err::read_link(process.join("fd").join(&name)) else { continue };
            if path != file {
                continue;
            }
            let info = fs_err::read_to_string(process.join("fdinfo").join(&name)).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            count.1 += 1;
            count.0 += usize::from(flags.trim().ends_with('2'));
        }
        count
    }
}

fn open(path: &Path, write: bool) -> OwnedFd {
    let file = fs_err::OpenOptions::new().read(true).write(write).open(path).unwrap();
    file.into_parts().0.into()
}

#[tokio::test]
async fn after_a_switch_the_old_layer_is_never_written_again() {
    let bench = Bench::launch(&[3]);
    bench.write(0, 1).await;
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(3));
    bench.prepare(7).await;
    bench.vm.pause().await.unwrap();
    bench.vm.switch_to_layers(&[(Drive::Scratch, 7)]).await.unwrap();
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(7));
    let frozen = bench.content(3);
    bench.vm.resume().await.unwrap();
    bench.write(0, 2).await;
    bench.write(5, 3).await;
    bench.prepare(9).await;
    bench.vm.switch_to_layers(&[(Drive::Scratch, 9)]).await.unwrap();
    bench.write(6, 4).await;
    bench.vm.kill().await;
    assert_eq!((bench.holds(3), bench.holds(7), bench.holds(9)), (vec![1], vec![2, 3], vec![4]));
    assert!(bench.content(3) == frozen);
}

#[tokio::test]
async fn the_files_of_the_image_are_one_disk() {
    for names in [&["base"][..], &["base", "more", "rest"]] {
        let bench = Bench::launch_with(names, &[3], None);
        let nodes = bench.vm.command("query-named-block-nodes", json!({})).await.unwrap();
        let base = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "base");
        let size = base.unwrap()["image"]["virtual-size"].as_u64().unwrap();
        assert_eq!(size, DISK * u64::try_from(names.len()).unwrap());
        assert_eq!(base.unwrap()["ro"], true);
    }
}

#[tokio::test]
async fn disks_are_switched_together_or_not_at_all() {
    let bench = Bench::launch_with(&["base"], &[3], Some(&[0]));
    let volume = Drive::Volume(1);
    let file = |number: u32| bench.directory.path().join(format!("volume-layer-{number}"));
    bench.write(0, 1).await;
    bench.write_to(volume, 0, 2).await;
    bench.prepare(4).await;
    // The second of them is not there.
    let both = [(Drive::Scratch, 4), (volume, 1)];
    assert!(bench.vm.switch_to_layers(&both).await.is_err());
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(3));
    empty_layer(&file(1));
    let (write, read) = (open(&file(1), true), open(&file(1), false));
    bench.vm.prepare_layer(volume, 1, write, read).await.unwrap();
    bench.vm.switch_to_layers(&both).await.unwrap();
    for (drive, top) in [(Drive::Scratch, 4), (volume, 1), (Drive::Volume(0), u32::MAX)] {
        let shown = bench.vm.top_layer(drive).await.unwrap();
        assert_eq!(shown, Some(top).filter(|top| *top < 9));
    }
    bench.write(1, 3).await;
    bench.write_to(volume, 1, 4).await;
    bench.vm.grow(volume, 2 * DISK).await.unwrap();
    bench.vm.flatten_layers(volume).await.unwrap();
    assert!(bench.vm.grow(Drive::Volume(0), DISK).await.is_err(), "it is no volume yet");
    bench.vm.kill().await;
    assert_eq!((bench.holds(3), bench.holds(4)), (vec![1], vec![3]));
    assert_eq!((Bench::in_file(&file(0)), Bench::in_file(&file(1))), (vec![2], vec![2, 4]));
}

#[tokio::test]
async fn a_volume_that_was_awaited_is_as_any_other() {
    let bench = Bench::launch(&[3]);
    let (volume, reader) = (Drive::Volume(0), Drive::Volume(1));
    let path = |name: &str| bench.directory.path().join(name);
    for name in ["lower", "upper", "next", "read"] {
        empty_layer(&path(name));
    }
    let layer = |number, name: &str, write| Layer { number, file: open(&path(name), write) };
    let kept = |layers, read_only| {
        let raw = open(&path("volume"), false);
        Volume::Kept { raw, layers, read_only }
    };
    bench.vm.resume().await.unwrap();
    // Something else is there first, and gone without a trace.
    empty_layer(&path("tried"));
    bench.vm.attach(vec![kept(vec![layer(6, "tried", true)], false)]).await.unwrap();
    bench.write_to(volume, 0, 7).await;
    bench.vm.detach(0, &[6]).await.unwrap();
    assert_eq!(bench.vm.top_layer(volume).await.unwrap(), None);
    assert_eq!(bench.opened(&path("tried")), (0, 0));
    assert_eq!(Bench::in_file(&path("tried")), [7]);
    bench.vm.pause().await.unwrap();
    let written = kept(vec![layer(4, "lower", false), layer(6, "upper", true)], false);
    let read = kept(vec![layer(0, "read", false)], true);
    bench.vm.attach(vec![written, read]).await.unwrap();
    assert_eq!(bench.vm.top_layer(volume).await.unwrap(), Some(6));
    assert_eq!(bench.vm.top_layer(reader).await.unwrap(), Some(0));
    assert_eq!(bench.opened(&path("read")).0, 0, "nothing lets it be written");
    bench.vm.resume().await.unwrap();
    bench.write_to(volume, 0, 1).await;
    let (write, again) = (open(&path("next"), true), open(&path("next"), false));
    bench.vm.prepare_layer(volume, 9, write, again).await.unwrap();
    bench.vm.switch_to_layers(&[(volume, 9)]).await.unwrap();
    bench.write_to(volume, 1, 2).await;
    bench.vm.grow(volume, 2 * DISK).await.unwrap();
    assert!(bench.vm.grow(reader, 2 * DISK).await.is_err(), "it is only read");
    bench.vm.pause().await.unwrap();
    bench.vm.merge_layers(volume, 6, open(&path("upper"), true)).await.unwrap();
    bench.vm.kill().await;
    assert_eq!(Bench::in_file(&path("upper")), [1, 2]);
    for unused in ["lower", "read", "volume"] {
        assert_eq!(Bench::in_file(&path(unused)), [0; 0], "{unused}");
    }
}

#[tokio::test]
async fn a_place_for_a_writer_is_none_for_a_reader() {
    let bench = Bench::launch(&[3]);
    bench.vm.pause().await.unwrap();
    let raw = open(&bench.directory.path().join("volume"), false);
    let read = Volume::Kept { raw, layers: Vec::new(), read_only: true };
    assert!(bench.vm.attach(vec![read]).await.is_err());
}

#[tokio::test]
async fn a_raw_disk_can_be_switched_from_as_well() {
    let bench = Bench::launch(&[]);
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), None);
    bench.prepare(0).await;
    bench.vm.switch_to_layers(&[(Drive::Scratch, 0)]).await.unwrap();
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(0));
    bench.write(0, 1).await;
    bench.vm.flatten_layers(Drive::Scratch).await.unwrap();
    bench.vm.kill().await;
    assert_eq!(bench.holds(0), [1]);
    let raw = fs_err::read(bench.directory.path().join("scratch")).unwrap();
    assert!(raw.iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn a_layer_that_is_not_used_is_forgotten() {
    let bench = Bench::launch(&[3]);
    bench.prepare(4).await;
    assert!(bench.vm.drop_layer(Drive::Scratch, 3).await.is_err(), "the guest writes to it");
    bench.vm.drop_layer(Drive::Scratch, 4).await.unwrap();
    assert_eq!(bench.open_in_monitor(4), (0, 0));
    assert!(bench.vm.drop_layer(Drive::Scratch, 4).await.is_err());
    assert!(bench.vm.switch_to_layers(&[(Drive::Scratch, 4)]).await.is_err());
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(3));
    fs_err::remove_file(bench.layer(4)).unwrap();
    fs_err::write(bench.layer(4), "no qcow2 file").unwrap();
    let (write, read) = (open(&bench.layer(4), true), open(&bench.layer(4), false));
    assert!(bench.vm.prepare_layer(Drive::Scratch, 4, write, read).await.is_err());
    assert_eq!(bench.open_in_monitor(4), (0, 0));
    fs_err::remove_file(bench.layer(4)).unwrap();
    bench.prepare(4).await;
    bench.vm.switch_to_layers(&[(Drive::Scratch, 4)]).await.unwrap();
}

#[tokio::test]
async fn only_the_top_is_open_for_writing_and_what_it_has_it_keeps_when_the_daemon_is_another() {
    let Bench { directory, vm } = Bench::launch(&[1, 2]);
    let handle: VmHandle = vm.handle();
    let mut bench = Bench { directory, vm };
    bench.prepare(5).await;
    bench.vm.switch_to_layers(&[(Drive::Scratch, 5)]).await.unwrap();
    bench.write(1, 1).await;
    let run_dir = bench.directory.path().to_owned();
    let again = Vm::adopt(handle, run_dir.clone()).unwrap().unwrap();
    std::mem::replace(&mut bench.vm, again).leave_running();
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(5));
    assert_eq!(bench.open_in_monitor(1).0, 0);
    // What is there to be opened for writing is the set's, and what the guest uses is not among it.
    let ours = |(write, all): (usize, usize)| (write, all - write);
    assert_eq!(ours(bench.open_in_monitor(2)), (1, 2));
    assert_eq!(ours(bench.open_in_monitor(5)), (2, 1));
    bench.prepare(6).await;
    bench.vm.switch_to_layers(&[(Drive::Scratch, 6)]).await.unwrap();
    bench.write(2, 2).await;
    bench.vm.pause().await.unwrap();
    let base = open(&bench.layer(5), true);
    bench.vm.merge_layers(Drive::Scratch, 5, base).await.unwrap();
    bench.vm.kill().await;
    assert_eq!(bench.holds(5), [1, 2]);
}

#[tokio::test]
async fn a_merge_into_the_middle_leaves_what_is_below_alone() {
    let bench = Bench::launch(&[0]);
    for (cluster, byte) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        bench.write(cluster, byte).await;
        let next = u32::from(byte);
        bench.prepare(next).await;
        bench.vm.switch_to_layers(&[(Drive::Scratch, next)]).await.unwrap();
    }
    bench.write(0, 5).await;
    let below = (bench.content(0), bench.content(1));
    bench.vm.pause().await.unwrap();
    let wrong = bench.vm.merge_layers(Drive::Scratch, 17, open(&bench.layer(2), true)).await;
    assert!(wrong.is_err(), "there is no such layer");
    bench.vm.merge_layers(Drive::Scratch, 2, open(&bench.layer(2), true)).await.unwrap();
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(2));
    bench.vm.merge_layers(Drive::Scratch, 2, open(&bench.layer(2), true)).await.unwrap();
    bench.vm.kill().await;
    assert_eq!(bench.holds(2), [3, 4, 5]);
    assert!((bench.content(0), bench.content(1)) == below);
}

#[tokio::test]
async fn flattened_layers_are_needed_no_more() {
    let bench = Bench::launch(&[0]);
    bench.write(0, 1).await;
    for number in [8, 3] {
        bench.prepare(number).await;
        bench.vm.switch_to_layers(&[(Drive::Scratch, number)]).await.unwrap();
        bench.write(u64::from(number), 2).await;
    }
    bench.prepare(20).await;
    let below = (bench.content(0), bench.content(8));
    bench.vm.flatten_layers(Drive::Scratch).await.unwrap();
    assert_eq!((bench.open_in_monitor(0).1, bench.open_in_monitor(8).1), (0, 0));
    assert_eq!(bench.vm.top_layer(Drive::Scratch).await.unwrap(), Some(3));
    bench.vm.switch_to_layers(&[(Drive::Scratch, 20)]).await.unwrap();
    bench.write(0, 9).await;
    bench.vm.kill().await;
    assert_eq!((bench.holds(3), bench.holds(20)), (vec![1, 2, 2], vec![9]));
    assert!((bench.content(0), bench.content(8)) == below);
}

#[tokio::test]
async fn a_device_state_is_whole_each_time_and_leaves_nothing_open() {
    let bench = Bench::launch(&[0]);
    let count = || fs_err::read_dir(format!("/proc/{}/fd", bench.vm.handle().pid)).unwrap().count();
    bench.vm.answers().await.unwrap();
    let before = count();
    let mut states = Vec::new();
    for _ in 0..3 {
        bench.vm.pause().await.unwrap();
        for _ in 0..2 {
            let state = std::fs::File::from(bench.vm.device_state().await.unwrap());
            let mut content = vec![0; usize::try_from(state.metadata().unwrap().len()).unwrap()];
            state.read_exact_at(&mut content, 0).unwrap();
            states.push(content);
        }
        bench.vm.resume().await.unwrap();
        assert_eq!(count(), before);
    }
    assert!(states.iter().all(|state| state.len() == states[0].len() && state.len() > 4096));
    bench.vm.pause().await.unwrap();
    let saved = bench.directory.path().join("devices");
    bench.vm.save_devices(&saved).await.unwrap();
    assert_eq!(fs_err::read(&saved).unwrap().len(), states[0].len());
    assert!(bench.vm.save_devices(&saved).await.is_err(), "there is one already");
}

#[tokio::test]
async fn a_guest_with_memory_of_its_own_is_captured_as_it_is_saved() {
    let bench = Bench::launch(&[0]);
    bench.vm.answers().await.unwrap();
    bench.vm.pause().await.unwrap();
    let memory = bench.vm.memory().unwrap();
    let (tag, directory) = ([3; 32], bench.directory.path());
    let (saved, copied) = (directory.join("saved"), directory.join("copied"));
    let stats = memory.save(&tag, &saved).unwrap();
    let capture = memory.capture().unwrap();
    assert_eq!(capture.save(&tag, &copied).unwrap(), stats);
    assert_eq!(capture.bytes(), (stats.stored + stats.zero) * 4096);
    assert!(stats.stored > 0);
    assert!(fs_err::read(&saved).unwrap() == fs_err::read(&copied).unwrap());
    PageFile::open(&copied, &tag, (32 << 20) / 4096).unwrap().verify().unwrap();
}
