//! Looking after a session's program: its output, its input, its end, and its next start.

use std::pin::pin;
use std::sync::Arc;

use proto::message::Exited;
use rustix::process::Signal;
use tokio::time::Instant;

use super::init::{Restart, ended};
use super::terminal::{Ends, Program};
use super::{GRACE, Session, State};
use crate::agent::{Agent, lock};
use crate::jobs::deadline;

/// Bytes read at once.
const READ_MAX: usize = 16 * 1024;

/// See the module.
pub(super) struct Keeper {
    pub(super) agent: Arc<Agent>,
    pub(super) session: Arc<Session>,
    pub(super) ends: Ends,
    pub(super) restart: Option<Restart>,
    /// Whether some process can still write output.
    pub(super) open: bool,
}

impl Keeper {
    /// Looks after the program, and those after it, until there is none any more.
    pub(super) async fn keep(mut self, program: Program) {
        let mut buffer = vec![0; READ_MAX];
        let mut program = program;
        let last = loop {
            let begin = Instant::now();
            let exited = self.attend(program, &mut buffer).await;
            self.drain(&mut buffer).await;
            match self.start_again(exited, begin, &mut buffer).await {
                Ok(next) => program = next,
                Err(exited) => break exited,
            }
        };
        self.session.end(last);
        self.leave_behind(buffer).await;
    }

    /// Moves output and input until the program has ended.
    async fn attend(&mut self, program: Program, buffer: &mut [u8]) -> Exited {
        let mut exited = program.exited;
        let ended = async {
            let lost = Exited { code: -1, signal: None, timed_out: false };
            (&mut exited).await.map_or(lost, |ended| ended.exited(false))
        };
        let mut ended = pin!(ended);
        loop {
            tokio::select! {
                biased;
                exited = &mut ended => return exited,
                () = self.turn(buffer) => {}
            }
        }
    }

    /// Waits for something to do and does it. Safe to abandon.
    async fn turn(&mut self, buffer: &mut [u8]) {
        // Output without a pause must not keep others waiting.
        tokio::task::coop::consume_budget().await;
        let (room, has_input, at) = self.session.expects();
        let most = if self.open { room.min(buffer.len()) } else { 0 };
        tokio::select! {
            biased;
            () = self.session.wake.notified() => {}
            count = self.ends.read(&mut buffer[..most]), if most > 0 => {
                self.session.add_output(&buffer[..count]);
                self.open = count > 0;
            }
            () = self.ends.writable(), if has_input => self.give_input(),
            () = deadline(at) => self.session.overdue(&self.agent),
        }
    }

    fn give_input(&mut self) {
        let mut state = lock(&self.session.state);
        let State { input, input_ended, input_closed, .. } = &mut *state;
        while let (now, _) = input.as_slices()
            && !now.is_empty()
        {
            match self.ends.write_now(now) {
                Ok(0) => break,
                Ok(count) => drop(input.drain(..count)),
                Err(_) => {
                    *input_closed = true;
                    input.clear();
                }
            }
        }
        if input.is_empty() {
            // Large only if much was pasted.
            input.shrink_to(super::INPUT_MAX);
            if *input_ended || *input_closed {
                *input_closed = true;
                self.ends.input = None;
            }
        }
        drop(state);
        self.session.told.notify_waiters();
    }

    /// Takes what the program has left in its terminal or pipe, at the pace of the client; what
    /// others write later does not count.
    async fn drain(&mut self, buffer: &mut [u8]) {
        let mut left = if self.open { self.ends.present() } else { 0 };
        while left > 0 {
            let (room, ..) = self.session.expects();
            let most = room.min(buffer.len()).min(left);
            if most == 0 {
                self.session.wake.notified().await;
                continue;
            }
            match self.ends.read_now(&mut buffer[..most]) {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    left -= count;
                    self.session.add_output(&buffer[..count]);
                }
            }
        }
    }

    /// Starts the program anew, after a pause, if that is to be; else says how it ended.
    async fn start_again(
        &mut self,
        exited: Exited,
        begin: Instant,
        buffer: &mut [u8],
    ) -> Result<Program, Exited> {
        let mut exited = exited;
        let mut lived = begin.elapsed();
        loop {
            let Some(restart) = self.restart.as_mut() else { return Err(exited) };
            let stopped = self.session.is_stopped();
            let Some(pause) = restart.pause(&exited, lived, stopped) else {
                self.session.say(&ended(&exited));
                return Err(exited);
            };
            let text = format!("{}; starts again in {} ms", ended(&exited), pause.as_millis());
            self.session.say(&text);
            let mut over = pin!(deadline(Some(Instant::now() + pause)));
            loop {
                if self.session.is_stopped() {
                    self.session.say("stopped");
                    return Err(exited);
                }
                tokio::select! {
                    biased;
                    () = &mut over => break,
                    () = self.turn(buffer) => {}
                }
            }
            let Some((restart, tty)) = self.restart.as_ref().zip(self.ends.tty.as_ref()) else {
                return Err(exited);
            };
            match tty.start(&self.agent, &restart.command) {
                Ok(program) => {
                    let mut state = lock(&self.session.state);
                    state.program = program.started;
                    state.restarts = state.restarts.saturating_add(1);
                    return Ok(program);
                }
                Err(error) => {
                    self.session.say(&error.message);
                    exited = Exited { code: -1, signal: None, timed_out: false };
                    lived = std::time::Duration::ZERO;
                }
            }
        }
    }

    /// Lets whoever the program has left behind on its pipe write on; a terminal hangs up.
    async fn leave_behind(self, mut buffer: Vec<u8>) {
        let Self { agent, session, ends, open, .. } = self;
        drop((agent, session));
        if ends.tty.is_none() && open {
            while ends.read(&mut buffer).await > 0 {
                tokio::task::coop::consume_budget().await;
            }
        }
    }
}

impl Session {
    /// What the keeper waits for: how much output there is room for, whether there is input to
    /// give, and until when it may wait.
    fn expects(&self) -> (usize, bool, Option<Instant>) {
        let state = lock(&self.state);
        let room = state.taken().map_or(READ_MAX, |cursor| state.ring.room_after(cursor));
        let ends = state.input_ended && !state.input_closed;
        let has_input = !state.input.is_empty() || ends;
        let idle = || Some(state.idle_since + self.max_idle?);
        let at = match state.hung_up {
            _ if state.killed || state.is_attended() => None,
            None => idle(),
            Some(at) => Some(at + GRACE),
        };
        (room, has_input, at)
    }

    fn add_output(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            lock(&self.state).ring.push(bytes);
            self.told.notify_waiters();
        }
    }

    /// Writes a line of the agent's own into the output; if a client has not yet taken what would
    /// be overwritten, it goes without.
    fn say(&self, text: &str) {
        let line = format!("\r\n[bhatti: {text}]\r\n");
        let (room, ..) = self.expects();
        if room >= line.len() {
            self.add_output(line.as_bytes());
        }
    }

    /// Ends what nobody has come back to for too long: first it is asked, then it is killed.
    fn overdue(&self, agent: &Agent) {
        let mut state = lock(&self.state);
        let signal = if state.hung_up.is_none() {
            state.hung_up = Some(Instant::now());
            Signal::HUP
        } else {
            state.killed = true;
            Signal::KILL
        };
        drop(state);
        self.signal(agent, signal);
    }

    fn end(&self, exited: Exited) {
        let mut state = lock(&self.state);
        state.exited = Some((exited, Instant::now()));
        state.terminal = None;
        state.input = std::collections::VecDeque::new();
        drop(state);
        self.told.notify_waiters();
    }
}
