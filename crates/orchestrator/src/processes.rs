//! What an image's configuration means for the processes of a sandbox.

use disk::image::{Config, Image};
use proto::message::Defaults;

use crate::{Error, Kind, Result};

/// Most bytes of an image's variables. Together with a sandbox's own they fit into one message.
const ENV_BYTES_MAX: usize = 256 << 10;
/// Most bytes of the program and its arguments.
const PROGRAM_BYTES_MAX: usize = 64 << 10;
/// Most bytes of anything else.
const TEXT_MAX: usize = 4096;

/// The label by which an image says whether the systemd that it has is run: `on` or `off`.
const SERVICES: &str = "bhatti.services";

/// Where an image's own init is. The machine has one, and it runs systemd without being asked.
const INITS: [&str; 4] =
    ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"];

/// Shells that just wait for somebody to type.
const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "zsh", "ksh"];

/// What the guest is told of its image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    /// What commands take that do not say otherwise.
    pub defaults: Defaults,
    /// What runs from the start, unless the owner says otherwise; nothing if empty.
    pub program: Vec<String>,
    /// What that is told to end by.
    pub stop_signal: Option<String>,
    /// Whether systemd is to run if the image has it; as the image's files say, if nothing.
    pub services: Option<bool>,
}

impl Processes {
    /// # Errors
    /// [`Kind::ImageInvalid`] if the configuration makes no sense or is too large to be told.
    pub(crate) fn of(image: &Image) -> Result<Self> {
        Self::from_config(image.config())
    }

    /// As [`of`](Self::of).
    pub(crate) fn from_config(config: &Config) -> Result<Self> {
        let program: Vec<String> = config.entrypoint.iter().chain(&config.cmd).cloned().collect();
        let said = |text: &Option<String>| {
            let text = text.as_deref().map(str::trim).unwrap_or_default();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let absolute = |path: String| match path.starts_with('/') {
            true => path,
            false => format!("/{path}"),
        };
        let defaults = Defaults {
            env: config.env.iter().cloned().collect(),
            user: said(&config.user),
            working_dir: said(&config.working_dir).map(absolute),
        };
        check(&defaults, &program)?;
        let idle = is_idle_shell(&program) || is_init(&program);
        let program = if idle { Vec::new() } else { program };
        let stop_signal = said(&config.stop_signal);
        Ok(Self { defaults, program, stop_signal, services: services(config)? })
    }
}

/// Whether it is a shell without anything to do. Kept running it would be of no use to anybody.
fn is_idle_shell(program: &[String]) -> bool {
    let [only] = program else { return false };
    SHELLS.contains(&only.rsplit('/').next().unwrap_or_default())
}

/// Whether it is what would be the machine's first process if the image were a container's.
fn is_init(program: &[String]) -> bool {
    let [only] = program else { return false };
    INITS.contains(&only.as_str())
}

fn services(config: &Config) -> Result<Option<bool>> {
    match config.labels.get(SERVICES).map(String::as_str) {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => {
            let what = format!("the image's label {SERVICES} is {other:?}");
            Err(Error::new(Kind::ImageInvalid, what).hint("it can be on or off"))
        }
    }
}

fn check(defaults: &Defaults, program: &[String]) -> Result<()> {
    let invalid = |what: String| {
        Err(Error::new(Kind::ImageInvalid, format!("the image's configuration: {what}")))
    };
    let strange = |name: &String| name.is_empty() || name.contains('=');
    if let Some(name) = defaults.env.keys().find(|name| strange(name)) {
        return invalid(format!("{name:?} cannot be the name of a variable"));
    }
    let pairs = defaults.env.iter().flat_map(|(name, value)| [name, value]);
    let others = [&defaults.user, &defaults.working_dir].into_iter().flatten();
    if pairs.clone().chain(program).chain(others.clone()).any(|text| text.contains('\0')) {
        return invalid("it has a NUL character".to_owned());
    }
    if pairs.map(String::len).sum::<usize>() > ENV_BYTES_MAX {
        return invalid(format!("its variables have more than {ENV_BYTES_MAX} bytes"));
    }
    if program.iter().map(|text| text.len() + 1).sum::<usize>() > PROGRAM_BYTES_MAX {
        return invalid(format!("its program has more than {PROGRAM_BYTES_MAX} bytes"));
    }
    if others.map(String::len).any(|length| length > TEXT_MAX) {
        return invalid(format!("a text has more than {TEXT_MAX} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_image_s_program_is_entrypoint_and_command_unless_it_is_an_idle_shell() {
        for (entrypoint, cmd, expected) in [
            ("", "", ""),
            ("", "bash", ""),
            ("", "/bin/sh", ""),
            ("/usr/bin/zsh", "", ""),
            ("", "bash -c true", "bash -c true"),
            ("", "python3", "python3"),
            ("/entrypoint.sh", "nginx -g x", "/entrypoint.sh nginx -g x"),
            ("/entrypoint.sh", "bash", "/entrypoint.sh bash"),
            ("tini", "", "tini"),
            ("", "/sbin/init", ""),
            ("/lib/systemd/systemd", "", ""),
            ("/sbin/init", "--log-level=debug", "/sbin/init --log-level=debug"),
        ] {
            let config =
                Config { entrypoint: words(entrypoint), cmd: words(cmd), ..Config::default() };
            let processes = Processes::from_config(&config).unwrap();
            assert_eq!(processes.program, words(expected), "{entrypoint} {cmd}");
        }
    }

    #[test]
    fn an_image_says_whether_its_services_run_or_nothing() {
        let said = |value: Option<&str>| {
            let labels = value.map(|value| (SERVICES.to_owned(), value.to_owned()));
            let config = Config { labels: labels.into_iter().collect(), ..Config::default() };
            Processes::from_config(&config).map(|processes| processes.services)
        };
        assert_eq!(said(None).unwrap(), None);
        assert_eq!(said(Some("on")).unwrap(), Some(true));
        assert_eq!(said(Some("off")).unwrap(), Some(false));
        for wrong in ["", "OFF", "false", "off panic=1"] {
            let error = said(Some(wrong)).unwrap_err();
            assert_eq!((error.kind, error.hint.is_some()), (Kind::ImageInvalid, true), "{wrong}");
        }
    }

    #[test]
    fn what_is_empty_is_not_said_and_a_directory_is_from_the_root() {
        let config = |user: &str, dir: &str| Config {
            user: Some(user.to_owned()),
            working_dir: Some(dir.to_owned()),
            ..Config::default()
        };
        let defaults = |user, dir| Processes::from_config(&config(user, dir)).unwrap().defaults;
        assert!(defaults("", " ").are_none());
        let said = defaults("app:web", "srv");
        assert_eq!(said.user.as_deref(), Some("app:web"));
        assert_eq!(said.working_dir.as_deref(), Some("/srv"));
    }

    #[test]
    fn what_no_process_can_have_is_refused() {
        let env = |name: &str, value: &str| Config {
            env: vec![(name.to_owned(), value.to_owned())],
            ..Config::default()
        };
        let long = "x".repeat(300 << 10);
        let user = Config { user: Some("a\0".to_owned()), ..Config::default() };
        let dir = Config { working_dir: Some(long.clone()), ..Config::default() };
        let cmd = Config { cmd: vec![long.clone()], ..Config::default() };
        for bad in [env("", "x"), env("A=B", "x"), env("A", "\0"), env("A", &long), user, dir, cmd]
        {
            assert_eq!(Processes::from_config(&bad).unwrap_err().kind, Kind::ImageInvalid);
        }
        assert!(Processes::from_config(&env("A", "b=c")).is_ok());
    }
}
