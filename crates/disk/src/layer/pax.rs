//! Extended headers: records `LENGTH KEY=VALUE\n` that replace fields of the next entry's header.

use super::index::Xattrs;

/// What extended headers said of the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    /// Seconds since the Unix epoch, and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// Name and value, in the order of the archive.
    pub(super) xattrs: Xattrs,
    /// The entry's content is not the file's content.
    pub(super) sparse: bool,
}

impl Extensions {
    /// Takes up the records of one extended header.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or("its extended header is malformed")?;
            self.set(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || match value {
            b"" => Ok(None),
            _ => decimal(value).map(Some).ok_or("a number in its extended header is none"),
        };
        match key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_owned()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_owned()),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => {
                self.mtime = Some(time(value).ok_or("a time in its extended header is none")?);
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value);
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        match self.xattrs.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.xattrs.push((name.to_owned(), value.to_owned())),
        }
    }
}

/// The first record, and what comes after it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    // The shortest record is "5 a=\n" without its value.
    if length < space + 4 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    let content = &bytes[space + 1..length - 1];
    let equals = content.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&content[..equals], &content[equals + 1..], &bytes[length..]))
}

fn decimal(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |sum, digit| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(sign * i64::from(digit - b'0')),
        _ => None,
    })
}

/// A decimal number with a fraction, rounded down to nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = parts.next()?;
    let seconds = decimal(whole)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    if nanoseconds > 0 && whole.starts_with(b"-") {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &[u8]) -> Result<Extensions, &'static str> {
        let mut extensions = Extensions::default();
        extensions.add(text).map(|()| extensions)
    }

    /// A record with the right length.
    fn line(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn records_replace_what_the_header_says() {
        let text = [
            line("path", b"ab"),
            line("path", b"abc"),
            line("linkpath", b"l\nnk"),
            line("size", b"1234"),
            line("mtime", b"-1.2500000019"),
            line("SCHILY.xattr.user.a", b"first"),
            line("SCHILY.xattr.user.a", b"v=\0\n"),
            line("comment", b"whatever"),
            line("uid", b""),
        ];
        let found = parsed(&text.concat()).unwrap();
        assert_eq!(found.path.as_deref(), Some(b"abc".as_slice()));
        assert_eq!(found.link.as_deref(), Some(b"l\nnk".as_slice()));
        assert_eq!((found.size, found.uid), (Some(1234), None));
        assert_eq!(found.mtime, Some((-2, 749_999_999)));
        assert_eq!(found.xattrs, [(b"user.a".to_vec(), b"v=\0\n".to_vec())]);
        assert!(!found.sparse);
        assert!(parsed(&line("GNU.sparse.major", b"1")).unwrap().sparse);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            "x",
            "5 a=",
            "0 a=b\n",
            "99 a=b\n",
            "6 =ab\n",
            "-6 a=b\n",
            "5 =b\n",
            "6a=b\n",
            "4 a\n",
            "9 size=x\n",
            "10 mtime=1x\n",
            "18446744073709551616 a=b\n",
            "11 size=1 2\n",
        ] {
            assert!(parsed(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_records_never_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parsed(&text);
        }

        #[test]
        fn nearly_right_records_never_panic(text in "[0-9]{1,3} [a-z]{0,4}=?[-0-9.]{0,12}\n?") {
            let _ = parsed(text.as_bytes());
        }
    }
}
