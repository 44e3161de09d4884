//! One line at a time into the kernel's log, which the host keeps with the console.

use rustix::fs::{Mode, OFlags, open};

/// Longest line; the kernel refuses more than about a thousand bytes.
const LINE_MAX: usize = 900;

/// Logs something worth knowing.
pub(crate) fn info(message: &str) {
    line("<6>lohar: ", message);
}

/// Logs something that went wrong but does not stop the agent.
pub(crate) fn warn(message: &str) {
    line("<4>lohar: ", message);
}

fn line(prefix: &str, message: &str) {
    let Ok(kmsg) = open("/dev/kmsg", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let mut line = Vec::with_capacity(prefix.len() + message.len());
    line.extend_from_slice(prefix.as_bytes());
    line.extend(message.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
    line.truncate(LINE_MAX);
    // Without it nobody can read the line before the next one is there.
    line.push(b'\n');
    // There is nowhere else to say that the log cannot be written.
    let _ = rustix::io::write(kmsg, &line);
}

/// Says on the console, in so many words, why the guest cannot run.
pub(crate) fn fatal(message: &str) {
    let text = format!("\nlohar: {message}\n");
    if let Ok(console) = open("/dev/console", OFlags::WRONLY | OFlags::NOCTTY, Mode::empty()) {
        let _ = rustix::io::write(console, text.as_bytes());
    } else {
        line("<2>lohar: ", message);
    }
}
