//! Network namespaces that are held by a descriptor and entered by threads of their own.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};

/// A network namespace; it lives as long as a handle, a socket, an interface's descriptor or a
/// process in it.
#[derive(Debug, Clone)]
pub(super) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// The one that the calling thread is in.
    pub(super) fn current() -> io::Result<Self> {
        Ok(Self(Arc::new(fs_err::File::open("/proc/thread-self/ns/net")?.into_parts().0.into())))
    }

    /// A new one with nothing in it.
    pub(super) fn create() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            #[expect(deprecated, reason = "only the network of this thread changes")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Self::current()
        });
        made.join().map_err(|_| io::Error::other("the namespace thread panicked"))?
    }

    /// One that somebody else has kept open.
    pub(super) fn adopt(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// Does something inside, in a thread of its own. What is opened there stays there.
    pub(super) async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (namespace, (told, done)) = (self.0.clone(), oneshot::channel());
        std::thread::Builder::new().name("in-namespace".into()).spawn(move || {
            let entered =
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            // Whoever asked may have gone; what was begun is done to its end all the same.
            let _ = told.send(entered.map(|()| work()));
        })?;
        let done = done.await.map_err(|_| io::Error::other("a thread in a namespace panicked"))?;
        Ok(done?)
    }
}

/// A TCP connection that goes out from inside a namespace that is not ours, as to a sandbox whose
/// daemon is another process.
///
/// # Errors
/// If the namespace cannot be entered, which only root may, or nothing accepts the connection.
pub async fn connect_inside(namespace: OwnedFd, address: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = Namespace::adopt(namespace).inside(TcpSocket::new_v4).await??;
    socket.connect(SocketAddr::V4(address)).await
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
