//! Guests that wait for room on the host's disk.

use std::time::Duration;

use super::{Driver, Event, Live, Phase};

/// How often a guest that waits for room on the host's disk is looked after.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);
/// How much room has to be there before it goes on, bytes.
const ROOM: u64 = 16 << 20;

/// What a VM has to say about room on the host's disk. While a guest waits for room, nothing tells
/// us that there is some, so we look.
pub(super) async fn space(live: &Live) -> Event {
    if live.starved {
        #[expect(clippy::disallowed_methods, reason = "there is no event for room on a disk")]
        tokio::time::sleep(LOOK_FOR_ROOM).await;
        return Event::LookForSpace;
    }
    match live.vm.out_of_space().await {
        Ok(()) => Event::OutOfSpace,
        Err(error) => {
            tracing::debug!(error = base::chain(&error), "no events from a monitor");
            std::future::pending().await
        }
    }
}

impl Driver {
    pub(super) fn out_of_space(&mut self) {
        tracing::warn!(sandbox = %self.record.id,
            "the host's disk is full, the guest waits for room");
        if let Some(live) = self.phase.live_mut() {
            live.starved = true;
        }
        self.show_again();
    }

    /// Lets a guest that waits for room go on if there is some. If it is too little the guest is
    /// stopped again at the same place.
    pub(super) async fn look_for_space(&mut self) {
        let free = base::files::free_bytes(&self.node.layout.sandboxes()).unwrap_or(0);
        if free < ROOM {
            return;
        }
        if let Phase::Hot(live) = &mut self.phase {
            live.starved = false;
            if let Err(error) = live.vm.resume().await {
                tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                    "a guest that waited for room could not go on");
            }
        }
        self.show_again();
    }
}
