//! Takes the uncompressed kernel out of a `bzImage`.
//!
//! Layout and field offsets are those of `Documentation/arch/x86/boot.rst` of Linux: the boot
//! sector and `setup_sects` further sectors of setup code, then the protected-mode code, which
//! holds the compressed ELF file at `payload_offset`.

use super::decompress::{DecompressError, decompress};

/// The largest kernel image read and the largest kernel made, in bytes.
pub(crate) const SIZE_MAX: usize = 512 << 20;

/// Boot protocol 2.08, the first with the payload fields (Linux 2.6.26).
const PROTOCOL_MIN: u16 = 0x0208;

const SECTOR: usize = 512;
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PROTOCOL: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Why no kernel can be taken out of a file.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// Neither a bzImage nor an ELF file.
    #[error("neither a bzImage nor an ELF file")]
    NotAKernel,
    /// The bzImage is too old to say where its payload is.
    #[error("boot protocol {0:#06x} is older than 2.08")]
    TooOld(u16),
    /// The payload would lie outside of the file.
    #[error("the file is cut short")]
    Truncated,
    /// The payload cannot be decompressed.
    #[error("the compressed kernel cannot be read")]
    Payload(#[from] DecompressError),
    /// The payload is something else than a 64-bit ELF file.
    #[error("the payload is no 64-bit ELF file")]
    NotElf,
}

/// The kernel as an ELF file. `image` is a bzImage, or such an ELF file already.
pub(crate) fn extract(image: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    if image.starts_with(b"\x7fELF") {
        return is_elf64(image).then(|| image.to_vec()).ok_or(VmlinuxError::NotElf);
    }
    if bytes::<4>(image, HEADER_MAGIC) != Some(*b"HdrS") {
        return Err(VmlinuxError::NotAKernel);
    }
    let protocol = bytes(image, PROTOCOL).map(u16::from_le_bytes).unwrap_or_default();
    if protocol < PROTOCOL_MIN {
        return Err(VmlinuxError::TooOld(protocol));
    }
    let payload = payload(image).ok_or(VmlinuxError::Truncated)?;
    let kernel = decompress(payload, SIZE_MAX)?;
    is_elf64(&kernel).then_some(kernel).ok_or(VmlinuxError::NotElf)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    // Zero means four, for the sake of very old boot loaders.
    let sectors = match *image.get(SETUP_SECTS)? {
        0 => 4,
        n => usize::from(n),
    };
    let code = (sectors + 1) * SECTOR;
    let offset = u32::from_le_bytes(bytes(image, PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(bytes(image, PAYLOAD_LENGTH)?) as usize;
    let start = code.checked_add(offset)?;
    image.get(start..start.checked_add(length)?)
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Option<[u8; N]> {
    image.get(at..at + N)?.try_into().ok()
}

/// ELF magic, then class 2 (64 bits).
fn is_elf64(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02")
}

#[cfg(test)]
mod tests;
