//! The terminal that the program runs in.

use std::{
    os::fd::{AsFd, OwnedFd},
    panic,
    sync::{Mutex, Once, PoisonError},
};

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal that is in raw mode, and how it was before.
static RAW: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Keeps the terminal in raw mode: every key comes as it is, nothing is echoed and no key sends a
/// signal. Dropping it puts everything back, and so does a panic before it says a word.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches the terminal.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn enter(terminal: impl AsFd) -> Result<Self> {
        let before = tcgetattr(&terminal).context("read the terminal's mode")?;
        let kept = terminal.as_fd().try_clone_to_owned().context("keep the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        *RAW.lock().unwrap_or_else(PoisonError::into_inner) = Some((kept, before));
        HOOK.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                restore();
                report(what);
            }));
        });
        let guard = Self(());
        tcsetattr(&terminal, OptionalActions::Now, &raw).context("set the terminal's mode")?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some((terminal, before)) = RAW.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing is left to do about a terminal that has gone.
        let _ = tcsetattr(terminal, OptionalActions::Now, &before);
    }
}

/// Lines and columns of a terminal; `None` if it is none or does not know.
pub(crate) fn size(terminal: impl AsFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::LocalModes,
    };

    use super::*;

    /// A terminal of the test's own; the first end has to stay open.
    fn terminal() -> (OwnedFd, std::fs::File) {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let user =
            std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        (controller, user)
    }

    fn is_raw(terminal: &std::fs::File) -> bool {
        !tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    #[test]
    fn the_mode_is_put_back_on_every_way_out() {
        let (_controller, user) = terminal();
        assert!(!is_raw(&user));
        let raw = RawMode::enter(&user).unwrap();
        assert!(is_raw(&user));
        drop(raw);
        assert!(!is_raw(&user));
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
            let _raw = RawMode::enter(&user).unwrap();
            assert!(is_raw(&user));
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && !is_raw(&user));
        assert!(RawMode::enter(std::fs::File::open("/dev/null").unwrap()).is_err());
        assert_eq!(size(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
