//! The error body and its stable codes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text_enum::text_enum;

text_enum! {
    /// What kind of failure it is. Programs decide by this, never by the message.
    pub enum ErrorCode {
        /// No API key was sent.
        Unauthorized = "unauthorized",
        /// The API key is not known.
        InvalidApiKey = "invalid_api_key",
        /// The caller is known and may not do this.
        Forbidden = "forbidden",
        /// There is no such route.
        NotFound = "not_found",
        /// The route exists, with another method.
        MethodNotAllowed = "method_not_allowed",
        /// The caller has no such sandbox.
        SandboxNotFound = "sandbox_not_found",
        /// There is no such user.
        UserNotFound = "user_not_found",
        /// There is no such image.
        ImageNotFound = "image_not_found",
        /// The path does not exist in the sandbox.
        FileNotFound = "file_not_found",
        /// A sandbox of that name exists with another specification.
        NameTaken = "name_taken",
        /// A user of that name exists.
        UserExists = "user_exists",
        /// The user still has sandboxes.
        UserInUse = "user_in_use",
        /// The request is well formed and makes no sense.
        InvalidRequest = "invalid_request",
        /// The name has a shape that is not allowed.
        InvalidName = "invalid_name",
        /// The body is not JSON, or not of the expected types.
        InvalidJson = "invalid_json",
        /// The body has a field that the daemon does not know.
        UnknownField = "unknown_field",
        /// An exec without a command.
        CommandMissing = "command_missing",
        /// The program was not found in the sandbox.
        CommandNotFound = "command_not_found",
        /// The program was found and cannot be executed.
        CommandNotExecutable = "command_not_executable",
        /// The user of an exec does not exist in the sandbox.
        UnknownUserInGuest = "unknown_user_in_guest",
        /// A directory stands where a file is wanted.
        IsDirectory = "is_directory",
        /// A file stands where a directory is wanted.
        NotDirectory = "not_directory",
        /// The sandbox's own permissions forbid it.
        PermissionDenied = "permission_denied",
        /// A path in a sandbox has to be absolute.
        PathNotAbsolute = "path_not_absolute",
        /// The body is larger than the route takes.
        BodyTooLarge = "body_too_large",
        /// The memory size is out of range.
        MemoryInvalid = "memory_invalid",
        /// The memory size is more than the host has.
        MemoryExceedsHost = "memory_exceeds_host",
        /// The number of vCPUs is out of range.
        CpusInvalid = "cpus_invalid",
        /// The disk size is out of range.
        DiskInvalid = "disk_invalid",
        /// The user has as many sandboxes as allowed.
        QuotaSandboxes = "quota_sandboxes",
        /// More vCPUs than the user may give one sandbox.
        QuotaCpus = "quota_cpus",
        /// More memory than the user may give one sandbox.
        QuotaMemory = "quota_memory",
        /// No guest kernel is installed.
        NoKernel = "no_kernel",
        /// The program that runs VMs is not installed.
        EngineMissing = "engine_missing",
        /// The program that runs VMs is too old.
        EngineTooOld = "engine_too_old",
        /// The sandbox's disk is full.
        GuestDiskFull = "guest_disk_full",
        /// The host's disk is full.
        HostDiskFull = "host_disk_full",
        /// The sandbox failed earlier; the message has the cause.
        SandboxFailed = "sandbox_failed",
        /// Another operation on the sandbox is under way.
        SandboxBusy = "sandbox_busy",
        /// The snapshot does not pass its checks.
        SnapshotCorrupt = "snapshot_corrupt",
        /// The sandbox is not in a state that allows it.
        WrongState = "wrong_state",
        /// The VM ended while it was needed.
        VmDied = "vm_died",
        /// The VM runs and its agent does not answer.
        AgentUnreachable = "agent_unreachable",
        /// The operation took longer than allowed.
        Timeout = "timeout",
        /// A failure of the daemon; the log has the details under the request id.
        Internal = "internal",
        /// The host has no room for more at the moment.
        HostOverloaded = "host_overloaded",
        /// Sandboxes cannot be connected to their networks on this host.
        NetworkUnavailable = "network_unavailable",
        /// Something is at that path already.
        FileExists = "file_exists",
        /// The directory still has entries.
        DirectoryNotEmpty = "directory_not_empty",
        /// The sandbox has no such job.
        JobNotFound = "job_not_found",
        /// The sandbox has no such session.
        SessionNotFound = "session_not_found",
        /// The session has a client.
        SessionAttached = "session_attached",
        /// Nothing in the sandbox listens on the port.
        PortClosed = "port_closed",
        /// The range of bytes lies outside of the file.
        RangeInvalid = "range_invalid",
        /// The caller has no such snapshot.
        SnapshotNotFound = "snapshot_not_found",
        /// The caller has a snapshot of that name.
        SnapshotExists = "snapshot_exists",
        /// The user has as many snapshots as allowed.
        QuotaSnapshots = "quota_snapshots",
        /// A snapshot was taken by another engine, kernel or agent than this host has.
        SnapshotIncompatible = "snapshot_incompatible",
        /// The alias belongs to another publication, perhaps of somebody else.
        AliasTaken = "alias_taken",
        /// The port of the host belongs to another publication or program.
        HostPortTaken = "host_port_taken",
        /// The port is published already, in another way.
        PublishDiffers = "publish_differs",
        /// The port is not published, or nothing is below the address that was asked for.
        NotPublished = "not_published",
        /// The sandbox has as many published ports as allowed.
        QuotaPublished = "quota_published",
        /// The sandbox has no such share; or a link to a terminal is not valid, or not any more.
        ShareNotFound = "share_not_found",
        /// The sandbox has as many shares as allowed.
        QuotaShares = "quota_shares",
        /// As many look at a shared terminal as may.
        TooManyViewers = "too_many_viewers",
        /// The sandbox was stopped by its owner, and only its owner starts it.
        StoppedByOwner = "stopped_by_owner",
        /// The sandbox behind a public address cannot be reached; its owner has to look.
        SandboxUnavailable = "sandbox_unavailable",
        /// Too many requests in a short time.
        RateLimited = "rate_limited",
        /// The request is for another host than the connection.
        Misdirected = "misdirected",
        /// This node has no networks that can do what was asked.
        NetworkUnsupported = "network_unsupported",
        /// It cannot be said what is needed, so nothing is removed.
        StorageUnclear = "storage_unclear",
        /// The caller has another image of that name.
        ImageExists = "image_exists",
        /// The registry cannot be reached or breaks off.
        ImageUnavailable = "image_unavailable",
        /// The registry lets nobody have the image who asks like this.
        RegistryDenied = "registry_denied",
        /// The caller may not have this node ask that registry.
        RegistryForbidden = "registry_forbidden",
        /// What was to become an image is none, or not what it says that it is.
        ImageInvalid = "image_invalid",
        /// The caller has no such task.
        TaskNotFound = "task_not_found",
        /// Somebody cancelled it.
        Cancelled = "cancelled",
        /// The caller has no such volume.
        VolumeNotFound = "volume_not_found",
        /// The caller has a volume of that name.
        VolumeExists = "volume_exists",
        /// Sandboxes have the volume in a way that does not allow it.
        VolumeInUse = "volume_in_use",
        /// The volume was not unmounted, which only a sandbox that may write to it can mend.
        VolumeUnclean = "volume_unclean",
        /// The volume's size is out of range, or less than it has.
        VolumeSizeInvalid = "volume_size_invalid",
        /// The user's volumes would be larger than allowed.
        QuotaVolumes = "quota_volumes",
        /// The user has as many backups as allowed.
        QuotaBackups = "quota_backups",
        /// The caller has no such backup.
        BackupNotFound = "backup_not_found",
        /// No place for backups is configured, or none of that name.
        BackupUnconfigured = "backup_unconfigured",
        /// The place where backups are kept does not do what it should.
        BackupStorageFailed = "backup_storage_failed",
        /// What is kept is not what was made.
        BackupCorrupt = "backup_corrupt",
        /// The backup is encrypted, and no key came along that opens it.
        BackupLocked = "backup_locked",
        /// The schedule cannot be understood.
        ScheduleInvalid = "schedule_invalid",
        /// A Dockerfile or its context makes no sense.
        BuildInvalid = "build_invalid",
        /// A command of a build has failed.
        BuildFailed = "build_failed",
    }
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    #[expect(clippy::too_many_lines, reason = "a table with a line for every code")]
    pub fn http_status(&self) -> u16 {
        match self {
            Self::InvalidRequest
            | Self::InvalidName
            | Self::InvalidJson
            | Self::UnknownField
            | Self::CommandMissing
            | Self::CommandNotFound
            | Self::CommandNotExecutable
            | Self::UnknownUserInGuest
            | Self::PathNotAbsolute
            | Self::MemoryInvalid
            | Self::MemoryExceedsHost
            | Self::CpusInvalid
            | Self::DiskInvalid
            | Self::QuotaCpus
            | Self::QuotaMemory
            | Self::VolumeSizeInvalid
            | Self::BackupUnconfigured
            | Self::BackupLocked
            | Self::ScheduleInvalid
            | Self::NetworkUnsupported
            | Self::BuildInvalid
            | Self::BuildFailed
            | Self::ImageInvalid => 400,
            Self::Unauthorized | Self::InvalidApiKey => 401,
            Self::Forbidden
            | Self::PermissionDenied
            | Self::RegistryDenied
            | Self::RegistryForbidden => 403,
            Self::NotFound
            | Self::SandboxNotFound
            | Self::UserNotFound
            | Self::ImageNotFound
            | Self::SnapshotNotFound
            | Self::VolumeNotFound
            | Self::BackupNotFound
            | Self::FileNotFound
            | Self::JobNotFound
            | Self::NotPublished
            | Self::ShareNotFound
            | Self::SessionNotFound
            | Self::TaskNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NameTaken
            | Self::UserExists
            | Self::UserInUse
            | Self::IsDirectory
            | Self::NotDirectory
            | Self::SandboxFailed
            | Self::SandboxBusy
            | Self::SnapshotCorrupt
            | Self::SnapshotExists
            | Self::SnapshotIncompatible
            | Self::StorageUnclear
            | Self::FileExists
            | Self::DirectoryNotEmpty
            | Self::SessionAttached
            | Self::AliasTaken
            | Self::HostPortTaken
            | Self::PublishDiffers
            | Self::ImageExists
            | Self::Cancelled
            | Self::VolumeExists
            | Self::VolumeInUse
            | Self::VolumeUnclean
            | Self::BackupCorrupt
            | Self::WrongState => 409,
            Self::BodyTooLarge => 413,
            Self::RangeInvalid => 416,
            Self::Misdirected => 421,
            Self::QuotaSandboxes
            | Self::QuotaSnapshots
            | Self::QuotaVolumes
            | Self::QuotaBackups
            | Self::QuotaPublished
            | Self::QuotaShares
            | Self::TooManyViewers
            | Self::RateLimited => 429,
            _ => self.status_of_the_host(),
        }
    }

    /// The status of what is nobody's fault who asked.
    fn status_of_the_host(&self) -> u16 {
        match self {
            Self::VmDied
            | Self::AgentUnreachable
            | Self::PortClosed
            | Self::BackupStorageFailed
            | Self::ImageUnavailable
            | Self::SandboxUnavailable => 502,
            Self::NoKernel
            | Self::EngineMissing
            | Self::EngineTooOld
            | Self::StoppedByOwner
            | Self::HostOverloaded
            | Self::NetworkUnavailable => 503,
            Self::Timeout => 504,
            Self::GuestDiskFull | Self::HostDiskFull => 507,
            // Among them those that a newer daemon knows.
            _ => 500,
        }
    }
}

/// The body of every answer that is not a success, and of error events in streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, for people: a lower-case phrase without a full stop.
    pub error: String,
    /// What went wrong, for programs.
    #[serde(default = "unknown_code")]
    pub code: ErrorCode,
    /// What the caller can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Finds the details in the daemon's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What stands for the code of a body that has none, such as one from a proxy in between.
fn unknown_code() -> ErrorCode {
    ErrorCode::Unknown("unknown".to_owned())
}

impl ErrorBody {
    /// An error without hint and request id.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), code, hint: None, request_id: None }
    }

    /// Adds what the caller can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the id under which the log has the details.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Clients out there match on these words: a line may be added, none may change or go.
    const PROMISED: &str = "\
        unauthorized 401, invalid_api_key 401, forbidden 403, not_found 404, \
        method_not_allowed 405, sandbox_not_found 404, user_not_found 404, image_not_found 404, \
        file_not_found 404, name_taken 409, user_exists 409, user_in_use 409, \
        invalid_request 400, invalid_name 400, invalid_json 400, unknown_field 400, \
        command_missing 400, command_not_found 400, command_not_executable 400, \
        unknown_user_in_guest 400, is_directory 409, not_directory 409, permission_denied 403, \
        path_not_absolute 400, body_too_large 413, memory_invalid 400, memory_exceeds_host 400, \
        cpus_invalid 400, disk_invalid 400, quota_sandboxes 429, quota_cpus 400, \
        quota_memory 400, no_kernel 503, engine_missing 503, engine_too_old 503, \
        guest_disk_full 507, host_disk_full 507, sandbox_failed 409, sandbox_busy 409, \
        snapshot_corrupt 409, wrong_state 409, vm_died 502, agent_unreachable 502, timeout 504, \
        internal 500, host_overloaded 503, network_unavailable 503, file_exists 409, directory_not_empty 409, \
        job_not_found 404, session_not_found 404, session_attached 409, port_closed 502, \
        range_invalid 416, snapshot_not_found 404, snapshot_exists 409, \
        quota_snapshots 429, snapshot_incompatible 409, alias_taken 409, host_port_taken 409, \
        publish_differs 409, not_published 404, quota_published 429, share_not_found 404, \
         quota_shares 429, too_many_viewers 429, stopped_by_owner 503, \
         sandbox_unavailable 502, rate_limited 429, misdirected 421, \
         network_unsupported 400, storage_unclear 409, image_exists 409, image_unavailable 502, registry_denied 403, \
         registry_forbidden 403, image_invalid 400, task_not_found 404, cancelled 409, \
         volume_not_found 404, volume_exists 409, \
         volume_in_use 409, volume_unclean 409, volume_size_invalid 400, quota_volumes 429, quota_backups 429, \
         backup_not_found 404, backup_unconfigured 400, backup_storage_failed 502, \
         backup_corrupt 409, backup_locked 400, schedule_invalid 400, \
         build_invalid 400, build_failed 400";

    #[test]
    fn codes_and_their_statuses_are_the_promised_ones() {
        let all: Vec<String> =
            ErrorCode::KNOWN.iter().map(|code| format!("{code} {}", code.http_status())).collect();
        assert_eq!(all.join(", "), PROMISED);
        let unique: BTreeSet<&str> = ErrorCode::KNOWN.iter().map(ErrorCode::as_str).collect();
        assert_eq!(unique.len(), ErrorCode::KNOWN.len());
    }

    #[test]
    fn every_code_survives_the_wire_and_so_does_one_that_nobody_knows_yet() {
        let newer = ErrorCode::Unknown("too_sunny".to_owned());
        for code in ErrorCode::KNOWN.iter().chain([&newer]) {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(&serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        }
    }

    #[test]
    fn a_body_without_a_code_is_still_an_error_body() {
        let body: ErrorBody = serde_json::from_str(r#"{"error":"bad gateway"}"#).unwrap();
        assert_eq!(body, ErrorBody::new(ErrorCode::Unknown("unknown".into()), "bad gateway"));
        let full = ErrorBody::new(ErrorCode::Timeout, "too slow")
            .with_hint("wait longer")
            .with_request_id("req_1");
        assert_eq!(
            serde_json::to_string(&full).unwrap(),
            r#"{"error":"too slow","code":"timeout","hint":"wait longer","request_id":"req_1"}"#
        );
    }
}
