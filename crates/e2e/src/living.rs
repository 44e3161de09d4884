//! What goes on in a sandbox and must go on in its copies.

use api::{StreamEvent, client::Events};

use crate::{Guest, sh};

/// A file whose content nobody can guess; a process that counts and writes every number down, on
/// disk and in a file system in memory; and one that counts only when it is asked and writes to a
/// file that it has had open since it began.
const PLANT: &str = "head -c 1000000 /dev/urandom > /tmp/kept; mkfifo /tmp/ask /tmp/answer; sync; \
    (n=0; while :; do n=$((n+1)); echo $n >> /tmp/disk; echo $n >> /dev/shm/memory; usleep 100000; \
    done) >/dev/null 2>&1 & \
    (exec 3>/tmp/open; n=0; while read x < /tmp/ask; do n=$((n+1)); echo $n >&3; \
    echo $n > /tmp/answer; done) >/dev/null 2>&1 & \
    sha256sum < /tmp/kept | cut -c 1-64";
/// Reads from the disk and not from memory. Fails if a number is missing or was written twice, or
/// if none comes any more.
const GOES_ON: &str = "sync; echo 3 > /proc/sys/vm/drop_caches; \
    for f in /tmp/disk /dev/shm/memory; do \
    was=$(wc -l < $f); looks=0; while [ $(wc -l < $f) = $was ]; do \
    looks=$((looks+1)); [ $looks -lt 5000 ] || { echo $f stands still; exit 1; }; usleep 1000; done; \
    awk 'NR != $1 { print FILENAME, NR, $1; exit 1 }' $f || exit 1; done; \
    sha256sum < /tmp/kept | cut -c 1-64";
const ASK: &str = "echo x > /tmp/ask; read n < /tmp/answer; seq 1 $n | cmp - /tmp/open && echo $n";

/// See [`PLANT`].
#[derive(Debug, Clone)]
pub struct Living {
    hash: String,
}

impl Living {
    /// Puts it into a sandbox.
    pub async fn plant(guest: &mut Guest) -> Self {
        Self { hash: guest.sh(PLANT).await }
    }

    /// Checks that it goes on and that nothing is lost. Wakes the sandbox.
    ///
    /// # Panics
    /// If something is.
    pub async fn check(&self, guest: &mut Guest, when: &str) {
        let seen = guest.exec(&crate::root(GOES_ON)).await;
        let seen = seen.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!((seen.exit_code, seen.stdout.trim_end()), (0, self.hash.as_str()), "{when}");
    }

    /// The next number of the one that counts when it is asked.
    pub async fn ask(guest: &mut Guest) -> u64 {
        let number = guest.sh(ASK).await;
        number.parse().unwrap_or_else(|_| panic!("{number:?} is no number"))
    }
}

/// A command in the foreground that says one number after the other until there is `/tmp/enough`.
#[derive(Debug)]
pub struct Counting<'a> {
    events: Events<'a, StreamEvent>,
    /// The job that it becomes if it is lost.
    pub job: String,
    /// The last number that was said.
    pub seen: u64,
    rest: Vec<u8>,
}

/// What the command of a [`Counting`] ends with.
pub const ENOUGH: i32 = 7;

impl<'a> Counting<'a> {
    /// Starts it over a connection of its own.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn begin(guest: &'a mut Guest) -> Self {
        let script = format!(
            "n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo $n; echo $n >> /tmp/last; \
             usleep 50000; done; exit {ENOUGH}"
        );
        let started = guest.client.exec_stream(&guest.id, &sh(&script)).await;
        let mut events = started.expect("a command can be started");
        let Ok(Some(StreamEvent::Started { job_id, .. })) = events.next().await else {
            panic!("the command does not start");
        };
        Self { events, job: job_id, seen: 0, rest: Vec::new() }
    }

    /// Reads on until `count` more numbers were said.
    ///
    /// # Panics
    /// If one is missing, or if the stream ends.
    pub async fn goes_on(&mut self, count: u64) {
        let until = self.seen + count;
        while self.seen < until {
            match self.events.next().await {
                Ok(Some(StreamEvent::Stdout(bytes))) => self.take(bytes),
                other => panic!("after {}: {other:?}", self.seen),
            }
        }
    }

    /// Reads to the end.
    ///
    /// # Panics
    /// If a number is missing or the end is not the one that it has to be.
    pub async fn ends(mut self) {
        loop {
            match self.events.next().await {
                Ok(Some(StreamEvent::Stdout(bytes))) => self.take(bytes),
                Ok(Some(StreamEvent::Exit { exit_code: ENOUGH, .. })) => return,
                other => panic!("after {}: {other:?}", self.seen),
            }
        }
    }

    fn take(&mut self, bytes: api::Payload) {
        self.rest.extend(bytes.into_bytes().expect("the output is encoded well"));
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.seen += 1;
            assert_eq!(String::from_utf8_lossy(&line), format!("{}\n", self.seen));
        }
    }
}
