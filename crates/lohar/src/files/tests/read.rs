use std::fs;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use proto::message::{ErrorCode, FileRead, Request};

use super::{of, read};
use crate::testing::{Guest, ask};

#[tokio::test]
async fn a_window_of_lines_is_cut_out() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let long = "x".repeat(300_000);
    fs::write(guest.path().join("lines"), format!("one\n{long}\nthree\nfour")).unwrap();
    let window = |offset, limit| FileRead { offset, limit, ..of("/lines") };
    let second = read(&host, window(Some(2), Some(1))).await;
    assert_eq!(second, Ok((format!("{long}\n").into_bytes(), true)));
    assert_eq!(read(&host, window(Some(4), Some(9))).await, Ok((b"four".to_vec(), false)));
    assert_eq!(read(&host, window(Some(9), None)).await, Ok((Vec::new(), false)));
    assert_eq!(read(&host, window(Some(0), None)).await, Err(ErrorCode::Invalid));
    let few = FileRead { max_bytes: Some(2), ..of("/lines") };
    assert_eq!(read(&host, few).await, Ok((b"on".to_vec(), true)));
}

#[tokio::test]
async fn a_pipe_is_refused_rather_than_waited_for() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let path = guest.path().join("pipe");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    assert_eq!(read(&host, of("/pipe")).await, Err(ErrorCode::Invalid));
}

#[tokio::test]
async fn a_range_of_bytes_is_cut_out() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let content: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
    fs::write(guest.path().join("file"), &content).unwrap();
    let range = |skip, max| FileRead { skip_bytes: Some(skip), max_bytes: max, ..of("/file") };
    let middle = content[300_001..900_002].to_vec();
    assert_eq!(read(&host, range(300_001, Some(600_001))).await, Ok((middle, true)));
    assert_eq!(read(&host, range(999_999, None)).await, Ok((content[999_999..].to_vec(), false)));
    assert!(!read(&host, range(999_990, Some(10))).await.unwrap().1);
    assert_eq!(read(&host, range(0, Some(0))).await, Ok((Vec::new(), true)));
    for beyond in [1_000_000, 1_000_001, u64::MAX] {
        assert_eq!(read(&host, range(beyond, Some(5))).await, Ok((Vec::new(), false)));
    }
    let mixed = FileRead { offset: Some(2), ..range(3, None) };
    assert_eq!(read(&host, mixed).await, Err(ErrorCode::Invalid));
    let mixed = FileRead { limit: Some(2), ..range(3, None) };
    assert_eq!(read(&host, mixed).await, Err(ErrorCode::Invalid));
}

#[tokio::test]
async fn what_the_kernel_makes_up_is_read_to_its_end() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    std::os::unix::fs::symlink("/proc/self/maps", guest.path().join("maps")).unwrap();
    std::os::unix::fs::symlink("/proc/version", guest.path().join("version")).unwrap();
    let version = fs::read("/proc/version").unwrap();
    assert_eq!(read(&host, of("/version")).await, Ok((version.clone(), false)));
    let part = FileRead { skip_bytes: Some(3), max_bytes: Some(4), ..of("/version") };
    assert_eq!(read(&host, part).await, Ok((version[3..7].to_vec(), true)));
    let (maps, truncated) = read(&host, of("/maps")).await.unwrap();
    assert!(maps.ends_with(b"\n") && !truncated);
}

#[tokio::test]
async fn others_are_served_while_a_large_file_is_read() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let file = fs::File::create(guest.path().join("large")).unwrap();
    file.set_len(1 << 30).unwrap();
    // Nobody reads what comes of it.
    let _stalled = crate::testing::open(&host, &Request::FileRead(of("/large"))).await;
    let skipped = FileRead { offset: Some(2), ..of("/large") };
    let _busy = crate::testing::open(&host, &Request::FileRead(skipped)).await;
    for _ in 0..10 {
        let done = ask(&host, &Request::Ping).await;
        assert_eq!(done, proto::message::Response::Done);
    }
}

#[test]
fn any_range_is_what_slicing_gives() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let guest = Guest::new().await;
        let host = guest.owned().await;
        let sizes = prop_oneof![0_usize..2000, 262_000_usize..263_000];
        let range = (sizes, any::<prop::sample::Index>(), prop::option::of(0_u64..300_000));
        let mut runner = TestRunner::deterministic();
        for _ in 0..60 {
            let tree = range.new_tree(&mut runner).unwrap();
            let (size, skip, max) = tree.current();
            let content: Vec<u8> = (0..=255).cycle().take(size).collect();
            fs::write(guest.path().join("file"), &content).unwrap();
            let skip = skip.index(size + 10);
            let rest = content.get(skip..).unwrap_or_default();
            let end = max.map_or(rest.len(), |max| usize::try_from(max).unwrap().min(rest.len()));
            let request = FileRead { skip_bytes: Some(skip as u64), max_bytes: max, ..of("/file") };
            let got = read(&host, request).await;
            assert_eq!(got, Ok((rest[..end].to_vec(), end < rest.len())), "{size} {skip} {max:?}");
        }
    });
}
