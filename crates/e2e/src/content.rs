//! What a sandbox must not lose.

use crate::Guest;

/// Puts a file on the disk that is flushed, and starts a process that counts and writes every number
/// down, on disk and in a file system in memory. What an image brought of an earlier one goes.
const PLANT: &str = "rm -f /tmp/disk; seq 1 LINES > /tmp/kept; sync; \
    (n=0; while :; do n=$((n+1)); echo $n >> /tmp/disk; echo $n >> /dev/shm/memory; usleep 20000; \
    done) >/dev/null 2>&1 & :";
const WHOLE: &str = "sha256sum < /tmp/kept | cut -c 1-64";
/// Fails if a number is missing or was written twice, or if none comes any more.
const GAPLESS: &str = "for f in /tmp/disk /dev/shm/memory; do \
    was=$(wc -l < $f); looks=0; while [ $(wc -l < $f) = $was ]; do \
    looks=$((looks+1)); [ $looks -lt 5000 ] || { echo $f stands still; exit 1; }; usleep 5000; done; \
    awk 'NR != $1 { print FILENAME, NR, $1; exit 1 }' $f || exit 1; done";
/// Lines of the file that is kept.
const LINES: u64 = 20_000;

/// A file on the disk of a sandbox and a process in its memory.
#[derive(Debug, Clone)]
pub struct Content {
    hash: String,
}

/// What is there of a [`Content`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// File and process.
    Everything,
    /// The file; the process is not there any more.
    Disk,
}

impl Content {
    /// Puts it into a sandbox.
    pub async fn plant(guest: &mut Guest) -> Self {
        guest.sh(&PLANT.replace("LINES", &LINES.to_string())).await;
        let file: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
        Self { hash: base::hash::bytes(file.as_bytes()) }
    }

    /// Checks that it is there. Wakes the sandbox.
    ///
    /// # Panics
    /// If something is lost of what has to be there.
    pub async fn check(&self, guest: &mut Guest, wanted: Found, when: &str) {
        assert_eq!(guest.sh(WHOLE).await, self.hash, "{when}: the file is not whole");
        if wanted == Found::Everything {
            let counted = guest.exec(&crate::sh(GAPLESS)).await;
            let counted = counted.unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(counted.exit_code, 0, "{when}: {}", counted.stdout);
        }
    }
}
