//! Archives, byte by byte: as right or as wrong as a test wants them.

use crate::layer::header::BLOCK;

#[derive(Debug, Clone, Default)]
pub(crate) struct Tarball(Vec<u8>);

/// One header that is about to be written.
#[derive(Debug, Clone)]
pub(crate) struct Raw(pub(crate) [u8; BLOCK]);

impl Raw {
    pub(crate) fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut raw = Self([0; BLOCK]);
        raw.set(0, &name[..name.len().min(100)]);
        raw.set(100, b"0000644\0").set(108, b"0000000\0").set(116, b"0000000\0");
        raw.set(124, format!("{size:011o}\0").as_bytes()).set(136, b"00000000001\0");
        raw.set(156, &[kind]).set(257, b"ustar\x0000")
    }

    /// Puts bytes at a place.
    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self.clone()
    }

    /// With the right checksum.
    pub(crate) fn summed(mut self) -> [u8; BLOCK] {
        self.set(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

impl Tarball {
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Any header, then content with its padding.
    pub(crate) fn header(self, raw: Raw, content: &[u8]) -> Self {
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        self.raw(&raw.summed()).raw(content).raw(&vec![0; padding])
    }

    pub(crate) fn entry(self, kind: u8, name: &str, content: &[u8]) -> Self {
        if name.len() > 100 {
            return self.pax(&[("path", name.as_bytes())]).entry(kind, "long", content);
        }
        self.header(Raw::new(kind, name.as_bytes(), content.len() as u64), content)
    }

    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, content.as_ref())
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(b'5', name, b"")
    }

    fn linked(self, kind: u8, name: &str, target: &str) -> Self {
        if target.len() > 100 || name.len() > 100 {
            let records = [("path", name.as_bytes()), ("linkpath", target.as_bytes())];
            return self.pax(&records).entry(kind, "long", b"");
        }
        self.header(Raw::new(kind, name.as_bytes(), 0).set(157, target.as_bytes()), b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.linked(b'2', name, target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.linked(b'1', name, target)
    }

    /// An extended header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
            text.extend(format!("{length} {key}=").bytes());
            text.extend(*value);
            text.push(b'\n');
        }
        self.entry(b'x', "pax", &text)
    }

    /// With the end that an archive has to have.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 2 * BLOCK]).0
    }

    /// Without it.
    pub(crate) fn unended(self) -> Vec<u8> {
        self.0
    }
}
