mod context;

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};
use api::{
    BuildEvent, BuildImage, BuiltImage,
    client::{Client, ClientError},
};

use self::context::Tree;
use crate::{
    app::{App, DONE},
    archive,
    commands::interrupt::unless_interrupted,
    failure::hinted,
    human,
    printer::Printer,
};

/// Digits of a digest that are enough for people.
const DIGEST_SHOWN: usize = 12;

/// Make an image as a Dockerfile says
///
/// Its steps run in a sandbox; one that was done before is not done again. What a .dockerignore in DIR
/// leaves out is not sent. Interrupting this command cancels the build.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the image will be called; an earlier build of that name is replaced
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    name: String,
    /// Dockerfile; - for stdin [default: Dockerfile in DIR]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Argument that the Dockerfile asks for; without a value it is taken from the environment; repeatable
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    args: Vec<String>,
    /// Stage to stop at [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Do every step again
    #[arg(long)]
    no_cache: bool,
    /// Number of vCPUs for the steps [default: 2]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory for the steps in MB [default: 2048]
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// Size of the image's writable disk in MB
    #[arg(long, value_name = "MB")]
    disk_size: Option<u64>,
    /// Directory with the files that the Dockerfile copies
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let file = args.file.clone().unwrap_or_else(|| args.directory.join("Dockerfile"));
    let request = BuildImage {
        name: args.name.clone(),
        dockerfile: read(&file)?,
        file: Some(
            file.file_name().map_or("Dockerfile".into(), |name| name.to_string_lossy().into()),
        ),
        build_args: args.args.iter().filter_map(|text| argument(text)).collect::<BTreeMap<_, _>>(),
        target: args.target.clone(),
        no_cache: args.no_cache,
        cpus: args.cpus,
        memory_mb: args.memory,
        disk_size_mb: args.disk_size,
    };
    let tree = Tree::of(&args.directory, &file)?;
    let printer = app.printer();
    let built = app.with_client(async |client| {
        unless_interrupted(build(client, &request, tree, printer)).await
    })?;
    let image = match built {
        Ok(image) => image,
        Err(interrupted) => {
            printer.note("the build was cancelled");
            return Ok(interrupted.into());
        }
    };
    printer.outcome(&image, &outcome_line(&image, &human::duration(start.elapsed())))?;
    DONE
}

fn outcome_line(image: &BuiltImage, took: &str) -> String {
    let BuiltImage { name, digest, size_mb, steps, cached } = image;
    let digest: String = digest.chars().take(DIGEST_SHOWN).collect();
    format!(
        "image/{name} built ({digest}, {size_mb} MB, {cached} of {steps} steps cached) in {took}"
    )
}

fn read(file: &Path) -> Result<String> {
    let context = || format!("read {}", file.display());
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("read stdin")?;
        return Ok(text);
    }
    match fs_err::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(hinted(
            format!("there is no {}", file.display()),
            "name the Dockerfile with -f, or the directory that it is in",
        )),
        text => text.with_context(context),
    }
}

/// What `KEY=VALUE`, or `KEY` of the environment, says; nothing if that has it not.
fn argument(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.to_owned(), std::env::var_os(text)?.to_string_lossy().into_owned())),
    }
}

async fn build(
    client: &mut Client,
    request: &BuildImage,
    tree: Tree,
    printer: &Printer,
) -> Result<BuiltImage> {
    let (tar, packing) = archive::pack(move |packer| tree.pack(packer));
    let mut events = match client.image_build(request, tar).await {
        Ok(events) => events,
        Err(error @ ClientError::Api(_)) => return Err(error.into()),
        // What stopped the packing is why the request failed.
        Err(error) => return Err(packing.finish().await.err().unwrap_or_else(|| error.into())),
    };
    while let Some(event) = events.next().await? {
        match event {
            BuildEvent::Result(image) => return Ok(image),
            BuildEvent::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            event if printer.is_json() => drop(event),
            event => show(printer, event)?,
        }
    }
    anyhow::bail!("the daemon said nothing of how the build ended")
}

/// Shows what happens; on stderr, since the outcome is what is asked for.
fn show(printer: &Printer, event: BuildEvent) -> Result<()> {
    match event {
        BuildEvent::Step { number, total, text, cached } => {
            let mark = if cached { " (cached)" } else { "" };
            printer.note(&format!("[{number}/{total}] {text}{mark}"));
        }
        BuildEvent::Progress { message } => printer.note(&format!("{message} …")),
        BuildEvent::Notice { message } => printer.note(&message),
        BuildEvent::Stdout(data) | BuildEvent::Stderr(data) => {
            let bytes = data.into_bytes().context("understand what a command wrote")?;
            printer.error_bytes(&bytes);
        }
        BuildEvent::Result(_) | BuildEvent::Error(_) | BuildEvent::Unknown => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn the_outcome_says_what_was_made() {
        let image = BuiltImage {
            name: "a".into(),
            digest: "0123456789abcdef".into(),
            size_mb: 5,
            steps: 3,
            cached: 1,
        };
        let line = outcome_line(&image, "2 s");
        assert_eq!(line, "image/a built (0123456789ab, 5 MB, 1 of 3 steps cached) in 2 s");
    }

    #[test]
    fn arguments_are_said_or_of_the_environment() {
        let pair = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
        assert_eq!(argument("A=b=c"), pair("A", "b=c"));
        assert_eq!(argument("A="), pair("A", ""));
        assert_eq!(argument("BHATTI_TEST_NOT_THERE"), None);
    }

    #[test]
    fn a_build_needs_a_name_and_a_directory() {
        assert!(try_args("image build -t a .").is_ok());
        assert!(try_args("image build -t a -f x --build-arg A=1 --target s --no-cache d").is_ok());
        assert!(try_args("image build .").is_err());
        assert!(try_args("image build -t a").is_err());
    }
}
