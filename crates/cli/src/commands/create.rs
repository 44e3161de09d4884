use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use api::{
    CreateSandbox, Network, RestartPolicy, Sandbox, VolumeMount,
    client::{Client, ClientError, Created},
};
use fs_err::File;

use super::{
    file::mode, idle::Idle, interrupt::unless_interrupted, key_value, traffic::Traffic, volume,
};
use crate::{
    app::{App, DONE},
    archive, human, progress,
};

/// What is said to whoever does not wait for the end.
const LEFT: &str = "what the daemon has begun it ends: a pull, or the sandbox; see: bhatti list";

/// Create a sandbox and start it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name; made up if absent
    #[arg(long)]
    name: Option<String>,
    /// Image to make it of, or a reference such as debian:12, which is pulled if it is not here
    #[arg(long)]
    image: Option<String>,
    /// vCPUs
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory in MB
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// Size of the writable disk in MB
    #[arg(long, value_name = "MB")]
    disk_size: Option<u64>,
    /// Variable that every command in it sees; repeatable
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    env: Vec<(String, String)>,
    /// What runs in it from the start, a line for its shell: the session named init
    #[arg(long, value_name = "COMMAND")]
    init: Option<String>,
    /// Whether that is started again when it has ended [default: on-failure]
    #[arg(long, value_enum, value_name = "WHEN", requires = "init")]
    init_restart: Option<Restart>,
    /// Do not run what its image says, either
    #[arg(long, conflicts_with = "init")]
    no_init: bool,
    /// File of this machine that is in it before anything runs, of any size; repeatable
    #[arg(long = "file", value_name = "LOCAL:GUEST[:MODE]", value_parser = NewFile::parse)]
    files: Vec<NewFile>,
    /// Volume that it has, at an absolute path, to write to or with :ro to read; repeatable
    #[arg(long = "volume", value_name = "NAME:PATH[:ro]", value_parser = volume::mount)]
    volumes: Vec<VolumeMount>,
    /// Label to find it by; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    labels: Vec<(String, String)>,
    /// Never put it to sleep
    #[arg(long)]
    keep_hot: bool,
    #[command(flatten)]
    idle: Idle,
    /// Whether it has a network [default: user]
    #[arg(long, value_enum, value_name = "WHICH")]
    network: Option<Connected>,
    #[command(flatten)]
    traffic: Traffic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Connected {
    /// Its owner's network
    User,
    /// None
    None,
}

impl From<Connected> for Network {
    fn from(connected: Connected) -> Self {
        match connected {
            Connected::User => Self::User,
            Connected::None => Self::None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Restart {
    /// Never
    No,
    /// Unless it ended with 0
    OnFailure,
    /// However it ended
    Always,
}

impl From<Restart> for RestartPolicy {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::No => Self::No,
            Restart::OnFailure => Self::OnFailure,
            Restart::Always => Self::Always,
        }
    }
}

/// A file that a new sandbox gets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NewFile {
    local: PathBuf,
    /// Relative to the root.
    guest: PathBuf,
    mode: Option<u32>,
}

impl NewFile {
    /// Reads `LOCAL:GUEST[:MODE]`. GUEST begins after the first `:/`, so both may have colons.
    fn parse(text: &str) -> Result<Self, String> {
        let (local, rest) = text
            .split_once(":/")
            .filter(|(local, _)| !local.is_empty())
            .ok_or("it has to be LOCAL:GUEST[:MODE], and GUEST absolute")?;
        let (guest, mode) = match rest.rsplit_once(':') {
            Some((guest, text)) => (guest, Some(mode(text)?)),
            None => (rest, None),
        };
        let mode = mode.and_then(|mode| u32::from_str_radix(&mode, 8).ok());
        if guest.is_empty() || guest.ends_with('/') {
            return Err("GUEST has to be the whole path of the file".to_owned());
        }
        if guest.split('/').any(|part| part == "..") {
            return Err("GUEST must not have .. in it".to_owned());
        }
        Ok(Self { local: local.into(), guest: guest.into(), mode })
    }

    /// Looks whether it can be read, before anything is made.
    fn check(&self) -> Result<()> {
        let context = || format!("read {}", self.local.display());
        let file = File::open(&self.local).with_context(context)?;
        if !file.metadata().with_context(context)?.is_file() {
            bail!("{} is not a regular file", self.local.display());
        }
        Ok(())
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = CreateSandbox {
        name: args.name.clone(),
        image: args.image.clone(),
        cpus: args.cpus,
        memory_mb: args.memory,
        disk_size_mb: args.disk_size,
        env: args.env.iter().cloned().collect(),
        labels: args.labels.iter().cloned().collect(),
        init: args.init.clone(),
        init_restart: args.init_restart.map(Into::into),
        no_init: args.no_init,
        volumes: args.volumes.clone(),
        files: Vec::new(),
        keep_hot: args.keep_hot,
        idle_warm_sec: args.idle.warm,
        idle_cold_sec: args.idle.cold,
        network: args.network.map(Into::into),
        egress: args.traffic.egress(),
        network_limits: args.traffic.limits(),
    };
    args.files.iter().try_for_each(NewFile::check)?;
    let start = Instant::now();
    let created = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = create(client, &request, &args.files, |step| {
            tell.send_replace(step);
        });
        unless_interrupted(progress::show(app.printer(), steps, work)).await
    })?;
    let created = match created {
        Ok(created) => created,
        Err(interrupted) => {
            app.printer().note(LEFT);
            return Ok(interrupted.into());
        }
    };
    let line = if created.existing {
        format!("sandbox/{} unchanged (already exists)", created.sandbox.name)
    } else {
        format!("{} in {}", created_line(&created.sandbox), human::duration(start.elapsed()))
    };
    app.printer().outcome(&created.sandbox, &line)?;
    DONE
}

/// Makes the sandbox; its files are packed while they are sent.
async fn create(
    client: &mut Client,
    request: &CreateSandbox,
    files: &[NewFile],
    progress: impl FnMut(String),
) -> Result<Created> {
    if files.is_empty() {
        return Ok(client.create(request, progress).await?);
    }
    let files = files.to_vec();
    let (tar, packing) = archive::pack(move |packer| {
        files.iter().try_for_each(|file| packer.file(&file.local, &file.guest, file.mode))
    });
    match client.create_with_files(request, tar, progress).await {
        Ok(created) => Ok(created),
        Err(error @ ClientError::Api(_)) => Err(error.into()),
        // What stopped the packing is why the request failed.
        Err(error) => Err(packing.finish().await.err().unwrap_or_else(|| error.into())),
    }
}

fn created_line(sandbox: &Sandbox) -> String {
    let Sandbox { name, cpus, memory_mb, image, .. } = sandbox;
    format!("sandbox/{name} created ({cpus} vCPU, {memory_mb} MB, image {image})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, inspect::tests::sandbox, tests::try_args};

    #[test]
    fn the_line_says_what_was_made() {
        assert_eq!(
            created_line(&sandbox()),
            "sandbox/dev created (2 vCPU, 1024 MB, image minimal)"
        );
    }

    #[test]
    fn variables_repeat_and_keep_their_commas() {
        let line = "create --env A=1,2 --env B=3 --label team=a";
        let Ok(Command::Create(args)) = try_args(line) else { panic!("{line}") };
        assert_eq!(args.env[0], ("A".to_owned(), "1,2".to_owned()));
        assert_eq!(args.env.len(), 2);
        assert_eq!(args.labels, [("team".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn files_of_a_new_sandbox_have_an_absolute_name() {
        let file = |local: &str, guest: &str, mode| {
            Ok(NewFile { local: local.into(), guest: guest.into(), mode })
        };
        assert_eq!(NewFile::parse("a:/b/c"), file("a", "b/c", None));
        assert_eq!(NewFile::parse("./a:b:/c:0600"), file("./a:b", "c", Some(0o600)));
        for bad in ["a", "a:b", ":/b", "a:/", "a:/b/", "a:/../b", "a:/b:rw"] {
            assert!(NewFile::parse(bad).is_err(), "{bad}");
        }
        assert!(try_args("create --init x --init-restart always").is_ok());
        assert!(try_args("create --init-restart always").is_err());
    }

    #[test]
    fn a_missing_file_is_noticed_before_anything_is_made() {
        let missing = NewFile::parse("/does/not/exist:/x").unwrap();
        assert!(missing.check().unwrap_err().to_string().contains("/does/not/exist"));
        assert!(NewFile::parse("/:/x").unwrap().check().is_err());
    }
}
