//! What a Dockerfile says. Words are as they stand there: [`Scope`](crate::Scope) expands them.

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The character that escapes others and continues lines.
    pub escape: char,
    /// Build arguments before the first stage; for the `FROM` lines only.
    pub args: Vec<(usize, Argument)>,
    /// The stages, at least one.
    pub stages: Vec<Stage>,
    /// What was read and has no effect.
    pub notices: Vec<Notice>,
}

/// Something that people should know and that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The line that it is about, counted from 1.
    pub line: usize,
    /// What there is to know.
    pub message: String,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What it is called, in lower case.
    pub name: Option<String>,
    /// What it begins with.
    pub base: String,
    /// The platform that was asked for.
    pub platform: Option<String>,
    /// The line of its `FROM`, counted from 1.
    pub line: usize,
    /// What is done in it, in order.
    pub steps: Vec<Step>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its first line, counted from 1.
    pub line: usize,
    /// All of it on one line, for people.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `ARG`
    Arg(Vec<Argument>),
    /// `ENV`
    Env(Vec<(String, String)>),
    /// `LABEL`
    Label(Vec<(String, String)>),
    /// `RUN`
    Run(Command),
    /// `COPY` and `ADD`
    Copy(Copy),
    /// `WORKDIR`
    Workdir(String),
    /// `USER`
    User(String),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `SHELL`
    Shell(Vec<String>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What it is if nobody says.
    pub default: Option<String>,
}

/// Something to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A text for the shell.
    Shell(String),
    /// Program and arguments.
    Exec(Vec<String>),
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Whether archives are unpacked, as `ADD` does.
    pub add: bool,
    /// The stage or image whose files they are; the build's context if absent.
    pub from: Option<String>,
    /// `USER[:GROUP]` that they are to belong to.
    pub chown: Option<String>,
    /// Octal permission bits that they are to have.
    pub chmod: Option<String>,
    /// What is copied, at least one.
    pub sources: Vec<Source>,
    /// Where to.
    pub dest: String,
}

/// One thing to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern.
    Path(String),
    /// A file that stands in the Dockerfile itself.
    Inline {
        /// What it is called.
        name: String,
        /// All of it.
        content: String,
        /// Whether variables in it are expanded.
        expand: bool,
    },
}
