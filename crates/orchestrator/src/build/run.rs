//! One build from its first step to its image's name.

use std::{collections::BTreeMap, sync::Arc};

use base::{clock, fault};
use disk::image::{self, Image};
use dockerfile::{Base, Copy, Instruction, Planned, Scope, Stage, Step};
use proto::message::Exec;
use tokio::sync::mpsc;

use super::{
    BuildEvent, Built, Recipe,
    cache::{Cache, Key},
    config::Said,
    context::{Context, Selection},
    copy::{self, Target},
    guest::{Events, Guest},
    invalid,
};
use crate::{
    Error, Kind, Orchestrator, Progress, Result,
    images::{BUILT, Making, NewImage},
    model::User,
    node::blocking,
    processes::Processes,
};

/// Whom commands run as if the image does not say: by number, because an image need not have a list of
/// users.
const ROOT: &str = "0";

/// Steps of a pull that wait to be told.
const STEPS: usize = 16;

/// See the module.
pub(super) struct Run {
    orchestrator: Orchestrator,
    owner: User,
    recipe: Arc<Recipe>,
    context: Context,
    cache: Cache,
    events: Events,
    /// What stages and images hold that something begins with or is copied from.
    known: BTreeMap<Base, Known>,
    steps: usize,
    done: usize,
    cached: usize,
}

/// A stage that is done, or an image.
struct Known {
    files: Image,
    said: Said,
    guest: Option<Guest>,
}

/// A stage while it is worked on.
struct Current {
    files: Image,
    said: Said,
    scope: Scope,
    /// Whether everything so far was found.
    all_cached: bool,
    guest: Option<Guest>,
}

/// What a step does to files.
enum Work {
    Run(Exec),
    Directory(String),
    Context { selection: Arc<Selection>, target: Target, unpacks: bool },
    Other { from: Base, copy: Copy, target: Target },
}

impl Run {
    pub(super) fn new(
        orchestrator: Orchestrator,
        owner: User,
        recipe: Arc<Recipe>,
        context: Context,
        events: mpsc::Sender<BuildEvent>,
    ) -> Self {
        let cache = Cache::of(&orchestrator.node, &owner.id);
        let stages = recipe.planned.iter().map(|planned| planned.stage);
        let steps = stages.map(|stage| 1 + recipe.dockerfile.stages[stage].steps.len()).sum();
        Self {
            orchestrator,
            owner,
            recipe,
            context,
            cache,
            events: Events(events),
            known: BTreeMap::new(),
            steps,
            done: 0,
            cached: 0,
        }
    }

    /// Does all of it.
    pub(super) async fn whole(mut self) -> Result<Built> {
        self.notices().await;
        // What steps come to has no name, and what names mean may change: all of it stays until the end.
        let making = Making::begin(&self.orchestrator.node).await?;
        let built = self.stages().await;
        making.done();
        // Whatever came of it: guests are gone before anybody is told.
        for (_, known) in std::mem::take(&mut self.known) {
            if let Some(guest) = known.guest {
                guest.end().await;
            }
        }
        built
    }

    async fn notices(&self) {
        let Recipe { file, dockerfile, args, .. } = &*self.recipe;
        for notice in &dockerfile.notices {
            let text = format!("{file}:{}: {}", notice.line, notice.message);
            self.events.say(BuildEvent::Notice(text)).await;
        }
        for name in Scope::unasked(args, dockerfile) {
            let text = format!("no ARG asks for the build argument {name:?}");
            self.events.say(BuildEvent::Notice(text)).await;
        }
    }

    async fn stages(&mut self) -> Result<Built> {
        let recipe = Arc::clone(&self.recipe);
        for planned in &recipe.planned {
            let stage = &recipe.dockerfile.stages[planned.stage];
            let mut current = self.begin(planned, stage).await?;
            let worked = self.stage(&mut current, planned, stage).await;
            let copied = |other: &Planned| {
                other.copies.iter().any(|(_, base)| *base == Base::Stage(planned.stage))
            };
            let Current { files, said, guest, .. } = current;
            let guest = match guest {
                Some(guest) if worked.is_err() || !recipe.planned.iter().any(copied) => {
                    guest.end().await;
                    None
                }
                guest => guest,
            };
            worked?;
            self.known.insert(Base::Stage(planned.stage), Known { files, said, guest });
        }
        let Some(last) = recipe.planned.last() else {
            return Err(Error::new(Kind::Internal, "a build without stages"));
        };
        self.name(last).await
    }

    async fn begin(&mut self, planned: &Planned, stage: &Stage) -> Result<Current> {
        let no_cache = self.recipe.no_cache;
        self.step(&format!("FROM {}", stage.base), !no_cache).await;
        let (recipe, line) = (Arc::clone(&self.recipe), stage.line);
        let place = |error| at(&recipe, line, error);
        let base = self.known(&planned.base).await.map_err(place)?;
        let (files, said) = (base.files.clone(), Said::new(base.said.config.clone()));
        let scope = recipe.global.stage(said.config.env.clone());
        Ok(Current { files, said, scope, all_cached: !no_cache, guest: None })
    }

    /// A stage that is done, or an image, which is pulled if it is missing.
    async fn known(&mut self, base: &Base) -> Result<&mut Known> {
        if let (Base::Image(text), false) = (base, self.known.contains_key(base)) {
            let files = self.image(text).await?;
            let said = Said::new(files.config().clone());
            self.known.insert(base.clone(), Known { files, said, guest: None });
        }
        let missing = || Error::new(Kind::Internal, "a stage that was not built");
        self.known.get_mut(base).ok_or_else(missing)
    }

    async fn image(&self, text: &str) -> Result<Image> {
        let choice = self.orchestrator.choose_image(&self.owner, text).await?;
        let name = choice.name().clone();
        let (tell, mut steps) = mpsc::channel(STEPS);
        let progress = Progress::to(tell);
        let mut pull =
            Box::pin(self.orchestrator.pull_for_create(&self.owner, text, choice, &progress));
        loop {
            tokio::select! {
                biased;
                pulled = &mut pull => break pulled?,
                Some(step) = steps.recv() => self.events.say(BuildEvent::Progress(step)).await,
            }
        }
        let (node, owner) = (Arc::clone(&self.orchestrator.node), self.owner.id.clone());
        blocking(move || node.image(&owner, &name)).await
    }

    async fn stage(
        &mut self,
        current: &mut Current,
        planned: &Planned,
        stage: &Stage,
    ) -> Result<()> {
        for step in &stage.steps {
            let recipe = Arc::clone(&self.recipe);
            let place = |error| at(&recipe, step.line, error);
            let instruction =
                current.scope.apply(step).map_err(|error| invalid(&recipe.file, &error))?;
            current.said.config.history.push(step.text.clone());
            let work = self.work(current, planned, &instruction).await.map_err(place)?;
            current.said.apply(&instruction);
            // Here it can be said which line it was; a sandbox would be refused later.
            Processes::from_config(&current.said.config).map_err(place)?;
            match work {
                None => self.step(&step.text, current.all_cached).await,
                Some((key, work)) => {
                    self.do_step(current, step, &key, work).await.map_err(place)?;
                }
            }
        }
        Ok(())
    }

    /// What a step does to files, and what it is found by.
    async fn work(
        &mut self,
        current: &Current,
        planned: &Planned,
        instruction: &Instruction,
    ) -> Result<Option<(Key, Work)>> {
        let Current { files, said, scope, .. } = current;
        Ok(Some(match instruction {
            Instruction::Run(command) => {
                let argv = command.argv(&said.shell);
                let user = said.config.user.as_deref().filter(|user| !user.is_empty());
                let (user, cwd) = (user.unwrap_or(ROOT).to_owned(), said.directory().to_owned());
                let mut env = scope.arguments();
                env.extend(scope.env().iter().cloned());
                let key = Key::new("run", files).list(&argv).map(&env).text(&user).text(&cwd);
                // Proxies decide nothing, so they are no part of the key.
                for (name, value) in scope.proxies() {
                    env.entry(name).or_insert(value);
                }
                let (user, cwd) = (Some(user), Some(cwd));
                (key, Work::Run(Exec { argv, env, user, cwd, ..Exec::default() }))
            }
            Instruction::Workdir(path) => {
                let path = said.absolute(path);
                (Key::new("directory", files).text(&path), Work::Directory(path))
            }
            Instruction::Copy(copy) => self.copy(current, planned, copy).await?,
            _ => return Ok(None),
        }))
    }

    async fn copy(
        &mut self,
        current: &Current,
        planned: &Planned,
        copy: &Copy,
    ) -> Result<(Key, Work)> {
        let target = target(&current.said, copy)?;
        let key = |what| {
            let how = format!("{} {:?} {:?}", target.directory, target.chown, target.mode);
            Key::new(what, &current.files).text(&target.dest).text(how)
        };
        if let Some(from) = &copy.from {
            let base = planned.copies.iter().find(|(text, _)| text == from);
            let missing = || Error::new(Kind::Internal, "a copy that was not planned");
            let from = base.map(|(_, base)| base.clone()).ok_or_else(missing)?;
            let other = self.known(&from).await?.files.digest().to_owned();
            let key = key("copy from").text(other).text(format!("{:?}", copy.sources));
            return Ok((key, Work::Other { from, copy: copy.clone(), target }));
        }
        let (context, sources, mode) = (self.context.clone(), copy.sources.clone(), target.mode);
        let (selection, hash) = blocking(move || {
            let selection = Selection::of(&context, &sources, mode)
                .map_err(|message| Error::new(Kind::BuildInvalid, message))?;
            let hash = selection.hash()?;
            Ok((Arc::new(selection), hash))
        })
        .await?;
        let what = if copy.add { "add" } else { "copy" };
        Ok((key(what).text(hash), Work::Context { selection, target, unpacks: copy.add }))
    }

    /// Finds what a step came to, or does it.
    async fn do_step(
        &mut self,
        current: &mut Current,
        step: &Step,
        key: &Key,
        work: Work,
    ) -> Result<()> {
        if current.all_cached
            && let Some(files) = self.cache.find(key).await?
        {
            current.files = files;
            self.step(&step.text, true).await;
            return Ok(());
        }
        current.all_cached = false;
        self.step(&step.text, false).await;
        let guest = match current.guest.take() {
            Some(guest) => guest,
            None => self.start(&current.files).await?,
        };
        let done = guest.unless_starved(self.perform(&guest, work)).await;
        let guest = current.guest.insert(guest);
        if done? {
            let (config, source) = (current.said.config.clone(), self.source());
            let sandbox = guest.sandbox()?;
            let saving = self.orchestrator.save(sandbox, move |said| *said = config, source);
            let saved = guest.unless_starved(saving).await?;
            let kept = async {
                fault::point("build.saved")?;
                self.cache.keep(key, &saved.image).await
            };
            if let Err(error) = kept.await {
                saved.discard(&self.orchestrator.node).await;
                return Err(error);
            }
            current.files = saved.image.clone();
        } else {
            self.cache.keep(key, &current.files).await?;
        }
        Ok(())
    }

    /// Does it, and says whether any file may be another now.
    async fn perform(&mut self, guest: &Guest, work: Work) -> Result<bool> {
        match work {
            Work::Run(exec) => guest.run(exec, &self.events).await?,
            Work::Directory(path) if guest.has_directory(&path).await? => return Ok(false),
            Work::Directory(path) => copy::directory(guest, &path).await?,
            Work::Context { selection, target, unpacks } => {
                copy::from_context(guest, selection, &target, unpacks).await?;
            }
            Work::Other { from, copy, target } => {
                let known = self.known(&from).await?;
                let (files, other) = (known.files.clone(), known.guest.take());
                let other = match other {
                    Some(other) => other,
                    None => self.start(&files).await?,
                };
                let copied = copy::from_guest(guest, &other, &copy.sources, &target).await;
                self.known(&from).await?.guest = Some(other);
                copied?;
            }
        }
        Ok(true)
    }

    async fn start(&self, files: &Image) -> Result<Guest> {
        let Self { orchestrator, owner, recipe, events, .. } = self;
        Guest::start(orchestrator, owner, recipe, files, events).await
    }

    async fn step(&mut self, text: &str, cached: bool) {
        self.done += 1;
        self.cached += usize::from(cached);
        let (number, total, text) = (self.done, self.steps, text.to_owned());
        self.events.say(BuildEvent::Step { number, total, text, cached }).await;
    }

    fn source(&self) -> String {
        format!("{BUILT}{}", self.recipe.file)
    }

    /// Gives the image of the last stage its name.
    async fn name(&mut self, last: &Planned) -> Result<Built> {
        let known = self.known(&Base::Stage(last.stage)).await?;
        let (files, config) = (known.files.clone(), known.said.config.clone());
        let (node, source) = (Arc::clone(&self.orchestrator.node), self.source());
        let image = blocking(move || match *files.config() == config {
            true => Ok(files),
            false => Ok(image::configure(node.layout.data(), &files, config, source)?),
        })
        .await?;
        fault::point("build.named")?;
        let kept = NewImage {
            owner: self.owner.id.clone(),
            name: self.recipe.name.clone(),
            digest: image.digest().to_owned(),
            reference: None,
            source: self.source(),
            created_at: clock::unix_seconds(),
        };
        self.orchestrator.node.store.keep_image(kept).await?;
        Ok(Built {
            name: self.recipe.name.clone(),
            digest: image.digest().to_owned(),
            size_bytes: image.size(),
            steps: self.steps,
            cached: self.cached,
        })
    }
}

/// How a copy is to come out.
fn target(said: &Said, copy: &Copy) -> Result<Target> {
    let mode = copy.chmod.as_deref().map(|text| {
        let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
        mode.ok_or_else(|| {
            let message = format!("--chmod={text} is not octal permission bits, such as 0755");
            Error::new(Kind::BuildInvalid, message)
        })
    });
    let directory = copy.dest.ends_with('/')
        || matches!(copy.dest.as_str(), "." | "..")
        || copy.dest.ends_with("/.")
        || copy.dest.ends_with("/..");
    Ok(Target {
        dest: said.absolute(&copy.dest),
        directory,
        chown: copy.chown.clone(),
        mode: mode.transpose()?,
    })
}

/// An error that names its place in the Dockerfile.
fn at(recipe: &Recipe, line: usize, mut error: Error) -> Error {
    if error.kind != Kind::Internal {
        error.message = format!("{}:{line}: {}", recipe.file, error.message);
    }
    error
}
