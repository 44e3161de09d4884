//! The variables of one stage, and instructions with their words expanded.

use std::collections::BTreeMap;

use crate::{Argument, Command, Copy, Instruction, Invalid, Source, Step, expand};

/// Build arguments that commands see without an `ARG`, and that are no part of what is built.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The variables that instructions see.
#[derive(Debug, Clone)]
pub struct Scope {
    escape: char,
    /// What was said on the command line.
    given: BTreeMap<String, String>,
    /// Arguments from before the first stage, and what the builder says of itself.
    global: BTreeMap<String, String>,
    /// Arguments of this stage.
    args: BTreeMap<String, String>,
    /// The image's variables.
    env: Vec<(String, String)>,
}

impl Scope {
    /// The variables of `FROM` lines: the arguments before the first one, and `builtin`, which are
    /// those that every Dockerfile may use, such as `TARGETARCH`.
    ///
    /// # Errors
    /// A default cannot be expanded.
    pub fn global(
        escape: char,
        args: &[(usize, Argument)],
        given: &BTreeMap<String, String>,
        builtin: &[(&str, &str)],
    ) -> Result<Self, Invalid> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let global = builtin.iter().map(pair).collect();
        let (given, none, env) = (given.clone(), BTreeMap::new(), Vec::new());
        let mut scope = Self { escape, given, global, args: none, env };
        for (line, argument) in args {
            // Here alone the ones see the others.
            scope.args.clone_from(&scope.global);
            let value = scope.value_of(argument).map_err(|e| Invalid::new(*line, e))?;
            if let Some(value) = value {
                scope.global.insert(argument.name.clone(), value);
            }
        }
        scope.args.clear();
        Ok(scope)
    }

    /// The variables at the beginning of a stage whose base has these.
    pub fn stage(&self, env: Vec<(String, String)>) -> Self {
        Self { args: BTreeMap::new(), env, ..self.clone() }
    }

    /// A word of a `FROM` line.
    ///
    /// # Errors
    /// It cannot be expanded.
    pub fn in_from(&self, line: usize, word: &str) -> Result<String, Invalid> {
        let lookup = |name: &str| self.global.get(name).cloned();
        expand::word(word, self.escape, &lookup).map_err(|error| Invalid::new(line, error))
    }

    /// What an `ARG` says: what was given, else its default.
    fn value_of(&self, argument: &Argument) -> Result<Option<String>, String> {
        if let Some(given) = self.given.get(&argument.name) {
            return Ok(Some(given.clone()));
        }
        match &argument.default {
            Some(default) => self.word(default).map(Some),
            None => Ok(self.global.get(&argument.name).cloned()),
        }
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let env = self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        env.or_else(|| self.args.get(name)).cloned()
    }

    fn word(&self, text: &str) -> Result<String, String> {
        expand::word(text, self.escape, &|name| self.lookup(name))
    }

    fn words(&self, list: &[String]) -> Result<Vec<String>, String> {
        list.iter().map(|word| self.word(word)).collect()
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
        pairs.iter().map(|(key, value)| Ok((self.word(key)?, self.word(value)?))).collect()
    }

    /// The instruction with its words expanded; what it says of variables holds from now on.
    ///
    /// # Errors
    /// A word cannot be expanded, or is nothing where something is needed.
    pub fn apply(&mut self, step: &Step) -> Result<Instruction, Invalid> {
        self.expand(&step.instruction).map_err(|error| Invalid::new(step.line, error))
    }

    fn expand(&mut self, instruction: &Instruction) -> Result<Instruction, String> {
        Ok(match instruction {
            Instruction::Arg(list) => {
                for argument in list {
                    match self.value_of(argument)? {
                        Some(value) => self.args.insert(argument.name.clone(), value),
                        None => None,
                    };
                }
                Instruction::Arg(list.clone())
            }
            Instruction::Env(pairs) => {
                // All of one instruction see what was before it.
                let pairs = self.pairs(pairs)?;
                for (key, value) in &pairs {
                    set(&mut self.env, key, value);
                }
                Instruction::Env(pairs)
            }
            Instruction::Label(pairs) => Instruction::Label(self.pairs(pairs)?),
            Instruction::Copy(copy) => Instruction::Copy(self.copy(copy)?),
            Instruction::Workdir(path) => Instruction::Workdir(something(self.word(path)?)?),
            Instruction::User(user) => Instruction::User(something(self.word(user)?)?),
            Instruction::Expose(ports) => {
                let words = self.words(ports)?;
                let ports = words.iter().flat_map(|word| word.split_whitespace());
                Instruction::Expose(ports.map(str::to_owned).collect())
            }
            Instruction::Volume(paths) => Instruction::Volume(self.words(paths)?),
            Instruction::StopSignal(signal) => {
                Instruction::StopSignal(something(self.word(signal)?)?)
            }
            // A shell expands these itself.
            Instruction::Run(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Shell(_) => instruction.clone(),
        })
    }

    fn copy(&self, copy: &Copy) -> Result<Copy, String> {
        let flag = |value: &Option<String>| value.as_deref().map(|v| self.word(v)).transpose();
        let source = |source: &Source| {
            Ok(match source {
                Source::Path(path) => Source::Path(something(self.word(path)?)?),
                Source::Inline { name, content, expand: true } => Source::Inline {
                    name: name.clone(),
                    content: expand::text(content, self.escape, &|name| self.lookup(name))?,
                    expand: false,
                },
                inline @ Source::Inline { .. } => inline.clone(),
            })
        };
        Ok(Copy {
            add: copy.add,
            from: copy.from.clone(),
            chown: flag(&copy.chown)?,
            chmod: flag(&copy.chmod)?,
            sources: copy.sources.iter().map(source).collect::<Result<_, String>>()?,
            dest: something(self.word(&copy.dest)?)?,
        })
    }

    /// The image's variables, in the order in which they were set first.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// What commands see besides: the stage's arguments that no variable of the image hides. They
    /// decide what a command does, so they are part of what it is found in the cache by.
    pub fn arguments(&self) -> BTreeMap<String, String> {
        let hidden = |name: &str| self.env.iter().any(|(key, _)| key == name);
        let args = self.args.iter().filter(|(name, _)| !hidden(name));
        args.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// What commands see besides, and what says nothing about what they do: proxies.
    pub fn proxies(&self) -> BTreeMap<String, String> {
        let given = self.given.iter().filter(|(name, _)| PREDEFINED.contains(&name.as_str()));
        given.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The arguments of the command line that no `ARG` of the file asks for.
    pub fn unasked<'a>(
        given: &'a BTreeMap<String, String>,
        file: &'a crate::Dockerfile,
    ) -> impl Iterator<Item = &'a str> {
        let asked = |name: &str| {
            let steps = file.stages.iter().flat_map(|stage| &stage.steps);
            let in_stage = |step: &Step| match &step.instruction {
                Instruction::Arg(list) => list.iter().any(|argument| argument.name == name),
                _ => false,
            };
            file.args.iter().any(|(_, argument)| argument.name == name)
                || steps.into_iter().any(in_stage)
        };
        let names = given.keys().map(String::as_str);
        names.filter(move |name| !asked(name) && !PREDEFINED.contains(name))
    }
}

/// Sets a variable, in its old place if there is one.
fn set(env: &mut Vec<(String, String)>, key: &str, value: &str) {
    match env.iter_mut().find(|(known, _)| known == key) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((key.to_owned(), value.to_owned())),
    }
}

fn something(word: String) -> Result<String, String> {
    match word.as_str() {
        "" => Err("nothing is left of a word once its variables are put in".to_owned()),
        _ if word.contains('\0') => Err("a word has a null character".to_owned()),
        _ => Ok(word),
    }
}

impl Command {
    /// The arguments of a process, for a shell's text with the shell in front.
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(list) => list.clone(),
            Self::Shell(text) => shell.iter().cloned().chain([text.clone()]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// What the instructions of the only stage become.
    fn applied(text: &str, build: &[(&str, &str)]) -> (Scope, Vec<Instruction>) {
        let file = parse(text).unwrap();
        let builtin = [("TARGETARCH", "amd64")];
        let global = Scope::global(file.escape, &file.args, &given(build), &builtin).unwrap();
        let mut scope = global.stage(vec![("PATH".to_owned(), "/bin".to_owned())]);
        let steps = file.stages[0].steps.iter().map(|step| scope.apply(step).unwrap()).collect();
        (scope, steps)
    }

    fn last_env(text: &str, build: &[(&str, &str)]) -> String {
        let (_, steps) = applied(text, build);
        match steps.last() {
            Some(Instruction::Env(pairs)) => pairs[0].1.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_and_variables_are_seen_from_where_they_are_set() {
        let text = "ARG G=g\nARG H=${G}h\nFROM x\nARG G\nARG H\nARG A=$G-a\nENV R=$A,$H,$N,$PATH";
        assert_eq!(last_env(text, &[]), "g-a,gh,,/bin");
        assert_eq!(last_env(text, &[("G", "z"), ("A", "$x")]), "$x,zh,,/bin");
        assert_eq!(last_env("ARG G=g\nFROM x\nENV R=$G", &[("G", "z")]), "", "not asked for");
        assert_eq!(last_env("ARG G=g\nFROM x\nARG A=$G\nENV R=$A", &[]), "");
        assert_eq!(last_env("FROM x\nARG TARGETARCH\nENV R=$TARGETARCH", &[]), "amd64");
        assert_eq!(last_env("FROM x\nENV A=1\nARG A=2\nENV R=$A", &[("A", "3")]), "1");
        assert_eq!(last_env("FROM x\nENV A=1\nENV A=2 B=$A\nENV R=$A$B", &[]), "21");
        assert_eq!(last_env("FROM x\nARG A=1\nARG A=2\nENV R=$A", &[]), "2");
    }

    #[test]
    fn commands_see_arguments_that_no_variable_hides() {
        let build = [("A", "1"), ("http_proxy", "p"), ("X", "y")];
        let (scope, _) = applied("FROM x\nARG A\nARG B\nARG C=c\nENV C=d", &build);
        assert_eq!(scope.arguments(), given(&[("A", "1")]));
        assert_eq!(scope.proxies(), given(&[("http_proxy", "p")]));
        let file = parse("ARG Q\nFROM x\nARG A").unwrap();
        let build = given(&[("A", "1"), ("X", "y"), ("no_proxy", ""), ("Q", "")]);
        assert_eq!(Scope::unasked(&build, &file).collect::<Vec<_>>(), ["X"]);
    }

    #[test]
    fn words_of_every_kind_are_expanded() {
        let text = "FROM x\nENV d=/d s=a\\ b p=\"90 91\"\nWORKDIR $d/e\nCOPY --chown=$s ${s}* <<E $d/\n$d '\nE\n\
                    EXPOSE 80 $p\nRUN $d\nUSER '$d'";
        let (_, steps) = applied(text, &[]);
        assert_eq!(steps[1], Instruction::Workdir("/d/e".to_owned()));
        let Instruction::Copy(copy) = &steps[2] else { panic!("{steps:?}") };
        assert_eq!((copy.chown.as_deref(), copy.dest.as_str()), (Some("a b"), "/d/"));
        assert_eq!(copy.sources[0], Source::Path("a b*".to_owned()));
        let Source::Inline { content, .. } = &copy.sources[1] else { panic!("{copy:?}") };
        assert_eq!(content, "/d '\n");
        assert_eq!(steps[3], Instruction::Expose(["80", "90", "91"].map(str::to_owned).into()));
        assert_eq!(steps[4], Instruction::Run(Command::Shell("$d".to_owned())));
        assert_eq!(steps[5], Instruction::User("$d".to_owned()));
    }

    #[test]
    fn nothing_where_something_is_needed_names_the_line() {
        let file = parse("FROM x\n\nWORKDIR $no").unwrap();
        let mut scope =
            Scope::global('\\', &file.args, &given(&[]), &[]).unwrap().stage(Vec::new());
        assert_eq!(scope.apply(&file.stages[0].steps[0]).unwrap_err().line, 3);
        let file = parse("ARG A=${x\nFROM x").unwrap();
        assert_eq!(Scope::global('\\', &file.args, &given(&[]), &[]).unwrap_err().line, 1);
    }

    #[test]
    fn a_shell_stands_in_front_of_its_text() {
        let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
        assert_eq!(Command::Shell("a b".into()).argv(&shell), ["/bin/sh", "-c", "a b"]);
        assert_eq!(Command::Exec(vec!["a".into()]).argv(&shell), ["a"]);
    }
}
