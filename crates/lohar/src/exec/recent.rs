//! The last output of a command that its host was given.
//!
//! A copy of this guest learns only after a while that nobody listens, and what was said until then
//! went nowhere. So a command whose host vanishes without a word keeps the end of what it has said.

use std::collections::VecDeque;

use proto::frame::FrameKind;

/// Bytes that are kept.
const KEPT: usize = 16 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    pieces: VecDeque<(FrameKind, Vec<u8>)>,
    bytes: usize,
}

impl Recent {
    /// Notes what has been said.
    pub(crate) fn push(&mut self, kind: FrameKind, piece: &[u8]) {
        let tail = &piece[piece.len().saturating_sub(KEPT)..];
        self.pieces.push_back((kind, tail.to_vec()));
        self.bytes += tail.len();
        while self.bytes > KEPT
            && let Some((_, oldest)) = self.pieces.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// What was said last, oldest first.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (FrameKind, Vec<u8>)> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.pieces).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_no_more() {
        let mut recent = Recent::default();
        recent.push(FrameKind::Stdout, &[1; KEPT + 5]);
        assert_eq!(recent.bytes, KEPT);
        recent.push(FrameKind::Stderr, b"last");
        assert_eq!(recent.bytes, 4, "whole pieces go");
        for number in 0..=u8::MAX {
            recent.push(FrameKind::Stdout, &[number; 100]);
        }
        let kept: Vec<_> = recent.take().collect();
        assert_eq!(kept.len(), KEPT / 100);
        assert!(kept.iter().rev().zip((0..=u8::MAX).rev()).all(|((_, piece), n)| piece[0] == n));
        assert_eq!(recent.take().count(), 0);
    }
}
