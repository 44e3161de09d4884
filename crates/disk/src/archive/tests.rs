mod made;

use std::io::Cursor;

use base::hash;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::made::*;
use super::*;
use crate::layer::LayerError;

#[test]
fn each_kind_of_archive_gives_the_same_layers_whether_compressed_or_not() {
    let docker_new = {
        let (_, made) = oci_blobs();
        let config = configuration(&layers());
        let names: Vec<String> = layers().iter().map(|layer| blob_name(&gzip(layer))).collect();
        let manifest = json!([{"Config": blob_name(&config), "RepoTags": null, "Layers": names}]);
        oci()
            .0
            .into_iter()
            .fold(made, |made, (name, entry)| made.replaced(&name, entry))
            .file("manifest.json", manifest.to_string())
    };
    for (made, name) in [(docker_old(), Some("mine:1")), (docker_new, None), (oci(), None)] {
        let tar = made.tar();
        for archive in [gzip(&tar), tar] {
            let store = Store::new();
            let image = store.import(&archive, None).unwrap();
            assert_eq!(image.layers, ids());
            assert_eq!(image.config.cmd, ["sh"]);
            assert_eq!(image.reference.as_deref(), name);
            assert!(image.layers.iter().all(|id| layer::exists(store.0.path(), id)));
            // Nothing but the layers is left, and once more changes nothing.
            let left = || fs_err::read_dir(store.0.path().join("images/layers")).unwrap().count();
            assert_eq!(left(), 2);
            assert_eq!(store.import(&archive, None).unwrap(), image);
            assert_eq!(left(), 2);
        }
    }
}

#[test]
fn anything_else_is_a_root_file_system_of_one_layer() {
    let root =
        Made::default().file("etc/passwd", "root").file("manifest.json", "{\"name\":\"app\"}");
    let other = Made::default().file("hello", "x");
    for made in [root, other] {
        let tar = made.tar();
        for archive in [gzip(&tar), tar.clone()] {
            let image = imported(&archive).unwrap();
            assert_eq!(image.layers, [hash::bytes(&tar).parse().unwrap()]);
            let architecture = platform::architecture().to_owned();
            assert_eq!(image.config, Config { architecture, ..Config::default() });
        }
        let error = Store::new().import(&tar, Some("x")).unwrap_err();
        assert!(matches!(error, ArchiveError::NoImage { .. }), "{error}");
    }
}

#[test]
fn what_is_no_archive_at_all_is_refused() {
    let tar = docker_old().tar();
    for bytes in [
        &b""[..],
        b"hello",
        &[7; 4096],
        b"\x1f\x8b",
        b"\xfd7zXZ\0......",
        b"\x28\xb5\x2f\xfd",
        &tar[..700],
        &tar[..tar.len() / 2],
        &gzip(&tar)[..300],
    ] {
        let error = imported(bytes).unwrap_err();
        assert!(error.is_of_the_image(), "{error:?}");
    }
}

#[test]
fn one_of_several_is_chosen_by_name_and_never_by_chance() {
    let mut entries: Vec<Value> = Vec::new();
    let (mut manifest, mut made) = oci_blobs();
    for (number, (name, full)) in
        [("a", "docker.io/library/x:a"), ("b", "ghcr.io/y/z:b")].into_iter().enumerate()
    {
        manifest["annotations"] = json!({"number": number.to_string()});
        let text = manifest.to_string();
        made = made.blob(text.as_bytes());
        let mut entry = descriptor(layout::MANIFEST_TYPE, text.as_bytes());
        entry["annotations"] = json!({layout::NAME: name, layout::FULL_NAME: full});
        entries.push(entry);
    }
    let oci = with_index(made, &entries).tar();
    let docker = {
        let config = configuration(&layers());
        let entry = |tags: &[&str]| {
            json!({
                "Config": format!("{}.json", hash::bytes(&config)), "RepoTags": tags,
                "Layers": ["aa/layer.tar", "bb/layer.tar"],
            })
        };
        let manifest = json!([entry(&["x:a", "other"]), entry(&["ghcr.io/y/z:b"])]);
        docker_old().replaced("manifest.json", Entry::File(manifest.to_string().into_bytes())).tar()
    };
    for archive in [oci, docker] {
        let store = Store::new();
        let error = store.import(&archive, None).unwrap_err();
        assert!(matches!(&error, ArchiveError::Several { found } if found.len() >= 2), "{error}");
        for name in ["x:a", "docker.io/library/x:a", "docker.io/x:a", "ghcr.io/y/z:b"] {
            let image = store.import(&archive, Some(name)).unwrap();
            assert_eq!(image.reference.as_deref(), Some(name));
        }
        for name in ["x", "y/z:b", "", "../x:a"] {
            let error = store.import(&archive, Some(name)).unwrap_err();
            assert!(matches!(error, ArchiveError::NoImage { .. }), "{error}");
        }
    }
}

/// The usual archive of Docker's with something else in its manifest.
fn docker_with(key: &str, value: Value) -> Made {
    let config = configuration(&layers());
    let mut entry = json!({
        "Config": format!("{}.json", hash::bytes(&config)), "RepoTags": null,
        "Layers": ["aa/layer.tar", "bb/layer.tar"],
    });
    entry[key] = value;
    docker_old().replaced("manifest.json", Entry::File(json!([entry]).to_string().into_bytes()))
}

#[test]
fn names_in_documents_lead_nowhere_but_to_members() {
    for name in ["/etc/passwd", "../../../../etc/passwd", "aa/../bb/layer.tar", "", ".", "aa", "/"]
    {
        refused(&docker_with("Config", json!(name)), is_missing);
        refused(&docker_with("Layers", json!([name, "bb/layer.tar"])), is_missing);
    }
    refused(&docker_with("Layers", json!(["aa/layer.tar"])), is_document);
    refused(&docker_with("Layers", json!(null)), is_document);
    refused(&docker_with("Layers", json!(["bb/layer.tar", "aa/layer.tar"])), is_digest_error);
    assert!(
        imported(&docker_with("Layers", json!(["./aa/layer.tar", "bb/layer.tar"])).tar()).is_ok()
    );
}

#[test]
fn links_lead_to_members_or_nowhere() {
    let linked =
        |name: &str, to: Entry| docker_old().file("cc.tar", layer_tar("one")).replaced(name, to);
    let name = "aa/layer.tar";
    for to in ["../cc.tar", "./../cc.tar", "../aa/../cc.tar"] {
        assert!(imported(&linked(name, Entry::Symlink(to.to_owned())).tar()).is_ok(), "{to}");
    }
    assert!(imported(&linked(name, Entry::HardLink("cc.tar".to_owned())).tar()).is_ok());
    for to in [
        "cc.tar",
        "/cc.tar",
        "/etc/passwd",
        "../../cc.tar",
        "../../../etc/passwd",
        "layer.tar",
        "..",
    ] {
        refused(&linked(name, Entry::Symlink(to.to_owned())), is_missing);
    }
    for to in ["../cc.tar", "/etc/passwd", "aa/layer.tar", ""] {
        refused(&linked(name, Entry::HardLink(to.to_owned())), is_missing);
    }
    let manifest = linked("manifest.json", Entry::Symlink("/etc/passwd".to_owned()));
    refused(&manifest, is_missing);
    // A link to a link.
    let twice = linked(name, Entry::Symlink("../dd".to_owned()));
    refused(&twice.replaced("dd", Entry::Symlink("cc.tar".to_owned())), is_missing);
}

#[test]
fn what_is_missing_or_there_twice_is_told() {
    for (name, _) in docker_old().0 {
        if !name.ends_with("VERSION") && name != "repositories" && name != "manifest.json" {
            refused(&docker_old().without(&name), is_missing);
            refused(&docker_old().file(&name, "x"), is_missing);
        }
    }
    refused(&docker_old().file("./manifest.json", "[]"), is_missing);
    for (name, _) in oci().0 {
        if name.starts_with("blobs/") {
            refused(&oci().without(&name), is_missing);
            let wrong = Entry::File(b"{}".to_vec());
            refused(&oci().replaced(&name, wrong), is_digest_error);
        }
    }
    refused(&docker_old().file("../x", "y"), |error| {
        matches!(error, ArchiveError::Layer(LayerError::Entry { .. }))
    });
}

#[test]
fn documents_that_say_nothing_of_sense_are_refused() {
    let large = vec![b' '; 5 << 20];
    let deep = "[".repeat(200_000);
    for text in [&b""[..], b"{}", b"[1]", b"[{}]", b"null", deep.as_bytes()] {
        refused(&docker_old().replaced("manifest.json", Entry::File(text.to_vec())), is_document);
        refused(&oci().replaced("index.json", Entry::File(text.to_vec())), is_document);
    }
    let none = Entry::File(b"[]".to_vec());
    refused(&docker_old().replaced("manifest.json", none), is_unsupported);
    for (made, name) in [(docker_old(), "manifest.json"), (oci(), "index.json")] {
        refused(&made.replaced(name, Entry::File(large.clone())), |error| {
            matches!(error, ArchiveError::TooLarge { .. })
        });
    }
}

#[test]
fn a_layer_is_what_the_configuration_says_or_is_not_stored() {
    let store = Store::new();
    let wrong = Entry::File(layer_tar("other"));
    let error =
        store.import(&docker_old().replaced("bb/layer.tar", wrong).tar(), None).unwrap_err();
    assert!(is_digest_error(&error), "{error}");
    let other = hash::bytes(&layer_tar("other")).parse().unwrap();
    assert!(!layer::exists(store.0.path(), &other));
    assert!(!layer::exists(store.0.path(), &ids()[1]));
    // Of the right content, but another blob than the manifest says.
    let (mut manifest, made) = oci_blobs();
    let plain = &layers()[0];
    manifest["layers"][0]["digest"] = json!(format!("sha256:{}", hash::bytes(b"x")));
    manifest["layers"][0]["size"] = json!(plain.len());
    let made = made.file(&blob_name(b"x"), plain);
    refused(&oci_of(&manifest, made), is_digest_error);
    let (mut manifest, made) = oci_blobs();
    manifest["layers"][0]["size"] = json!(1);
    refused(&oci_of(&manifest, made), is_digest_error);
}

#[test]
fn what_is_no_container_image_is_refused() {
    for (place, kind) in [("config", "application/vnd.cncf.helm.config.v1+json"), ("layers", "x/y")]
    {
        let (mut manifest, made) = oci_blobs();
        match place {
            "config" => manifest["config"]["mediaType"] = json!(kind),
            _ => manifest["layers"][0]["mediaType"] = json!(kind),
        }
        refused(&oci_of(&manifest, made), is_unsupported);
    }
    let (mut manifest, made) = oci_blobs();
    manifest["layers"].as_array_mut().unwrap().pop();
    refused(&oci_of(&manifest, made), is_document);
    for digest in ["md5:00", "sha256:../../../../etc/passwd", "sha512:aa", ""] {
        let (mut manifest, made) = oci_blobs();
        manifest["config"]["digest"] = json!(digest);
        refused(&oci_of(&manifest, made), |error| is_document(error) || is_unsupported(error));
    }
}

#[test]
fn an_index_leads_to_the_image_for_this_machine_however_deep_within_reason() {
    let (manifest, made) = oci_blobs();
    let text = manifest.to_string();
    let made = made.blob(text.as_bytes());
    let for_machine = |os: &str, architecture: &str| {
        let mut entry = descriptor(layout::MANIFEST_TYPE, text.as_bytes());
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let here = for_machine("linux", platform::architecture());
    let others = [for_machine("linux", "s390x"), for_machine("unknown", "unknown")];
    let nested = |entries: &[Value], depth: usize| {
        let (mut made, mut entries) = (made.clone(), entries.to_vec());
        for _ in 0..depth {
            let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            made = made.blob(index.as_bytes());
            entries = vec![descriptor(layout::INDEX_TYPE, index.as_bytes())];
        }
        with_index(made, &entries)
    };
    let all = [others[0].clone(), others[1].clone(), here];
    for depth in 0..4 {
        assert!(imported(&nested(&all, depth).tar()).is_ok(), "{depth}");
    }
    refused(&nested(&all, 4), is_unsupported);
    refused(
        &nested(&others, 1),
        |error| matches!(error, ArchiveError::WrongArchitecture { found, .. } if found == &["linux/s390x"]),
    );
    refused(&nested(&[], 1), |error| matches!(error, ArchiveError::WrongArchitecture { .. }));
    // One that names itself cannot have its own digest; many that name nothing can.
    let own = with_index(
        made.clone(),
        &[json!({
            "mediaType": layout::INDEX_TYPE, "digest": format!("sha256:{}", "0".repeat(64)), "size": 2,
        })],
    );
    refused(&own.file(&format!("blobs/sha256/{}", "0".repeat(64)), "{}"), is_digest_error);
    let empty = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let many = vec![descriptor(layout::INDEX_TYPE, empty.as_bytes()); 100];
    refused(&with_index(made.clone().blob(empty.as_bytes()), &many), is_unsupported);
}

#[test]
fn a_bomb_is_given_up_and_takes_no_room() {
    let store = Store::new();
    let zeros = gzip(&vec![0; 8 << 20]);
    let error = store.import(&zeros, None).unwrap_err();
    assert!(matches!(error, ArchiveError::Layer(LayerError::TooLarge { .. })), "{error}");
    let layers = store.0.path().join("images/layers");
    assert_eq!(fs_err::read_dir(layers).unwrap().count(), 0);
}

#[test]
fn a_list_without_end_is_given_up() {
    let mut made = docker_old();
    for number in 0..17_000 {
        made = made.file(&format!("x{number}"), "");
    }
    refused(&made, |error| matches!(error, ArchiveError::Layer(LayerError::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is changed in an archive, its layers come out as they are or not at all.
    #[test]
    fn damage_is_noticed_or_does_not_matter(
        changes in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        oci_layout in any::<bool>(),
    ) {
        let mut tar = if oci_layout { oci() } else { docker_old() }.tar();
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        let store = Store::new();
        let known = ids();
        if let Ok(image) = store.import(&tar, None) {
            // A damaged name makes it a root file system, which is what it then is.
            let root = image.layers == [hash::bytes(&tar).parse().unwrap()];
            prop_assert!(root || image.layers.iter().all(|id| known.contains(id)));
        }
    }
}
