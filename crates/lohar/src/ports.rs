//! The TCP ports that something listens on, as the kernel tells.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::message::{ErrorCode, PortInfo, Response, WireError};
use tokio::task::spawn_blocking;

use crate::agent::refuse;

/// State of a socket that listens.
const LISTEN: &str = "0A";

/// A socket that listens: its port and address, and its inode.
type Listener = (u16, IpAddr, u64);

/// All of them, lowest first. Who listens is found by looking at every process; those that have not
/// been looked at when `patience` ends are not named.
///
/// # Errors
/// The thread that looks was lost.
pub(crate) async fn list(patience: Duration) -> Result<Vec<PortInfo>, WireError> {
    let ports = spawn_blocking(move || find(Path::new("/proc"), patience)).await;
    ports.map_err(|error| refuse(ErrorCode::Failed, format!("ports: {error}")))
}

/// All of them, named however long that takes.
pub(crate) async fn all() -> Result<Response, WireError> {
    list(Duration::MAX).await.map(|ports| Response::Ports { ports })
}

fn find(proc: &Path, patience: Duration) -> Vec<PortInfo> {
    let begin = Instant::now();
    let text = |name| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let mut listeners = parse(&text("net/tcp"));
    listeners.extend(parse(&text("net/tcp6")));
    listeners.sort_unstable();
    // A port may be shared by several sockets.
    listeners.dedup_by_key(|listener| (listener.0, listener.1));
    let mut owners = BTreeMap::new();
    if !listeners.is_empty() {
        owners = find_owners(proc, &listeners, || begin.elapsed() >= patience);
    }
    let info = |(port, address, inode): Listener| {
        let owner = owners.get(&inode);
        PortInfo {
            port,
            address: address.to_string(),
            pid: owner.map(|owner| owner.0),
            process: owner.and_then(|owner| owner.1.clone()),
        }
    };
    listeners.into_iter().map(info).collect()
}

/// The listeners of one of the kernel's tables.
fn parse(table: &str) -> Vec<Listener> {
    let listener = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == LISTEN).then_some((port, parse_address(address)?, inode))
    };
    table.lines().skip(1).filter_map(listener).collect()
}

/// An address: hexadecimal words in the machine's own byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = text.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The process with the lowest id for each socket, and its name, as far as they are found before
/// it is `late`.
fn find_owners(
    proc: &Path,
    listeners: &[Listener],
    late: impl Fn() -> bool,
) -> BTreeMap<u64, (i32, Option<String>)> {
    let mut wanted: Vec<u64> = listeners.iter().map(|listener| listener.2).collect();
    let mut owners = BTreeMap::new();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let mut pids: Vec<i32> = processes.filter_map(pid).collect();
    pids.sort_unstable();
    for pid in pids {
        let directory = proc.join(pid.to_string());
        // One that has gone meanwhile, or has nothing open, listens to nothing.
        for entry in fs::read_dir(directory.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let inode = target.to_str().and_then(|target| {
                target.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
            });
            let found = wanted.iter().position(|wanted| Some(*wanted) == inode);
            if let Some(inode) = found.map(|at| wanted.swap_remove(at)) {
                let name = fs::read(directory.join("comm")).ok();
                let name =
                    name.map(|name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned());
                owners.insert(inode, (own_number(&directory).unwrap_or(pid), name));
            }
        }
        if wanted.is_empty() || late() {
            break;
        }
    }
    owners
}

/// The number that a process has for itself and those around it: with the services, another one.
fn own_number(directory: &Path) -> Option<i32> {
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_found() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind("[::1]:0").ok();
        let ports = find(Path::new("/proc"), Duration::MAX);
        assert!(ports.is_sorted_by_key(|port| port.port));
        let found = ports.iter().find(|found| found.port == port).unwrap();
        assert_eq!(found.address, "127.0.0.1");
        assert_eq!(found.pid, i32::try_from(std::process::id()).ok());
        assert!(found.process.as_ref().is_some_and(|name| name.starts_with("lohar")));
        if let Some(second) = second {
            let port = second.local_addr().unwrap().port();
            assert!(ports.iter().any(|found| found.port == port && found.address == "::1"));
        }
        let ports = find(Path::new("/proc"), Duration::ZERO);
        assert!(ports.iter().any(|found| found.port == port && found.pid.is_none()));
    }

    #[test]
    fn tables_are_read_as_the_kernel_writes_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0\n\
            \x20  1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0\n\
            \x20  2: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 8 1 0\n\
            \x20  3: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 9 1 0\n\
            garbage\n";
        let expected: Vec<Listener> = vec![
            (8080, "127.0.0.1".parse().unwrap(), 4242),
            (22, "0.0.0.0".parse().unwrap(), 7),
            (80, "::1".parse().unwrap(), 9),
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(parse(table), expected);
        }
        assert!(parse("").is_empty());
    }
}
