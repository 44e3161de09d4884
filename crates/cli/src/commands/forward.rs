use std::{io, net::Ipv4Addr, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use api::client::{Client, ClientError};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use super::interrupt::unless_interrupted;
use crate::{
    app::{App, DONE},
    failure::hinted,
    printer::Printer,
};

/// Most connections at a time over one forwarded port; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// Make ports of a sandbox reachable on this machine
///
/// Listens on 127.0.0.1 until Ctrl-C. Every connection is tunnelled on its own and wakes the
/// sandbox if it sleeps; one that fails is closed, and the next is tried anew.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Port of the sandbox, and of this machine if that is to be another; 0 for any that is free
    #[arg(value_name = "GUESTPORT[:HOSTPORT]", required = true, value_parser = Forward::parse)]
    ports: Vec<Forward>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forward {
    guest: u16,
    host: u16,
}

impl Forward {
    fn parse(text: &str) -> Result<Self, String> {
        let (guest, host) = text.split_once(':').unwrap_or((text, text));
        match (guest.parse(), host.parse()) {
            (Ok(guest), Ok(host)) if guest != 0 => Ok(Self { guest, host }),
            _ => Err("it has to be GUESTPORT or GUESTPORT:HOSTPORT, such as 80:8080".to_owned()),
        }
    }
}

/// One port that is forwarded, for programs.
#[derive(Debug, Serialize)]
struct Forwarded {
    address: String,
    sandbox: String,
    port: u16,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    // A signal is how it is meant to end.
    let _ =
        app.with_client(async |client| unless_interrupted(forward(args, client, printer)).await)?;
    DONE
}

async fn forward(args: &Args, client: &mut Client, printer: &Printer) -> Result<()> {
    // A name that does not exist is better said now than with the first connection.
    let sandbox = client.sandbox(&args.sandbox).await?.name;
    let mut listeners = Vec::new();
    for forward in &args.ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.host))
            .await
            .map_err(|error| cannot_listen(forward.host, &error))?;
        let address = listener.local_addr().context("find the port's address")?.to_string();
        listeners.push((listener, forward.guest, address));
    }
    for (_, port, address) in &listeners {
        if printer.is_json() {
            let (address, sandbox) = (address.clone(), sandbox.clone());
            printer.json_line(&Forwarded { address, sandbox, port: *port })?;
        } else {
            printer.line(&format!("{address} -> {sandbox}:{port}"))?;
        }
    }
    let mut ports = JoinSet::new();
    for (listener, port, _) in listeners {
        let target = Target { client: client.another(), sandbox: sandbox.clone(), port };
        ports.spawn(serve(listener, Arc::new(target)));
    }
    while let Some(ended) = ports.join_next().await {
        ended.context("forward a port")??;
    }
    Ok(())
}

fn cannot_listen(port: u16, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "choose another one, such as GUESTPORT:0 for any that is free",
        _ => "choose a port above 1023, as in 80:8080",
    };
    hinted(format!("listen on 127.0.0.1:{port}: {error}"), hint)
}

/// Where the connections to one port go.
struct Target {
    client: Client,
    sandbox: String,
    port: u16,
}

/// Accepts connections for ever.
async fn serve(listener: TcpListener, target: Arc<Target>) -> Result<()> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&room).acquire_owned().await.context("wait for room")?;
        while connections.try_join_next().is_some() {}
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) if connections.is_empty() || !is_shortage(&error) => {
                return Err(error).context("accept a connection");
            }
            // It will do once a connection has ended and given back what it held.
            Err(_) => {
                connections.join_next().await;
                continue;
            }
        };
        let target = Arc::clone(&target);
        connections.spawn(async move {
            if let Err(error) = tunnel(connection, &target).await {
                complain(&target, &error);
            }
            drop(place);
        });
    }
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Passes everything on, both ways; a direction that ends is ended on the other side too.
async fn tunnel(mut connection: TcpStream, target: &Target) -> Result<(), ClientError> {
    let _ = connection.set_nodelay(true);
    let mut tunnel = target.client.tunnel(&target.sandbox, target.port).await?;
    // Whoever breaks a connection knows it, and the other side is told by the end of its own.
    let _ = tokio::io::copy_bidirectional(&mut connection, &mut tunnel).await;
    Ok(())
}

/// Says why a connection was closed. Not part of what a program reads, so always in words.
fn complain(target: &Target, error: &ClientError) {
    let printer = Printer::new(false);
    let Target { sandbox, port, .. } = target;
    printer.note(&format!("a connection to {sandbox}:{port} failed: {}", error.to_body().error));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, tests::try_args};

    #[test]
    fn the_port_of_this_machine_is_the_same_unless_said() {
        let forward = |guest, host| Ok(Forward { guest, host });
        assert_eq!(Forward::parse("80"), forward(80, 80));
        assert_eq!(Forward::parse("80:8080"), forward(80, 8080));
        assert_eq!(Forward::parse("80:0"), forward(80, 0));
        for bad in ["0", "a", "80:", ":80", "70000", "80:1:2"] {
            assert!(Forward::parse(bad).is_err(), "{bad}");
        }
        let Ok(Command::Forward(args)) = try_args("forward dev 80:8080 443:0") else { panic!() };
        assert_eq!(args.ports.len(), 2);
        assert!(try_args("forward dev").is_err());
    }
}
