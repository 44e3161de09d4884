//! What an image says about processes.

use std::fs;

use proto::message::{
    Attach, Defaults, ErrorCode, Exec, INIT, Identify, Init, NewSession, Request, Response,
    RestartPolicy, Target,
};
use proto::mux::Session;

use super::ended;
use crate::testing::{Guest, ask, hear, identity, next, open, refused, run, shell};

/// A guest whose image says these, with users of its own.
async fn guest(defaults: Defaults) -> (Guest, Session) {
    let guest = Guest::new().await;
    let etc = guest.path().join("etc");
    fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\napp:x:33:34::/:/bin/sh\n").unwrap();
    fs::write(etc.join("group"), "app:x:34:\nweb:x:35:app\n").unwrap();
    let host = guest.connect().await;
    let told = Request::Identify(Identify { defaults, ..identity() });
    assert_eq!(ask(&host, &told).await, Response::Identified);
    (guest, host)
}

fn plain(script: &str) -> Exec {
    Exec { user: None, cwd: None, ..shell(script) }
}

async fn says(host: &Session, exec: Exec) -> String {
    let (stdout, stderr, exited) = run(host, exec).await;
    assert_eq!((stderr.as_str(), &exited), ("", &ended(0)));
    stdout
}

/// All that a session says until it ends.
async fn session(host: &Session, target: Target) -> String {
    let mut stream = open(host, &Request::Attach(Attach { target, size: None })).await;
    assert!(matches!(hear(&mut stream).await, Response::Attached { .. }));
    let mut said = Vec::new();
    loop {
        match next(&mut stream).await {
            Ok((_, bytes)) => said.extend(bytes),
            Err(_) => return String::from_utf8(said).unwrap(),
        }
    }
}

#[tokio::test]
async fn an_image_s_variables_are_below_the_sandbox_s_and_those_below_a_request_s() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = [pair("FROM", "image"), pair("IMAGE", "image"), pair("PATH", "/image:/usr/bin:/bin")];
    let defaults = Defaults { env: env.into(), ..Defaults::default() };
    let (_guest, host) = guest(defaults).await;
    let mut exec = plain("echo $FROM $IMAGE $PATH");
    assert_eq!(says(&host, exec.clone()).await, "sandbox image /image:/usr/bin:/bin\n");
    exec.env.insert("IMAGE".to_owned(), "request".to_owned());
    assert_eq!(says(&host, exec).await, "sandbox request /image:/usr/bin:/bin\n");
}

#[tokio::test]
async fn an_image_s_user_is_whoever_does_not_say_otherwise() {
    for (said, expected) in
        [("app", "33 34 34 35\n"), ("app:web", "33 35 35\n"), ("7", "7 0 0\n"), ("7:8", "7 8 8\n")]
    {
        let defaults = Defaults { user: Some(said.to_owned()), ..Defaults::default() };
        let (_guest, host) = guest(defaults).await;
        let ids = "echo $(id -u) $(id -g) $(id -G)";
        assert_eq!(says(&host, plain(ids)).await, expected, "{said}");
        let root = Exec { user: Some("root".to_owned()), ..plain(ids) };
        assert_eq!(says(&host, root).await, "0 0 0\n", "{said}");
    }
    let defaults = Defaults { user: Some("nobody-here".to_owned()), ..Defaults::default() };
    let (_guest, host) = guest(defaults).await;
    let code = refused(&host, &Request::Exec(plain("true"))).await;
    assert_eq!(code, ErrorCode::UnknownUser);
    says(&host, Exec { user: Some("root".to_owned()), ..plain("true") }).await;
}

#[tokio::test]
async fn an_image_s_working_directory_is_made_if_it_is_missing() {
    let place = tempfile::tempdir().unwrap();
    let wanted = place.path().join("srv/app");
    let text = wanted.to_str().unwrap().to_owned();
    let defaults = Defaults { working_dir: Some(text.clone()), ..Defaults::default() };
    let (_guest, host) = guest(defaults).await;
    let exec = Exec { user: Some("0".to_owned()), ..plain("pwd") };
    for _ in 0..2 {
        assert_eq!(says(&host, exec.clone()).await, format!("{text}\n"));
        fs::remove_dir_all(place.path().join("srv")).unwrap();
    }
    let elsewhere = Exec { cwd: Some("/".to_owned()), ..exec.clone() };
    assert_eq!(says(&host, elsewhere).await, "/\n");
    assert!(!wanted.exists());
    fs::write(place.path().join("srv"), "a file").unwrap();
    assert_eq!(refused(&host, &Request::Exec(exec)).await, ErrorCode::Failed);
}

#[tokio::test]
async fn an_image_s_program_runs_as_it_was_said_to_without_a_shell() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let there = place.path().to_str().unwrap().to_owned();
    let env = || [("SAID".to_owned(), "by the image".to_owned())].into();
    for (user, expected) in [(None, "0"), (Some("app"), "33")] {
        let (user, working_dir) = (user.map(str::to_owned), Some(there.clone()));
        let (_guest, host) = guest(Defaults { env: env(), user, working_dir }).await;
        let script = "echo \"$(id -u)|$SAID|$(pwd)|$1\"";
        let argv = ["/bin/sh", "-c", script, "sh", "$HOME; *"].map(str::to_owned).to_vec();
        let init = Init { command: String::new(), argv, restart: RestartPolicy::No };
        assert_eq!(ask(&host, &Request::StartInit(init)).await, Response::Done);
        let init = Target::Session { id: INIT.to_owned(), if_detached: false };
        let said = session(&host, init).await;
        assert!(
            said.starts_with(&format!("{expected}|by the image|{there}|$HOME; *\r\n")),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_shell_keeps_the_path_that_an_image_says() {
    let shell = || NewSession { user: Some("0".to_owned()), tty: false, ..NewSession::default() };
    for (path, login) in [(Some("/image:/usr/bin:/bin"), false), (None, true)] {
        let env = path.map(|path| ("PATH".to_owned(), path.to_owned())).into_iter().collect();
        let (_guest, host) = guest(Defaults { env, ..Defaults::default() }).await;
        let mut stream =
            open(&host, &Request::Attach(Attach { target: Target::New(shell()), size: None }))
                .await;
        let Response::Attached { session, .. } = hear(&mut stream).await else { panic!() };
        assert_eq!(session.argv[0].starts_with('-'), login, "{:?}", session.argv);
        let kill = Request::Kill { id: session.id, signal: 9 };
        assert_eq!(ask(&host, &kill).await, Response::Done);
    }
}
