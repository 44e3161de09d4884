//! From instructions' texts to what they say.

use crate::{
    Argument, Command, Copy, DOCKERFILE_MAX, Dockerfile, Instruction, Invalid, Notice, Source,
    Stage, Step,
    lines::{self, Heredoc, Line},
    shown, words,
};

/// Most stages, and most instructions.
const STAGES_MAX: usize = 100;
const STEPS_MAX: usize = 2000;

/// Reads a Dockerfile.
///
/// # Errors
/// An instruction or flag that is not known, or one that makes no sense.
pub fn parse(text: &str) -> Result<Dockerfile, Invalid> {
    if text.len() > DOCKERFILE_MAX {
        return Err(Invalid::new(1, format!("it has more than {DOCKERFILE_MAX} bytes")));
    }
    let (escape, lines) = lines::split(text)?;
    let mut file = Dockerfile { escape, args: Vec::new(), stages: Vec::new(), notices: Vec::new() };
    let last = lines.last().map_or(1, |line| line.number);
    for (count, line) in lines.into_iter().enumerate() {
        if count >= STEPS_MAX {
            let message = format!("there are more than {STEPS_MAX} instructions");
            return Err(Invalid::new(line.number, message));
        }
        let number = line.number;
        add(&mut file, &line).map_err(|message| Invalid::new(number, message))?;
    }
    if file.stages.is_empty() {
        return Err(Invalid::new(last, "there is no FROM, which every build begins with"));
    }
    Ok(file)
}

fn add(file: &mut Dockerfile, line: &Line) -> Result<(), String> {
    let mut reader = Reader { line, rest: &line.rest, escape: file.escape, notices: Vec::new() };
    match line.keyword.as_str() {
        "FROM" => {
            if file.stages.len() == STAGES_MAX {
                return Err(format!("there are more than {STAGES_MAX} stages"));
            }
            let stage = reader.from()?;
            let taken = |other: &Stage| stage.name.is_some() && other.name == stage.name;
            if file.stages.iter().any(taken) {
                return Err("another stage has this name already".to_owned());
            }
            file.stages.push(stage);
        }
        "ARG" if file.stages.is_empty() => {
            let number = line.number;
            file.args.extend(reader.arg()?.into_iter().map(|argument| (number, argument)));
        }
        _ => {
            let instruction = reader.instruction()?;
            let Some(stage) = file.stages.last_mut() else {
                return Err(format!("{} comes before the first FROM", shown(&line.keyword)));
            };
            let text = format!("{} {}", line.keyword, line.rest);
            let step = |instruction| Step { line: line.number, text, instruction };
            stage.steps.extend(instruction.map(step));
        }
    }
    let notice = |message| Notice { line: line.number, message };
    file.notices.extend(reader.notices.into_iter().map(notice));
    Ok(())
}

/// One instruction while it is read.
struct Reader<'a> {
    line: &'a Line,
    rest: &'a str,
    escape: char,
    notices: Vec<String>,
}

impl Reader<'_> {
    fn instruction(&mut self) -> Result<Option<Instruction>, String> {
        Ok(Some(match self.line.keyword.as_str() {
            "ARG" => Instruction::Arg(self.arg()?),
            "ENV" => Instruction::Env(self.pairs(true)?),
            "LABEL" => Instruction::Label(self.pairs(false)?),
            "RUN" => self.run()?,
            "COPY" => self.copy(false)?,
            "ADD" => self.copy(true)?,
            "WORKDIR" => Instruction::Workdir(self.one("a directory")?),
            "USER" => Instruction::User(self.one("a user")?),
            "STOPSIGNAL" => Instruction::StopSignal(self.one("a signal")?),
            "EXPOSE" => Instruction::Expose(self.several("a port")?),
            "VOLUME" => {
                self.notices.push("VOLUME has no effect".into());
                Instruction::Volume(match words::json(self.rest) {
                    Some(list) if !list.is_empty() => list,
                    _ => self.several("a directory")?,
                })
            }
            "SHELL" => match words::json(self.rest) {
                Some(list) if !list.is_empty() => Instruction::Shell(list),
                _ => return Err("SHELL needs a list such as [\"/bin/bash\", \"-c\"]".to_owned()),
            },
            "CMD" => Instruction::Cmd(self.command()),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command()),
            word @ ("HEALTHCHECK" | "ONBUILD" | "MAINTAINER") => {
                self.notices.push(format!("{word} has no effect"));
                return Ok(None);
            }
            word => return Err(format!("there is no instruction {}", shown(word))),
        }))
    }

    /// Takes the flags at the beginning.
    fn flags(&mut self) -> Vec<(String, Option<String>)> {
        let mut flags = Vec::new();
        while let Some(((name, value), rest)) = words::flag(self.rest, self.escape) {
            flags.push((name.to_owned(), value.map(str::to_owned)));
            self.rest = rest;
        }
        flags
    }

    fn unknown_flag(&self, name: &str) -> String {
        format!("{} has no flag --{} here", self.line.keyword, shown(name))
    }

    fn from(&mut self) -> Result<Stage, String> {
        let mut platform = None;
        for (name, value) in self.flags() {
            match name.as_str() {
                "platform" => platform = value,
                name => return Err(self.unknown_flag(name)),
            }
        }
        let words = words::split(self.rest, self.escape);
        let (base, name) = match words[..] {
            [base] => (base, None),
            [base, word, name] if word.eq_ignore_ascii_case("as") => (base, Some(name)),
            _ => return Err("FROM is followed by IMAGE or IMAGE AS NAME".to_owned()),
        };
        let name = name.map(str::to_ascii_lowercase);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain)
        };
        if let Some(name) = name.as_deref().filter(|name| !fits(name)) {
            let name = shown(name);
            return Err(format!("{name:?} is no name of a stage: letters, digits, -, _ and ."));
        }
        Ok(Stage {
            name,
            base: base.to_owned(),
            platform,
            line: self.line.number,
            steps: Vec::new(),
        })
    }

    fn arg(&mut self) -> Result<Vec<Argument>, String> {
        let argument = |word: &str| {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word, None),
            };
            check_variable(name)?;
            Ok(Argument { name: name.to_owned(), default })
        };
        let words = words::split(self.rest, self.escape);
        if words.is_empty() {
            return Err("ARG needs a name".to_owned());
        }
        words.into_iter().map(argument).collect()
    }

    /// `KEY=VALUE …`, or the older `KEY VALUE`.
    fn pairs(&mut self, variables: bool) -> Result<Vec<(String, String)>, String> {
        let keyword = &self.line.keyword;
        let Some((first, rest)) = words::first(self.rest, self.escape) else {
            return Err(format!("{keyword} needs KEY=VALUE"));
        };
        let pairs: Vec<(String, String)> = if first.contains('=') {
            let pair = |word: &str| match word.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(format!("{keyword}: {:?} is not KEY=VALUE", shown(word))),
            };
            words::split(self.rest, self.escape).into_iter().map(pair).collect::<Result<_, _>>()?
        } else if rest.is_empty() {
            return Err(format!("{keyword} {} has no value", shown(first)));
        } else {
            vec![(first.to_owned(), rest.to_owned())]
        };
        for (key, _) in &pairs {
            match variables {
                true => check_variable(key)?,
                false if key.is_empty() => return Err(format!("{keyword} needs KEY=VALUE")),
                false => {}
            }
        }
        Ok(pairs)
    }

    /// All of the rest, which is one thing.
    fn one(&mut self, what: &str) -> Result<String, String> {
        match self.rest {
            "" => Err(format!("{} needs {what}", self.line.keyword)),
            rest => Ok(rest.to_owned()),
        }
    }

    fn several(&mut self, what: &str) -> Result<Vec<String>, String> {
        let words = words::split(self.rest, self.escape);
        match words.is_empty() {
            true => Err(format!("{} needs {what}", self.line.keyword)),
            false => Ok(words.into_iter().map(str::to_owned).collect()),
        }
    }

    fn command(&mut self) -> Command {
        if let Some(list) = words::json(self.rest) {
            return Command::Exec(list);
        }
        if self.rest.starts_with('[') {
            let keyword = &self.line.keyword;
            let notice =
                format!("{keyword}: this is not a JSON list of strings, so a shell gets it");
            self.notices.push(notice);
        }
        Command::Shell(self.rest.to_owned())
    }

    fn run(&mut self) -> Result<Instruction, String> {
        for (name, value) in self.flags() {
            let value = value.as_deref().unwrap_or_default();
            match (name.as_str(), value) {
                ("network", "default") | ("security", "sandbox") => {}
                ("mount", mount) if mount.split(',').any(|part| part == "type=cache") => {
                    let notice = "cache mounts are not kept: what is written there is in the image";
                    self.notices.push(notice.to_owned());
                }
                ("mount", _) => {
                    return Err("of mounts only type=cache is understood; copy what is needed \
                                with COPY"
                        .to_owned());
                }
                (name, _) => return Err(self.unknown_flag(name)),
            }
        }
        let command = match &self.line.heredocs[..] {
            [] => self.command(),
            [only] if lines::is_mark(self.rest) => {
                if only.content.starts_with("#!") {
                    return Err("a script with an interpreter of its own is not supported; write \
                                RUN INTERPRETER <<EOF"
                        .to_owned());
                }
                Command::Shell(only.content.clone())
            }
            several => {
                let texts: String = several.iter().map(|text| text.raw.as_str()).collect();
                Command::Shell(format!("{}\n{texts}", self.rest))
            }
        };
        match &command {
            Command::Shell(text) if text.trim().is_empty() => Err("RUN needs a command".to_owned()),
            Command::Exec(list) if list.is_empty() => Err("RUN needs a command".to_owned()),
            _ => Ok(Instruction::Run(command)),
        }
    }

    fn copy(&mut self, add: bool) -> Result<Instruction, String> {
        let keyword = &self.line.keyword;
        let (mut from, mut chown, mut chmod) = (None, None, None);
        for (name, value) in self.flags() {
            match (name.as_str(), value) {
                ("from", Some(value)) if !add && !value.is_empty() => from = Some(value),
                ("chown", Some(value)) if !value.is_empty() => chown = Some(value),
                ("chmod", Some(value)) if !value.is_empty() => chmod = Some(value),
                ("link", None) => {}
                ("link", Some(value)) if matches!(value.as_str(), "true" | "false") => {}
                (name @ ("from" | "chown" | "chmod"), _) if name != "from" || !add => {
                    return Err(format!("{keyword}: --{name} needs a value"));
                }
                (name, _) => return Err(self.unknown_flag(name)),
            }
        }
        let mut list = match words::json(self.rest) {
            Some(list) => list,
            None => words::split(self.rest, self.escape).into_iter().map(str::to_owned).collect(),
        };
        let dest = list.pop().filter(|_| !list.is_empty());
        let Some(dest) = dest else {
            return Err(format!("{keyword} needs at least one source and a destination"));
        };
        let mut texts = self.line.heredocs.iter();
        let sources = list.into_iter().map(|word| match lines::is_mark(&word) {
            true => texts.next().map_or(Source::Path(word), inline),
            false => Source::Path(word),
        });
        let sources: Vec<Source> = sources.collect();
        let url = |source: &Source| matches!(source, Source::Path(path) if path.contains("://") || path.starts_with("git@"));
        if sources.iter().any(url) {
            return Err(format!(
                "{keyword} fetches nothing from URLs; fetch it with RUN, for instance with curl"
            ));
        }
        Ok(Instruction::Copy(Copy { add, from, chown, chmod, sources, dest }))
    }
}

fn inline(text: &Heredoc) -> Source {
    let Heredoc { name, content, expand, .. } = text.clone();
    Source::Inline { name, content, expand }
}

fn check_variable(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['\0', '"', '\'', '$']) {
        return Err(format!("{:?} cannot be the name of a variable", shown(name)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
