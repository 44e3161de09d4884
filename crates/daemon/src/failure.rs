//! From what went wrong to what the caller is told.

use api::{ErrorBody, ErrorCode};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use orchestrator::Kind;

use crate::app::RequestId;

/// A request that did not succeed. Becomes a response in two steps: the handler's answer carries it
/// along, and the outermost layer, which knows the request's id, logs it and writes the body.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    message: String,
    hint: Option<String>,
    /// The whole chain of causes, for the log only.
    detail: Option<String>,
}

impl Failure {
    /// What the caller is told.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// A failure that is told as it is.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, detail: None }
    }

    /// A failure of ours: the caller gets the request's id and nothing else.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        let message = "internal error".to_owned();
        Self { code: ErrorCode::Internal, message, hint: None, detail: Some(detail.into()) }
    }

    /// Adds what the caller can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The body without a log entry, for what anybody can have as often as they like.
    pub(crate) fn body(self) -> ErrorBody {
        let mut body = ErrorBody::new(self.code, self.message);
        body.hint = self.hint;
        body
    }

    /// Writes the log entry and makes the body.
    pub(crate) fn report(self, request: &RequestId) -> ErrorBody {
        let status = self.code.http_status();
        let detail = self.detail.as_deref().unwrap_or(&self.message);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%request, "request failed: {detail}");
        } else if status >= 500 && self.code != ErrorCode::PortClosed {
            tracing::warn!(%request, code = %self.code, "request failed: {detail}");
        } else {
            tracing::debug!(%request, code = %self.code, "request refused: {detail}");
        }
        let mut body = ErrorBody::new(self.code, self.message);
        body.hint = self.hint;
        if status >= 500 { body.with_request_id(request.to_string()) } else { body }
    }

    /// The complete answer.
    pub(crate) fn into_reported(self, request: &RequestId) -> Response {
        let status = self.status();
        let mut response = (status, Json(self.report(request))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<orchestrator::Error> for Failure {
    fn from(error: orchestrator::Error) -> Self {
        let detail = base::chain(&error);
        match code(error.kind) {
            ErrorCode::Internal => Self::internal(detail),
            code => Self { code, message: error.message, hint: error.hint, detail: Some(detail) },
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Makes the code of a kind out of those that are called alike and those that are not.
macro_rules! codes {
    ($kind:expr, [$($alike:ident)*], $($other:ident => $code:ident,)*) => {
        match $kind {
            $(Kind::$alike => ErrorCode::$alike,)*
            $(Kind::$other => ErrorCode::$code,)*
        }
    };
}

/// The code of every kind. Written out, so that a new kind does not compile before it has one.
pub(crate) fn code(kind: Kind) -> ErrorCode {
    codes!(
        kind,
        [
            SandboxNotFound UserNotFound ImageExists ImageUnavailable RegistryDenied RegistryForbidden
            ImageInvalid TaskNotFound Cancelled ImageNotFound BuildInvalid BuildFailed FileNotFound
            FileExists DirectoryNotEmpty JobNotFound SessionNotFound SessionAttached PortClosed
            StorageUnclear VolumeNotFound VolumeExists VolumeInUse VolumeUnclean VolumeSizeInvalid
            QuotaVolumes QuotaBackups BackupNotFound BackupUnconfigured BackupStorageFailed BackupCorrupt BackupLocked
            ScheduleInvalid SnapshotNotFound SnapshotExists QuotaSnapshots SnapshotIncompatible NameTaken
            AliasTaken HostPortTaken ShareNotFound QuotaShares UserExists UserInUse InvalidRequest
            InvalidName CommandMissing CommandNotFound CommandNotExecutable IsDirectory NotDirectory
            PermissionDenied MemoryInvalid MemoryExceedsHost CpusInvalid DiskInvalid QuotaSandboxes
            QuotaCpus QuotaMemory NoKernel EngineMissing EngineTooOld HostOverloaded
            NetworkUnavailable NetworkUnsupported GuestDiskFull HostDiskFull SandboxFailed WrongState
            SnapshotCorrupt VmDied AgentUnreachable Timeout Internal
        ],
        TooLarge => BodyTooLarge,
        PublicationDiffers => PublishDiffers,
        PublicationNotFound => NotPublished,
        QuotaPublications => QuotaPublished,
        UnknownGuestUser => UnknownUserInGuest,
        // The agent is at one of its own limits: something that runs now must end first.
        GuestLimit => SandboxBusy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is a list")]
    fn kinds_have_the_promised_codes_and_statuses() {
        for (kind, expected, status) in [
            (Kind::SandboxNotFound, "sandbox_not_found", 404),
            (Kind::UserNotFound, "user_not_found", 404),
            (Kind::ImageNotFound, "image_not_found", 404),
            (Kind::ImageExists, "image_exists", 409),
            (Kind::ImageUnavailable, "image_unavailable", 502),
            (Kind::RegistryDenied, "registry_denied", 403),
            (Kind::RegistryForbidden, "registry_forbidden", 403),
            (Kind::ImageInvalid, "image_invalid", 400),
            (Kind::TooLarge, "body_too_large", 413),
            (Kind::TaskNotFound, "task_not_found", 404),
            (Kind::Cancelled, "cancelled", 409),
            (Kind::BuildInvalid, "build_invalid", 400),
            (Kind::BuildFailed, "build_failed", 400),
            (Kind::FileNotFound, "file_not_found", 404),
            (Kind::FileExists, "file_exists", 409),
            (Kind::DirectoryNotEmpty, "directory_not_empty", 409),
            (Kind::JobNotFound, "job_not_found", 404),
            (Kind::SessionNotFound, "session_not_found", 404),
            (Kind::SessionAttached, "session_attached", 409),
            (Kind::PortClosed, "port_closed", 502),
            (Kind::VolumeNotFound, "volume_not_found", 404),
            (Kind::VolumeExists, "volume_exists", 409),
            (Kind::VolumeInUse, "volume_in_use", 409),
            (Kind::VolumeUnclean, "volume_unclean", 409),
            (Kind::VolumeSizeInvalid, "volume_size_invalid", 400),
            (Kind::QuotaVolumes, "quota_volumes", 429),
            (Kind::QuotaBackups, "quota_backups", 429),
            (Kind::SnapshotNotFound, "snapshot_not_found", 404),
            (Kind::SnapshotExists, "snapshot_exists", 409),
            (Kind::QuotaSnapshots, "quota_snapshots", 429),
            (Kind::SnapshotIncompatible, "snapshot_incompatible", 409),
            (Kind::NameTaken, "name_taken", 409),
            (Kind::AliasTaken, "alias_taken", 409),
            (Kind::HostPortTaken, "host_port_taken", 409),
            (Kind::PublicationDiffers, "publish_differs", 409),
            (Kind::PublicationNotFound, "not_published", 404),
            (Kind::QuotaPublications, "quota_published", 429),
            (Kind::ShareNotFound, "share_not_found", 404),
            (Kind::QuotaShares, "quota_shares", 429),
            (Kind::UserExists, "user_exists", 409),
            (Kind::UserInUse, "user_in_use", 409),
            (Kind::InvalidRequest, "invalid_request", 400),
            (Kind::InvalidName, "invalid_name", 400),
            (Kind::CommandMissing, "command_missing", 400),
            (Kind::CommandNotFound, "command_not_found", 400),
            (Kind::CommandNotExecutable, "command_not_executable", 400),
            (Kind::UnknownGuestUser, "unknown_user_in_guest", 400),
            (Kind::IsDirectory, "is_directory", 409),
            (Kind::NotDirectory, "not_directory", 409),
            (Kind::PermissionDenied, "permission_denied", 403),
            (Kind::MemoryInvalid, "memory_invalid", 400),
            (Kind::MemoryExceedsHost, "memory_exceeds_host", 400),
            (Kind::CpusInvalid, "cpus_invalid", 400),
            (Kind::DiskInvalid, "disk_invalid", 400),
            (Kind::QuotaSandboxes, "quota_sandboxes", 429),
            (Kind::QuotaCpus, "quota_cpus", 400),
            (Kind::QuotaMemory, "quota_memory", 400),
            (Kind::NoKernel, "no_kernel", 503),
            (Kind::EngineMissing, "engine_missing", 503),
            (Kind::EngineTooOld, "engine_too_old", 503),
            (Kind::HostOverloaded, "host_overloaded", 503),
            (Kind::NetworkUnavailable, "network_unavailable", 503),
            (Kind::NetworkUnsupported, "network_unsupported", 400),
            (Kind::GuestDiskFull, "guest_disk_full", 507),
            (Kind::HostDiskFull, "host_disk_full", 507),
            (Kind::SandboxFailed, "sandbox_failed", 409),
            (Kind::GuestLimit, "sandbox_busy", 409),
            (Kind::WrongState, "wrong_state", 409),
            (Kind::SnapshotCorrupt, "snapshot_corrupt", 409),
            (Kind::VmDied, "vm_died", 502),
            (Kind::AgentUnreachable, "agent_unreachable", 502),
            (Kind::Timeout, "timeout", 504),
            (Kind::Internal, "internal", 500),
        ] {
            let code = code(kind);
            assert_eq!((code.as_str(), code.http_status()), (expected, status), "{kind:?}");
        }
    }

    #[test]
    fn kinds_of_backups_have_the_promised_codes_and_statuses() {
        for (kind, expected, status) in [
            (Kind::BackupNotFound, "backup_not_found", 404),
            (Kind::BackupUnconfigured, "backup_unconfigured", 400),
            (Kind::BackupStorageFailed, "backup_storage_failed", 502),
            (Kind::BackupCorrupt, "backup_corrupt", 409),
            (Kind::BackupLocked, "backup_locked", 400),
            (Kind::ScheduleInvalid, "schedule_invalid", 400),
        ] {
            let code = code(kind);
            assert_eq!((code.as_str(), code.http_status()), (expected, status), "{kind:?}");
        }
    }

    #[test]
    fn what_is_internal_stays_in_the_log() {
        let cause = std::io::Error::other("/var/lib/bhatti/secret");
        let failure = Failure::from(orchestrator::Error::internal("the store failed", cause));
        assert!(failure.detail.as_deref().unwrap().contains("secret"));
        let body = failure.report(&RequestId::new());
        assert_eq!(body.error, "internal error");
        assert!(body.request_id.unwrap().starts_with("req_") && body.hint.is_none());
    }
}
