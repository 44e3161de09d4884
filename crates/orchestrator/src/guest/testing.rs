//! An agent that says what a test tells it to.

use std::future::Future;

use base::ids::UserId;
use proto::{
    message::Request,
    mux::{Session, Side, Stream, establish},
};
use tokio::io::duplex;

use crate::{driver::Published, model::Status, testing::record};

/// The host's session with an agent made of a closure.
pub(crate) struct FakeAgent {
    pub(crate) session: Session,
    guest: Session,
}

impl FakeAgent {
    /// Answers every request by `serve`.
    pub(crate) async fn new<F, S>(serve: S) -> Self
    where
        S: Fn(Request, Stream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (host, guest) = duplex(64 << 10);
        let host = async {
            let (session, _, driver) = establish(host, Side::Host, [1; 32]).await.unwrap();
            tokio::spawn(driver);
            session
        };
        let guest = async {
            let (session, incoming, driver) = establish(guest, Side::Guest, [2; 32]).await.unwrap();
            tokio::spawn(driver);
            (session, incoming)
        };
        let (session, (guest, mut incoming)) = tokio::join!(host, guest);
        tokio::spawn(async move {
            while let Some(mut stream) = incoming.next().await {
                if let Ok(Some(request)) = stream.recv_json().await {
                    tokio::spawn(serve(request, stream));
                }
            }
        });
        Self { session, guest }
    }

    /// Takes every request and answers none.
    pub(crate) async fn silent() -> Self {
        Self::new(async |_, stream| {
            let _stream = stream;
            std::future::pending::<()>().await;
        })
        .await
    }

    /// Ends the session, as a stop does; returns when the host has noticed.
    pub(crate) async fn hang_up(&self) {
        self.guest.close();
        self.session.closed().await;
    }
}

/// What a driver would publish.
pub(crate) fn published(status: Status, session: Option<Session>) -> Published {
    let record = record(&UserId::random(), "box");
    Published {
        name: record.name,
        spec: record.spec,
        policy: record.policy,
        status,
        thermal: None,
        failure: None,
        generation: 0,
        snapshot_bytes: None,
        stopped_at: None,
        session,
        closing: false,
        resting: None,
        starved: false,
    }
}
