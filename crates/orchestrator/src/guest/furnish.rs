//! What a new sandbox gets before anybody may use it.

use proto::{
    frame::FrameKind,
    message::{FileWrite, Init, Request, Response},
    mux::{MuxError, RecvHalf, Session},
};

use super::{cut_off, expect_done, unexpected};
use crate::{
    Error, Result,
    contents::{Archive, NewFile},
};

/// Writes one file.
pub(crate) async fn write_file(session: &Session, file: NewFile) -> Result<()> {
    let NewFile { path, mode, content } = file;
    let write = FileWrite { path, mode, ..FileWrite::default() };
    let mut stream = session.open().await?;
    stream.send_json(&Request::FileWrite(write)).await?;
    let (mut send, mut recv) = stream.split();
    let sent = async {
        if !content.is_empty() {
            send.send_data(FrameKind::Data, &content).await?;
        }
        send.send_data(FrameKind::Data, &[]).await
    };
    finished(sent.await, &mut recv).await
}

/// Unpacks an archive into `/` while it is being sent to us.
pub(crate) async fn unpack(session: &Session, mut archive: Archive) -> Result<()> {
    let mut stream = session.open().await?;
    stream.send_json(&Request::Unpack { path: "/".to_owned(), owner: None }).await?;
    let (mut send, mut recv) = stream.split();
    loop {
        let piece = tokio::select! {
            // Before the end of the archive this can only be a refusal.
            verdict = verdict(&mut recv) => return verdict.and_then(|()| Err(cut_off())),
            piece = archive.next() => piece?,
        };
        let sent = match &piece {
            Some(data) => send.send_data(FrameKind::Data, data).await,
            None => send.send_data(FrameKind::Data, &[]).await,
        };
        if piece.is_none() || sent.is_err() {
            return finished(sent, &mut recv).await;
        }
    }
}

/// Starts what the sandbox is to run.
pub(crate) async fn start_init(session: &Session, init: Init) -> Result<()> {
    expect_done(session, &Request::StartInit(init)).await
}

/// The agent's last word about data that was sent; it explains why sending failed, too.
async fn finished(sent: Result<(), MuxError>, recv: &mut RecvHalf) -> Result<()> {
    let told = verdict(recv).await;
    match (sent, told) {
        (Err(error), Ok(())) => Err(error.into()),
        (_, told) => told,
    }
}

async fn verdict(recv: &mut RecvHalf) -> Result<()> {
    match recv.recv_json::<Response>().await? {
        Some(Response::Done) => Ok(()),
        Some(Response::Error(error)) => Err(Error::from(error)),
        Some(other) => Err(unexpected(&other)),
        None => Err(cut_off()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::{
        message::{ErrorCode, WireError},
        mux::Stream,
    };
    use tokio::sync::mpsc;

    use super::*;
    use crate::{Kind, contents::ArchiveSender, guest::testing::FakeAgent};

    /// An agent that takes data to its end and tells what came.
    async fn taker() -> (FakeAgent, mpsc::Receiver<(Request, Option<Vec<u8>>)>) {
        let (told, heard) = mpsc::channel(4);
        let agent = FakeAgent::new(move |request, mut stream: Stream| {
            let told = told.clone();
            async move {
                let mut all = Vec::new();
                let whole = loop {
                    match stream.recv().await {
                        Ok(Some(frame)) if frame.payload.is_empty() => break true,
                        Ok(Some(frame)) => all.extend(frame.payload),
                        _ => break false,
                    }
                };
                told.send((request, whole.then_some(all))).await.unwrap();
                let _ = stream.send_json(&Response::Done).await;
            }
        })
        .await;
        (agent, heard)
    }

    #[tokio::test]
    async fn files_and_archives_arrive_whole() {
        let (agent, mut heard) = taker().await;
        let large = vec![7; 300 << 10];
        for content in [Vec::new(), large] {
            let file = NewFile { path: "/a".to_owned(), mode: Some(0o600), content };
            write_file(&agent.session, file.clone()).await.unwrap();
            let (request, content) = heard.recv().await.unwrap();
            assert!(matches!(request, Request::FileWrite(w) if w.mode == Some(0o600)));
            assert_eq!(content, Some(file.content));
        }
        let (sender, archive) = Archive::channel();
        let send = async {
            for piece in ["one ", "two"] {
                sender.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
            sender.end().await.unwrap();
        };
        let ((), unpacked) = tokio::join!(send, unpack(&agent.session, archive));
        unpacked.unwrap();
        let (request, content) = heard.recv().await.unwrap();
        assert_eq!(request, Request::Unpack { path: "/".to_owned(), owner: None });
        assert_eq!(content.unwrap(), b"one two");
    }

    #[tokio::test]
    async fn an_archive_whose_sender_leaves_is_not_taken_for_whole() {
        let (agent, mut heard) = taker().await;
        let (sender, archive) = Archive::channel();
        let send = async move {
            sender.send(Bytes::from_static(b"half")).await.unwrap();
        };
        let ((), unpacked) = tokio::join!(send, unpack(&agent.session, archive));
        assert_eq!(unpacked.unwrap_err().kind, Kind::InvalidRequest);
        assert_eq!(heard.recv().await.unwrap().1, None);
    }

    async fn refuses(sender: &ArchiveSender) {
        // Whatever fits into the queues.
        while sender.send(Bytes::from_static(&[1; 64 << 10])).await.is_ok() {}
    }

    #[tokio::test]
    async fn an_agent_that_refuses_in_the_middle_is_heard_at_once() {
        let agent = FakeAgent::new(async |_, mut stream: Stream| {
            stream.recv().await.unwrap();
            let error = WireError { code: ErrorCode::NoSpace, message: "full".to_owned() };
            stream.send_json(&Response::Error(error)).await.unwrap();
        })
        .await;
        let (sender, archive) = Archive::channel();
        let ((), unpacked) = tokio::join!(refuses(&sender), unpack(&agent.session, archive));
        assert_eq!(unpacked.unwrap_err().kind, Kind::GuestDiskFull);
        // Also if nothing more is being sent.
        let (sender, archive) = Archive::channel();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        let unpacked = unpack(&agent.session, archive).await;
        assert_eq!(unpacked.unwrap_err().kind, Kind::GuestDiskFull);
        let file = NewFile { path: "/a".to_owned(), mode: None, content: vec![0; 1 << 20] };
        let written = write_file(&agent.session, file).await;
        assert_eq!(written.unwrap_err().kind, Kind::GuestDiskFull);
    }
}
