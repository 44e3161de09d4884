use fs_err as fs;

use super::*;

fn quiet(_: crate::Progress) {}

/// A kernel source that needs no network: an ELF file and a tree with every required module.
fn fake(directory: &Path, content: &str) -> KernelSource {
    let modules_dir = directory.join("6.9.0-test");
    fs::create_dir_all(modules_dir.join("kernel")).unwrap();
    let mut dep = String::new();
    for (name, _) in modules::BOOT {
        fs::write(modules_dir.join(format!("kernel/{name}.ko")), format!("\x7fELF{name}")).unwrap();
        dep.push_str(&format!("kernel/{name}.ko:\n"));
    }
    fs::write(modules_dir.join("modules.dep"), dep).unwrap();
    let link = modules_dir.join("build");
    if !link.is_symlink() {
        fs_err::os::unix::fs::symlink("/usr/src/headers", link).unwrap();
    }
    let kernel = directory.join("vmlinux");
    fs::write(&kernel, format!("\x7fELF\x02 Linux version 6.9.0-test ({content})")).unwrap();
    KernelSource::Paths { kernel, modules_dir }
}

/// A bundle made of that.
pub(crate) fn fake_bundle(directory: &Path) -> KernelBundle {
    prepare(directory, &fake(directory, "one"), &quiet).unwrap()
}

#[test]
fn preparing_twice_gives_one_bundle_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    assert!(matches!(current(&data), Err(KernelError::NoKernel)));
    let source = fake(dir.path(), "one");
    let first = prepare(&data, &source, &quiet).unwrap();
    let again = prepare(&data, &source, &quiet).unwrap();
    assert_eq!(first, again);
    let names = first.boot_modules().into_iter().map(|module| module.name);
    assert_eq!(names.collect::<Vec<_>>(), modules::BOOT.map(|(name, _)| name));
    let other = prepare(&data, &fake(dir.path(), "two"), &quiet).unwrap();
    assert_ne!(other.id(), first.id());
    assert_eq!(current(&data).unwrap(), other);
    set_current(&data, &first).unwrap();
    assert_eq!(current(&data).unwrap().id(), first.id());
    assert_eq!(list(&data).unwrap().len(), 2);
    assert_eq!(fs::read_dir(directory(&data)).unwrap().count(), 3);
    let unknown = open(&data, "../../etc").unwrap_err();
    assert!(unknown.hint().unwrap().contains(first.id()), "{unknown}");
}

#[test]
fn preparations_at_the_same_time_agree() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let source = fake(dir.path(), "one");
    let ids: Vec<String> = std::thread::scope(|scope| {
        let run = || prepare(&data, &source, &quiet).unwrap().id().to_owned();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(fs::read_dir(directory(&data)).unwrap().count(), 2);
}

#[test]
fn verification_names_the_bad_file() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = prepare(dir.path(), &fake(dir.path(), "one"), &quiet).unwrap();
    verify(&bundle).unwrap();
    let victim = &bundle.boot_modules()[3].path;
    let mut content = fs::read(victim).unwrap();
    content[5] ^= 1;
    fs::write(victim, content).unwrap();
    let error = verify(&bundle).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{} is damaged", victim.display())), "{error}");
    fs::write(bundle.vmlinux(), "short").unwrap();
    assert!(open(dir.path(), bundle.id()).is_err());
}

#[test]
fn a_failed_preparation_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let KernelSource::Paths { kernel, modules_dir } = fake(dir.path(), "one") else { panic!() };
    fs::write(modules_dir.join("modules.dep"), "").unwrap();
    let source = KernelSource::Paths { kernel, modules_dir: modules_dir.clone() };
    let data = dir.path().join("data");
    let error = prepare(&data, &source, &quiet).unwrap_err();
    assert!(base::chain(&error).contains("virtio_mmio"), "{error}");
    let KernelSource::Paths { kernel, .. } = fake(dir.path(), "one") else { panic!() };
    fs::write(&kernel, "\x7fELF\x02 Linux version 6.9.1 (x)").unwrap();
    let error = prepare(&data, &KernelSource::Paths { kernel, modules_dir }, &quiet).unwrap_err();
    assert!(error.to_string().contains("is not the kernel"), "{error}");
    assert_eq!(fs::read_dir(directory(&data)).unwrap().count(), 0);
}
