//! New sandboxes, and what is in them from the start.

use api::{CreateFile, CreateSandbox, ErrorCode, RestartPolicy, VolumeMount, headers};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use orchestrator::{
    Archive, ArchiveSender, Contents, NewFile, message as guest,
    model::{CreateRequest, InitSpec, Policy, VolumeRequest},
};

use super::sandboxes::watched;
use crate::{
    app::{App, RequestId},
    auth::Caller,
    body,
    failure::Failure,
    idle,
    lead::{self, Rest},
    show, traffic,
};

/// Most bytes of a path in the guest.
const PATH_MAX: usize = 4096;

pub(crate) async fn create(
    State(app): State<App>,
    Caller(user): Caller,
    id: RequestId,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let (wanted, rest) = read(&request_headers, body, app.json_body_max).await?;
    let (request, mut contents) = understand(wanted)?;
    if let Some(rest) = rest {
        let (sender, archive) = Archive::channel();
        contents.archive = Some(archive);
        tokio::spawn(send_on(rest, sender));
    }
    let create = move |progress| async move {
        let created = app.orchestrator.create(&user, request, contents, progress).await?;
        Ok((show::sandbox(created.sandbox, &app), created.existing))
    };
    if body::wants_events(&request_headers) {
        return Ok(watched(id, |progress| Box::pin(create(progress))));
    }
    let (sandbox, existing) = create(orchestrator::Progress::default()).await?;
    if existing {
        return Ok(([(headers::EXISTING, "true")], Json(sandbox)).into_response());
    }
    Ok((StatusCode::CREATED, Json(sandbox)).into_response())
}

/// The request, and the archive that comes after it, if one does.
async fn read(
    request_headers: &HeaderMap,
    body: Body,
    json_body_max: usize,
) -> Result<(CreateSandbox, Option<Rest>), Failure> {
    if !lead::is_of_type(request_headers, headers::CREATE_TAR) {
        return Ok((body::json(body, json_body_max).await?, None));
    }
    let (line, rest) = lead::split(body, json_body_max).await?;
    Ok((body::parse(&line)?, Some(rest)))
}

/// Sends an archive on as it comes. If the client leaves in the middle the sender is dropped, and
/// with it the sandbox goes; if nobody wants the archive the client may still finish.
async fn send_on(mut rest: Rest, sender: ArchiveSender) {
    loop {
        match rest.next().await {
            Ok(Some(data)) => {
                if sender.send(data).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                let _ = sender.end().await;
                return;
            }
            Err(lead::Broken) => return,
        }
    }
}

/// What can be told to be wrong is, before anything is made.
fn understand(wanted: CreateSandbox) -> Result<(CreateRequest, Contents), Failure> {
    let init = match (wanted.init, wanted.init_restart) {
        (None, None) => None,
        (None, Some(_)) => return Err(invalid("init_restart needs init".to_owned())),
        (Some(command), restart) => Some(InitSpec { command, restart: policy(restart)? }),
    };
    let files = wanted.files.into_iter().map(file).collect::<Result<_, _>>()?;
    let request = CreateRequest {
        network: traffic::spec(wanted.network, wanted.egress, wanted.network_limits)?,
        name: wanted.name,
        image: wanted.image,
        cpus: wanted.cpus,
        memory_mib: wanted.memory_mb,
        disk_mib: wanted.disk_size_mb,
        volumes: wanted.volumes.into_iter().map(volume).collect(),
        env: wanted.env,
        labels: wanted.labels,
        init,
        no_init: wanted.no_init,
        policy: Policy {
            keep_hot: wanted.keep_hot,
            idle: idle::policy(wanted.idle_warm_sec, wanted.idle_cold_sec),
        },
    };
    Ok((request, Contents { files, archive: None }))
}

fn volume(wanted: VolumeMount) -> VolumeRequest {
    let VolumeMount { name, mount: target, read_only } = wanted;
    VolumeRequest { name, target, read_only }
}

fn policy(restart: Option<RestartPolicy>) -> Result<guest::RestartPolicy, Failure> {
    match restart {
        None => Ok(guest::RestartPolicy::default()),
        Some(RestartPolicy::No) => Ok(guest::RestartPolicy::No),
        Some(RestartPolicy::OnFailure) => Ok(guest::RestartPolicy::OnFailure),
        Some(RestartPolicy::Always) => Ok(guest::RestartPolicy::Always),
        Some(RestartPolicy::Unknown(word)) => {
            let shown: String = word.chars().take(40).collect();
            Err(invalid(format!("init_restart is no, on-failure or always, not {shown:?}")))
        }
    }
}

fn file(file: CreateFile) -> Result<NewFile, Failure> {
    let CreateFile { guest_path: path, content, mode } = file;
    let shown: String = path.chars().take(80).collect();
    if !path.starts_with('/') {
        let message = format!("files: {shown:?} is not an absolute path");
        return Err(Failure::new(ErrorCode::PathNotAbsolute, message));
    }
    if path.contains('\0') || path.len() > PATH_MAX || path.ends_with('/') {
        return Err(invalid(format!("files: {shown:?} cannot be the path of a file")));
    }
    let mode = mode.map(|text| octal(&text)).transpose()?;
    let content = STANDARD
        .decode(content)
        .map_err(|error| invalid(format!("files: the content of {shown:?}: {error}")))?;
    Ok(NewFile { path, mode, content })
}

/// Permission bits as people write them.
fn octal(text: &str) -> Result<u32, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        invalid(format!("files: mode {shown:?} is not octal permission bits, such as 0644"))
    })
}

fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use orchestrator::model::IdleLimit;

    use super::*;

    fn of(json: &str) -> Result<(CreateRequest, Contents), ErrorCode> {
        understand(serde_json::from_str(json).unwrap()).map_err(|failure| failure.code)
    }

    #[test]
    fn files_and_what_to_run_are_understood() {
        let (request, contents) = of(r#"{"init":"a | b","files":[
            {"guest_path":"/a b","content":"aGk=","mode":"0600"},{"guest_path":"/c","content":""}]}"#)
        .unwrap();
        let init = request.init.unwrap();
        assert_eq!(
            (init.command.as_str(), init.restart),
            ("a | b", guest::RestartPolicy::OnFailure)
        );
        let file = |path: &str, mode, content: &[u8]| NewFile {
            path: path.to_owned(),
            mode,
            content: content.to_vec(),
        };
        assert_eq!(contents.files, [file("/a b", Some(0o600), b"hi"), file("/c", None, b"")]);
        let (request, _) = of(r#"{"init":"a","init_restart":"always"}"#).unwrap();
        assert_eq!(request.init.unwrap().restart, guest::RestartPolicy::Always);
    }

    #[test]
    fn sleep_is_taken_from_the_wider_setting_unless_something_is_said() {
        let policy = |json| of(json).unwrap().0.policy;
        assert_eq!(policy("{}"), Policy::default());
        let said = policy(r#"{"keep_hot":true,"idle_warm_sec":5,"idle_cold_sec":"never"}"#);
        assert!(said.keep_hot);
        assert_eq!(said.idle.warm, Some(IdleLimit::After(5)));
        assert_eq!(said.idle.cold, Some(IdleLimit::Never));
        assert_eq!(policy(r#"{"keep_hot":false,"idle_cold_sec":"default"}"#), Policy::default());
    }

    #[test]
    fn what_cannot_be_written_is_refused_early() {
        let file = |file: &str| of(&format!(r#"{{"files":[{file}]}}"#)).unwrap_err();
        assert_eq!(file(r#"{"guest_path":"a","content":""}"#), ErrorCode::PathNotAbsolute);
        assert_eq!(file(r#"{"guest_path":"","content":""}"#), ErrorCode::PathNotAbsolute);
        for bad in [
            r#"{"guest_path":"/a\u0000","content":""}"#,
            r#"{"guest_path":"/a/","content":""}"#,
            r#"{"guest_path":"/a","content":"?"}"#,
            r#"{"guest_path":"/a","content":"","mode":"888"}"#,
            r#"{"guest_path":"/a","content":"","mode":"+44"}"#,
            r#"{"guest_path":"/a","content":"","mode":"17777"}"#,
        ] {
            assert_eq!(file(bad), ErrorCode::InvalidRequest, "{bad}");
        }
        assert_eq!(of(r#"{"init_restart":"no"}"#).unwrap_err(), ErrorCode::InvalidRequest);
        let odd = r#"{"init":"a","init_restart":"sometimes"}"#;
        assert_eq!(of(odd).unwrap_err(), ErrorCode::InvalidRequest);
    }
}
