//! What every command is handed: the global flags, the printer and the way to the daemon.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};
use api::{
    ErrorCode,
    client::{Client, ClientError},
};

use crate::{
    config::{self, Ca, Given, Target},
    human,
    printer::Printer,
};

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Daemon to talk to: https://HOST:PORT, http://HOST:PORT or unix:///PATH
    #[arg(long, global = true, env = "BHATTI_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Certificates of those who are trusted at https://, in PEM [default: whom this machine trusts]
    #[arg(long, global = true, env = CA_VARIABLE, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// API key
    #[arg(long, global = true, env = "BHATTI_TOKEN", value_name = "KEY", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Where the daemon of this machine keeps its data [default: /var/lib/bhatti; without root
    /// ~/.local/share/bhatti]
    #[arg(long, global = true, env = "BHATTI_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where this user's own daemon keeps it.
    #[arg(skip = daemon::data_dir())]
    own_data_dir: PathBuf,
    /// Print JSON on stdout; an error is one JSON object on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say on stderr where the time went
    #[arg(long, global = true)]
    pub(crate) timing: bool,
}

/// The variable that says whom to trust.
const CA_VARIABLE: &str = "BHATTI_CA";

impl Global {
    /// The data directory of this user's daemon, running or not.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(&self.own_data_dir)
    }

    /// The data directory of the daemon to talk to: the user's own if there ever was one, else the
    /// system's if there is one.
    fn target_data_dir(&self) -> &Path {
        let system = Path::new(daemon::SYSTEM_DATA_DIR);
        let elsewhere = self.data_dir.is_none()
            && !self.own_data_dir.join("state.db").exists()
            && system.exists();
        if elsewhere { system } else { self.data_dir() }
    }

    /// The data directory if the user named one.
    pub(crate) fn given_data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }
}

/// One run of the program.
#[derive(Debug)]
pub(crate) struct App {
    global: Global,
    printer: Printer,
    started: Instant,
}

impl App {
    pub(crate) fn new(global: Global, started: Instant) -> Self {
        let printer = Printer::new(global.json);
        Self { global, printer, started }
    }

    pub(crate) fn printer(&self) -> &Printer {
        &self.printer
    }

    pub(crate) fn global(&self) -> &Global {
        &self.global
    }

    /// The daemon that the flags, the environment and the config file lead to, and the key for it.
    pub(crate) fn target(&self) -> Result<Target> {
        config::target(&Given {
            // An empty variable is how a shell script says that there is none.
            url: self.global.url.as_deref().filter(|url| !url.is_empty()),
            token: self.global.token.as_deref().filter(|token| !token.is_empty()),
            ca: self.ca(),
            data_dir: self.global.target_data_dir(),
        })
    }

    /// Those who are trusted, if flag or environment say.
    pub(crate) fn ca(&self) -> Option<Ca<'_>> {
        let path = self.global.ca.as_deref().filter(|path| !path.as_os_str().is_empty())?;
        let ambient = std::env::var_os(CA_VARIABLE).is_some_and(|said| said == path.as_os_str());
        Some(Ca { path, ambient })
    }

    /// Does `work` with a client for the daemon.
    pub(crate) fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T>,
    ) -> Result<T> {
        let target = self.target()?;
        self.with_client_for(target, work)
    }

    /// What there is of one sandbox, or if none is named, of all.
    pub(crate) fn of_one_or_all<T>(
        &self,
        sandbox: Option<&str>,
        of_one: impl AsyncFnOnce(&mut Client, &str) -> Result<Vec<T>, ClientError>,
        of_all: impl AsyncFnOnce(&mut Client) -> Result<Vec<T>, ClientError>,
    ) -> Result<Vec<T>> {
        self.with_client(async |client| match sandbox {
            Some(sandbox) => Ok(of_one(client, sandbox).await?),
            None => Ok(of_all(client).await?),
        })
    }

    /// Does `work` with a client for this daemon.
    pub(crate) fn with_client_for<T>(
        &self,
        target: Target,
        work: impl AsyncFnOnce(&mut Client) -> Result<T>,
    ) -> Result<T> {
        let has_key = target.token.is_some();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("start the async runtime")?;
        let mut client = Client::new(target.endpoint, target.token);
        let outcome = runtime.block_on(work(&mut client));
        // A read of stdin may still be under way in its thread, and nobody wants its outcome.
        runtime.shutdown_background();
        if self.global.timing {
            self.print_timing(&client);
        }
        outcome.map_err(|error| if has_key { error } else { hint_at_keys(error) })
    }

    fn print_timing(&self, client: &Client) {
        let timing = client.timing();
        self.printer.note(&format!(
            "timing: connect {}, server {}, total {}",
            human::fine_duration(timing.connect),
            human::fine_duration(timing.server),
            human::fine_duration(self.started.elapsed()),
        ));
    }
}

/// Only this side knows that no key was found.
fn hint_at_keys(mut error: anyhow::Error) -> anyhow::Error {
    if let Some(ClientError::Api(body)) = error.downcast_mut::<ClientError>()
        && body.code == ErrorCode::Unauthorized
        && body.hint.is_none()
    {
        body.hint = Some(
            "no API key was found: set BHATTI_TOKEN, or store one with: \
             bhatti setup --url URL --token KEY"
                .to_owned(),
        );
    }
    error
}

/// A command that did what it was asked to.
pub(crate) const DONE: Result<ExitCode> = Ok(ExitCode::SUCCESS);
