use std::process::ExitCode;

use anyhow::Result;
use api::{
    Port,
    client::{Client, Endpoint},
};

use crate::{
    app::{App, DONE},
    table::Table,
};

/// List the TCP ports that something in a sandbox listens on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id; all running sandboxes if absent, none of which is woken
    #[arg(value_name = "SANDBOX")]
    sandbox: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sandbox = args.sandbox.as_deref();
    let ports = app.of_one_or_all(sandbox, Client::ports, Client::all_ports)?;
    let base = base_url(&app.target()?.endpoint);
    let several = args.sandbox.is_none();
    app.printer().listing(&ports, "nothing listens", |ports| table(ports, &base, several))?;
    DONE
}

/// What a path of the API is appended to; a socket has no URL that a browser could open.
fn base_url(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp { .. } | Endpoint::Https { .. } => endpoint.to_string(),
        Endpoint::Local { .. } | Endpoint::Unix(_) => String::new(),
    }
}

fn table(ports: &[Port], base: &str, several: bool) -> Table {
    let mut header = vec!["PORT", "PROCESS", "ADDRESS", "URL"];
    if several {
        header.insert(0, "SANDBOX");
    }
    let mut table = Table::new(&header);
    let dash = || "-".to_owned();
    for port in ports {
        let mut row = vec![
            port.container_port.to_string(),
            port.process.clone().unwrap_or_else(dash),
            if port.address.is_empty() { dash() } else { port.address.clone() },
            format!("{base}{}", port.proxy_url),
        ];
        if several {
            row.insert(0, port.sandbox_id.clone().unwrap_or_else(dash));
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_shows_who_listens_and_how_to_get_there() {
        let port = Port {
            container_port: 80,
            proxy_url: "/sandboxes/dev/proxy/80/".into(),
            address: "0.0.0.0".into(),
            process: Some("nginx".into()),
            pid: Some(7),
            sandbox_id: Some("00ff".into()),
        };
        assert_eq!(
            table(std::slice::from_ref(&port), "http://h:1", false).render(),
            "PORT   PROCESS   ADDRESS   URL\n\
             80     nginx     0.0.0.0   http://h:1/sandboxes/dev/proxy/80/\n"
        );
        let unknown = Port { process: None, pid: None, ..port };
        let text = table(&[unknown], "", true).render();
        assert!(
            text.ends_with("\n00ff      80     -         0.0.0.0   /sandboxes/dev/proxy/80/\n")
        );
    }
}
