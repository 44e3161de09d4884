//! Interfaces of monitors that are started before it is known for which sandbox.
//!
//! One is down and on no bridge, so it leads nowhere and no rule speaks of it, until it gets the name
//! and the bridge of a place.

use std::os::fd::{AsFd as _, OwnedFd};

use rtnetlink::LinkUnspec;
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};

use super::{NetError, Networks, Tap};
use crate::address::Place;

/// What such an interface is called before the rest of its name, which is by chance.
const PREFIX: &str = "bs";

/// An interface that belongs to no place yet. It is gone when its descriptor is closed everywhere.
#[derive(Debug)]
pub struct SpareLink {
    index: u32,
    name: String,
}

impl Networks {
    /// Makes an interface for a sandbox that is not known yet.
    ///
    /// # Errors
    /// [`NetError::Tap`].
    pub async fn spare(&self) -> Result<(OwnedFd, SpareLink), NetError> {
        let name = format!("{PREFIX}{}", base::random::hex::<4>());
        let making = name.clone();
        let made = self.sockets.run(move || {
            let tap = Tap::make(making)?;
            let asks = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
            let index = name_to_index(asks.as_fd(), tap.name())?;
            Ok((tap.into_fd(), index))
        });
        match made.await {
            Ok((fd, index)) => Ok((fd, SpareLink { index, name })),
            Err(source) => Err(NetError::Tap { name, source }),
        }
    }

    /// Makes a spare interface that of a sandbox, as [`attach`](Self::attach) would have made one.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach).
    pub async fn place(&self, spare: SpareLink, place: Place) -> Result<(), NetError> {
        let bridge = self.bridge(place.network())?;
        let SpareLink { index, name } = spare;
        let own = LinkUnspec::new_with_index(index).name(place.tap()).controller(bridge).up();
        self.links.set(own.build()).await.map_err(|error| match &error {
            rtnetlink::Error::NetlinkError(message)
                if message.raw_code() == -rustix::io::Errno::EXIST.raw_os_error() =>
            {
                NetError::Busy(place.tap())
            }
            _ => NetError::link(format!("make {name} {}", place.tap()), error),
        })?;
        self.introduce(bridge, place).await
    }
}
