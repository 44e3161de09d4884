//! What the monitor calls the parts of a disk that is written in layers. It follows from the disk and
//! from the layers' numbers, so that a daemon that takes up a running VM knows it.

use crate::Drive;

/// Number of the descriptor set of the disk's first layer.
const LAYER_SETS: u32 = 2000;
/// How many numbers of descriptor sets each disk has.
const SETS_PER_DRIVE: u32 = 1 << 20;
/// The last of them is that of the raw disk, if it became known to a monitor that ran already.
const LAYER_SETS_PER_DRIVE: u32 = SETS_PER_DRIVE - 1;

impl Drive {
    /// The node of the raw disk below all layers.
    pub(super) fn raw_node(self) -> String {
        match self {
            Self::Scratch => "scratch0".to_owned(),
            Self::Volume(slot) => format!("volume-{slot}"),
        }
    }

    /// The node that stands for the disk as long as it is not known which one it will be.
    pub(super) fn awaited_node(self) -> String {
        match self {
            Self::Scratch => "nothing".to_owned(),
            Self::Volume(slot) => format!("nothing-{slot}"),
        }
    }

    /// The node of a layer.
    pub(super) fn layer_node(self, number: u32) -> String {
        format!("{}{number}", self.prefix())
    }

    /// The number of the layer of this disk whose node this is.
    pub(super) fn layer_number(self, node: &str) -> Option<u32> {
        node.strip_prefix(&self.prefix())?.parse().ok()
    }

    /// The number of a layer's descriptor set.
    pub(super) fn layer_set(self, number: u32) -> u32 {
        self.sets() + number % LAYER_SETS_PER_DRIVE
    }

    /// The number of the descriptor set of the raw disk below all layers.
    pub(super) fn raw_set(self) -> u32 {
        self.sets() + LAYER_SETS_PER_DRIVE
    }

    /// The first of the numbers of its descriptor sets.
    fn sets(self) -> u32 {
        let before = match self {
            Self::Scratch => 0,
            Self::Volume(slot) => slot + 1,
        };
        LAYER_SETS + before * SETS_PER_DRIVE
    }

    /// The device, as the monitor knows it.
    pub(super) fn device(self) -> String {
        match self {
            Self::Scratch => "scratch".to_owned(),
            Self::Volume(slot) => format!("volume{slot}"),
        }
    }

    /// What the device says of itself to the guest.
    pub(super) fn serial(self) -> String {
        match self {
            Self::Scratch => "bhatti-scratch".to_owned(),
            Self::Volume(slot) => format!("bhatti-volume-{slot}"),
        }
    }

    fn prefix(self) -> String {
        match self {
            Self::Scratch => "layer-".to_owned(),
            Self::Volume(slot) => format!("volume-{slot}-layer-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_parts_have_the_same_name_or_set() {
        let drives: Vec<Drive> =
            std::iter::once(Drive::Scratch).chain((0..12).map(Drive::Volume)).collect();
        let (mut names, mut sets) = (HashSet::new(), HashSet::new());
        for drive in &drives {
            assert!(names.insert(drive.raw_node()) && names.insert(drive.device()));
            assert!(names.insert(drive.awaited_node()) && sets.insert(drive.raw_set()));
            for number in [0, 1, 11, LAYER_SETS_PER_DRIVE - 1] {
                let node = drive.layer_node(number);
                // QEMU takes no longer names.
                assert!(node.len() < 32, "{node}");
                let owners: Vec<_> =
                    drives.iter().filter(|d| d.layer_number(&node) == Some(number)).collect();
                assert_eq!(owners, [drive]);
                assert!(names.insert(node) && sets.insert(drive.layer_set(number)));
            }
        }
    }
}
