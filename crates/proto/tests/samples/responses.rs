use proto::message::{
    Activity, Change, ChangeKind, DetachReason, ErrorCode, Exited, FileEntry, FileKind, FileStat,
    JobInfo, JobState, PortInfo, Response, Resting, SessionInfo, Welcome, WindowSize, WireError,
};

use super::{every, text, words};

/// Every answer.
pub(crate) fn responses() -> Vec<Response> {
    use Response as R;
    every!(Response {
        R::Welcome(_) => welcomes().map(R::Welcome),
        R::Identified => [R::Identified],
        R::Done => [R::Done],
        R::Resting(_) => [R::Resting(Resting {
            sessions: vec![session(None)],
            jobs: job_states().into_iter().map(job).collect(),
            ports: vec![port(Some(42))],
        })],
        R::Started { .. } => [R::Started { pid: 42, job: text("j1") }],
        R::Exited(_) => [R::Exited(killed()), R::Exited(ended())],
        R::Jobs { .. } => [R::Jobs { jobs: job_states().into_iter().map(job).collect() }],
        R::JobOutput { .. } => [R::JobOutput { start: 1 << 40 }],
        R::JobOutputEnd { .. } => {
            job_states().into_iter().map(|state| R::JobOutputEnd { next: 7, state })
        },
        R::Attached { .. } => [
            R::Attached { session: session(None), created: true, replay: 65_536 },
        ],
        R::Joined { .. } => [
            R::Joined {
                session: session(None),
                created: true,
                start: 1 << 40,
                replay: 65_536,
                size: Some(WindowSize { rows: 24, cols: 80 }),
            },
        ],
        R::Resized(_) => [R::Resized(WindowSize { rows: 24, cols: 80 })],
        R::Skipped { .. } => [R::Skipped { bytes: 1 << 20 }],
        R::Detached { .. } => detach_reasons().into_iter().map(|reason| R::Detached { reason }),
        R::Sessions { .. } => [
            R::Sessions { sessions: vec![session(None), session(Some(killed()))] },
        ],
        R::FileHeader(_) => [R::FileHeader(stat(FileKind::File))],
        R::FileEnd { .. } => [R::FileEnd { truncated: true }],
        R::Stat(_) => file_kinds().into_iter().map(|kind| R::Stat(stat(kind))),
        R::List { .. } => [
            R::List { entries: vec![entry("a"), entry("b")], last: true, more: true },
            R::List { entries: vec![], last: false, more: false },
        ],
        R::Changed { .. } => [
            R::Changed { changes: change_kinds().into_iter().map(change).collect() },
        ],
        R::Ports { .. } => [R::Ports { ports: vec![port(Some(42)), port(None)] }],
        R::Activity(_) => [R::Activity(Activity {
            running: 1,
            idle_ms: 2,
            attached: 3,
            tunnels: 4,
            keep_awake: 5,
        })],
        R::SpawnTimed { .. } => [R::SpawnTimed { nanos: 23_700_000 }],
        R::Error(_) => error_codes().into_iter().map(error),
    })
}

/// Every kind of failure.
pub(crate) fn error_codes() -> Vec<ErrorCode> {
    use ErrorCode as E;
    every!(ErrorCode {
        E::NotFound => [E::NotFound],
        E::IsDirectory => [E::IsDirectory],
        E::NotDirectory => [E::NotDirectory],
        E::Permission => [E::Permission],
        E::Exists => [E::Exists],
        E::NotEmpty => [E::NotEmpty],
        E::NoSpace => [E::NoSpace],
        E::Unclean => [E::Unclean],
        E::UnknownJob => [E::UnknownJob],
        E::UnknownSession => [E::UnknownSession],
        E::Attached => [E::Attached],
        E::PortClosed => [E::PortClosed],
        E::CommandNotFound => [E::CommandNotFound],
        E::CommandNotExecutable => [E::CommandNotExecutable],
        E::UnknownUser => [E::UnknownUser],
        E::Invalid => [E::Invalid],
        E::Limit => [E::Limit],
        E::Unauthenticated => [E::Unauthenticated],
        E::Unsupported => [E::Unsupported],
        E::Failed => [E::Failed],
    })
}

fn error(code: ErrorCode) -> Response {
    Response::Error(WireError { code, message: text("why") })
}

fn welcomes() -> impl Iterator<Item = Welcome> {
    let owned = Welcome {
        version: 1,
        agent: text("0.1.0"),
        sandbox_id: Some(text("94feb5201af18350")),
        proof: Some(text("0b")),
        keep_awake: 2,
    };
    let blank =
        Welcome { version: 1, agent: text("0.1.0"), sandbox_id: None, proof: None, keep_awake: 0 };
    [owned, blank].into_iter()
}

fn killed() -> Exited {
    Exited { code: 137, signal: Some(9), timed_out: true }
}

fn ended() -> Exited {
    Exited { code: 0, signal: None, timed_out: false }
}

fn job_states() -> Vec<JobState> {
    every!(JobState {
        JobState::Running => [JobState::Running],
        JobState::Exited { .. } => [JobState::Exited { exited: killed(), at: 1_700_000_009 }],
        JobState::Lost => [JobState::Lost],
    })
}

fn job(state: JobState) -> JobInfo {
    JobInfo {
        id: text("j1"),
        argv: words(&["make", "all"]),
        pid: 42,
        started_at: 1_700_000_000,
        state,
        output_start: 10,
        output_end: 20,
        keep_awake: true,
    }
}

fn detach_reasons() -> Vec<DetachReason> {
    every!(DetachReason { DetachReason::TakenOver => [DetachReason::TakenOver] })
}

fn session(exited: Option<Exited>) -> SessionInfo {
    SessionInfo {
        id: text("s1"),
        argv: words(&["bash"]),
        tty: true,
        pid: 43,
        exited,
        attached: true,
        created_at: 1_700_000_000,
        restarts: 2,
        joined: 3,
    }
}

fn file_kinds() -> Vec<FileKind> {
    every!(FileKind {
        FileKind::File => [FileKind::File],
        FileKind::Directory => [FileKind::Directory],
        FileKind::Symlink => [FileKind::Symlink],
        FileKind::Other => [FileKind::Other],
    })
}

fn stat(kind: FileKind) -> FileStat {
    let target = (kind == FileKind::Symlink).then(|| text("../to"));
    FileStat { size: 1 << 40, mode: 0o644, kind, mtime: -1, uid: 1000, gid: 100, target }
}

fn entry(name: &str) -> FileEntry {
    FileEntry { name: text(name), stat: stat(FileKind::Directory) }
}

fn change_kinds() -> Vec<ChangeKind> {
    use ChangeKind as C;
    every!(ChangeKind {
        C::Create => [C::Create],
        C::Write => [C::Write],
        C::Attributes => [C::Attributes],
        C::Remove => [C::Remove],
        C::Rename => [C::Rename],
        C::Overflow => [C::Overflow],
    })
}

fn change(kind: ChangeKind) -> Change {
    let to = (kind == ChangeKind::Rename).then(|| text("/srv/new"));
    let path = if kind == ChangeKind::Overflow { String::new() } else { text("/srv/a") };
    Change { kind, path, to, is_dir: true }
}

fn port(pid: Option<i32>) -> PortInfo {
    let process = pid.map(|_| text("node"));
    PortInfo { port: 3000, address: text("0.0.0.0"), pid, process }
}
