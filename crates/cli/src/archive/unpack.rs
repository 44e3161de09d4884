//! Unpacking what comes out of a sandbox, which may be anything.
//!
//! Invariant: nothing outside of the directory is touched. Every path is walked from there, part by
//! part, never through a link; what is there is replaced, never written to.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    rc::Rc,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens,
        linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};
use tokio::task::JoinHandle;

use super::pipe::{self, AsyncWriter, BlockingReader};
use crate::table::printable;

/// Most bytes between two contents: headers, with names of any sensible length.
const MAX_HEADERS: u64 = 1 << 20;
/// Longest path in an archive; the system has the same limit.
const MAX_PATH: usize = 4096;
/// Bytes copied at a time.
const PIECE: usize = 128 << 10;
/// Names that are told of those that were left out.
const NAMES_TOLD: usize = 10;
/// Permission bits that are kept: nothing of the sandbox's makes a program special here.
const MODE: u32 = 0o777;

/// Entries that were left out: devices, pipes and sockets.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    /// How many.
    pub(crate) count: u64,
    /// The first ones.
    pub(crate) names: Vec<String>,
}

/// An archive that is being unpacked.
#[derive(Debug)]
pub(crate) struct Unpacking(JoinHandle<Result<Skipped>>);

impl Unpacking {
    /// Waits for the end.
    ///
    /// # Errors
    /// If the archive is cut or hostile, or cannot be written. What is unpacked by then stays.
    pub(crate) async fn finish(self) -> Result<Skipped> {
        self.0.await.context("wait for the unpacking")?
    }
}

/// Unpacks what is sent into a directory; `itself`: it is new, and gets the permission bits that
/// the archive has for it.
pub(crate) fn unpack(directory: OwnedFd, itself: bool) -> (AsyncWriter, Unpacking) {
    let (writer, reader) = pipe::to_thread();
    let work = move || unpack_all(reader, directory, itself);
    (writer, Unpacking(tokio::task::spawn_blocking(work)))
}

fn unpack_all(mut reader: BlockingReader, directory: OwnedFd, itself: bool) -> Result<Skipped> {
    let skipped = unpack_from(&mut reader, directory, itself)?;
    // What follows the archive's end is padding.
    io::copy(&mut reader, &mut io::sink()).context("read the archive")?;
    Ok(skipped)
}

fn unpack_from(reader: impl Read, directory: OwnedFd, itself: bool) -> Result<Skipped> {
    let allowance = Rc::new(Cell::new(MAX_HEADERS));
    let reader = Rationed { reader, allowance: Rc::clone(&allowance) };
    let mut archive = Archive::new(reader);
    let mut tree = Tree { root: directory, itself, made: Vec::new(), buffer: vec![0; PIECE] };
    let mut skipped = Skipped::default();
    for entry in archive.entries().context("read the archive")? {
        let mut entry = entry.context("read the archive")?;
        allowance.set(u64::MAX);
        if !tree.unpack(&mut entry)? {
            skipped.count += 1;
            if skipped.names.len() < NAMES_TOLD {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                skipped.names.push(printable(&name));
            }
        }
        io::copy(&mut entry, &mut io::sink()).context("read the archive")?;
        allowance.set(MAX_HEADERS);
    }
    tree.finish()?;
    Ok(skipped)
}

/// A reader that yields no more than it is allowed to. Names are read into memory, however long
/// the archive says that they are.
struct Rationed<R> {
    reader: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowance.get();
        if allowed == 0 {
            let what = "a name in the archive is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.reader.read(&mut buffer[..most])?;
        if allowed != u64::MAX {
            self.allowance.set(allowed - u64::try_from(length).unwrap_or(allowed));
        }
        Ok(length)
    }
}

/// A directory that was made, whose permission bits are set when all is in it.
struct Made {
    path: Vec<u8>,
    mode: u32,
    mtime: u64,
}

struct Tree {
    root: OwnedFd,
    itself: bool,
    made: Vec<Made>,
    buffer: Vec<u8>,
}

impl Tree {
    /// Unpacks one entry; false if it is of a kind that is left out.
    fn unpack(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool> {
        let bytes = entry.path_bytes().into_owned();
        let shown = printable(&String::from_utf8_lossy(&bytes));
        let path = parts(&bytes).with_context(|| refused(&shown))?;
        let context = || format!("unpack {shown}");
        let header = entry.header();
        let mode = header.mode().unwrap_or(0o644) & MODE;
        let mtime = header.mtime().unwrap_or(0);
        let kind = header.entry_type();
        match kind {
            EntryType::Directory => self.directory(&path, mode, mtime).with_context(context)?,
            // How archives had it before there were types.
            EntryType::Regular if bytes.ends_with(b"/") => {
                self.directory(&path, mode, mtime).with_context(context)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&path, mode, mtime, entry).with_context(context)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.place(&path, |parent, name| {
                    Ok(symlinkat(OsStr::from_bytes(&target), parent, name)?)
                })
                .with_context(context)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = parts(&target).with_context(|| refused(&shown))?;
                self.hard_link(&path, &target).with_context(context)?;
            }
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn directory(&mut self, path: &[&OsStr], mode: u32, mtime: u64) -> Result<()> {
        let Some((name, parents)) = path.split_last() else {
            if self.itself {
                self.made.push(Made { path: Vec::new(), mode, mtime });
            }
            return Ok(());
        };
        let parent = self.walk(parents, true)?;
        match mkdirat(&parent, *name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let path = path.join(OsStr::new("/")).as_bytes().to_vec();
                self.made.push(Made { path, mode, mtime });
                Ok(())
            }
            // One that is there keeps its permissions; that it is one is checked.
            Err(Errno::EXIST) => open_directory(&parent, name).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    fn file(
        &mut self,
        path: &[&OsStr],
        mode: u32,
        mtime: u64,
        content: &mut Entry<'_, impl Read>,
    ) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let placed = self.place(path, |parent, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let file = openat(parent, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(file);
            copy(content, &mut file, &mut buffer)?;
            fchmod(&file, Mode::from_raw_mode(mode))?;
            futimens(&file, &modified(mtime))?;
            Ok(())
        });
        self.buffer = buffer;
        placed
    }

    fn hard_link(&self, path: &[&OsStr], target: &[&OsStr]) -> Result<()> {
        let Some((linked, parents)) = target.split_last() else { bail!("a link to a directory") };
        let from = self.walk(parents, false)?;
        let stat = statat(&from, *linked, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            bail!("a hard link to something that is not a file");
        }
        self.place(path, |parent, name| Ok(linkat(&from, *linked, parent, name, AtFlags::empty())?))
    }

    /// Makes something under a name that nobody has, then gives it the right one in one step.
    fn place(
        &self,
        path: &[&OsStr],
        make: impl FnOnce(&OwnedFd, &str) -> Result<()>,
    ) -> Result<()> {
        let Some((name, parents)) = path.split_last() else { bail!("it has no name") };
        let parent = self.walk(parents, true)?;
        let temporary = format!(".bhatti-{}.part", base::random::hex::<8>());
        let placed = make(&parent, &temporary)
            .and_then(|()| renameat(&parent, &*temporary, &parent, *name).map_err(in_the_way));
        // Also after a success: two names of one file are not made into one by renaming.
        let _ = unlinkat(&parent, &*temporary, AtFlags::empty());
        placed
    }

    /// Opens a directory below the root, following no link.
    fn walk(&self, path: &[&OsStr], make: bool) -> Result<OwnedFd> {
        let mut directory = self.root.try_clone().context("open the directory")?;
        for name in path {
            directory = match open_directory(&directory, name) {
                Err(error) if make && error.downcast_ref() == Some(&Errno::NOENT) => {
                    match mkdirat(&directory, *name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => open_directory(&directory, name)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                opened => opened?,
            };
        }
        Ok(directory)
    }

    /// Sets what would have been in the way before: the deepest directories first.
    fn finish(mut self) -> Result<()> {
        while let Some(Made { path, mode, mtime }) = self.made.pop() {
            let set = || -> Result<()> {
                let directory = self.walk(&parts(&path)?, false)?;
                fchmod(&directory, Mode::from_raw_mode(mode))?;
                futimens(&directory, &modified(mtime))?;
                Ok(())
            };
            let shown = || printable(&String::from_utf8_lossy(&path));
            set().with_context(|| format!("set the permissions of {}", shown()))?;
        }
        Ok(())
    }
}

/// The parts of a path below the root.
fn parts(path: &[u8]) -> Result<Vec<&OsStr>> {
    if path.len() > MAX_PATH {
        bail!("the path is too long");
    }
    if path.starts_with(b"/") {
        bail!("the path is absolute");
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => bail!("the path leads out of the directory"),
            _ => parts.push(OsStr::from_bytes(part)),
        }
    }
    Ok(parts)
}

fn refused(shown: &str) -> String {
    format!("the archive was refused at {shown}")
}

fn open_directory(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => Ok(directory),
        Err(error @ (Errno::NOTDIR | Errno::LOOP)) => {
            let name = printable(&name.to_string_lossy());
            Err(anyhow::Error::new(error)
                .context(format!("{name} is no directory here, and links are not followed")))
        }
        Err(error) => Err(error.into()),
    }
}

fn in_the_way(error: Errno) -> anyhow::Error {
    match error {
        Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => {
            anyhow::Error::new(error).context("a directory is there")
        }
        error => error.into(),
    }
}

fn modified(seconds: u64) -> Timestamps {
    let tv_sec = i64::try_from(seconds).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec: 0 },
    }
}

/// Copies everything; of a sparse file the zeros take no room.
fn copy(from: &mut Entry<'_, impl Read>, to: &mut File, buffer: &mut [u8]) -> Result<()> {
    let sparse = from.header().entry_type() == EntryType::GNUSparse;
    let announced = from.size();
    let mut size = 0;
    loop {
        let length = from.read(buffer).context("read the archive")?;
        if length == 0 {
            break;
        }
        size += u64::try_from(length).unwrap_or(0);
        let bytes = &buffer[..length];
        if sparse && bytes.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Start(size))?;
        } else {
            to.write_all(bytes)?;
        }
    }
    if size != announced {
        bail!("the archive ends in the middle of it");
    }
    if sparse {
        to.set_len(size)?;
    }
    Ok(())
}

/// Opens a directory of this machine to unpack into.
pub(crate) fn open_root(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD.as_fd(), path, flags, Mode::empty())
        .with_context(|| format!("open the directory {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        path::Path,
    };

    use tar::{Builder, Header};

    use super::*;

    /// One entry as a hostile program would write it: any name, any target.
    fn entry(kind: EntryType, name: &str, target: &str, mode: u32, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        entry(EntryType::Regular, name, "", 0o644, content)
    }

    fn link(name: &str, target: &str) -> Vec<u8> {
        entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn into(directory: &Path, entries: &[Vec<u8>]) -> Result<Skipped> {
        let archive = entries.concat();
        unpack_from(&archive[..], open_root(directory)?, false)
    }

    /// A place with a directory to unpack into and a file beside it that nobody may touch.
    fn place() -> (tempfile::TempDir, std::path::PathBuf) {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("secret"), "mine").unwrap();
        let inside = place.path().join("in");
        fs::create_dir(&inside).unwrap();
        (place, inside)
    }

    #[test]
    fn nothing_gets_out_of_the_directory() {
        let absolute = |place: &Path| place.join("secret").to_str().unwrap().to_owned();
        /// Makes the entries of an archive; told where the file is that nobody may touch.
        type Entries = fn(&str) -> Vec<Vec<u8>>;
        let hostile: [(&str, Entries); 9] = [
            ("dotdot", |_| vec![file("../secret", b"x")]),
            ("dotdot in the middle", |_| vec![file("a/../../secret", b"x")]),
            ("absolute", |secret| vec![file(secret, b"x")]),
            ("through a link to a directory", |_| vec![link("l", ".."), file("l/secret", b"x")]),
            ("through a deeper link", |_| vec![link("d/l", "../.."), file("d/l/secret", b"x")]),
            ("a directory through a link", |_| {
                vec![link("l", ".."), entry(EntryType::Directory, "l/new", "", 0o755, b"")]
            }),
            ("a directory that is a link", |_| {
                vec![link("l", ".."), entry(EntryType::Directory, "l", "", 0o777, b"")]
            }),
            ("a hard link out", |_| {
                vec![entry(EntryType::Link, "h", "../secret", 0o644, b""), file("h", b"x")]
            }),
            ("a hard link through a link", |_| {
                vec![link("l", ".."), entry(EntryType::Link, "h", "l/secret", 0o644, b"")]
            }),
        ];
        for (what, entries) in hostile {
            let (place, inside) = place();
            let refused = into(&inside, &entries(&absolute(place.path())));
            assert!(refused.is_err(), "{what}");
            assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine", "{what}");
            let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
            assert_eq!(names.len(), 2, "{what}: {names:?}");
            assert!(!inside.join("h").exists(), "{what}");
        }
    }

    #[test]
    fn a_file_replaces_a_link_and_does_not_follow_it() {
        let (place, inside) = place();
        into(&inside, &[link("l", "../secret"), file("l", b"new")]).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(inside.join("l")).unwrap(), "new");
        assert!(fs::symlink_metadata(inside.join("l")).unwrap().is_file());
        // Links that were there before are no better.
        symlink("..", inside.join("old")).unwrap();
        let error = format!("{:#}", into(&inside, &[file("old/secret", b"x")]).unwrap_err());
        assert!(error.contains("links are not followed"), "{error}");
        // Nor is a file that has another name outside.
        fs::hard_link(place.path().join("secret"), inside.join("twin")).unwrap();
        into(&inside, &[file("twin", b"new")]).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine");
    }

    #[test]
    fn a_hard_link_inside_is_one() {
        let (_place, inside) = place();
        let again = entry(EntryType::Link, "b", "./a", 0o644, b"");
        into(&inside, &[file("a", b"x"), again.clone(), again]).unwrap();
        let inode = |name| fs::metadata(inside.join(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("b"));
        let to_link = entry(EntryType::Link, "c", "l", 0o644, b"");
        assert!(into(&inside, &[link("l", "/etc/passwd"), to_link]).is_err());
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 3);
    }

    #[test]
    fn devices_are_left_out_and_no_program_becomes_special() {
        let (_place, inside) = place();
        let entries = [
            entry(EntryType::Char, "null", "", 0o666, b""),
            entry(EntryType::Fifo, "pipe", "", 0o666, b""),
            entry(EntryType::Regular, "su", "", 0o6755, b"x"),
            entry(EntryType::Directory, "d", "", 0o7777, b""),
        ];
        let skipped = into(&inside, &entries).unwrap();
        assert_eq!((skipped.count, skipped.names), (2, vec!["null".into(), "pipe".into()]));
        let mode = |name| fs::metadata(inside.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("su"), mode("d")), (0o755, 0o777));
        assert_eq!(fs::metadata(inside.join("su")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_that_forbids_writing_is_filled_all_the_same() {
        let (_place, inside) = place();
        let closed = entry(EntryType::Directory, "d/", "", 0o500, b"");
        into(&inside, &[closed, file("d/a", b"x"), file("e/f/g", b"y")]).unwrap();
        let mode = fs::metadata(inside.join("d")).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, fs::read(inside.join("d/a")).unwrap()), (0o500, b"x".to_vec()));
        assert_eq!(fs::read(inside.join("e/f/g")).unwrap(), b"y");
        fs::set_permissions(inside.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn what_is_in_the_way_is_said() {
        let (_place, inside) = place();
        fs::create_dir(inside.join("d")).unwrap();
        fs::write(inside.join("f"), "old").unwrap();
        let error = format!("{:#}", into(&inside, &[file("d", b"x")]).unwrap_err());
        assert!(error.contains("a directory is there"), "{error}");
        let nested = file("f/x", b"x");
        let error = format!("{:#}", into(&inside, &[nested]).unwrap_err());
        assert!(error.contains("f is no directory here"), "{error}");
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
    }

    #[test]
    fn an_archive_that_is_cut_or_never_ends_fails() {
        let (_place, inside) = place();
        let mut cut = file("a", &[1; 2000]);
        cut.truncate(1500);
        assert!(into(&inside, &[cut]).is_err());
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = header.as_bytes().as_slice().chain(io::repeat(b'a'));
        let root = open_root(&inside).unwrap();
        let error = format!("{:#}", unpack_from(endless, root, false).unwrap_err());
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn a_tree_survives_the_way_there_and_back() {
        let (place, inside) = place();
        let source = place.path().join("source");
        let long = "n".repeat(120);
        fs::create_dir_all(source.join(&long).join("deep")).unwrap();
        fs::write(source.join(&long).join("deep/file"), [0xff; 5000]).unwrap();
        fs::write(source.join("run"), "#!").unwrap();
        fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o711)).unwrap();
        symlink("nowhere", source.join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let root = open_root(&inside).unwrap();
        runtime.block_on(async {
            let tree = source.clone();
            let (mut reader, packing) =
                crate::archive::pack(move |packer| packer.tree(&tree, true));
            let (writer, unpacking) = unpack(root, true);
            let mut piece = vec![0; 1000];
            loop {
                let length = tokio::io::AsyncReadExt::read(&mut reader, &mut piece).await.unwrap();
                if length == 0 {
                    break;
                }
                assert!(writer.send(bytes::Bytes::copy_from_slice(&piece[..length])).await);
            }
            writer.finish().await;
            assert_eq!(packing.finish().await.unwrap(), [source.join("socket")]);
            assert_eq!(unpacking.finish().await.unwrap().count, 0);
        });
        assert_eq!(fs::read(inside.join(&long).join("deep/file")).unwrap(), [0xff; 5000]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&inside.join("run")), mode(&inside)), (0o750, 0o711));
        assert_eq!(fs::read_link(inside.join("dangling")).unwrap(), Path::new("nowhere"));
        assert!(!inside.join("socket").exists());
    }

    #[test]
    fn a_cut_pipe_is_not_an_end() {
        let (_place, inside) = place();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (writer, unpacking) = unpack(open_root(&inside).unwrap(), false);
            // Whole entries, so that only the missing last word tells.
            assert!(writer.send(bytes::Bytes::from(file("a", b"x"))).await);
            drop(writer);
            assert!(unpacking.finish().await.is_err());
            let (mut reader, packing) = crate::archive::pack(|packer| {
                packer.file(Path::new("/does/not/exist"), Path::new("x"), None)
            });
            let mut all = Vec::new();
            assert!(tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut all).await.is_err());
            let error = packing.finish().await.unwrap_err().to_string();
            assert!(error.contains("/does/not/exist"), "{error}");
        });
    }

    #[test]
    fn holes_stay_holes() {
        let (_place, inside) = place();
        let path = inside.join("holes");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        let mut archive = Builder::new(Vec::new());
        archive.append_file("back", &mut File::open(&path).unwrap()).unwrap();
        let bytes = archive.into_inner().unwrap();
        assert!(bytes.len() < 1 << 20, "the test's archive is not sparse");
        unpack_from(&bytes[..], open_root(&inside).unwrap(), false).unwrap();
        let back = fs::metadata(inside.join("back")).unwrap();
        assert_eq!(back.len(), 8 << 20);
        assert!(back.blocks() < 1000, "{}", back.blocks());
    }
}
