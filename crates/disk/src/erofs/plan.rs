//! Where in the file system everything will be: decided before the first byte is written.

use super::{
    directory,
    format::{INODE_SIZE, SLOT, SUPERBLOCK_AT, SUPERBLOCK_SIZE, xattrs_size},
};
use crate::{
    BLOCK_SIZE,
    layer::index::Content,
    merge::{Body, InodeId, ROOT, Tree},
};

/// Where an inode and what belongs to it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spot {
    /// Of the inode, in bytes.
    pub(super) at: u64,
    /// Of the content, in bytes.
    pub(super) size: u64,
    /// Whether that is in this file and not in a layer's.
    pub(super) is_here: bool,
    /// The last of them, so many, are behind the inode.
    pub(super) tail: u64,
    /// First of the blocks for the others, if these are in this file.
    pub(super) block: u64,
    pub(super) links: u32,
    pub(super) parent: InodeId,
}

/// What the tree's file consists of: superblock and inodes, then blocks of directories and of
/// whatever else has no room behind its inode.
#[derive(Debug)]
pub(super) struct Plan {
    /// By inode; those that nothing leads to have no links.
    pub(super) spots: Vec<Spot>,
    /// All inodes in the order of their places.
    pub(super) order: Vec<InodeId>,
    /// Of the whole file, in blocks.
    pub(super) blocks: u64,
}

impl Plan {
    pub(super) fn new(tree: &Tree) -> Self {
        let mut plan =
            Self { spots: vec![Spot::default(); tree.len()], order: Vec::new(), blocks: 0 };
        plan.visit(tree);
        plan.place(tree);
        plan
    }

    /// Puts what is in one directory next to each other, and counts links.
    fn visit(&mut self, tree: &Tree) {
        self.order.push(ROOT);
        self.spots[ROOT].links = 2;
        let mut left = vec![ROOT];
        while let Some(directory) = left.pop() {
            let first = left.len();
            for (_, id) in tree.children(directory) {
                let is_directory = matches!(tree.inode(id).body, Body::Directory(_));
                if self.spots[id].links == 0 {
                    self.order.push(id);
                }
                self.spots[id].links += if is_directory { 2 } else { 1 };
                if is_directory {
                    self.spots[id].parent = directory;
                    self.spots[directory].links += 1;
                    left.push(id);
                }
            }
            left[first..].reverse();
        }
    }

    fn place(&mut self, tree: &Tree) {
        let mut end = SUPERBLOCK_AT + SUPERBLOCK_SIZE as u64;
        let mut blocks = 0;
        for id in &self.order {
            let inode = tree.inode(*id);
            let own = INODE_SIZE + xattrs_size(&inode.meta) as u64;
            let (size, is_here) = content(tree, *id);
            // What is behind an inode has to be in the same block as the inode's start.
            let rest = size % BLOCK_SIZE;
            let tail = if is_here && own + rest <= BLOCK_SIZE { rest } else { 0 };
            let at = place(end, own + tail);
            end = at + own + tail;
            let spot = &mut self.spots[*id];
            (spot.at, spot.size, spot.tail, spot.block) = (at, size, tail, blocks);
            spot.is_here = is_here;
            if is_here {
                blocks += (size - tail).div_ceil(BLOCK_SIZE);
            }
        }
        let first = end.div_ceil(BLOCK_SIZE);
        for id in &self.order {
            self.spots[*id].block += first;
        }
        self.blocks = first + blocks;
    }

    /// The slot by which directories know an inode.
    pub(super) fn slot(&self, id: InodeId) -> u64 {
        self.spots[id].at / SLOT
    }
}

/// Where something of that length goes if everything before `end` is taken: not over the end of a
/// block, if it fits into one.
fn place(end: u64, length: u64) -> u64 {
    let at = end.next_multiple_of(SLOT);
    let left = BLOCK_SIZE - at % BLOCK_SIZE;
    if length > left { at.next_multiple_of(BLOCK_SIZE) } else { at }
}

/// The size of an inode's content, and whether that is in this file and not in a layer's.
fn content(tree: &Tree, id: InodeId) -> (u64, bool) {
    match &tree.inode(id).body {
        Body::Directory(_) => (directory::size(&names(tree, id)), true),
        Body::File { content, .. } => (content.size(), matches!(content, Content::Small { .. })),
        Body::Symlink(target) => (target.len() as u64, true),
        Body::Character(_) | Body::Block(_) | Body::Fifo => (0, false),
    }
}

fn names(tree: &Tree, id: InodeId) -> Vec<&[u8]> {
    let mut names: Vec<_> = tree.children(id).map(|(name, _)| name).collect();
    names.extend([b".".as_slice(), b".."]);
    names.sort_unstable();
    names
}
