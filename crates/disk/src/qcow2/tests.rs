use std::path::{Path, PathBuf};

use base::process::{Command, ProcessError};
use proptest::prelude::*;

use super::*;
use crate::sparse;

const GIB: u64 = 1 << 30;

fn overlay(path: &Path, size: u64, cluster_bits: u32) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path).unwrap();
    create_overlay(&file, size, cluster_bits).unwrap();
    file
}

/// Runs a QEMU tool, or says loudly that this check is left out.
fn tool(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(String::from_utf8(output).unwrap()),
        Err(ProcessError::Missing { .. }) => {
            println!("SKIPPED: {program} is not installed");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_header_is_the_one_in_the_specification() {
    let layout = Layout::new(8 * GIB, 16).unwrap();
    let expected = "514649fb 00000003 0000000000000000 00000000 00000010 0000000200000000 \
                    00000000 00000010 0000000000030000 0000000000010000 00000001 00000000 \
                    0000000000000000 0000000000000000 0000000000000000 0000000000000000 \
                    00000004 00000068 0000000000000000";
    let header: String = layout.header(8 * GIB, 16).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(header, expected.replace(' ', ""));
}

#[test]
fn qemu_finds_no_fault_with_any_geometry() {
    let dir = tempfile::tempdir().unwrap();
    for (size, bits) in [
        (512, 16),
        (GIB, 12),
        (GIB, 16),
        (8 * GIB, 16),
        (8 << 40, 12),
        (SIZE_MAX, 13),
        (SIZE_MAX, 16),
        (SIZE_MAX, 21),
        (5 * GIB + 512, 18),
    ] {
        let path = dir.path().join(format!("{size}-{bits}"));
        let file = overlay(&path, size, bits);
        let info = Info { virtual_size: size, cluster_bits: bits, dirty: false };
        assert_eq!(validate_header(&file).unwrap(), info);
        // The counts of the L1 table's own clusters are what grows.
        assert!(sparse::allocated_bytes(&path).unwrap() <= 48 << 10);
        let path = path.to_str().unwrap();
        let Some(info) = tool("qemu-img", &["info", "--output=json", path]) else { return };
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], size);
        assert_eq!(info["cluster-size"], 1u64 << bits);
        assert_eq!(info.get("backing-filename"), None);
        tool("qemu-img", &["check", "-q", path]);
    }
    assert!(Layout::new(SIZE_MAX, 12).is_none());
    assert!(Layout::new(SIZE_MAX + 512, 16).is_none());
    assert!(Layout::new(GIB, 22).is_none());
}

#[test]
fn reads_reach_an_explicit_backing_node_and_writes_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let base: PathBuf = dir.path().join("base.raw");
    let top = dir.path().join("top.qcow2");
    fs_err::write(&base, [0x5a; 1 << 20]).unwrap();
    drop(overlay(&top, 1 << 20, 16));
    let image = serde_json::json!({
        "driver": "qcow2",
        "file": {"driver": "file", "filename": top},
        "backing": {"driver": "raw", "file": {"driver": "file", "filename": base}},
    });
    let image = format!("json:{image}");
    let commands = ["read -P 0x5a 0 1M", "write -P 0x77 64k 4k", "read -P 0x77 64k 4k"];
    for command in commands {
        if tool("qemu-io", &["-c", command, &image]).is_none() {
            return;
        }
    }
    let said = tool("qemu-io", &["-c", "read -P 0x5a 68k 900k", &image]).unwrap();
    assert!(!said.contains("failed"), "{said}");
    assert!(fs_err::read(&base).unwrap() == [0x5a; 1 << 20]);
    tool("qemu-img", &["check", "-q", top.to_str().unwrap()]);
    // What QEMU leaves behind is still accepted.
    let info = validate_header(&File::open(&top).unwrap()).unwrap();
    assert_eq!(info, Info { virtual_size: 1 << 20, cluster_bits: 16, dirty: false });
}

#[test]
fn files_that_reach_for_other_files_are_refused() {
    let good = {
        let mut header = Layout::new(GIB, 16).unwrap().header(GIB, 16);
        header.resize(4096, 0);
        header
    };
    let change = |at: usize, bytes: &[u8]| {
        let mut header = good.clone();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        check_header(&header).map_err(|error| error.to_string())
    };
    let refused = |at, bytes: &[u8], why: &str| {
        let error = change(at, bytes).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    assert!(change(0, b"Q").is_ok());
    assert!(change(79, &[1]).unwrap().dirty);
    refused(0, b"X", "not qcow2");
    refused(7, &[2], "version 3");
    assert!(change(14, &[1]).is_ok(), "a name of no bytes");
    refused(19, &[1], "backing file");
    refused(35, &[1], "encrypted");
    refused(63, &[1], "snapshots");
    for bit in [2, 4, 8, 16, 128] {
        refused(79, &[bit], "incompatible");
    }
    refused(72, &[0x80], "incompatible");
    refused(23, &[22], "geometry");
    refused(24, &[0xff], "geometry");
    refused(103, &[0], "header length");
    refused(104, b"DATA\0\0\0\x04path", "data file");
    refused(104, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff], "do not end");
    assert!(check_header(&good[..50]).is_err());
}

#[test]
fn a_backing_file_that_qemu_img_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("named.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw"];
    if tool("qemu-img", &[&args[..], &[path.to_str().unwrap(), "1G"]].concat()).is_some() {
        let error = validate_header(&File::open(&path).unwrap()).unwrap_err();
        assert!(error.to_string().contains("backing file"), "{error}");
    }
}

proptest! {
    #[test]
    fn hostile_headers_do_no_harm(
        changes in prop::collection::vec((0usize..200, any::<u8>()), 0..20),
        length in 0usize..4096,
    ) {
        let mut header = Layout::new(GIB, 16).unwrap().header(GIB, 16);
        header.resize(4096, 0);
        for (at, value) in changes {
            header[at] = value;
        }
        let _ = check_header(&header[..length]);
    }
}
