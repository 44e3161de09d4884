//! From a request to everything that the exec itself needs.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::message::{ErrorCode, Exec, NewSession, WireError};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Pid};

use crate::agent::{Agent, refuse};
use crate::services::Services;
use crate::sys::{self, Launch, Place, Spawned, Stage};
use crate::users::User;

/// Bytes that arguments and environment together may have.
pub(crate) const ARGUMENTS_MAX: usize = 2 * 1024 * 1024;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where sessions start, if it is there.
const WORKSPACE: &str = "/workspace";

/// The shell of a user whose own is missing.
const FALLBACK_SHELL: &str = "/bin/sh";

/// The group that may write to terminals, in every distribution.
const TERMINAL_GROUP: u32 = 5;

/// Most bytes of arguments that are kept to show them.
const SHOWN_MAX: usize = 1000;

/// A command that can be started.
#[derive(Debug)]
pub(crate) struct Command {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: Vec<CString>,
    /// Absent if this process may not become anybody else.
    user: Option<User>,
    services: Arc<Services>,
}

impl Command {
    /// Finds out who runs what, where and with which environment.
    ///
    /// # Errors
    /// The user or the command does not exist, or the request makes no sense.
    pub(crate) fn prepare(agent: &Agent, request: &Exec) -> Result<Self, WireError> {
        let user = find_user(agent, request.user.as_deref())?;
        let others = || vec![user.home.clone(), "/".to_owned()];
        let cwd = start_in(agent, request.cwd.as_deref(), others)?;
        Self::of(agent, user, &request.argv, &request.env, cwd)
    }

    /// As [`Command::prepare`], for a session.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn for_session(agent: &Agent, request: &NewSession) -> Result<Self, WireError> {
        let user = find_user(agent, request.user.as_deref())?;
        let others = || vec![WORKSPACE.to_owned(), user.home.clone(), "/".to_owned()];
        let cwd = start_in(agent, request.cwd.as_deref(), others)?;
        if !request.argv.is_empty() {
            return Self::of(agent, user, &request.argv, &request.env, cwd);
        }
        let there = std::fs::metadata(&user.shell).is_ok_and(|meta| meta.is_file());
        let shell = if there { user.shell.clone() } else { FALLBACK_SHELL.to_owned() };
        let name = shell.rsplit('/').next().unwrap_or_default();
        // As login does it; shells read the user's profile then, which sets PATH anew. One that the
        // image says is worth more.
        let dash = if image_says_path(agent) { "" } else { "-" };
        let called = c_string(format!("{dash}{name}"))?;
        let mut command = Self::of(agent, user, &[shell], &request.env, cwd)?;
        command.argv = vec![called];
        Ok(command)
    }

    fn of(
        agent: &Agent,
        user: User,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: Vec<String>,
    ) -> Result<Self, WireError> {
        let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
            return Err(refuse(ErrorCode::Invalid, "no command is given"));
        };
        let mut variables = defaults(&user);
        if let Some(identity) = agent.identity() {
            variables.extend(identity.defaults.env.clone());
            variables.extend(identity.env.clone());
        }
        variables.extend(env.clone());
        check_size(argv, &variables)?;
        let path = variables.get("PATH").map_or("", String::as_str);
        let program = find_program(name, path, cwd.first().map_or("/", String::as_str))?;
        Ok(Self {
            program: c_string(program.into_os_string().into_encoded_bytes())?,
            argv: argv.iter().cloned().map(c_string).collect::<Result<_, _>>()?,
            env: environment(variables)?,
            cwd: cwd.into_iter().map(c_string).collect::<Result<_, _>>()?,
            user: rustix::process::geteuid().is_root().then_some(user),
            services: Arc::clone(&agent.services),
        })
    }

    /// The arguments, to be shown.
    pub(crate) fn shown(&self) -> Vec<String> {
        cut(self.argv.iter().map(|argument| argument.to_string_lossy()))
    }

    /// Lets the command open a pipe of its own once more by its name, as `/dev/stdout` does.
    ///
    /// # Errors
    /// The kernel refuses to change the owner.
    pub(crate) fn own(&self, pipe: BorrowedFd<'_>) -> std::io::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        Ok(rustix::fs::fchown(pipe, Some(user.uid), Some(user.gid))?)
    }

    /// Gives the command its terminal.
    ///
    /// # Errors
    /// The kernel refuses to change the owner.
    pub(crate) fn own_terminal(&self, terminal: BorrowedFd<'_>) -> std::io::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        rustix::fs::fchown(terminal, Some(user.uid), Some(Gid::from_raw(TERMINAL_GROUP)))?;
        Ok(rustix::fs::fchmod(terminal, Mode::from_raw_mode(0o620))?)
    }

    /// Starts the command on three descriptors.
    ///
    /// # Errors
    /// What failed, in the host's terms.
    pub(crate) fn start(&self, stdio: [BorrowedFd<'_>; 3]) -> Result<Spawned, WireError> {
        self.launch(stdio, false)
    }

    /// Starts the command on a terminal, which becomes its own.
    ///
    /// # Errors
    /// As [`Command::start`].
    pub(crate) fn start_on_terminal(&self, terminal: BorrowedFd<'_>) -> Result<Spawned, WireError> {
        self.launch([terminal; 3], true)
    }

    fn launch(&self, stdio: [BorrowedFd<'_>; 3], terminal: bool) -> Result<Spawned, WireError> {
        let spawn = |place| {
            sys::spawn(&Launch {
                program: &self.program,
                argv: &self.argv,
                env: &self.env,
                cwd: &self.cwd,
                user: self.user.as_ref(),
                stdio,
                terminal,
                place,
            })
        };
        let started = match self.services.beside() {
            None => spawn(Place::Here),
            Some(beside) => match spawn(Place::Beside(&beside)) {
                // They are ending, and we have not heard of it yet: there is nothing to enter any more,
                // or nobody can be made there.
                Err((Stage::Enter, _) | (Stage::Fork, Errno::NOMEM)) => spawn(Place::Here),
                other => other,
            },
        };
        started.map_err(|(stage, errno)| self.explain(stage, errno))
    }

    /// Starts the command without input or output.
    ///
    /// # Errors
    /// As [`Command::start`].
    pub(crate) fn start_silent(&self, agent: &Agent) -> Result<Pid, WireError> {
        let null = agent.null.as_fd();
        self.start([null, null, null]).map(|started| started.pid)
    }

    fn explain(&self, stage: Stage, errno: Errno) -> WireError {
        let program = self.program.to_string_lossy();
        let cwd = self.cwd.first().map(|cwd| cwd.to_string_lossy()).unwrap_or_default();
        let (code, message) = match (stage, errno) {
            (Stage::Exec, Errno::NOENT | Errno::NOTDIR) => {
                (ErrorCode::CommandNotFound, format!("{program} or its interpreter is missing"))
            }
            (Stage::Exec, Errno::ACCESS | Errno::NOEXEC | Errno::ISDIR | Errno::PERM) => {
                (ErrorCode::CommandNotExecutable, format!("{program} cannot be executed: {errno}"))
            }
            (Stage::Exec, Errno::TOOBIG) => {
                (ErrorCode::Limit, "arguments and environment are too large".to_owned())
            }
            (Stage::Exec, _) => (ErrorCode::Failed, format!("execute {program}: {errno}")),
            (Stage::Cwd, Errno::NOENT) => {
                (ErrorCode::NotFound, format!("working directory {cwd} does not exist"))
            }
            (Stage::Cwd, Errno::NOTDIR) => {
                (ErrorCode::NotDirectory, format!("working directory {cwd} is no directory"))
            }
            (Stage::Cwd, Errno::ACCESS) => {
                (ErrorCode::Permission, format!("working directory {cwd} may not be entered"))
            }
            (Stage::Cwd, _) => (ErrorCode::Failed, format!("enter directory {cwd}: {errno}")),
            (Stage::User, _) => (ErrorCode::Failed, format!("become the user: {errno}")),
            (Stage::Fork, Errno::AGAIN | Errno::NOMEM | Errno::MFILE) => {
                (ErrorCode::Limit, format!("start a process: {errno}"))
            }
            (Stage::Fork, _) => (ErrorCode::Failed, format!("start a process: {errno}")),
            (Stage::Enter, _) => (ErrorCode::Failed, format!("join the services: {errno}")),
        };
        WireError { code, message }
    }
}

fn find_user(agent: &Agent, wanted: Option<&str>) -> Result<User, WireError> {
    let Some(wanted) = wanted else { return agent.default_user() };
    agent.users.find(Some(wanted)).ok_or_else(|| {
        refuse(ErrorCode::UnknownUser, format!("user {wanted} does not exist in the guest"))
    })
}

/// Where a command starts: where it wants, else where the image says, which is made if it is missing,
/// else in the first of `others` that is there.
fn start_in(
    agent: &Agent,
    wanted: Option<&str>,
    others: impl FnOnce() -> Vec<String>,
) -> Result<Vec<String>, WireError> {
    if let Some(wanted) = wanted {
        return Ok(vec![wanted.to_owned()]);
    }
    let identity = agent.identity();
    let said = identity.as_ref().and_then(|identity| identity.defaults.working_dir.clone());
    let Some(said) = said else { return Ok(others()) };
    if !Path::new(&said).exists() {
        std::fs::create_dir_all(&said).map_err(|error| {
            let message = format!("make the image's working directory {said}: {error}");
            refuse(ErrorCode::Failed, message)
        })?;
    }
    Ok(vec![said])
}

fn image_says_path(agent: &Agent) -> bool {
    agent.identity().is_some_and(|identity| identity.defaults.env.contains_key("PATH"))
}

/// As many arguments as are worth showing.
pub(crate) fn cut<T: AsRef<str>>(argv: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut left = SHOWN_MAX;
    let mut shown = Vec::new();
    for argument in argv {
        let argument = argument.as_ref();
        // One that is empty counts too: there may be a great many of them.
        if argument.len() + 1 > left {
            let ends = (0..=left.min(argument.len())).rev();
            let end = ends.into_iter().find(|end| argument.is_char_boundary(*end)).unwrap_or(0);
            shown.push(format!("{}…", &argument[..end]));
            break;
        }
        left -= argument.len() + 1;
        shown.push(argument.to_owned());
    }
    shown
}

fn defaults(user: &User) -> BTreeMap<String, String> {
    [
        ("HOME", user.home.as_str()),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
        ("PATH", DEFAULT_PATH),
        ("LANG", "C.UTF-8"),
        ("TERM", "xterm-256color"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn check_size(argv: &[String], env: &BTreeMap<String, String>) -> Result<(), WireError> {
    // As the kernel counts: each string with its end, and a pointer to it.
    let overhead = 1 + size_of::<usize>();
    let arguments: usize = argv.iter().map(|text| text.len() + overhead).sum();
    let variables: usize =
        env.iter().map(|(name, value)| name.len() + 1 + value.len() + overhead).sum();
    if arguments + variables > ARGUMENTS_MAX {
        let message = format!("arguments and environment have more than {ARGUMENTS_MAX} bytes");
        return Err(refuse(ErrorCode::Limit, message));
    }
    Ok(())
}

fn environment(variables: BTreeMap<String, String>) -> Result<Vec<CString>, WireError> {
    let line = |(name, value): (String, String)| {
        if name.is_empty() || name.contains('=') {
            let message = format!("{name:?} cannot be the name of a variable");
            return Err(refuse(ErrorCode::Invalid, message));
        }
        c_string(format!("{name}={value}"))
    };
    variables.into_iter().map(line).collect()
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, WireError> {
    CString::new(text)
        .map_err(|_| refuse(ErrorCode::Invalid, "arguments cannot hold a null character"))
}

/// Where `name` is: itself if it has a slash, else in the first directory of `path` that has it as
/// an executable file. Relative directories are relative to `cwd`.
pub(crate) fn find_program(name: &str, path: &str, cwd: &str) -> Result<PathBuf, WireError> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let mut found_unusable = None;
    for directory in path.split(':') {
        let candidate = Path::new(cwd).join(directory).join(name);
        let Ok(meta) = std::fs::metadata(&candidate) else { continue };
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            return Ok(candidate);
        }
        found_unusable.get_or_insert(candidate);
    }
    Err(match found_unusable {
        None => refuse(ErrorCode::CommandNotFound, format!("command {name} was not found")),
        Some(path) => {
            let message = format!("{} is not an executable file", path.display());
            refuse(ErrorCode::CommandNotExecutable, message)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_executable_on_the_path_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for (path, mode) in
            [("a/tool", 0o644), ("b/tool", 0o755), ("c/tool", 0o755), ("a/x", 0o600)]
        {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(root.path().join("a/dir")).unwrap();
        let cwd = root.path().to_str().unwrap();
        let path = format!("{cwd}/a:{cwd}/b:c");
        assert_eq!(find_program("tool", &path, cwd).unwrap(), root.path().join("b/tool"));
        assert_eq!(find_program("tool", "c", cwd).unwrap(), root.path().join("c/tool"));
        assert_eq!(find_program("./x", "", cwd).unwrap(), Path::new("./x"));
        let code = |name: &str| find_program(name, &path, cwd).unwrap_err().code;
        assert_eq!(code("x"), ErrorCode::CommandNotExecutable);
        assert_eq!(code("dir"), ErrorCode::CommandNotExecutable);
        assert_eq!(code("nothing"), ErrorCode::CommandNotFound);
    }

    #[test]
    fn long_arguments_are_cut_to_be_shown() {
        assert_eq!(cut(["a", "b c"]), ["a", "b c"]);
        let shown = cut(["x".repeat(999), "éé".to_owned(), "more".to_owned()]);
        assert_eq!(shown, ["x".repeat(999), "…".to_owned()]);
        assert_eq!(cut(["é".repeat(600)]), [format!("{}…", "é".repeat(500))]);
        assert!(cut(vec![""; 5000]).len() <= SHOWN_MAX + 1);
    }

    #[test]
    fn names_and_sizes_that_make_no_sense_are_refused() {
        let env = |name: &str| environment([(name.to_owned(), "v".to_owned())].into());
        assert_eq!(env("A").unwrap(), [c"A=v".to_owned()]);
        for name in ["", "A=B", "A\0"] {
            assert_eq!(env(name).unwrap_err().code, ErrorCode::Invalid);
        }
        let long = ["x".repeat(ARGUMENTS_MAX)];
        assert_eq!(check_size(&long, &BTreeMap::new()).unwrap_err().code, ErrorCode::Limit);
    }
}
