//! Archives that umoci and skopeo make are taken in, and what is exported they take in.

#![allow(clippy::unwrap_used, reason = "what cannot be made ready fails the test")]

use std::path::{Path, PathBuf};

use base::process::{Command, ProcessError};
use disk::{
    archive::{self, ArchiveError, Imported},
    image::{self, Image},
    layer::Limits,
};
use fs_err as fs;
use tempfile::TempDir;

fn run(command: Command) -> String {
    match command.output() {
        Ok(output) => String::from_utf8(output).unwrap(),
        Err(ProcessError::Missing { program }) => {
            panic!("{program} is not installed: run scripts/bootstrap.sh tests")
        }
        Err(error) => panic!("{error}"),
    }
}

struct Rig {
    dir: TempDir,
}

impl Rig {
    /// With a layout `layout` in which `one` is an image of three layers.
    fn new() -> Self {
        let rig = Self { dir: tempfile::tempdir().unwrap() };
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(rig.path("policy.json"), policy).unwrap();
        let layout = rig.shown("layout");
        let image = format!("{layout}:one");
        let umoci = |args: &[&str]| run(Command::new("umoci").args(args));
        umoci(&["init", "--layout", &layout]);
        umoci(&["new", "--image", &image]);
        for (name, content) in [("a", "alpha"), ("b", "beta"), ("a", "gamma")] {
            let file = rig.shown(name);
            fs::write(&file, content.repeat(3000)).unwrap();
            umoci(&["insert", "--image", &image, &file, &format!("/dir/{name}")]);
        }
        umoci(&["config", "--image", &image, "--config.env", "A=b=c", "--config.cmd", "sh"]);
        umoci(&["config", "--image", &image, "--config.user", "7:8", "--config.label", "k=v"]);
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Copies between places of the rig, written `kind:name` or `kind:name:image`.
    fn skopeo(&self, from: &str, to: &str) {
        let placed = |place: &str| {
            let (kind, rest) = place.split_once(':').unwrap();
            format!("{kind}:{}", self.shown(rest))
        };
        let command = Command::new("skopeo").args(["copy", "--quiet", "--policy"]);
        let command = command.arg(self.path("policy.json")).args([placed(from), placed(to)]);
        run(command.env("HOME", self.dir.path()).env("TMPDIR", self.dir.path()));
    }

    fn import(&self, archive: &str, wanted: Option<&str>) -> Result<Imported, ArchiveError> {
        let mut file = fs::File::open(self.path(archive)).unwrap();
        archive::import(&self.data(), &mut file, wanted, &Limits::default(), &|_| ())
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn assemble(&self, imported: &Imported) -> Image {
        let Imported { layers, config, .. } = imported.clone();
        image::assemble(&self.data(), &layers, config, "a test".to_owned()).unwrap()
    }

    fn export(&self, image: &Image, name: &str) {
        let mut to = Vec::new();
        archive::export(&self.data(), image.layers(), image.config(), "mine:v1", &mut to).unwrap();
        fs::write(self.path(name), to).unwrap();
    }

    /// What umoci unpacks of an image in a layout: file names with what is in them.
    fn contents(&self, layout: &str, tag: &str) -> Vec<(String, String)> {
        let target = self.path(&format!("unpacked-{layout}"));
        let image = format!("{}:{tag}", self.shown(layout));
        let command = Command::new("umoci").args(["unpack", "--rootless", "--image", &image]);
        run(command.arg(&target));
        let mut found = Vec::new();
        files_below(&target.join("rootfs"), &target.join("rootfs"), &mut found);
        found.sort();
        found
    }
}

fn files_below(top: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(top, &path, found);
        } else {
            let name = path.strip_prefix(top).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn archives_of_other_programs_give_the_layers_that_they_were_made_of() {
    let rig = Rig::new();
    rig.skopeo("oci:layout:one", "docker-archive:docker.tar:mine:v1");
    rig.skopeo("oci:layout:one", "oci-archive:oci.tar:v1");
    let command = Command::new("tar").arg("-czf").arg(rig.path("dir.tar.gz"));
    run(command.arg("-C").arg(rig.path("layout")).arg("."));
    let docker = rig.import("docker.tar", None).unwrap();
    assert_eq!(docker.layers.len(), 3);
    assert_eq!(docker.config.env, [("A".to_owned(), "b=c".to_owned())]);
    assert_eq!(docker.config.user.as_deref(), Some("7:8"));
    assert_eq!(docker.config.labels["k"], "v");
    assert!(docker.reference.as_deref().is_some_and(|name| name.ends_with("mine:v1")));
    for (archive, wanted) in [("docker.tar", "mine:v1"), ("oci.tar", "v1"), ("dir.tar.gz", "one")] {
        let again = rig.import(archive, Some(wanted)).unwrap();
        let same = (&again.layers, &again.config) == (&docker.layers, &docker.config);
        assert!(same, "{archive}: {again:?}");
        let error = rig.import(archive, Some("other:v1")).unwrap_err();
        assert!(matches!(error, ArchiveError::NoImage { .. }), "{error}");
    }
}

#[test]
fn what_is_exported_is_understood_by_others_and_by_ourselves() {
    let rig = Rig::new();
    rig.skopeo("oci:layout:one", "oci-archive:in.tar:v1");
    let image = rig.assemble(&rig.import("in.tar", None).unwrap());
    rig.export(&image, "out.tar");
    rig.export(&image, "same.tar");
    let same = fs::read(rig.path("out.tar")).unwrap() == fs::read(rig.path("same.tar")).unwrap();
    assert!(same);

    // What was exported stays the same from then on.
    let again = rig.import("out.tar", Some("mine:v1")).unwrap();
    assert_eq!(again.config, *image.config());
    rig.export(&rig.assemble(&again), "out2.tar");
    assert_eq!(rig.import("out2.tar", Some("mine:v1")).unwrap(), again);

    // Either half of the archive is read by somebody else, with the same content.
    rig.skopeo("oci-archive:out.tar:v1", "oci:from-oci:x");
    rig.skopeo("docker-archive:out.tar", "oci:from-docker:x");
    let expected = rig.contents("layout", "one");
    assert_eq!(expected.len(), 2);
    for layout in ["from-oci", "from-docker"] {
        assert_eq!(rig.contents(layout, "x"), expected, "{layout}");
        // A history that does not fit the layers would be refused here.
        let image = format!("{}:x", rig.shown(layout));
        run(Command::new("umoci").args(["stat", "--image", &image]));
    }
}

#[test]
fn names_that_are_none_are_not_exported() {
    let rig = Rig::new();
    rig.skopeo("oci:layout:one", "oci-archive:in.tar:v1");
    let image = rig.assemble(&rig.import("in.tar", None).unwrap());
    for name in ["", "Capital", "a b", "../x", "x:"] {
        let (layers, config) = (image.layers(), image.config());
        let error = archive::export(&rig.data(), layers, config, name, &mut Vec::new());
        let error = error.unwrap_err();
        assert!(matches!(error, ArchiveError::Reference(_)), "{error}");
    }
}
