//! The log by itself: cursors, rotation, a disk that is full.

use super::*;

/// Everything from `cursor` on, and where it was skipped to.
fn read_all(log: &Log, reader: &mut Reader, heard: &mut Heard) {
    loop {
        match reader.step(log) {
            Step::Bytes(kind, bytes) => heard.push(kind, &bytes),
            Step::Skipped => heard.starts.push(reader.cursor()),
            Step::End => return,
        }
    }
}

/// Bytes of which each tells where it belongs.
fn pattern(from: u64, count: usize) -> Vec<u8> {
    (from..).take(count).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn expected(pieces: &[(FrameKind, usize)], from: u64) -> Heard {
    let (mut heard, mut at) = (Heard::default(), 0_u64);
    for (kind, count) in pieces {
        let end = at + *count as u64;
        if end > from {
            let start = at.max(from);
            heard.push(*kind, &pattern(start, usize::try_from(end - start).unwrap()));
        }
        at = end;
    }
    heard
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_log_reads_as_it_was_written_however_it_is_cut_and_rotated(
        pieces in proptest::collection::vec((any::<bool>(), 0_usize..30_000, any::<bool>()), 1..40),
        from in any::<prop::sample::Index>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b/j1");
        let mut log = Log::new(directory.clone(), Some(0));
        let (mut written, mut at) = (Vec::new(), 0);
        let mut live = (Reader::at(&log, 0), Heard::default());
        let mut lazy = (Reader::at(&log, 0), Heard::default());
        for (err, count, eager) in pieces {
            let kind = if err { ERR } else { OUT };
            log.push(kind, &pattern(at, count));
            at += count as u64;
            if count > 0 {
                written.push((kind, count));
            }
            read_all(&log, &mut live.0, &mut live.1);
            if eager {
                log.flush();
                // Some of it only, so that it stands in the middle.
                if let Step::Bytes(kind, bytes) = lazy.0.step(&log) {
                    lazy.1.push(kind, &bytes);
                }
            }
        }
        // Whoever keeps up misses nothing.
        prop_assert!(live.1 == expected(&written, 0));
        prop_assert_eq!(log.end(), at);
        prop_assert!(log.end() - log.start() <= 64 * 1024);
        prop_assert!(log.start() == 0 || log.end() - log.start() > 16 * 1024);
        read_all(&log, &mut lazy.0, &mut lazy.1);
        prop_assert_eq!(lazy.0.cursor(), at);
        let cursor = log.start() + from.index(usize::try_from(at - log.start()).unwrap() + 1) as u64;
        let check = |log: &Log, cursor: u64| {
            let mut heard = Heard::default();
            read_all(log, &mut Reader::at(log, cursor), &mut heard);
            heard == expected(&written, cursor)
        };
        prop_assert!(check(&log, cursor));
        log.flush();
        let cursor = cursor.max(log.start());
        prop_assert!(check(&log, cursor));
        for end in [None, Some(at)] {
            let loaded = Log::load(directory.clone(), end);
            prop_assert_eq!((loaded.start(), loaded.end()), (log.start(), at));
            prop_assert!(check(&loaded, cursor));
        }
    }

    #[test]
    fn a_damaged_log_is_read_as_far_as_it_goes(
        at in 0_usize..200_000, bytes in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b/j1");
        let mut log = Log::new(directory.clone(), Some(256 * 1024));
        log.push(OUT, &[7; 100_000]);
        log.push(ERR, &[8; 80_000]);
        log.flush();
        let segments: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
        let path = &segments[at % segments.len()];
        let mut content = fs::read(path).unwrap();
        for (index, byte) in bytes.iter().enumerate() {
            let at = (at + index) % content.len();
            content[at] = *byte;
        }
        content.truncate(content.len() - bytes.len());
        fs::write(path, content).unwrap();
        let loaded = Log::load(directory, None);
        let mut reader = Reader::at(&loaded, 0);
        read_all(&loaded, &mut reader, &mut Heard::default());
        prop_assert!(reader.cursor() >= loaded.end());
    }
}

#[test]
fn output_that_cannot_be_written_is_lost_and_noted_once_and_no_cursor_changes() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("a/b/j1");
    let mut log = Log::new(directory.clone(), None);
    log.push(OUT, b"before");
    log.flush();
    let aside = root.path().join("aside");
    let block = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    // A file where the directory was: nothing can be made below it.
    block(&directory, &aside);
    fs::write(&directory, "").unwrap();
    for _ in 0..3 {
        log.push(OUT, &[b'x'; 20_000]);
        log.flush();
    }
    let mut reader = Reader::at(&log, 0);
    let mut heard = Heard::default();
    read_all(&log, &mut reader, &mut heard);
    assert_eq!((reader.cursor(), heard.pieces), (60_006, vec![]));
    fs::remove_file(&directory).unwrap();
    block(&aside, &directory);
    log.push(OUT, b"after");
    log.flush();
    let mut heard = Heard::default();
    read_all(&log, &mut Reader::at(&log, 0), &mut heard);
    let [(OUT, before), (ERR, note), (OUT, after)] = &heard.text()[..] else { panic!("{heard:?}") };
    assert_eq!((before.as_str(), after.as_str()), ("before", "after"));
    assert!(note.starts_with("\n[output is missing here: "), "{note}");
    assert_eq!(heard.starts, [60_006 - note.len() as u64]);
    assert_eq!(log.end(), 60_011);
}
