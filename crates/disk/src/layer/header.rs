//! One header of a tar archive: 512 bytes, as ustar, GNU tar and their ancestors write them.

/// Archives consist of blocks of this many bytes.
pub(super) const BLOCK: usize = 512;

/// The fields of a header that are looked at. Names and numbers may be replaced by extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) major: i64,
    pub(super) minor: i64,
}

impl Header {
    /// Reads a block. The error says what is wrong with it.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        if !is_summed(block) {
            return Err("its checksum is wrong");
        }
        let number = |from: usize, to: usize, error| number(&block[from..to]).ok_or(error);
        let kind = block[156];
        let device = |from, to| match kind {
            b'3' | b'4' => number(from, to, "its device number is no number"),
            _ => Ok(0),
        };
        Ok(Self {
            kind,
            name: name(block),
            link: text(&block[157..257]).to_owned(),
            mode: number(100, 108, "its mode is no number")?,
            uid: number(108, 116, "its owner is no number")?,
            gid: number(116, 124, "its group is no number")?,
            size: number(124, 136, "its size is no number")?,
            mtime: number(136, 148, "its time is no number")?,
            major: device(329, 337)?,
            minor: device(337, 345)?,
        })
    }
}

fn name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&block[..100]);
    // Only POSIX archives have a prefix; GNU tar has other things there, star a shorter one.
    if &block[257..263] != b"ustar\0" {
        return name.to_owned();
    }
    let end = if &block[508..512] == b"tar\0" { 345 + 131 } else { 345 + 155 };
    match text(&block[345..end]) {
        b"" => name.to_owned(),
        prefix => [prefix, b"/", name].concat(),
    }
}

/// Some old programs summed signed bytes.
fn is_summed(block: &[u8; BLOCK]) -> bool {
    let Some(told) = number(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    told == unsigned || told == signed
}

/// Up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in base 256 if the first bit is set. Nothing at all is 0.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement of all bits but the first one. No field has more than 95 of them.
        let start = i128::from((first << 1).cast_signed() >> 1);
        let value = rest.iter().fold(start, |sum, byte| (sum << 8) | i128::from(*byte));
        return i64::try_from(value).ok();
    }
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0_i64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_of_base_256() {
        for (field, value) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"    755 ", Some(0o755)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"12 34\0\0\0", Some(0o12)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"0x00644\0", None),
            (b"777777777777777777777777", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
