use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// A fake kernel: an ELF magic and then what an x86 branch filter has something to do with.
fn kernel() -> Vec<u8> {
    let mut kernel = b"\x7fELF\x02".to_vec();
    for i in 0..200_000u32 {
        let target = (i * 77 % 65_521).to_le_bytes();
        kernel.push(0xe8);
        kernel.extend_from_slice(&target);
        kernel.push(0x90);
    }
    kernel
}

fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 3 * SECTOR + 16];
    image[SETUP_SECTS] = 2;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
    image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
    image.extend_from_slice(payload);
    image.extend_from_slice(&[0; 300]);
    image
}

fn with_size(mut payload: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
    payload.extend_from_slice(&u32::try_from(kernel.len()).unwrap().to_le_bytes());
    payload
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut out = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn lzma(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut out = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        out.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&block);
    }
    out
}

fn lzop(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];
    // Versions, method and level; flags; mode and time; no name; a checksum that nobody checks.
    out.extend_from_slice(&[0x10, 0x30, 0x20, 0x80, 0x09, 0x40, 1, 5, 0, 0, 0, 1]);
    out.extend_from_slice(&[0; 12 + 1 + 4]);
    for block in data.chunks(256 << 10) {
        let compressed = lzokay::compress::compress(block).unwrap();
        let body = if compressed.len() < block.len() { &compressed } else { block };
        out.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(body);
    }
    out.extend_from_slice(&[0; 4]);
    out
}

#[test]
fn every_compression_comes_out_as_it_went_in() {
    let kernel = kernel();
    let appended = |payload| with_size(payload, &kernel);
    for (format, payload) in [
        ("gzip", gzip(&kernel)),
        ("xz", appended(xz(&kernel))),
        ("lzma", appended(lzma(&kernel))),
        ("bzip2", appended(bzip2(&kernel))),
        ("zstd", appended(zstd(&kernel))),
        ("lz4", appended(lz4(&kernel))),
        ("lzo", appended(lzop(&kernel))),
    ] {
        let image = bz_image(&payload);
        assert!(extract(&image).unwrap() == kernel, "{format}");
        for cut in [600, image.len() / 2, image.len() - 400] {
            assert!(extract(&image[..cut]).is_err(), "{format} cut to {cut}");
        }
    }
    assert!(extract(&kernel).unwrap() == kernel);
}

#[test]
fn what_is_no_kernel_is_said_clearly() {
    let said = |image: &[u8]| extract(image).unwrap_err().to_string();
    assert_eq!(said(b"hello"), "neither a bzImage nor an ELF file");
    assert_eq!(said(&bz_image(&gzip(b"not an elf"))), "the payload is no 64-bit ELF file");
    let mut old = bz_image(b"");
    old[PROTOCOL] = 6;
    assert_eq!(said(&old), "boot protocol 0x0206 is older than 2.08");
    let error = extract(&bz_image(b"\x11\x22\x33")).unwrap_err();
    assert_eq!(
        base::chain(&error),
        "the compressed kernel cannot be read: unsupported compression, the data begins with \
         [11, 22, 33]"
    );
}

#[test]
fn content_over_the_limit_is_refused() {
    for payload in [gzip(&[0; 5000]), xz(&[0; 5000]), zstd(&[0; 5000]), lz4(&[0; 5000])] {
        let error = decompress(&payload, 4999).unwrap_err();
        assert!(matches!(error, DecompressError::TooLarge { limit: 4999 }), "{error}");
        assert_eq!(decompress(&payload, 5000).unwrap(), [0; 5000]);
    }
}

fn small() -> Vec<u8> {
    kernel()[..2000].to_vec()
}

proptest! {
    #[test]
    fn hostile_headers_do_no_harm(mut image in prop::collection::vec(any::<u8>(), 0..3000)) {
        if image.len() > 0x208 {
            image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        }
        let _ = extract(&image);
    }

    #[test]
    fn hostile_payloads_do_no_harm(
        format in 0usize..7,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let pack = [gzip, xz, lzma, bzip2, zstd, lz4, lzop][format];
        let mut payload = pack(&small());
        for (at, value) in changes {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        let _ = decompress(&payload, 1 << 20);
        let _ = decompress(&payload[..cut.index(payload.len())], 1 << 20);
    }
}
