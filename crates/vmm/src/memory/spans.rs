//! Which pages: runs of them, without their content.

use super::PAGE;

/// Pages that lie next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub first: u64,
    pub pages: u64,
}

impl Span {
    /// Offset in the guest's memory, bytes.
    pub(super) fn at(self) -> u64 {
        self.first * PAGE as u64
    }

    /// Length, bytes.
    pub(super) fn bytes(self) -> usize {
        bytes(self.pages)
    }
}

/// Length of so many pages, bytes.
pub(super) fn bytes(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX / PAGE) * PAGE
}

/// Length of all spans together, bytes.
pub(super) fn total(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.bytes()).sum()
}

/// The same pages in the same order in batches of `pages`; only the last one may have fewer.
pub(super) fn batches(spans: &[Span], pages: u64) -> Vec<Vec<Span>> {
    let mut batches: Vec<Vec<Span>> = Vec::new();
    let mut room = 0;
    for span in spans {
        let mut rest = *span;
        while rest.pages > 0 {
            if room == 0 {
                batches.push(Vec::new());
                room = pages;
            }
            let taken = rest.pages.min(room);
            if let Some(batch) = batches.last_mut() {
                batch.push(Span { first: rest.first, pages: taken });
            }
            room -= taken;
            rest = Span { first: rest.first + taken, pages: rest.pages - taken };
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn indices(spans: &[Span]) -> Vec<u64> {
        spans.iter().flat_map(|span| span.first..span.first + span.pages).collect()
    }

    proptest! {
        #[test]
        fn batches_are_full_and_have_every_page_once_in_order(
            lengths in prop::collection::vec((0u64..5, 1u64..40), 0..20), pages in 1u64..30,
        ) {
            let mut next = 0;
            let mut spans = Vec::new();
            for (gap, length) in lengths {
                spans.push(Span { first: next + gap, pages: length });
                next += gap + length;
            }
            let batches = batches(&spans, pages);
            prop_assert_eq!(indices(&batches.concat()), indices(&spans));
            for (index, batch) in batches.iter().enumerate() {
                let length = total(batch) as u64 / PAGE as u64;
                let last = index + 1 == batches.len();
                prop_assert!(length == pages || last && (1..pages).contains(&length));
            }
        }
    }
}
