//! What is in an image is in its sandboxes.

use api::{CreateSandbox, ErrorCode, ExecRequest, Kill};
use e2e::{
    Guest, Node, Terminal, create_request, refused,
    registry::{Layer, Layout, Registry, busybox},
    root, sh,
};
use serde_json::json;

use super::{node, programs};

/// Says what it was started with, and ends when it is told to in its own way.
const ENTRY: &str = "#!/bin/sh\n\
    trap 'echo farewell; exit 0' USR1\n\
    echo \"started $1,$2 $(id -u):$(id -g) $(pwd) $GREETING\"\n\
    while :; do sleep 1; done\n";

/// The capability to listen on low ports, permitted and effective, as files have it.
const MAY_LISTEN: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn image(node: &Node) -> Layout {
    let busybox = busybox(node.data());
    let passwd = "root:x:0:0::/root:/bin/sh\napp:x:501:502::/home/app:/bin/sh\n";
    let first = programs(node.data())
        .directory("etc")
        .file("etc/passwd", 0o644, passwd.as_bytes())
        .file("etc/group", 0o644, b"root:x:0:\napp:x:502:\nweb:x:503:app\n")
        .directory("srv/data")
        .file("srv/data/old", 0o644, b"hidden by the next layer")
        .file("srv/gone", 0o644, b"removed by the next layer")
        .file("srv/replaced", 0o644, b"old");
    let second = Layer::default()
        .file("srv/.wh.gone", 0o644, b"")
        .file("srv/data/.wh..wh..opq", 0o644, b"")
        .file("srv/data/new", 0o644, b"new")
        .file("srv/replaced", 0o600, &b"long ".repeat(5000))
        .hard_link("srv/linked", "bin/busybox");
    let third = Layer::default()
        .owned("srv/owned", 0o4755, (33, 44), b"of somebody")
        .directory("opt/bin")
        .with_attribute(
            "opt/bin/busybox-low",
            0o755,
            &busybox,
            ("security.capability", &MAY_LISTEN),
        )
        .file("opt/entry", 0o755, ENTRY.as_bytes());
    let config = json!({
        "Env": ["PATH=/opt/bin:/bin", "GREETING=hello"],
        "User": "app:web",
        "WorkingDir": "/var/lib/app",
        "Entrypoint": ["/opt/entry"],
        "Cmd": ["serve", "a b"],
        "StopSignal": "SIGUSR1",
    });
    Layout::new(vec![first, second, third], &config)
}

async fn looks_right(guest: &mut Guest) {
    assert_eq!(guest.sh("echo $(id -u):$(id -g):$(id -G)").await, "501:503:503");
    assert_eq!(guest.sh("pwd; echo $PATH $GREETING").await, "/var/lib/app\n/opt/bin:/bin hello");
    assert_eq!(guest.sh("ls /srv /srv/data").await, SRV);
    let told = guest.root("stat -c '%u:%g %a %s' /srv/owned /srv/replaced").await;
    assert_eq!(told, "33:44 4755 11\n0:0 600 25000");
    let same = guest.sh("stat -c '%h %i' /bin/busybox; stat -c '%h %i' /srv/linked").await;
    let (one, other) = same.split_once('\n').unwrap();
    assert!(one == other && one.starts_with("2 "), "{same}");
    // Bit 10 of what it may, though it is nobody.
    let may = guest.sh("busybox-low grep CapEff /proc/self/status").await;
    assert!(may.ends_with("0000000000000400"), "{may}");
    assert_eq!(guest.root("id -u; pwd").await, "0\n/var/lib/app");
}

const SRV: &str = "/srv:\ndata\nlinked\nowned\nreplaced\n\n/srv/data:\nnew";

#[tokio::test]
async fn a_pulled_image_is_in_its_sandboxes_what_it_was_made_to_be_and_stays_when_it_goes() {
    let node = node();
    // Of the client that is attached when its program ends.
    node.expect_warning("code=agent_unreachable");
    let registry = Registry::start();
    registry.push(&image(&node), "shop/web:1");
    let reference = registry.reference("shop/web:1");
    let request = CreateSandbox { image: Some(reference.clone()), ..create_request("a") };
    let mut steps = Vec::new();
    let created = node.admin().create(&request, |step| steps.push(step)).await.unwrap();
    assert!(steps.iter().any(|step| step.starts_with("fetching 3 layers")), "{steps:?}");
    assert_eq!(created.sandbox.image, "web-1");
    let mut guest = Guest { client: node.admin(), id: created.sandbox.id };
    looks_right(&mut guest).await;
    its_program_runs(&mut guest).await;

    // Now everybody works with the copy: what was pulled is asked of nobody again.
    drop(registry);
    let quiet = CreateSandbox { no_init: true, image: Some(reference), ..create_request("b") };
    let mut quiet = Guest::create_by(node.admin(), quiet).await;
    assert!(quiet.client.sessions(&quiet.id).await.unwrap().is_empty());
    let variables = [("GREETING".to_owned(), "hi".to_owned())].into();
    let told = ExecRequest { env: variables, ..sh("echo $GREETING") };
    assert_eq!(quiet.exec(&told).await.unwrap().stdout, "hi\n");

    let details = node.admin().image("web-1").await.unwrap();
    assert_eq!((details.layers.len(), details.used_by), (3, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(details.config.stop_signal.as_deref(), Some("SIGUSR1"));
    an_archive_of_it_is_as_good(&node).await;

    // Whoever was made of it needs no name of it.
    node.admin().image_delete("web-1").await.unwrap();
    quiet.stop().await;
    looks_right(&mut quiet).await;
}

async fn its_program_runs(guest: &mut Guest) {
    let mut init = Terminal::open(guest, "session=init").await;
    init.until("started serve,a b 501:503 /var/lib/app hello").await;
    let sessions = guest.client.sessions(&guest.id).await.unwrap();
    assert_eq!(sessions[0].session_id, "init");
    // Nobody says how; its image does.
    guest.client.session_kill(&guest.id, "init", &Kill::default()).await.unwrap();
    init.until("farewell").await;
}

async fn an_archive_of_it_is_as_good(node: &Node) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("web.tar");
    let shown = path.to_str().unwrap();
    let exported = node.cli(&["image", "export", "web-1", "-o", shown]);
    assert!(exported.status.success(), "{exported:?}");
    let imported = node.cli(&["image", "import", "--tar", shown, "--name", "again"]);
    assert!(imported.status.success(), "{imported:?}");
    let request = CreateSandbox { image: Some("again".to_owned()), ..create_request("c") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    looks_right(&mut guest).await;
    let started = root("cat /proc/[0-9]*/cmdline | grep -c /opt/entry");
    assert_eq!(guest.exec(&started).await.unwrap().exit_code, 0);
    guest.client.destroy(&guest.id).await.unwrap();
}

#[tokio::test]
async fn an_image_of_a_single_program_is_enough_for_a_sandbox() {
    let node = node();
    // Of the client that is attached when its program ends.
    node.expect_warning("code=agent_unreachable");
    let only = Layer::default().file("busybox", 0o755, &busybox(node.data()));
    let config = json!({ "Entrypoint": ["/busybox", "sh", "-c", "echo begun; exec /busybox cat"] });
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("only.tar");
    Layout::new(vec![only], &config).archive(&path, "only");
    let imported =
        node.cli(&["image", "import", "--tar", path.to_str().unwrap(), "--name", "only"]);
    assert!(imported.status.success(), "{imported:?}");

    let request = CreateSandbox { image: Some("only".to_owned()), ..create_request("a") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    let words = |words: &[&str]| ExecRequest {
        cmd: words.iter().map(|word| (*word).to_owned()).collect(),
        ..ExecRequest::default()
    };
    let told = guest.exec(&words(&["/busybox", "ls", "/busybox"])).await.unwrap();
    assert_eq!((told.exit_code, told.stdout.as_str()), (0, "/busybox\n"), "{told:?}");
    Terminal::open(&guest, "session=init").await.until("begun").await;
    guest.stop().await;
    let woken = guest.exec(&words(&["/busybox", "pidof", "busybox"])).await.unwrap();
    assert_eq!(woken.exit_code, 0, "its program is still there: {woken:?}");
    let absent = refused(guest.exec(&words(&["sh"])).await);
    assert_eq!(absent.code, ErrorCode::CommandNotFound);
}

/// Stands where systemd does in an image, and is over at once.
const SERVICES: &str = "#!/bin/sh\necho \"$@\" > /services-ran\n";

#[tokio::test]
async fn services_of_a_pulled_image_run_unless_its_label_says_off() {
    let node = node();
    let registry = Registry::start();
    for (label, expected) in [(None, "there"), (Some("off"), "not there")] {
        let layer = programs(node.data())
            .directory("lib/systemd")
            .file("lib/systemd/systemd", 0o755, SERVICES.as_bytes())
            .directory("sbin")
            .symlink("sbin/init", "/lib/systemd/systemd");
        let mut config = json!({"Cmd": ["/sbin/init"], "Env": ["PATH=/bin"]});
        if let Some(label) = label {
            config["Labels"] = json!({"bhatti.services": label});
        }
        let name = label.unwrap_or("on");
        registry.push(&Layout::new(vec![layer], &config), name);
        let image = Some(registry.reference(name));
        let request = CreateSandbox { image, ..create_request(name) };
        let mut guest = Guest::create_by(node.admin(), request).await;
        let looked = "if [ -s /services-ran ]; then echo there; else echo not there; fi";
        assert_eq!(guest.sh(looked).await, expected, "{label:?}");
        // It is nothing that the sandbox runs besides.
        assert!(guest.client.sessions(&guest.id).await.unwrap().is_empty());
    }
}
