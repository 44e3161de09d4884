//! Which modules a kernel needs to reach its root file system, from the index files that `depmod`
//! and the kernel build leave in `/lib/modules/<release>`; see `modules.dep(5)`.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use fs_err as fs;

use crate::manifest;

/// What the agent loads before it mounts the root, and whether a sandbox cannot do without it.
pub(crate) const BOOT: [(&str, Need); 9] = [
    ("virtio_mmio", Need::Required),
    ("virtio_blk", Need::Required),
    ("virtio_console", Need::Required),
    ("virtio_rng", Need::Optional),
    ("erofs", Need::Required),
    ("squashfs", Need::Optional),
    ("overlay", Need::Required),
    ("ext4", Need::Required),
    ("virtio_net", Need::Required),
];

/// How much depends on a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
}

/// Why the boot modules cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// An index file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The kernel has a required driver neither built in nor as a module.
    #[error("the kernel has no {0}, neither built in nor as a module")]
    Missing(String),
    /// A line of `modules.dep` names a file outside of the modules' directory.
    #[error("modules.dep names {0:?}, which is outside of the modules' directory")]
    Outside(String),
}

/// The index files of one kernel.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Module name to its file and the files that it depends on.
    modules: HashMap<String, (String, Vec<String>)>,
    builtin: HashSet<String>,
    /// Modules that should be there first although no symbol says so, by the name as written.
    soft: HashMap<String, Vec<String>>,
    /// Aliases without wildcards.
    aliases: HashMap<String, Vec<String>>,
}

impl Index {
    /// Reads the index files in `directory`. Only `modules.dep` must exist.
    pub(crate) fn read(directory: &Path) -> Result<Self, ModulesError> {
        let dep = fs::read_to_string(directory.join("modules.dep"))?;
        let optional = |name: &str| match fs::read_to_string(directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        Self::parse(
            &dep,
            &optional("modules.builtin")?,
            &optional("modules.softdep")?,
            &optional("modules.alias")?,
        )
    }

    fn parse(dep: &str, builtin: &str, soft: &str, alias: &str) -> Result<Self, ModulesError> {
        let mut index = Self::default();
        for line in dep.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs: Vec<String> = needs.split_whitespace().map(str::to_owned).collect();
            if let Some(bad) = std::iter::once(file)
                .chain(needs.iter().map(String::as_str))
                .find(|path| !manifest::is_inside(path))
            {
                return Err(ModulesError::Outside(bad.to_owned()));
            }
            index.modules.insert(module_name(file), (file.to_owned(), needs));
        }
        index.builtin = builtin.lines().map(module_name).collect();
        for line in soft.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(name) = words.next() else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1);
            let before = before.take_while(|word| *word != "post:").map(str::to_owned);
            index.soft.entry(normal(name)).or_default().extend(before);
        }
        for line in alias.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["alias", alias, module] = words[..]
                && !alias.contains(['*', '?', '['])
            {
                index.aliases.entry(normal(alias)).or_default().push(normal(module));
            }
        }
        Ok(index)
    }

    /// The files to load for `wanted`, each after all that it needs. Built-in ones are left out.
    pub(crate) fn closure(&self, wanted: &[(&str, Need)]) -> Result<Vec<String>, ModulesError> {
        let mut order = Order { index: self, files: Vec::new(), seen: HashSet::new() };
        for (name, need) in wanted {
            if self.modules.contains_key(*name) {
                order.add(name);
            } else if !self.builtin.contains(*name) && *need == Need::Required {
                return Err(ModulesError::Missing((*name).to_owned()));
            }
        }
        Ok(order.files)
    }

    /// The modules behind a name of a soft dependency, which may be an alias with several
    /// providers. The generic one is enough and works on every CPU, where another one may refuse
    /// to load; if it is built in, none is needed.
    fn providers(&self, name: &str) -> Vec<String> {
        let name = normal(name);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        let generic = format!("{name}_generic");
        if self.modules.contains_key(&generic) {
            return vec![generic];
        }
        if self.builtin.contains(&name) || self.builtin.contains(&generic) {
            return Vec::new();
        }
        self.aliases.get(&name).cloned().unwrap_or_default()
    }
}

struct Order<'a> {
    index: &'a Index,
    files: Vec<String>,
    seen: HashSet<String>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) {
        let Some((file, needs)) = self.index.modules.get(name) else { return };
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        for soft in self.index.soft.get(name).into_iter().flatten() {
            for provider in self.index.providers(soft) {
                self.add(&provider);
            }
        }
        // Listed with the direct ones first, so the deepest comes last.
        for need in needs.iter().rev() {
            self.add(&module_name(need));
        }
        self.files.push(file.clone());
    }
}

/// `kernel/drivers/virtio/virtio-mmio.ko.xz` is the module `virtio_mmio`.
pub(crate) fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    normal(base.split(".ko").next().unwrap_or(base))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/virtio-blk.ko.xz: kernel/v/ring.ko kernel/v/virtio.ko\n\
                       kernel/v/ring.ko: kernel/v/virtio.ko\nkernel/v/virtio.ko:\n\
                       kernel/fs/ext4.ko: kernel/fs/jbd2.ko\nkernel/fs/jbd2.ko:\n\
                       kernel/c/crc32c_generic.ko:\nkernel/c/crc32c-intel.ko:\n";
    const SOFT: &str = "# comment\nsoftdep ext4 pre: crc32c post: later\n";
    const ALIAS: &str = "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias x* y\n";

    #[test]
    fn modules_come_after_what_they_need_and_only_once() {
        let index = Index::parse(DEP, "kernel/fs/overlay.ko\n", SOFT, ALIAS).unwrap();
        let need = |name| (name, Need::Required);
        let files = index
            .closure(&[
                need("virtio_blk"),
                need("ext4"),
                need("overlay"),
                ("nothing", Need::Optional),
            ])
            .unwrap();
        let names: Vec<_> = files.iter().map(|file| module_name(file)).collect();
        assert_eq!(names, ["virtio", "ring", "virtio_blk", "crc32c_generic", "jbd2", "ext4"]);
        // Another provider is not tried where the generic one is built in.
        let dep = DEP.replace("kernel/c/crc32c_generic.ko:\n", "");
        let index = Index::parse(&dep, "kernel/c/crc32c_generic.ko\n", SOFT, ALIAS).unwrap();
        let files = index.closure(&[need("ext4")]).unwrap();
        assert_eq!(files, ["kernel/fs/jbd2.ko", "kernel/fs/ext4.ko"]);
        let error = index.closure(&[need("erofs")]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no erofs, neither built in nor as a module");
    }

    #[test]
    fn an_index_cannot_name_files_elsewhere_or_go_round_for_ever() {
        assert!(Index::parse("../../etc/shadow: \n", "", "", "").is_err());
        assert!(Index::parse("a.ko: /etc/shadow\n", "", "", "").is_err());
        let index = Index::parse("a.ko: b.ko\nb.ko: a.ko\n", "", "softdep b pre: a\n", "").unwrap();
        assert_eq!(index.closure(&[("a", Need::Required)]).unwrap(), ["b.ko", "a.ko"]);
    }
}
