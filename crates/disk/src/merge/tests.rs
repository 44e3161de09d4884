//! The tree against a model that is too simple to be wrong: a map from whole paths.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::erofs::{
    tests::{Found, read},
    tree::{self, Source},
};

type Path = Vec<String>;

/// What an archive says. Every entry has an owner of its own, which tells later which one it was.
#[derive(Debug, Clone)]
struct Said {
    path: Path,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Directory,
    File,
    Symlink(String),
    HardLink(Path),
    Whiteout,
    Opaque,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Directory,
    File,
    Symlink(String),
}

/// By path: the layer that said it last, the owner, and what it is.
#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<Path, (usize, u32, Node)>,
    layer: usize,
}

struct Refused;

fn parts(text: &str) -> Path {
    text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

impl Model {
    fn is_directory(&self, path: &Path) -> bool {
        path.is_empty() || matches!(self.nodes.get(path), Some((_, _, Node::Directory)))
    }

    fn directory(&mut self, path: &[String], make: bool) -> Result<Option<Path>, Refused> {
        let mut left: VecDeque<String> = path.iter().cloned().collect();
        let (mut at, mut links) = (Path::new(), 0);
        while let Some(part) = left.pop_front() {
            if part == "." {
                continue;
            }
            if part == ".." {
                at.pop();
                continue;
            }
            let next = [at.clone(), vec![part]].concat();
            match self.nodes.get(&next) {
                Some((_, _, Node::Directory)) => at = next,
                Some((_, _, Node::Symlink(target))) => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused);
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    for part in parts(target).into_iter().rev() {
                        left.push_front(part);
                    }
                }
                _ if !make => return Ok(None),
                _ => {
                    self.nodes.insert(next.clone(), (self.layer, 0, Node::Directory));
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    fn put(&mut self, path: Path, owner: u32, node: Node) {
        if !(node == Node::Directory && self.is_directory(&path)) {
            self.nodes.retain(|other, _| !other.starts_with(&path));
        }
        self.nodes.insert(path, (self.layer, owner, node));
    }

    /// Takes away what lower layers have and nothing of this one is below.
    fn hide(&mut self, doomed: impl Fn(&Path) -> bool) {
        let new: BTreeSet<Path> = self
            .nodes
            .iter()
            .filter(|(_, (layer, _, _))| *layer == self.layer)
            .flat_map(|(path, _)| (1..=path.len()).map(|n| path[..n].to_vec()))
            .collect();
        self.nodes.retain(|path, _| !doomed(path) || new.contains(path));
    }

    fn apply(&mut self, owner: u32, said: &Said) -> Result<(), Refused> {
        let Some((name, parent)) = said.path.split_last() else {
            if let What::Opaque = said.what {
                self.hide(|_| true);
            }
            return Ok(());
        };
        let node = match &said.what {
            What::Whiteout => {
                if let Some(parent) = self.directory(parent, false)? {
                    let path = [parent, vec![name.clone()]].concat();
                    self.hide(|other| other.starts_with(&path));
                }
                return Ok(());
            }
            What::Opaque => {
                if let Some(path) = self.directory(&said.path, false)? {
                    self.hide(|other| other.len() > path.len() && other.starts_with(&path));
                }
                return Ok(());
            }
            What::HardLink(target) => {
                let (name, parent) = target.split_last().ok_or(Refused)?;
                let parent = self.directory(parent, false)?.ok_or(Refused)?;
                let target = [parent, vec![name.clone()]].concat();
                match self.nodes.get(&target) {
                    Some((_, owner, node)) if *node != Node::Directory => (*owner, node.clone()),
                    _ => return Err(Refused),
                }
            }
            What::Directory => (owner, Node::Directory),
            What::File => (owner, Node::File),
            What::Symlink(target) => (owner, Node::Symlink(target.clone())),
        };
        let parent = self.directory(parent, true)?.ok_or(Refused)?;
        self.put([parent, vec![name.clone()]].concat(), node.0, node.1);
        Ok(())
    }
}

fn entry(owner: u32, said: &Said) -> Entry {
    let clean = |path: &Path| EntryPath::stored(path.join("/").as_bytes()).unwrap();
    let kind = match &said.what {
        What::Directory => Kind::Directory,
        What::File => Kind::File(Content::Small { offset: 0, size: 1 }),
        What::Symlink(target) => Kind::Symlink(target.clone().into_bytes()),
        What::HardLink(target) => Kind::HardLink(clean(target)),
        What::Whiteout => Kind::Whiteout,
        What::Opaque => Kind::Opaque,
    };
    let meta = Meta { mode: 0o755, uid: owner, ..Meta::default() };
    Entry { path: clean(&said.path), meta, kind }
}

fn path(shortest: usize) -> impl Strategy<Value = Path> {
    vec(select(vec!["a", "b", "c"]).prop_map(str::to_owned), shortest..4)
}

fn said() -> impl Strategy<Value = Said> {
    let targets = ["a", "b", "c", "/a/b", "../c", "/", "../..", "b/./c", "nowhere/at/all"];
    let target = select(targets.to_vec()).prop_map(str::to_owned);
    let what = prop_oneof![
        3 => Just(What::Directory),
        4 => Just(What::File),
        3 => target.prop_map(What::Symlink),
        2 => path(0).prop_map(What::HardLink),
        2 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ];
    (path(1), what, any::<bool>()).prop_map(|(path, what, of_root)| match what {
        What::Opaque if of_root => Said { path: Path::new(), what },
        what => Said { path, what },
    })
}

/// What the disk has, by path.
fn written(tree: &Tree, layers: usize) -> BTreeMap<Vec<u8>, Found> {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs_err::write(&small, "x").unwrap();
    let sources = vec![Source { small, first_block: 0 }; layers];
    tree::write(tree, &sources, 0, dir.path(), "disk").unwrap();
    read(&fs_err::read(dir.path().join("disk")).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn layers_make_the_same_tree_as_in_the_model(layers in vec(vec(said(), 0..12), 1..5)) {
        let (mut model, mut tree, mut owner) = (Model::default(), Tree::new(), 0);
        for (number, layer) in layers.iter().enumerate() {
            model.layer = number;
            for said in layer {
                owner += 1;
                let expected = model.apply(owner, said);
                let found = tree.apply(number, [entry(owner, said)]);
                prop_assert_eq!(expected.is_err(), found.is_err(), "{:?}: {:?}", said, found);
            }
        }
        let found = written(&tree, layers.len());
        prop_assert_eq!(found.len(), model.nodes.len() + 1);
        let mut slots = BTreeMap::new();
        for (path, (_, owner, node)) in &model.nodes {
            prop_assert!(found.contains_key(path.join("/").as_bytes()), "{:?}", path);
            let found = &found[path.join("/").as_bytes()];
            let (kind, content) = match node {
                Node::Directory => (0o040_000, String::new()),
                Node::File => (0o100_000, "x".to_owned()),
                Node::Symlink(target) => (0o120_000, target.clone()),
            };
            prop_assert_eq!(found.mode, kind | 0o755);
            prop_assert_eq!(&found.content, content.as_bytes());
            prop_assert_eq!(found.uid, *owner);
            let names = model.nodes.values().filter(|node| node.1 == *owner).count();
            if *node != Node::Directory {
                prop_assert_eq!(found.links as usize, names);
                prop_assert_eq!(*slots.entry(owner).or_insert(found.slot), found.slot);
            }
        }
    }
}

fn apply(layers: &[&[(&str, What)]]) -> Result<Tree, LayerError> {
    let mut tree = Tree::new();
    for (number, layer) in layers.iter().enumerate() {
        let said = layer.iter().map(|(path, what)| Said { path: parts(path), what: what.clone() });
        tree.apply(number, said.map(|said| entry(1, &said)))?;
    }
    Ok(tree)
}

fn names(layers: &[&[(&str, What)]]) -> Vec<String> {
    let found = written(&apply(layers).unwrap(), layers.len());
    found.keys().skip(1).map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[test]
fn a_whiteout_takes_what_is_below_wherever_in_its_layer_it_is() {
    use What::{Directory, File, Opaque, Symlink, Whiteout};
    let lower: &[_] = &[("d", Directory), ("d/old", File), ("d/s/old", File), ("f", File)];
    assert_eq!(names(&[lower, &[("d/new", File), ("d", Opaque)]]), ["d", "d/new", "f"]);
    assert_eq!(names(&[lower, &[("d", Opaque), ("d/new", File)]]), ["d", "d/new", "f"]);
    assert_eq!(
        names(&[lower, &[("d/s/new", File), ("d", Whiteout)]]),
        ["d", "d/s", "d/s/new", "f"]
    );
    assert_eq!(names(&[lower, &[("d", Whiteout), ("f", Whiteout)]]), [""; 0]);
    assert_eq!(names(&[lower, &[("f", File), ("f", Whiteout), ("d", Whiteout)]]), ["f"]);
    assert_eq!(names(&[lower, &[("nothing/there", Whiteout), ("f", Opaque)]]).len(), 5);
    let linked: &[_] = &[("usr/bin/sh", File), ("bin", Symlink("usr/bin".to_owned()))];
    assert_eq!(names(&[linked, &[("bin/sh", Whiteout)]]), ["bin", "usr", "usr/bin"]);
    let replaced = [("bin", Directory), ("bin", Opaque), ("bin/new", File)];
    assert_eq!(names(&[linked, &replaced]), ["bin", "bin/new", "usr", "usr/bin", "usr/bin/sh"]);
}

#[test]
fn links_are_followed_inside_of_the_tree_only_and_not_for_ever() {
    use What::{File, HardLink, Symlink, Whiteout};
    let link = |target: &str| Symlink(target.to_owned());
    let escape = [("a", link("/etc")), ("a/passwd", File), ("b", link("../../..")), ("b/x", File)];
    assert_eq!(names(&[&escape]), ["a", "b", "etc", "etc/passwd", "x"]);
    for target in ["a", "b", "/b/../a"] {
        let around = [("a", link("b")), ("b", link(target)), ("a/x", File)];
        let error = apply(&[&around]).unwrap_err();
        assert!(error.to_string().contains("more than 40 links"), "{error}");
    }
    // Each link leads twice through the one before.
    let names: Vec<_> = (1..60).map(|n| format!("l{n}")).collect();
    let mut bomb = vec![("l0", link("/d"))];
    for (before, name) in names.iter().enumerate() {
        bomb.push((name, link(&format!("/l{before}/../l{before}"))));
    }
    bomb.push(("l59/x", File));
    assert!(apply(&[&bomb]).is_err());
    for target in ["a", "later", "d", ""] {
        let what = [("d/f", File), ("x", HardLink(parts(target))), ("later", File)];
        assert!(matches!(apply(&[&what]), Err(LayerError::Link { .. })), "{target}");
    }
    let gone = [("f", Whiteout), ("g", HardLink(parts("f")))];
    assert!(matches!(apply(&[&[("f", File)], &gone]), Err(LayerError::Link { .. })));
}

#[test]
fn there_is_an_end_to_depth_and_number() {
    use What::{File, Symlink};
    let deep = "d/".repeat(DEPTH_MAX - 1);
    let layer = [(deep.as_str(), What::Directory), ("l", Symlink(deep.clone())), ("l/d/f", File)];
    let error = apply(&[&layer]).unwrap_err();
    assert!(error.to_string().contains("512 directories deep"), "{error}");
    let long = Symlink("n".repeat(256));
    let error = apply(&[&[("l", long), ("l/f", File)]]).unwrap_err();
    assert!(error.to_string().contains("longer than 255"), "{error}");
    let mut tree = Tree::new();
    tree.inodes.resize(INODES_MAX, implicit());
    let said = Said { path: parts("f"), what: File };
    assert!(matches!(tree.apply(0, [entry(1, &said)]), Err(LayerError::TooLarge { .. })));
    let mut tree = Tree::new();
    tree.steps = STEPS_MAX;
    assert!(matches!(tree.apply(0, [entry(1, &said)]), Err(LayerError::TooLarge { .. })));
}
