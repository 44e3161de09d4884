//! Taking possession: the data directory's lock and the two listeners.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::serve::ServeError;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Others may pass through, to the socket and to what VMs under their own users need.
const DIRECTORY_MODE: u32 = 0o711;
const SOCKET_MODE: u32 = 0o660;

/// The exclusive right to a data directory, for as long as it lives. The kernel takes it back
/// however the process ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    _lock: fs::File,
}

impl DataDir {
    /// Makes the directory if need be and takes the lock, or says who has it.
    pub(crate) fn lock(path: &Path) -> Result<Self, ServeError> {
        let unusable = |source| ServeError::DataDir { path: path.to_owned(), source };
        make_directory(path).map_err(unusable)?;
        let mut lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path.join("daemon.lock"))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = io::read_to_string(&lock).unwrap_or_default();
                let holder = holder.trim().parse::<u32>().ok();
                return Err(ServeError::DataDirTaken { path: path.to_owned(), holder });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        // For the message above only; the lock itself is what counts.
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(unusable)?;
        Ok(Self { _lock: lock })
    }
}

/// The Unix listener, whose file goes with it.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    pub(crate) listener: Option<UnixListener>,
    path: PathBuf,
}

impl LocalSocket {
    /// Binds the socket. What a dead daemon left under that name is replaced, which only the holder
    /// of the data directory may do.
    pub(crate) fn bind(path: &Path, _right: &DataDir) -> Result<Self, ServeError> {
        let unusable = |source| ServeError::Socket { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            make_directory(parent).map_err(unusable)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(unusable)?;
        let bound = Self { listener: Some(listener), path: path.to_owned() };
        // Until this is done nobody but the owner can connect, by the usual umask; and whoever
        // connects is asked for a key unless the kernel says that it is the owner.
        fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
            .map_err(unusable)?;
        Ok(bound)
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the TCP listener.
pub(crate) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit it: a client whose host vanished must not hold a command
        // for ever.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressTaken(address),
        _ => ServeError::Address { address, source },
    })
}

fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let unusable = |source| ServeError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(unusable(io::Error::other("something else has that name"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(error)),
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(unusable)
        }
        Ok(_) => Err(ServeError::SocketTaken(path.to_owned())),
        Err(error) => Err(unusable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/data");
        let held = DataDir::lock(&path).unwrap();
        let refused = DataDir::lock(&path).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        DataDir::lock(&path).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let right = DataDir::lock(dir.path()).unwrap();
        let path = dir.path().join("api.sock");
        // Dropping the standard listener leaves the file, as a killed daemon does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = LocalSocket::bind(&path, &right).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let refused = LocalSocket::bind(&path, &right).unwrap_err();
        assert!(matches!(refused, ServeError::SocketTaken(_)), "{refused}");
        drop(bound);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        LocalSocket::bind(&path, &right).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_taken_port_names_the_flag() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let refused = bind_tcp(first.local_addr().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("--listen"), "{refused}");
    }
}
