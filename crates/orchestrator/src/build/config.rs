//! What instructions say about the image rather than about its files.

use disk::image::Config;
use dockerfile::Instruction;

/// What an image says, and what its Dockerfile says besides.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub config: Config,
    /// What a command's text is given to.
    pub shell: Vec<String>,
    /// Whether this Dockerfile has said what to run, which an entry point after it leaves alone.
    command: bool,
}

impl Said {
    pub(super) fn new(config: Config) -> Self {
        let shell = ["/bin/sh", "-c"].map(str::to_owned).to_vec();
        Self { config, shell, command: false }
    }

    /// Takes over what an instruction says; those about files say nothing here.
    pub(super) fn apply(&mut self, instruction: &Instruction) {
        let config = &mut self.config;
        match instruction {
            Instruction::Env(pairs) => {
                for (key, value) in pairs {
                    match config.env.iter_mut().find(|(known, _)| known == key) {
                        Some((_, old)) => value.clone_into(old),
                        None => config.env.push((key.clone(), value.clone())),
                    }
                }
            }
            Instruction::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
            Instruction::User(user) => config.user = Some(user.clone()),
            Instruction::Workdir(path) => self.config.working_dir = Some(self.absolute(path)),
            Instruction::Expose(ports) => {
                for port in ports {
                    let port =
                        if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
                    if !config.exposed_ports.contains(&port) {
                        config.exposed_ports.push(port);
                    }
                }
            }
            Instruction::StopSignal(signal) => config.stop_signal = Some(signal.clone()),
            Instruction::Shell(shell) => self.shell.clone_from(shell),
            Instruction::Cmd(command) => {
                self.config.cmd = command.argv(&self.shell);
                self.command = true;
            }
            Instruction::Entrypoint(command) => {
                self.config.entrypoint = command.argv(&self.shell);
                if !self.command {
                    self.config.cmd.clear();
                }
            }
            Instruction::Arg(_)
            | Instruction::Run(_)
            | Instruction::Copy(_)
            | Instruction::Volume(_) => {}
        }
    }

    /// A path of the image, relative to its working directory, without `.`, `..` and doubled
    /// slashes.
    pub(super) fn absolute(&self, path: &str) -> String {
        let from = if path.starts_with('/') { "" } else { self.directory() };
        let mut parts: Vec<&str> = Vec::new();
        for part in from.split('/').chain(path.split('/')) {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    /// Where commands run.
    pub(super) fn directory(&self) -> &str {
        self.config.working_dir.as_deref().filter(|path| !path.is_empty()).unwrap_or("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> Said {
        let file = dockerfile::parse(&format!("FROM x\n{lines}")).unwrap();
        let cmd = vec!["old".to_owned()];
        let mut said = Said::new(Config { cmd, ..Config::default() });
        for step in &file.stages[0].steps {
            said.apply(&step.instruction);
        }
        said
    }

    #[test]
    fn a_working_directory_is_relative_to_the_one_before() {
        assert_eq!(said("WORKDIR a/./b").directory(), "/a/b");
        assert_eq!(said("WORKDIR /a\nWORKDIR b\nWORKDIR ../c//d/").directory(), "/a/c/d");
        assert_eq!(said("WORKDIR ../..").directory(), "/");
        assert_eq!(said("WORKDIR /a\nWORKDIR /b").absolute("c/"), "/b/c");
    }

    #[test]
    fn an_entry_point_forgets_the_command_of_the_base_only() {
        let shell = |text: &str| ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        let config = said("ENTRYPOINT [\"e\"]").config;
        assert_eq!((config.entrypoint, config.cmd), (vec!["e".to_owned()], vec![]));
        let config = said("CMD c d\nENTRYPOINT e").config;
        assert_eq!((config.entrypoint, config.cmd), (shell("e"), shell("c d")));
        let config = said("SHELL [\"/bin/ash\"]\nCMD c").config;
        assert_eq!(config.cmd, ["/bin/ash", "c"]);
        assert_eq!(said("ENV A=1").config.cmd, ["old"]);
    }

    #[test]
    fn the_rest_is_kept_once() {
        let config = said(
            "ENV A=1 B=2\nENV A=3\nLABEL a=1 b=2\nLABEL a=3\nEXPOSE 80 90/udp\nEXPOSE 80/tcp\n\
             USER u:g\nSTOPSIGNAL SIGINT",
        )
        .config;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(config.env, [pair("A", "3"), pair("B", "2")]);
        assert_eq!(config.labels, [pair("a", "3"), pair("b", "2")].into());
        assert_eq!(config.exposed_ports, ["80/tcp", "90/udp"]);
        assert_eq!(
            (config.user.as_deref(), config.stop_signal.as_deref()),
            (Some("u:g"), Some("SIGINT"))
        );
    }
}
