//! Archives that `ADD` unpacks.

use std::io::{self, BufReader, Read};

/// A tar archive's first block.
const BLOCK: usize = 512;

type Source = Box<dyn Read + Send>;

/// The tar archive that `content` is, compressed or not; `None` if it is something else.
///
/// # Errors
/// It cannot be read.
pub(super) fn open(
    mut again: impl FnMut() -> Option<Box<dyn Read + Send>>,
) -> io::Result<Option<Source>> {
    let Some(mut content) = again() else { return Ok(None) };
    let mut magic = [0; 6];
    let length = fill(&mut content, &mut magic)?;
    let Some(content) = again() else { return Ok(None) };
    let mut plain: Source = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(content)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(content)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(content, true)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            match ruzstd::decoding::StreamingDecoder::new(BufReader::new(content)) {
                Ok(decoder) => Box::new(decoder),
                Err(_) => return Ok(None),
            }
        }
        _ if length < magic.len() => return Ok(None),
        _ => content,
    };
    let mut first = vec![0; BLOCK];
    // What does not decompress is copied as it is.
    let Ok(BLOCK) = fill(&mut plain, &mut first) else { return Ok(None) };
    if !is_header(&first) {
        return Ok(None);
    }
    Ok(Some(Box::new(io::Cursor::new(first).chain(plain))))
}

/// Reads until the buffer is full or there is no more.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Whether a block's checksum is that of a tar header.
fn is_header(block: &[u8]) -> bool {
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let actual = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
    header.cksum().is_ok_and(|said| said == actual)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn opened(bytes: &[u8]) -> Option<Vec<u8>> {
        let bytes = bytes.to_vec();
        let again = || Some(Box::new(io::Cursor::new(bytes.clone())) as Source);
        let mut found = open(again).unwrap()?;
        let mut whole = Vec::new();
        found.read_to_end(&mut whole).unwrap();
        Some(whole)
    }

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, "f", &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_are_known_by_what_is_in_them() {
        let plain = archive();
        assert_eq!(opened(&plain).as_ref(), Some(&plain));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(opened(&gzip).as_ref(), Some(&plain));
        let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip.write_all(&plain).unwrap();
        assert_eq!(opened(&bzip.finish().unwrap()).as_ref(), Some(&plain));
    }

    #[test]
    fn what_is_none_is_left_alone() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[7; 2000]).unwrap();
        let no_tar = gzip.finish().unwrap();
        let cut = &no_tar[..no_tar.len() / 2];
        let zeros = [0; 1024];
        for other in [&b""[..], b"x", &[1; 600], &no_tar, cut, b"\x28\xb5\x2f\xfdxx", &zeros] {
            assert_eq!(opened(other), None);
        }
    }
}
