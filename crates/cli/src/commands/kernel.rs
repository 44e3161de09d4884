use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use disk::kernel::{self, KernelBundle, KernelError, KernelSource};
use serde::Serialize;

use super::{
    host_tools::{self, APT_GET, DEPMOD, DPKG_DEB, MKFS_EROFS, Tool},
    preparing::{self, megabytes, time},
};
use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

const PACKAGE_TOOLS: [Tool; 4] = [APT_GET, DPKG_DEB, MKFS_EROFS, DEPMOD];
const FILE_TOOLS: [Tool; 2] = [MKFS_EROFS, DEPMOD];

/// Prepare the kernel that sandboxes run
///
/// Takes the kernel that the host's distribution makes for virtual machines, unless told otherwise,
/// and makes it the one that new sandboxes get. Nothing is installed on the host. If there is a
/// kernel already and nothing else is asked for, it stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Take it from this package of the host's distribution
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_host", "kernel"])]
    package: Option<String>,
    /// Take one that is installed on the host [default: the running one]
    #[arg(long, value_name = "RELEASE", num_args = 0..=1, conflicts_with = "kernel")]
    from_host: Option<Option<String>>,
    /// Take this bzImage or ELF file
    #[arg(long, value_name = "PATH", requires = "modules")]
    kernel: Option<PathBuf>,
    /// Modules that belong to it: a directory as /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Look for a newer one even if there is a kernel already
    #[arg(long)]
    update: bool,
    /// Show the kernels that there are
    #[arg(long, conflicts_with_all = ["package", "from_host", "kernel", "update"])]
    list: bool,
    /// Read all files of the current kernel again and compare them with their hashes
    #[arg(long, conflicts_with_all = ["package", "from_host", "kernel", "update", "list"])]
    verify: bool,
}

/// A kernel bundle as people and programs see it.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    release: String,
    size_mb: u64,
    source: String,
    created_at: String,
    /// Whether new sandboxes get it.
    current: bool,
}

impl Shown {
    fn new(bundle: &KernelBundle, current: bool) -> Self {
        Self {
            id: bundle.id().to_owned(),
            release: bundle.release().to_owned(),
            size_mb: size_mb(bundle),
            source: bundle.source().to_owned(),
            created_at: time(bundle.created_at()),
            current,
        }
    }

    fn line(&self, state: &str) -> String {
        let Self { id, release, size_mb, .. } = self;
        format!("kernel/{id} {state} (Linux {release}, {size_mb} MB)")
    }
}

/// What a kernel bundle takes on disk, MB.
pub(crate) fn size_mb(bundle: &KernelBundle) -> u64 {
    megabytes(bundle.files().iter().map(|file| file.size).sum())
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    if args.list {
        return list(app);
    }
    if args.verify {
        return verify(app);
    }
    prepare(args, app)
}

fn prepare(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let asked = source(args);
    if asked.is_none()
        && let Some(bundle) = current(app)?
    {
        return there_already(app, &bundle, "; a newer one comes with --update");
    }
    let source = asked.unwrap_or(KernelSource::Package { name: None });
    host_tools::require(match source {
        KernelSource::Package { .. } => &PACKAGE_TOOLS,
        KernelSource::Host { .. } | KernelSource::Paths { .. } => &FILE_TOOLS,
    })?;
    let known = hinted(kernel::list(app.global().data_dir()))?;
    let bundle = preparing::run(app, KernelError::hint, move |data, progress| {
        kernel::prepare(data, &source, progress)
    })?;
    if known.iter().any(|other| other.id() == bundle.id()) {
        return there_already(app, &bundle, "");
    }
    let shown = Shown::new(&bundle, true);
    let line = format!("{} in {}", shown.line("ready"), human::duration(start.elapsed()));
    app.printer().outcome(&shown, &line)?;
    DONE
}

/// Where the kernel is to come from, if anything was said.
fn source(args: &Args) -> Option<KernelSource> {
    if let (Some(kernel), Some(modules_dir)) = (args.kernel.clone(), args.modules.clone()) {
        return Some(KernelSource::Paths { kernel, modules_dir });
    }
    if let Some(release) = &args.from_host {
        return Some(KernelSource::Host { release: release.clone() });
    }
    let any = args.package.is_some() || args.update;
    any.then(|| KernelSource::Package { name: args.package.clone() })
}

/// The kernel that new sandboxes get; a damaged one is an error, because they would fail.
fn current(app: &App) -> Result<Option<KernelBundle>> {
    match kernel::current(app.global().data_dir()) {
        Ok(bundle) => Ok(Some(bundle)),
        Err(KernelError::NoKernel | KernelError::Unknown { .. }) => Ok(None),
        Err(error) => Err(preparing::with_hint(error, KernelError::hint)),
    }
}

fn there_already(app: &App, bundle: &KernelBundle, more: &str) -> Result<ExitCode> {
    let shown = Shown::new(bundle, true);
    app.printer().outcome(&shown, &format!("{}{more}", shown.line("is already there")))?;
    DONE
}

fn list(app: &App) -> Result<ExitCode> {
    let data = app.global().data_dir();
    let bundles = hinted(kernel::list(data))?;
    let current = kernel::current(data).ok().map(|bundle| bundle.id().to_owned());
    let is_current = |bundle: &KernelBundle| current.as_deref() == Some(bundle.id());
    let shown: Vec<Shown> = bundles.iter().map(|b| Shown::new(b, is_current(b))).collect();
    let printer = app.printer();
    if printer.is_json() {
        printer.json(&shown)?;
    } else if shown.is_empty() {
        printer.note("no kernel yet; prepare one with: bhatti kernel");
    } else {
        printer.bytes(table(shown).render().as_bytes())?;
    }
    DONE
}

fn table(kernels: Vec<Shown>) -> Table {
    let mut table = Table::new(&["ID", "LINUX", "SIZE", "CURRENT", "CREATED", "SOURCE"]);
    for kernel in kernels {
        let size = format!("{} MB", kernel.size_mb);
        let current = if kernel.current { "yes" } else { "-" }.to_owned();
        table.row([kernel.id, kernel.release, size, current, kernel.created_at, kernel.source]);
    }
    table
}

fn verify(app: &App) -> Result<ExitCode> {
    let bundle = hinted(kernel::current(app.global().data_dir()))?;
    let checked = bundle.clone();
    preparing::run(app, disk::DiskError::hint, move |_, progress| {
        progress(disk::Progress { step: format!("reading the kernel {}", checked.id()) });
        kernel::verify(&checked)
    })?;
    let shown = Shown::new(&bundle, true);
    app.printer().outcome(&shown, &shown.line("is as it was prepared"))?;
    DONE
}

fn hinted<T>(outcome: Result<T, KernelError>) -> Result<T> {
    outcome.map_err(|error| preparing::with_hint(error, KernelError::hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, tests::try_args};

    fn source_of(line: &str) -> Option<KernelSource> {
        let Ok(Command::Kernel(args)) = try_args(line) else { panic!("{line}") };
        source(&args)
    }

    #[test]
    fn each_way_of_asking_names_its_source() {
        assert_eq!(source_of("kernel"), None);
        let package =
            |name: Option<&str>| Some(KernelSource::Package { name: name.map(Into::into) });
        assert_eq!(source_of("kernel --update"), package(None));
        assert_eq!(source_of("kernel --package linux-virtual"), package(Some("linux-virtual")));
        let host =
            |release: Option<&str>| Some(KernelSource::Host { release: release.map(Into::into) });
        assert_eq!(source_of("kernel --from-host"), host(None));
        assert_eq!(source_of("kernel --from-host 6.1.0-9"), host(Some("6.1.0-9")));
        let paths = KernelSource::Paths { kernel: "/k".into(), modules_dir: "/m/6.1".into() };
        assert_eq!(source_of("kernel --kernel /k --modules /m/6.1"), Some(paths));
    }

    #[test]
    fn sources_exclude_each_other_and_a_kernel_needs_its_modules() {
        for line in [
            "kernel --package a --from-host",
            "kernel --kernel /k",
            "kernel --modules /m",
            "kernel --kernel /k --modules /m --package a",
            "kernel --list --verify",
            "kernel --list --update",
        ] {
            assert!(try_args(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_line_says_which_kernel_it_is() {
        let shown = Shown {
            id: "0123456789abcdef".into(),
            release: "6.1.0-1-cloud-amd64".into(),
            size_mb: 40,
            source: "package p".into(),
            created_at: time(0),
            current: true,
        };
        assert_eq!(
            shown.line("ready"),
            "kernel/0123456789abcdef ready (Linux 6.1.0-1-cloud-amd64, 40 MB)"
        );
        assert!(table(vec![shown]).render().contains("40 MB   yes       1970-01-01T00:00:00Z"));
    }
}
