//! Images that a real Podman has on this machine.

use std::process::Output;

use api::ErrorCode;
use e2e::{Node, Podman, refused};

use super::{layers_of, names, node, small};

fn import(node: &Node, podman: &Podman, reference: &str, name: &str) -> Output {
    let command = node.program(&["image", "import", reference, "--name", name]);
    podman.know(command).as_std_mut().output().unwrap()
}

#[tokio::test]
async fn an_image_of_podman_is_the_same_here_whatever_it_is_asked_for_by() {
    let node = node();
    let podman = Podman::empty();
    let (one, two) = (small("one"), small("two"));
    podman.load(&one, "localhost/bhatti-test/web:1");
    podman.load(&two, "localhost/bhatti-test/web:latest");
    let id = podman.run(&["images", "--quiet", "localhost/bhatti-test/web:1"]);
    // What has a tag of its own, what others have the name of, what has none, and short names.
    let asked = [
        ("localhost/bhatti-test/web:1", &one, "one"),
        ("localhost/bhatti-test/web", &two, "two"),
        (id.as_str(), &one, "one"),
        ("bhatti-test/web:1", &one, "one"),
    ];
    for (at, (reference, image, word)) in asked.into_iter().enumerate() {
        let name = format!("web-{at}");
        let imported = import(&node, &podman, reference, &name);
        assert!(imported.status.success(), "{reference}: {imported:?}");
        let details = node.admin().image(&name).await.unwrap();
        assert_eq!(details.config.env["WORD"], word, "{reference}");
        assert_eq!(details.layers, image.layers(), "{reference}");
    }
    assert_eq!(layers_of(&node), 3, "what both have is there once");

    let unknown = import(&node, &podman, "localhost/bhatti-test/none:1", "none");
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{said}");
    assert!(said.contains("podman: Error: ") && said.contains("image not known"), "{said}");
    assert!(said.contains("hint: get it from its registry: bhatti image pull"), "{said}");
    // Podman has lost what it says that it has.
    fs_err::remove_dir_all(podman.path().join("root/vfs/dir")).unwrap();
    let lost = import(&node, &podman, "localhost/bhatti-test/web:1", "lost");
    let said = String::from_utf8(lost.stderr).unwrap();
    assert!(lost.status.code() == Some(1) && said.starts_with("error: podman: Error: "), "{said}");
    for name in ["none", "lost"] {
        assert_eq!(refused(node.admin().image(name).await).code, ErrorCode::ImageNotFound);
    }
    assert_eq!((layers_of(&node), names(&node.data().join("incoming"))), (3, 0));
}
