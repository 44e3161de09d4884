//! Random bytes from the kernel.

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` bytes from `getrandom(2)`, fit for keys and tokens.
///
/// # Panics
/// If the kernel refuses to give random bytes, which it does not do after early boot.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0u8; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    out
}

/// `N` random bytes as `2 * N` lower-case hexadecimal digits.
pub fn hex<const N: usize>() -> String {
    hex::encode(bytes::<N>())
}
