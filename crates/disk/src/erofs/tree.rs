//! Writes an erofs of a tree whose larger files are elsewhere: in files of layers that follow on
//! the same disk.
//!
//! ```text
//! │ superblock │ inodes, each with what is small behind it │ directories │ data │ data │ …
//! └──────────────────── the file that is written here ────────────────────┘ └── layers' ──┘
//! ```
//! Every inode is an extended one, so that owners and times of any size have room. The same tree
//! gives the same bytes.

use std::{
    borrow::Cow,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use base::fault;
use fs_err as fs;

use super::{
    directory::{self, Named},
    format::{
        Place, RawInode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, SUPERBLOCK_AT,
        Superblock,
    },
    plan::{Plan, Spot},
};
use crate::{
    FileEntry,
    layer::index::Content,
    merge::{Body, InodeId, ROOT, Tree},
    output::Output,
};

/// A layer's files, as far as the tree needs them.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Contents of small files.
    pub(crate) small: PathBuf,
    /// Where on the disk its data begins, counted in blocks from the end of the tree's own file.
    pub(crate) first_block: u64,
}

/// Writes `tree` as the new file `name` in `directory`. After it `data_blocks` blocks follow on the
/// disk, in which the contents of files are where `layers`, lowest first, say.
///
/// # Errors
/// If the disk would be larger than 16 TiB, or files cannot be read or written.
pub(crate) fn write(
    tree: &Tree,
    layers: &[Source],
    data_blocks: u64,
    directory: &Path,
    name: &'static str,
) -> io::Result<FileEntry> {
    let plan = Plan::new(tree);
    let small =
        layers.iter().map(|layer| fs::File::open(&layer.small)).collect::<Result<_, _>>()?;
    let blocks = u32::try_from(plan.blocks + data_blocks).map_err(|_| too_large())?;
    fault::point("image.root")?;
    let mut output = Output::create(directory, name)?;
    let writer = Writer { tree, plan: &plan, layers, small };
    writer.superblock(blocks, &mut output)?;
    for (number, id) in plan.order.iter().enumerate() {
        writer.inode(number, *id, &mut output)?;
    }
    output.pad_block()?;
    for id in &plan.order {
        writer.blocks(*id, &mut output)?;
    }
    output.finish()
}

struct Writer<'a> {
    tree: &'a Tree,
    plan: &'a Plan,
    layers: &'a [Source],
    small: Vec<fs::File>,
}

impl Writer<'_> {
    fn superblock(&self, blocks: u32, output: &mut Output) -> io::Result<()> {
        // It is the first inode, right behind the superblock.
        let root = u16::try_from(self.plan.slot(ROOT)).unwrap_or(u16::MAX);
        let inodes = self.plan.order.len() as u64;
        output.pad_to(SUPERBLOCK_AT)?;
        output.write(&Superblock { root, inodes, blocks }.encode())
    }

    /// An inode, its attributes and what of its content is behind it.
    fn inode(&self, number: usize, id: InodeId, output: &mut Output) -> io::Result<()> {
        let (inode, spot) = (self.tree.inode(id), self.plan.spots[id]);
        let mut record = Vec::new();
        RawInode {
            kind: format(&inode.body),
            meta: &inode.meta,
            size: spot.size,
            place: self.content_place(&inode.body, &spot)?,
            number: u32::try_from(number).unwrap_or(u32::MAX),
            links: spot.links,
        }
        .encode(&mut record);
        if spot.tail > 0 {
            let content = self.content(id)?;
            let start = content.len() - usize::try_from(spot.tail).unwrap_or(content.len());
            record.extend(&content[start..]);
        }
        output.pad_to(spot.at)?;
        output.write(&record)
    }

    fn content_place(&self, body: &Body, spot: &Spot) -> io::Result<Place> {
        let block = match body {
            Body::Character(device) | Body::Block(device) => return Ok(Place::Device(*device)),
            Body::Fifo => return Ok(Place::Nowhere),
            Body::File { layer, content: Content::Data { block, .. } } => {
                self.plan.blocks + self.layers[*layer].first_block + u64::from(*block)
            }
            Body::Directory(_) | Body::File { .. } | Body::Symlink(_) => spot.block,
        };
        let block = u32::try_from(block).map_err(|_| too_large())?;
        Ok(if spot.tail > 0 { Place::BlocksAndTail(block) } else { Place::Blocks(block) })
    }

    /// What of an inode's content is in blocks of this file.
    fn blocks(&self, id: InodeId, output: &mut Output) -> io::Result<()> {
        let spot = self.plan.spots[id];
        if !spot.is_here || spot.size == spot.tail {
            return Ok(());
        }
        let content = self.content(id)?;
        let end = content.len() - usize::try_from(spot.tail).unwrap_or_default();
        output.write(&content[..end])?;
        output.pad_block()
    }

    /// The content of what has it in this file.
    fn content(&self, id: InodeId) -> io::Result<Cow<'_, [u8]>> {
        match &self.tree.inode(id).body {
            Body::Directory(_) => Ok(self.directory(id).into()),
            Body::Symlink(target) => Ok(target.into()),
            Body::File { layer, content: Content::Small { offset, size } } => {
                let mut bytes = vec![0; usize::try_from(*size).unwrap_or_default()];
                self.small[*layer].file().read_exact_at(&mut bytes, *offset)?;
                Ok(bytes.into())
            }
            _ => Ok([].as_slice().into()),
        }
    }

    fn directory(&self, id: InodeId) -> Vec<u8> {
        let named = |name, id| {
            let kind = kind(&self.tree.inode(id).body);
            Named { name, slot: self.plan.slot(id), kind }
        };
        let mut names: Vec<_> =
            self.tree.children(id).map(|(name, child)| named(name, child)).collect();
        names.push(named(b".", id));
        names.push(named(b"..", self.plan.spots[id].parent));
        names.sort_unstable();
        directory::encode(&names)
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the image is larger than 16 TiB")
}

/// The bits of an inode's mode.
fn format(body: &Body) -> u16 {
    match body {
        Body::Directory(_) => S_IFDIR,
        Body::File { .. } => S_IFREG,
        Body::Symlink(_) => S_IFLNK,
        Body::Character(_) => S_IFCHR,
        Body::Block(_) => S_IFBLK,
        Body::Fifo => S_IFIFO,
    }
}

/// The number in a directory's entry.
fn kind(body: &Body) -> u8 {
    match body {
        Body::File { .. } => 1,
        Body::Directory(_) => 2,
        Body::Character(_) => 3,
        Body::Block(_) => 4,
        Body::Fifo => 5,
        Body::Symlink(_) => 7,
    }
}
