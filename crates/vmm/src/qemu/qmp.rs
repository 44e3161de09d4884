//! A client of QEMU's control protocol: one JSON object a line, answers told apart by id, events
//! in between. See docs/interop/qmp-spec in QEMU's sources.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, Mutex},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, oneshot, watch},
};

use crate::VmError;

/// Events kept for a slow listener.
const EVENTS: usize = 64;
/// The longest line we read, bytes; a console quote is the largest answer.
const LINE_MAX: u64 = 4 << 20;

/// Why a command failed whose monitor went away.
pub(super) const GONE: &str = "the monitor is gone";

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>>;

/// A connection to one monitor. Commands may be sent from several tasks; answers come in order.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<(OwnedWriteHalf, u64)>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
    starved: Arc<watch::Sender<bool>>,
    reader: tokio::task::JoinHandle<()>,
}

/// An event of the monitor.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub name: String,
    pub data: Value,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Waits for the greeting and leaves the negotiation mode.
    pub(crate) async fn open(stream: UnixStream) -> Result<Self, VmError> {
        let (read, write) = stream.into_split();
        let mut reader = BufReader::new(read);
        let greeting = line(&mut reader).await.map_err(VmError::io("read the QMP greeting"))?;
        if greeting.get("QMP").is_none() {
            let odd = io::Error::new(io::ErrorKind::InvalidData, "no QMP greeting");
            return Err(VmError::io("read the QMP greeting")(odd));
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, _) = broadcast::channel(EVENTS);
        let starved = Arc::new(watch::channel(false).0);
        let pumping = pump(reader, Arc::clone(&waiting), events.clone(), Arc::clone(&starved));
        let reader = tokio::spawn(pumping);
        let writer = tokio::sync::Mutex::new((write, 0));
        let qmp = Self { writer, waiting, events, starved, reader };
        qmp.command("qmp_capabilities", json!({})).await?;
        // It may have happened before anybody listened.
        if qmp.command("query-status", json!({})).await?["status"] == "io-error" {
            qmp.starved.send_replace(true);
        }
        Ok(qmp)
    }

    /// Waits until the guest stands still because the host's disk is full. True from then on until
    /// [`fed`](Self::fed), whether anybody waited at the moment when it happened or not.
    pub(crate) async fn starved(&self) {
        // An error means that the sender is gone, which `self` holds.
        let _ = self.starved.subscribe().wait_for(|starved| *starved).await;
    }

    /// The guest is about to be let go on.
    pub(crate) fn fed(&self) {
        self.starved.send_replace(false);
    }

    /// The events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Runs one command and returns its answer.
    pub(crate) async fn command(&self, name: &str, arguments: Value) -> Result<Value, VmError> {
        self.command_with(name, arguments, None).await
    }

    /// Runs one command that comes with an open file.
    pub(crate) async fn command_with(
        &self,
        name: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value, VmError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut writer = self.writer.lock().await;
            writer.1 += 1;
            let id = writer.1;
            match &mut *self.waiting.lock().unwrap_or_else(|e| e.into_inner()) {
                Some(waiting) => waiting.insert(id, sender),
                None => return Err(gone(name)),
            };
            let mut text = json!({"execute": name, "arguments": arguments, "id": id}).to_string();
            text.push('\n');
            send(&mut writer.0, text.as_bytes(), fd).await.map_err(VmError::io("write to QMP"))?;
        }
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(reason)) => Err(VmError::Refused { command: name.to_owned(), reason }),
            Err(_) => Err(gone(name)),
        }
    }
}

/// Writes a whole line; the descriptor travels with its first byte.
async fn send(
    writer: &mut OwnedWriteHalf,
    mut text: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    if let Some(fd) = fd {
        let stream = writer.as_ref();
        loop {
            stream.writable().await?;
            let sent = stream.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let fds = [fd];
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
                let parts = [io::IoSlice::new(text)];
                Ok(sendmsg(stream.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(n) => {
                    text = &text[n..];
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    writer.write_all(text).await
}

fn gone(command: &str) -> VmError {
    VmError::Refused { command: command.to_owned(), reason: GONE.to_owned() }
}

async fn line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Value> {
    use tokio::io::AsyncReadExt as _;
    let mut text = Vec::new();
    let n = reader.take(LINE_MAX).read_until(b'\n', &mut text).await?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&text).map_err(io::Error::from)
}

/// Hands out answers and events until the connection ends; whoever waits then learns that.
async fn pump(
    mut reader: BufReader<OwnedReadHalf>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
    starved: Arc<watch::Sender<bool>>,
) {
    while let Ok(mut message) = line(&mut reader).await {
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            let data = &message["data"];
            if name == "BLOCK_IO_ERROR" && data["nospace"] == true && data["action"] == "stop" {
                starved.send_replace(true);
            }
            // Nobody may be listening, which is fine.
            let _ = events.send(Event { name, data: message["data"].take() });
            continue;
        }
        let Some(id) = message.get("id").and_then(Value::as_u64) else { continue };
        let answer = match message.get("error") {
            Some(error) => Err(error["desc"].as_str().unwrap_or("no reason given").to_owned()),
            None => Ok(message["return"].take()),
        };
        let sender = {
            let mut waiting = waiting.lock().unwrap_or_else(|e| e.into_inner());
            waiting.as_mut().and_then(|w| w.remove(&id))
        };
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
    waiting.lock().unwrap_or_else(|e| e.into_inner()).take();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that is in `status`, and that fails a write when it is told to go on.
    async fn monitor(stream: UnixStream, status: &str) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"{\"QMP\":{}}\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            let asked: Value = serde_json::from_str(&line).unwrap();
            let mut said = String::new();
            if asked["execute"] == "cont" {
                let data = json!({"nospace": true, "action": "stop"});
                said = json!({"event": "BLOCK_IO_ERROR", "data": data}).to_string() + "\n";
            }
            let answer = json!({"return": {"status": status}, "id": asked["id"]});
            said.push_str(&(answer.to_string() + "\n"));
            write.write_all(said.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_known_even_if_nobody_listened_when_it_happened() {
        for status in ["io-error", "running"] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            tokio::spawn(async move { monitor(theirs, status).await });
            let qmp = Qmp::open(ours).await.unwrap();
            assert_eq!(*qmp.starved.borrow(), status == "io-error", "{status}");
            qmp.fed();
            assert!(!*qmp.starved.borrow());
            qmp.command("cont", json!({})).await.unwrap();
            qmp.starved().await;
        }
    }
}
