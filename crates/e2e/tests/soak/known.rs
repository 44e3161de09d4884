//! What there has to be, and what it has to hold.

use std::collections::{BTreeMap, BTreeSet};

use api::ImageScope;
use e2e::{Content, Found, Guest, Node};

use super::acts::{Act, Dice, Kind, MOUNT};

/// Most of each kind that there are at a time.
const SANDBOXES: usize = 4;
const SNAPSHOTS: usize = 2;
const VOLUMES: usize = 2;
const IMAGES: usize = 2;

/// What is in a sandbox, or in a snapshot of one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// What was put into it.
    content: Option<Content>,
    /// What was on the disk of its image.
    brought: Option<Content>,
    volume: Option<Lines>,
}

/// A file in a volume to which every visit adds a line.
#[derive(Debug, Clone)]
struct Lines {
    /// The volume; a copy belongs to its sandbox alone.
    volume: Option<String>,
    count: u64,
}

impl Lines {
    /// Fails if a line is missing or there are others, or if none can be added.
    async fn check(&mut self, guest: &mut Guest, when: &str) {
        let Self { volume, count } = self;
        let next = *count + 1;
        let look = format!(
            "cd {MOUNT} && touch lines && awk 'NR != $1 {{ print NR, $1; exit 1 }}' lines \
             && wc -l < lines && echo {next} >> lines && sync"
        );
        let found = guest.exec(&e2e::sh(&look)).await;
        let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
        let wanted = (0, count.to_string());
        let found_lines = (found.exit_code, found.stdout.trim().to_owned());
        assert_eq!(found_lines, wanted, "{when}: volume {volume:?}: {}", found.stderr);
        *count = next;
    }
}

impl Held {
    /// What a copy has.
    fn copied(&self) -> Self {
        let mut copy = self.clone();
        if let Some(lines) = &mut copy.volume {
            lines.volume = None;
        }
        copy
    }

    /// What has to be in it is in it. One that holds nothing yet gets something.
    pub(crate) async fn check(&mut self, guest: &mut Guest, found: Found, when: &str) {
        match &self.content {
            Some(content) => content.check(guest, found, when).await,
            None => {
                if let Some(brought) = &self.brought {
                    brought.check(guest, Found::Disk, when).await;
                }
                if found == Found::Everything {
                    self.content = Some(Content::plant(guest).await);
                }
            }
        }
        if let Some(lines) = &mut self.volume {
            lines.check(guest, when).await;
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) sandboxes: BTreeMap<String, Held>,
    snapshots: BTreeMap<String, Held>,
    /// What is on the disk of who is made of one.
    images: BTreeMap<String, Option<Content>>,
    /// How many lines are in each.
    volumes: BTreeMap<String, u64>,
    made: u32,
}

impl Known {
    /// Something that can be done now.
    pub(crate) fn choose(&mut self, dice: &mut Dice) -> Act {
        loop {
            let names: Vec<String> = self.sandboxes.keys().cloned().collect();
            let room = names.len() < SANDBOXES;
            let Some(name) = dice.pick(&names).cloned() else { return self.create(dice) };
            let act = match dice.roll(17) {
                0 if room => self.create(dice),
                1 | 2 => Act::Stop(name),
                3 | 4 => Act::Start(name),
                5 => Act::Pause(name),
                6 => Act::Check(name),
                7 if names.len() > 1 => Act::Destroy(name),
                8 if room => Act::Fork(name, self.name("f")),
                9 if self.snapshots.len() < SNAPSHOTS => Act::Snapshot(name, self.name("t")),
                10 if room && !self.snapshots.is_empty() => {
                    Act::Resume(some(dice, self.snapshots.keys()), self.name("r"))
                }
                11 if !self.snapshots.is_empty() => Act::Forget(some(dice, self.snapshots.keys())),
                12 if self.volumes.len() < VOLUMES => Act::MakeVolume(self.name("v")),
                13 if !self.free_volumes().is_empty() => {
                    Act::DeleteVolume(some(dice, self.free_volumes().iter()))
                }
                14 if self.images.len() < IMAGES => Act::Save(name, self.name("i")),
                15 if !self.images.is_empty() => Act::DeleteImage(some(dice, self.images.keys())),
                16 => Act::Prune,
                _ => continue,
            };
            return act;
        }
    }

    fn create(&mut self, dice: &mut Dice) -> Act {
        let images: Vec<_> = self.images.keys().cloned().collect();
        let image = dice.pick(&images).filter(|_| dice.roll(2) == 0).cloned();
        let free = self.free_volumes();
        let volume = dice.pick(&free).filter(|_| dice.roll(4) > 0).cloned();
        Act::Create { name: self.name("s"), image, volume }
    }

    fn name(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    /// The volumes that no sandbox has.
    fn free_volumes(&self) -> Vec<String> {
        let lines = self.sandboxes.values().filter_map(|held| held.volume.as_ref());
        let taken: BTreeSet<_> = lines.filter_map(|lines| lines.volume.as_ref()).collect();
        self.volumes.keys().filter(|name| !taken.contains(name)).cloned().collect()
    }

    /// Notes what there is now, and that it is what there has to be.
    pub(crate) async fn note(&mut self, node: &Node, act: &Act, succeeded: bool, when: &str) {
        let there = There::look(node).await;
        if let Some((kind, name)) = act.makes() {
            let made = there.of(kind).contains(name);
            assert!(made || !succeeded, "{when}: {name} was made and is not there");
            if made {
                self.add(act);
            }
        }
        if let Some((kind, name)) = act.removes() {
            let removed = !there.of(kind).contains(name);
            assert!(removed || !succeeded, "{when}: {name} is still there");
            if removed {
                self.remove(kind, name);
            }
        }
        for (kind, known) in [
            (Kind::Sandbox, self.sandboxes.keys().cloned().collect()),
            (Kind::Snapshot, self.snapshots.keys().cloned().collect()),
            (Kind::Volume, self.volumes.keys().cloned().collect()),
            (Kind::Image, self.images.keys().cloned().collect::<BTreeSet<_>>()),
        ] {
            assert_eq!(*there.of(kind), known, "{when}: {kind:?}");
        }
    }

    fn add(&mut self, act: &Act) {
        match act {
            Act::Create { name, image, volume } => {
                let brought = image.as_ref().and_then(|image| self.images[image].clone());
                let volume = volume
                    .as_ref()
                    .map(|name| Lines { volume: Some(name.clone()), count: self.volumes[name] });
                let held = Held { content: None, brought, volume };
                self.sandboxes.insert(name.clone(), held);
            }
            Act::Fork(from, name) => {
                let copy = self.sandboxes[from].copied();
                self.sandboxes.insert(name.clone(), copy);
            }
            Act::Resume(from, name) => {
                let copy = self.snapshots[from].copied();
                self.sandboxes.insert(name.clone(), copy);
            }
            Act::Snapshot(from, name) => {
                let copy = self.sandboxes[from].copied();
                self.snapshots.insert(name.clone(), copy);
            }
            Act::Save(from, name) => {
                let Held { content, brought, .. } = self.sandboxes[from].clone();
                self.images.insert(name.clone(), content.or(brought));
            }
            Act::MakeVolume(name) => drop(self.volumes.insert(name.clone(), 0)),
            _ => {}
        }
    }

    fn remove(&mut self, kind: Kind, name: &String) {
        match kind {
            Kind::Sandbox => self.gone(name),
            Kind::Snapshot => drop(self.snapshots.remove(name)),
            Kind::Volume => drop(self.volumes.remove(name)),
            Kind::Image => drop(self.images.remove(name)),
        }
    }

    /// A sandbox is gone, and its volume is not.
    pub(crate) fn gone(&mut self, name: &str) {
        let lines = self.sandboxes.remove(name).and_then(|held| held.volume);
        if let Some(Lines { volume: Some(volume), count }) = lines {
            self.volumes.insert(volume, count);
        }
    }

    /// All that is left, in an order in which it can be removed.
    pub(crate) fn all(&self) -> Vec<Act> {
        let sandboxes = self.sandboxes.keys().cloned().map(Act::Destroy);
        let snapshots = self.snapshots.keys().cloned().map(Act::Forget);
        let images = self.images.keys().cloned().map(Act::DeleteImage);
        let volumes = self.volumes.keys().cloned().map(Act::DeleteVolume);
        sandboxes.chain(snapshots).chain(images).chain(volumes).collect()
    }
}

fn some<'a>(dice: &mut Dice, of: impl Iterator<Item = &'a String>) -> String {
    let all: Vec<&String> = of.collect();
    (*dice.pick(&all).unwrap()).clone()
}

/// What the daemon says that there is.
struct There {
    sandboxes: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    volumes: BTreeSet<String>,
    images: BTreeSet<String>,
}

impl There {
    async fn look(node: &Node) -> Self {
        let mut client = node.admin();
        let images = client.images().await.unwrap();
        let own = images.into_iter().filter(|image| image.scope == ImageScope::Own);
        Self {
            sandboxes: named(client.sandboxes(&[]).await.unwrap(), |sandbox| sandbox.name),
            snapshots: named(client.snapshots().await.unwrap(), |snapshot| snapshot.name),
            volumes: named(client.volumes().await.unwrap(), |volume| volume.name),
            images: own.map(|image| image.name).collect(),
        }
    }

    fn of(&self, kind: Kind) -> &BTreeSet<String> {
        match kind {
            Kind::Sandbox => &self.sandboxes,
            Kind::Snapshot => &self.snapshots,
            Kind::Volume => &self.volumes,
            Kind::Image => &self.images,
        }
    }
}

fn named<T>(all: Vec<T>, name: impl Fn(T) -> String) -> BTreeSet<String> {
    all.into_iter().map(name).collect()
}
