use std::{collections::BTreeMap, net::Ipv4Addr};

use proto::message::{
    Attach, AttachControl, Defaults, Detach, Exec, FileList, FileRead, FileWrite, Hello, Identify,
    Init, Interface, JobOutput, Join, MountVolume, NewSession, Ownership, Refresh, Request,
    RestartPolicy, Resume, Target, WindowSize,
};

use super::{every, text, words};

/// Every request.
#[expect(clippy::too_many_lines, reason = "it is a list")]
pub(crate) fn requests() -> Vec<Request> {
    use Request as R;
    every!(Request {
        R::Hello(_) => [
            R::Hello(Hello { version: 1, proof: Some(text("0a")), refresh: Some(refresh()) }),
            R::Hello(Hello { version: 1, proof: None, refresh: None }),
        ],
        R::Identify(_) => [
            R::Identify(identify()),
            R::Identify(Identify { defaults: Defaults::default(), ..identify() }),
        ],
        R::Rehearse(_) => [R::Rehearse(identify())],
        R::Refresh(_) => [R::Refresh(refresh())],
        R::Rest { .. } => [R::Rest { hang_up: true }, R::Rest { hang_up: false }],
        R::Sync => [R::Sync],
        R::MountVolumes { .. } => [R::MountVolumes {
            volumes: vec![MountVolume {
                slot: 1,
                target: "/data".to_owned(),
                read_only: true,
                bytes: 1 << 30,
            }],
        }],
        R::FreezeVolumes => [R::FreezeVolumes],
        R::ThawVolumes => [R::ThawVolumes],
        R::GrowVolume { .. } => [R::GrowVolume { slot: 1, bytes: 2 << 30 }],
        R::Ping => [R::Ping],
        R::Exec(_) => [
            R::Exec(exec(Some(Detach { keep_awake: true, output_max: Some(1 << 20) }))),
            R::Exec(exec(Some(Detach { keep_awake: false, output_max: None }))),
            R::Exec(exec(None)),
        ],
        R::Jobs => [R::Jobs],
        R::JobOutput(_) => [
            R::JobOutput(JobOutput { job: text("j1"), offset: 1 << 40, follow: true }),
        ],
        R::JobRemove { .. } => [R::JobRemove { job: text("j1") }],
        R::Kill { .. } => [R::Kill { id: text("j1"), signal: 15 }],
        R::Attach(_) => attaches().into_iter().map(R::Attach),
        R::Join(_) => joins().map(R::Join),
        R::Sessions => [R::Sessions],
        R::StartInit(_) => inits().into_iter().map(R::StartInit),
        R::FileRead(_) => [
            R::FileRead(FileRead {
                path: text("/etc/hosts"),
                skip_bytes: None,
                offset: Some(2),
                limit: Some(10),
                max_bytes: Some(4096),
            }),
            R::FileRead(skipping()),
        ],
        R::FileWrite(_) => [
            R::FileWrite(FileWrite {
                path: text("/srv/a"),
                mode: Some(0o600),
                owner: Some(text("www-data:adm")),
                append: true,
            }),
        ],
        R::FileStat { .. } => [R::FileStat { path: text("/bin/sh"), no_follow: true }],
        R::FileList(_) => [
            R::FileList(FileList { path: text("/"), after: Some(text("etc")), limit: Some(100) }),
        ],
        R::MakeDirectory { .. } => [
            R::MakeDirectory { path: text("/srv/b"), mode: Some(0o700), parents: true },
        ],
        R::FileMove { .. } => [
            R::FileMove { from: text("/srv/a"), to: text("/srv/b"), replace: true },
        ],
        R::FileRemove { .. } => [R::FileRemove { path: text("/srv/b"), recursive: true }],
        R::Watch { .. } => [R::Watch { path: text("/srv"), recursive: true }],
        R::Pack { .. } => [R::Pack { path: text("/srv") }],
        R::PackLayer { .. } => [R::PackLayer { disk: None }, R::PackLayer { disk: Some(0) }],
        R::Unpack { .. } => [
            R::Unpack { path: text("/srv"), owner: None },
            R::Unpack { path: text("/srv"), owner: Some(Ownership::Archive) },
            R::Unpack {
                path: text("/srv"),
                owner: Some(Ownership::One { owner: text("dev:dev") }),
            },
        ],
        R::Ports => [R::Ports],
        R::Tunnel { .. } => [R::Tunnel { port: 8080 }],
        R::Activity => [R::Activity],
        R::ActivityWatch => [R::ActivityWatch],
        R::TimeSpawn => [R::TimeSpawn],
        R::PowerOff => [R::PowerOff],
    })
}

fn skipping() -> FileRead {
    FileRead {
        path: text("/var/log/a"),
        skip_bytes: Some(1 << 33),
        offset: None,
        limit: None,
        max_bytes: None,
    }
}

/// Everything that a host says on the stream of an attachment.
pub(crate) fn attach_controls() -> Vec<AttachControl> {
    every!(AttachControl {
        AttachControl::Resize(_) => [AttachControl::Resize(WindowSize { rows: 24, cols: 80 })],
    })
}

fn attaches() -> Vec<Attach> {
    let targets = every!(Target {
        Target::New(_) => [Target::New(new_session())],
        Target::Session { .. } => [Target::Session { id: text("s1"), if_detached: true }],
        Target::NewestOr(_) => [Target::NewestOr(new_session())],
    });
    let size = Some(WindowSize { rows: 24, cols: 80 });
    let sized = targets.into_iter().map(|target| Attach { target, size });
    let target = Target::Session { id: text("init"), if_detached: false };
    sized.chain([Attach { target, size: None }]).collect()
}

fn joins() -> [Join; 2] {
    let join = Join {
        session: text("shr_0123456789ab"),
        new: Some(new_session()),
        size: Some(WindowSize { rows: 24, cols: 80 }),
        input: true,
        resume: Some(Resume { created_at: 1_700_000_000, cursor: 1 << 40 }),
    };
    let watch = Join { session: text("s1"), new: None, size: None, input: false, resume: None };
    [join, watch]
}

fn inits() -> Vec<Init> {
    let policies = every!(RestartPolicy {
        RestartPolicy::No => [RestartPolicy::No],
        RestartPolicy::OnFailure => [RestartPolicy::OnFailure],
        RestartPolicy::Always => [RestartPolicy::Always],
    });
    let init = |restart| Init { command: text("node server.js"), argv: Vec::new(), restart };
    let argv = words(&["/entrypoint.sh", "nginx"]);
    let of_image = Init { command: String::new(), argv, restart: RestartPolicy::OnFailure };
    policies.into_iter().map(init).chain([of_image]).collect()
}

fn env() -> BTreeMap<String, String> {
    BTreeMap::from([(text("STAGE"), text("dev"))])
}

fn refresh() -> Refresh {
    Refresh { time_ns: 1_700_000_000_000_000_001, seed: text("00ff") }
}

fn identify() -> Identify {
    Identify {
        sandbox_id: text("94feb5201af18350"),
        hostname: text("web"),
        machine_id: text("0123"),
        token: text("beef"),
        env: env(),
        defaults: Defaults {
            env: env(),
            user: Some(text("www-data:adm")),
            working_dir: Some(text("/app")),
        },
        interface: Some(Interface {
            mac: [2, 0xbb, 0, 0, 0, 2],
            address: Ipv4Addr::new(10, 208, 0, 2),
            prefix: 22,
            gateway: Ipv4Addr::new(10, 208, 0, 1),
            name_server: Ipv4Addr::new(10, 208, 0, 1),
        }),
        refresh: refresh(),
    }
}

fn exec(detach: Option<Detach>) -> Exec {
    Exec {
        argv: words(&["sh", "-c", "exit 3"]),
        env: env(),
        cwd: Some(text("/tmp")),
        user: Some(text("1000")),
        timeout_ms: Some(300_000),
        stdin: true,
        detach,
    }
}

fn new_session() -> NewSession {
    NewSession {
        argv: words(&["bash", "-l"]),
        env: env(),
        cwd: Some(text("/workspace")),
        user: Some(text("root")),
        tty: true,
        max_idle_ms: Some(60_000),
    }
}
