//! Images from Dockerfiles.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use api::{BuildEvent, BuildImage, BuiltImage, CreateSandbox, CreateUser, ErrorBody, ErrorCode};
use e2e::{DISK_MB, Guest, MEMORY_MB, Node, raw};

/// What a build said.
#[derive(Debug, Default)]
struct Said {
    /// Each step's text, and whether it was found.
    steps: Vec<(String, bool)>,
    output: String,
    notices: Vec<String>,
}

impl Said {
    fn cached(&self) -> Vec<bool> {
        self.steps.iter().map(|(_, cached)| *cached).collect()
    }
}

fn request(name: &str, dockerfile: &str) -> BuildImage {
    BuildImage {
        name: name.to_owned(),
        dockerfile: dockerfile.to_owned(),
        cpus: Some(1),
        memory_mb: Some(MEMORY_MB),
        disk_size_mb: Some(DISK_MB),
        ..BuildImage::default()
    }
}

/// An archive of files, each `NAME` or `NAME=CONTENT`.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend(header(b'0', name, "", content.len()));
        archive.extend(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A header whose name and target nobody has looked at.
fn header(kind: u8, name: &str, link: &str, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000001\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

async fn build(
    node: &Node,
    request: &BuildImage,
    context: Vec<u8>,
) -> (Said, Result<BuiltImage, ErrorBody>) {
    let mut client = node.admin();
    let mut said = Said::default();
    let mut events = match client.image_build(request, std::io::Cursor::new(context)).await {
        Ok(events) => events,
        Err(api::client::ClientError::Api(body)) => return (said, Err(*body)),
        Err(error) => panic!("{error}"),
    };
    while let Some(event) = events.next().await.unwrap() {
        match event {
            BuildEvent::Step { text, cached, .. } => said.steps.push((text, cached)),
            BuildEvent::Stdout(data) | BuildEvent::Stderr(data) => {
                said.output.push_str(&String::from_utf8_lossy(&data.into_bytes().unwrap()));
            }
            BuildEvent::Notice { message } => said.notices.push(message),
            BuildEvent::Result(image) => return (said, Ok(image)),
            BuildEvent::Error(body) => return (said, Err(body)),
            BuildEvent::Progress { .. } | BuildEvent::Unknown => {}
        }
    }
    panic!("the build ended without a word; it said {said:?}");
}

async fn built(node: &Node, request: &BuildImage, context: Vec<u8>) -> (Said, BuiltImage) {
    let (said, outcome) = build(node, request, context).await;
    match outcome {
        Ok(image) => (said, image),
        Err(error) => panic!("{error:?}; it said {said:?}"),
    }
}

/// A sandbox of an image that was built here.
async fn guest(node: &Node, image: &str) -> Guest {
    let request = CreateSandbox {
        name: Some(format!("of-{image}")),
        image: Some(image.to_owned()),
        cpus: Some(1),
        memory_mb: Some(MEMORY_MB),
        disk_size_mb: Some(DISK_MB),
        init: Some("sleep 1000".to_owned()),
        ..CreateSandbox::default()
    };
    Guest::create_by(node.admin(), request).await
}

/// Nothing of a build is left: no guest, no context.
async fn nothing_is_left(node: &Node) {
    e2e::until("nothing is left of the build", async || {
        let entries = |path: &str| match fs_err::read_dir(node.data().join(path)) {
            Ok(entries) => entries.count(),
            Err(_) => 0,
        };
        let left = node.monitors().len() + entries("sandboxes") + entries("incoming");
        (left == 0).then_some(())
    })
    .await;
}

const EVERYTHING: &str = r#"
ARG BASE=nothing
FROM $BASE
ARG WHO=nobody UNSET
ENV GREETING="hello $WHO" EMPTY=
LABEL maker="some one" version=1
WORKDIR /app
COPY a.txt sub ./data/
COPY --chown=12:13 --chmod=640 a.txt /owned
RUN echo "$GREETING $WHO-$UNSET from $(pwd) as $(id -u)" > said && cat said
RUN ["sh", "-c", "echo $0", "exec form"]
RUN <<EOF
echo here
echo document
EOF
WORKDIR data
USER 1000:1000
RUN id -u; pwd; touch /root/x 2>/dev/null || echo refused
EXPOSE 80 90/udp
VOLUME /v
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo started"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_as_its_dockerfile_says_and_nothing_is_done_twice() {
    let node = Node::start();
    let args = [("BASE", "busybox"), ("WHO", "world"), ("TYPO", "x")];
    let args = args.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let request = BuildImage { build_args: args.into(), ..request("all", EVERYTHING) };
    let files = |a: &str| archive(&[("a.txt", a), ("sub/b.txt", "B"), ("other", "x")]);
    let (said, image) = built(&node, &request, files("A")).await;
    for line in [
        "hello world world- from /app as 0",
        "exec form",
        "here\ndocument",
        "1000\n/app/data\nrefused",
    ] {
        assert!(said.output.contains(line), "{line:?}: {said:?}");
    }
    assert_eq!(said.notices.len(), 2, "{said:?}");
    assert_eq!((image.name.as_str(), image.steps), ("all", said.steps.len()));
    assert!(!said.steps[6].1, "{said:?}");
    nothing_is_left(&node).await;

    let shown = node.admin().image("all").await.unwrap();
    assert_eq!(shown.image.digest, image.digest);
    let config = shown.config;
    assert_eq!(config.env["GREETING"], "hello world");
    assert_eq!(
        (config.user.as_deref(), config.working_dir.as_deref()),
        (Some("1000:1000"), Some("/app/data"))
    );
    assert_eq!((config.entrypoint.len(), config.cmd.len()), (2, 1));
    assert_eq!(
        (config.exposed_ports, config.labels["maker"].as_str()),
        (vec!["80/tcp".to_owned(), "90/udp".to_owned()], "some one")
    );
    let mut guest = guest(&node, "all").await;
    assert_eq!(
        guest.sh("cat a.txt b.txt ../said; pwd; id -u; echo $GREETING").await,
        "ABhello world world- from /app as 0\n/app/data\n1000\nhello world"
    );
    assert_eq!(
        guest.sh("stat -c %u:%g:%a:%F /owned /app").await,
        "12:13:640:regular file\n0:0:755:directory"
    );
    guest.client.destroy("of-all").await.unwrap();
    // Whoever it is given to hears what it says.
    let mut content = guest.client.image_export("all").await.unwrap();
    let mut archive_of_it = Vec::new();
    while let Some(piece) = content.chunk().await.unwrap() {
        archive_of_it.extend_from_slice(&piece);
    }
    drop(content);
    let text = String::from_utf8_lossy(&archive_of_it);
    for said in ["\"GREETING=hello world\"", "\"WorkingDir\":\"/app/data\"", "owned\0"] {
        assert!(text.contains(said), "{said}");
    }

    // The same once more, then with another file, then without the cache.
    let (again, same) = built(&node, &request, files("A")).await;
    assert_eq!(
        (same.digest.as_str(), same.cached),
        (image.digest.as_str(), same.steps),
        "{again:?}"
    );
    assert_eq!(again.output, "");
    let (unneeded, same) =
        built(&node, &request, archive(&[("sub/b.txt", "B"), ("a.txt", "A")])).await;
    assert_eq!(same.digest, image.digest, "{unneeded:?}");
    let (other, changed) = built(&node, &request, files("A2")).await;
    let first = other.cached().iter().position(|cached| !cached).unwrap();
    assert!(other.steps[first].0.starts_with("COPY a.txt"), "{other:?}");
    assert!(!other.cached()[first..].contains(&true) && changed.digest != image.digest);
    let fresh = BuildImage { no_cache: true, target: Some("0".to_owned()), ..request };
    let (fresh, _) = built(&node, &fresh, files("A")).await;
    assert!(!fresh.cached().contains(&true), "{fresh:?}");
    nothing_is_left(&node).await;
}

const STAGES: &str = "FROM busybox AS one
COPY . /src/
RUN mkdir -p /out/bin && cp /src/a /out/bin/tool && chown 7:8 /out/bin/tool && ln -s tool /out/bin/l
FROM busybox AS unneeded
RUN exit 1
FROM busybox
COPY --from=one /out /opt
COPY --from=0 /src/?.txt /out/bin/tool /several/
COPY --from=one /out/bin/l /single
COPY --from=busybox /bin/busybox /copied
ADD in.tar.gz /unpacked
RUN ls -ln /opt/bin /several && cat /single && cmp /bin/busybox /copied && ls -ln /unpacked
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_give_each_other_files_and_archives_are_unpacked() {
    let node = Node::start();
    let files = archive(&[("a", "A\n"), ("b.txt", "B"), ("c.txt", "C")]);
    let inner = archive(&[("x/y", "Y")]);
    let zipped = gzip(&inner);
    let whole = with(&files, "in.tar.gz", &zipped);
    let (said, _) = built(&node, &request("staged", STAGES), whole.clone()).await;
    for line in
        ["7        8                2", " l -> tool", "b.txt", "c.txt", "tool", "A\n", " x\n"]
    {
        assert!(said.output.contains(line), "{line:?}: {said:?}");
    }
    assert!(!said.steps.iter().any(|(text, _)| text.contains("exit 1")), "{said:?}");
    // Only the last step is done again, and the stages before it need no guest for that.
    let longer = format!("{STAGES}COPY --from=one /src/a /late\nRUN cat /late\n");
    let (said, _) = built(&node, &request("staged", &longer), whole).await;
    let redone: Vec<&str> =
        said.steps.iter().filter(|(_, cached)| !cached).map(|(text, _)| text.as_str()).collect();
    assert_eq!(redone, ["COPY --from=one /src/a /late", "RUN cat /late"]);
    assert_eq!(said.output, "A\n");
    nothing_is_left(&node).await;
}

/// Bytes as a gzip file, not compressed.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = u16::try_from(bytes.len()).unwrap();
    file.extend(length.to_le_bytes());
    file.extend((!length).to_le_bytes());
    file.extend(bytes);
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    });
    file.extend((!crc).to_le_bytes());
    file.extend(u32::from(length).to_le_bytes());
    file
}

/// An archive with another file.
fn with(archive: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let mut whole = archive[..archive.len() - 1024].to_vec();
    whole.extend(header(b'0', name, "", content.len()));
    whole.extend(content);
    whole.resize(whole.len().next_multiple_of(512) + 1024, 0);
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_or_makes_no_sense_leaves_nothing() {
    let node = Node::start();
    let files = || archive(&[("a", "A")]);
    let failing = request("bad", "FROM busybox\nRUN echo words; echo last >&2; exit 7\nRUN true");
    let (said, outcome) = build(&node, &failing, files()).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.code, ErrorCode::BuildFailed);
    assert!(error.error.contains("Dockerfile:2") && error.error.contains('7'), "{error:?}");
    assert!(error.error.contains("last") && said.output == "words\nlast\n", "{error:?} {said:?}");
    nothing_is_left(&node).await;

    for (text, code, told) in [
        ("FROM busybox\nFOO", ErrorCode::BuildInvalid, "Dockerfile:2"),
        ("FROM busybox\nCOPY x /", ErrorCode::BuildInvalid, "Dockerfile:2"),
        ("FROM busybox\nCOPY a a /x", ErrorCode::BuildInvalid, "Dockerfile:2"),
        ("FROM busybox\nRUN no-such-thing-at-all", ErrorCode::BuildFailed, "127"),
        ("FROM busybox\nUSER nobody-there\nRUN true", ErrorCode::BuildFailed, "Dockerfile:3"),
        ("FROM busybox\nCOPY a /bin/sh/x", ErrorCode::NotDirectory, "Dockerfile:2"),
        ("FROM busybox\nCOPY --from=busybox /none /x", ErrorCode::FileNotFound, "Dockerfile:2"),
        ("FROM busybox\nLABEL bhatti.services=no", ErrorCode::ImageInvalid, "Dockerfile:2"),
        ("FROM UPPER", ErrorCode::ImageNotFound, "Dockerfile:1"),
    ] {
        let (_, outcome) = build(&node, &request("bad", text), files()).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.code, code, "{text}: {error:?}");
        assert!(error.error.contains(told), "{text}: {error:?}");
    }
    let (_, taken) = build(&node, &request("a b", "FROM busybox"), files()).await;
    assert_eq!(taken.unwrap_err().code, ErrorCode::InvalidName);
    assert_eq!(raw::unix(&node.socket(), "POST", "/images/build", b"{}").await.status, 400);
    let images = node.admin().images().await.unwrap();
    assert!(!images.iter().any(|image| image.name == "bad"), "{images:?}");
    nothing_is_left(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_context_leads_nowhere() {
    let node = Node::start();
    let outside = node.data().join("outside");
    let symlink = |name: &str, to: &str| header(b'2', name, to, 0).to_vec();
    let hard = |name: &str, to: &str| header(b'1', name, to, 0).to_vec();
    let file = |name: &str| [&header(b'0', name, "", 1)[..], b"x", &[0; 511]].concat();
    let everything = request("hostile", "FROM busybox\nCOPY . /in/\n");
    for hostile in [
        file(outside.to_str().unwrap()),
        file("../outside"),
        [symlink("l", node.data().to_str().unwrap()), file("l/outside")].concat(),
        hard("h", "/etc/passwd"),
        header(b'3', "null", "", 0).to_vec(),
    ] {
        let context = [hostile, vec![0; 1024]].concat();
        let (_, outcome) = build(&node, &everything, context).await;
        assert_eq!(outcome.unwrap_err().code, ErrorCode::BuildInvalid);
    }
    // Links are copied as links; what one leads to on the host is nothing to it.
    let links = [symlink("l", "/etc/hostname"), symlink("up", "../../../etc/passwd"), file("f")];
    let context = [links.concat(), vec![0; 1024]].concat();
    let text = "FROM busybox\nCOPY . /in/\nRUN readlink /in/l; readlink /in/up; cat /in/f\n";
    let (said, _) = built(&node, &request("links", text), context.clone()).await;
    assert_eq!(said.output, "/etc/hostname\n../../../etc/passwd\nx");
    let (_, outcome) =
        build(&node, &request("hostile", "FROM busybox\nCOPY up /x\n"), context).await;
    assert_eq!(outcome.unwrap_err().code, ErrorCode::BuildInvalid);
    assert!(!Path::new(&outside).exists());
    nothing_is_left(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_given_up_or_dies_with_the_daemon_leaves_nothing() {
    let mut node = Node::start();
    let endless = request("endless", "FROM busybox\nRUN echo begun; while :; do sleep 1; done");
    for killed in [false, true] {
        let mut client = node.admin();
        let context = std::io::Cursor::new(archive(&[]));
        let mut events = client.image_build(&endless, context).await.unwrap();
        while !matches!(events.next().await.unwrap().unwrap(), BuildEvent::Stdout(_)) {}
        assert_eq!(node.admin().sandboxes(&[]).await.unwrap(), [], "nobody sees its sandbox");
        assert_eq!(node.monitors().len(), 1);
        if killed {
            node.kill9();
            node.restart();
        }
        drop(events);
        nothing_is_left(&node).await;
    }
    assert!(node.admin().image("endless").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_and_images_are_their_owner_s_and_within_his_limits() {
    let node = Node::start();
    let text = "FROM busybox\nRUN echo a > /made";
    let (_, first) = built(&node, &request("mine", text), archive(&[])).await;
    let user = CreateUser { name: "ann".into(), max_sandboxes: Some(1), ..CreateUser::default() };
    let key = node.user(user).await;
    let mut ann = node.client(&key);
    let mut events =
        ann.image_build(&request("mine", text), std::io::Cursor::new(archive(&[]))).await.unwrap();
    let mut found = Vec::new();
    let image = loop {
        match events.next().await.unwrap().unwrap() {
            BuildEvent::Step { cached, .. } => found.push(cached),
            BuildEvent::Result(image) => break image,
            BuildEvent::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    };
    assert_eq!(found, [true, false], "what another did is nothing to her");
    assert_ne!(image.digest, first.digest);
    drop(events);
    // Her one sandbox is in use now.
    let mut guest = Guest::create_by(node.client(&key), e2e::create_request("box")).await;
    guest.sh("true").await;
    let more = request("more", "FROM busybox\nRUN true");
    let mut events = ann.image_build(&more, std::io::Cursor::new(archive(&[]))).await.unwrap();
    let error = loop {
        match events.next().await.unwrap().unwrap() {
            BuildEvent::Error(error) => break error,
            BuildEvent::Result(image) => panic!("{image:?}"),
            _ => {}
        }
    };
    assert_eq!(error.code, ErrorCode::QuotaSandboxes);
}
