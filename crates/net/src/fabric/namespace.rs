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
    sync::{mpsc, oneshot},
};

/// Most requests that wait for the thread which makes sockets.
const QUEUE: usize = 256;

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
    pub(super) async fn create() -> io::Result<Self> {
        let make = || {
            #[expect(deprecated, reason = "only the network of this thread changes")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Self::current()
        };
        in_thread(make).await?
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
        let namespace = self.clone();
        in_thread(move || namespace.enter().map(|()| work())).await?
    }

    /// Has the calling thread enter it.
    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// Does something in a thread that ends with it. Whoever asked may have gone; what was begun is
/// done to its end all the same.
async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<io::Result<T>> {
    let (told, done) = oneshot::channel();
    std::thread::Builder::new().name("in-namespace".into()).spawn(move || {
        let _ = told.send(work());
    })?;
    done.await.map_err(|_| io::Error::other("a thread in a namespace panicked"))
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that stays in a namespace and does what takes no time there, such as making sockets:
/// guests decide how often that is, and a thread for each time costs more than the socket.
#[derive(Debug)]
pub(super) struct Inside(mpsc::Sender<Job>);

impl Inside {
    /// Starts the thread; it ends with the handle.
    pub(super) async fn start(namespace: &Namespace) -> io::Result<Self> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let (told, entered) = oneshot::channel();
        let namespace = namespace.clone();
        std::thread::Builder::new().name("sockets".into()).spawn(move || {
            let outcome = namespace.enter();
            // Who is inside keeps it anyway.
            drop(namespace);
            let is_inside = outcome.is_ok();
            let _ = told.send(outcome);
            while is_inside && let Some(job) = jobs.blocking_recv() {
                job();
            }
        })?;
        entered.await.map_err(io::Error::other)??;
        Ok(Self(queue))
    }

    /// Does something there.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (told, done) = oneshot::channel();
        let job = Box::new(move || {
            let _ = told.send(work());
        });
        self.0.send(job).await.map_err(|_| io::Error::other("the sockets' thread has ended"))?;
        done.await.map_err(io::Error::other)?
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
