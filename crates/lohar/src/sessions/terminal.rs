//! What the program of a session reads from and writes to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use proto::message::{ErrorCode, WindowSize, WireError};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    InputModes, OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::agent::{Agent, refuse};
use crate::exec::command::Command;
use crate::reaper::Ended;
use crate::sys::{self, Spawned};

/// Size of a terminal of which nobody has said it.
const SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };

/// The agent's end of a terminal.
#[derive(Debug, Clone)]
pub(super) struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
}

/// The agent's ends of whatever the program has.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) output: Arc<AsyncFd<OwnedFd>>,
    /// Absent once it is closed.
    pub(super) input: Option<Arc<AsyncFd<OwnedFd>>>,
    pub(super) tty: Option<Tty>,
}

/// What only a session with a terminal has.
#[derive(Debug)]
pub(super) struct Tty {
    pub(super) terminal: Terminal,
    /// The program's end. Held so that a program that closes its own does not end the terminal.
    slave: OwnedFd,
    /// Settings to begin with.
    settings: Termios,
}

/// A program that runs in a session.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) started: Spawned,
    pub(super) exited: oneshot::Receiver<Ended>,
}

impl Terminal {
    pub(super) fn size(&self) -> Option<WindowSize> {
        let size = tcgetwinsize(self.master.get_ref()).ok()?;
        Some(WindowSize { rows: size.ws_row, cols: size.ws_col })
    }

    /// Sets the size; programs in the foreground are told by the kernel.
    pub(super) fn resize(&self, size: WindowSize) {
        if size.rows == 0 || size.cols == 0 {
            return;
        }
        let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        // It cannot fail on a terminal, which this is.
        let _ = tcsetwinsize(self.master.get_ref(), size);
    }
}

impl Tty {
    /// Starts `command` on the terminal, as it was in the beginning.
    pub(super) fn start(&self, agent: &Agent, command: &Command) -> Result<Program, WireError> {
        // An earlier program may have left it in any state.
        let _ = tcsetattr(&self.slave, OptionalActions::Now, &self.settings);
        let start = || command.start_on_terminal(self.slave.as_fd());
        let (started, exited) = agent.reaper.adopt(start)?;
        Ok(Program { started, exited })
    }
}

/// Starts `command` on a new terminal.
///
/// # Errors
/// There are no more terminals, or the command cannot be started.
pub(super) fn on_terminal(
    agent: &Agent,
    command: &Command,
    size: Option<WindowSize>,
) -> Result<(Ends, Program), WireError> {
    let tty = new_tty(command, size)
        .map_err(|error| refuse(ErrorCode::Limit, format!("make a terminal: {error}")))?;
    let program = tty.start(agent, command)?;
    let master = Arc::clone(&tty.terminal.master);
    let ends = Ends { output: Arc::clone(&master), input: Some(master), tty: Some(tty) };
    Ok((ends, program))
}

fn new_tty(command: &Command, size: Option<WindowSize>) -> io::Result<Tty> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    command.own_terminal(slave.as_fd())?;
    let mut settings = tcgetattr(&slave)?;
    // Erasing takes whole characters.
    settings.input_modes |= InputModes::IUTF8;
    rustix::io::ioctl_fionbio(&master, true)?;
    let master = sys::watch(master, Interest::READABLE | Interest::WRITABLE)?;
    let terminal = Terminal { master: Arc::new(master) };
    terminal.resize(SIZE);
    if let Some(size) = size {
        terminal.resize(size);
    }
    Ok(Tty { terminal, slave, settings })
}

/// Starts `command` on two pipes, one for its input and one for both of its outputs.
///
/// # Errors
/// There are no more pipes, or the command cannot be started.
pub(super) fn on_pipes(agent: &Agent, command: &Command) -> Result<(Ends, Program), WireError> {
    let failed = |error: io::Error| refuse(ErrorCode::Limit, format!("make a pipe: {error}"));
    let pipe = || -> io::Result<_> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        command.own(writer.as_fd())?;
        Ok((reader, writer))
    };
    let watch = |fd: OwnedFd, interest| -> io::Result<_> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Arc::new(sys::watch(fd, interest)?))
    };
    let (stdin, input) = pipe().map_err(failed)?;
    let (output, stdout) = pipe().map_err(failed)?;
    let input = watch(input, Interest::WRITABLE).map_err(failed)?;
    let output = watch(output, Interest::READABLE).map_err(failed)?;
    let stdio = [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()];
    let (started, exited) = agent.reaper.adopt(|| command.start(stdio))?;
    Ok((Ends { output, input: Some(input), tty: None }, Program { started, exited }))
}

impl Ends {
    /// Bytes that can be in there now.
    pub(super) fn present(&self) -> usize {
        match self.tty {
            // The kernel does not tell; it holds no more than this.
            Some(_) => 128 * 1024,
            None => {
                let present = rustix::io::ioctl_fionread(self.output.get_ref()).unwrap_or(0);
                usize::try_from(present).unwrap_or(usize::MAX)
            }
        }
    }

    /// Waits for output and reads it; none at the end. Safe to abandon.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            let Ok(mut ready) = self.output.readable().await else { return 0 };
            match self.read_now(buffer) {
                Ok(count) => return count,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return 0,
            }
        }
    }

    /// Reads what is there.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::retry_on_intr(|| rustix::io::read(self.output.get_ref(), &mut *buffer))
    }

    /// Waits until the program can take input.
    pub(super) async fn writable(&self) {
        match &self.input {
            // An error shows at the next write.
            Some(input) => drop(input.writable().await),
            None => std::future::pending().await,
        }
    }

    /// Gives the program input; how much of it was taken.
    ///
    /// # Errors
    /// It takes no more.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(input) = &self.input else { return Err(Errno::PIPE.into()) };
        let write = |fd: &OwnedFd| Ok(rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?);
        match input.try_io(Interest::WRITABLE, write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}
