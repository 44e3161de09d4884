use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::Arc;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::*;
use crate::testing::PATIENCE;

/// A port whose host comes and goes: a terminal, which also hangs up while nobody has it open.
struct Line {
    name: std::path::PathBuf,
    notice: Arc<Notice>,
}

impl Line {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let mut raw = tcgetattr(&master).unwrap();
        raw.make_raw();
        tcsetattr(&master, OptionalActions::Now, &raw).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        let line = Self { name: name.into(), notice: Arc::new(Notice::new(master).unwrap()) };
        // From here on it hangs up while it is closed.
        drop(line.host());
        line
    }

    fn host(&self) -> File {
        let flags = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
        options.read(true).write(true).open(&self.name).unwrap()
    }

    fn tell(&self) -> JoinHandle<io::Result<Infallible>> {
        let notice = Arc::clone(&self.notice);
        tokio::spawn(async move { notice.tell().await })
    }
}

/// All that the host hears at once, when it hears something.
async fn heard(mut host: File) -> (String, File) {
    let read = spawn_blocking(move || {
        let mut bytes = [0; 16];
        let count = host.read(&mut bytes).unwrap();
        (String::from_utf8(bytes[..count].to_vec()).unwrap(), host)
    });
    timeout(PATIENCE, read).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_host_that_comes_late_or_again_is_told_that_the_agent_waits() {
    let line = Line::new();
    let mut told = false;
    for _ in 0..3 {
        told = line.notice.turn(told).unwrap();
        assert!(!told, "nobody is there");
        let mut host = line.host();
        for _ in 0..2 {
            told = line.notice.turn(told).unwrap();
            assert!(told);
        }
        let said;
        (said, host) = heard(host).await;
        assert_eq!(said, "w");
        drop(host);
    }
}

#[tokio::test]
async fn a_host_that_asks_is_told_again_and_one_that_does_not_is_told_once() {
    let line = Line::new();
    let host = line.host();
    let telling = line.tell();
    let (told, mut host) = heard(host).await;
    assert_eq!(told, "w");
    for question in ["?", "any number of bytes"] {
        host.write_all(question.as_bytes()).unwrap();
        let told;
        (told, host) = heard(host).await;
        assert_eq!(told, "w");
    }
    telling.abort();
    assert!(telling.await.unwrap_err().is_cancelled());
    // Asked while the agent is busy, it answers both when it waits.
    host.write_all(b"?").unwrap();
    let telling = line.tell();
    let (told, host) = heard(host).await;
    assert_eq!((told.as_str(), rustix::io::ioctl_fionread(&host).unwrap()), ("w", 0));
    telling.abort();
}
