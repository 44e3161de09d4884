//! Header names and media types that are part of the interface. Names are lower case, as HTTP
//! libraries want them.

/// `true` on the answer to a create whose sandbox was there already, with the same specification.
pub const EXISTING: &str = "x-bhatti-existing";
/// The daemon's version, on every answer.
pub const VERSION: &str = "x-bhatti-version";
/// The oldest CLI that this daemon serves, on every answer.
pub const MIN_CLI: &str = "x-bhatti-min-cli";
/// A file's whole size in bytes, also when only a part of it is sent.
pub const FILE_SIZE: &str = "x-file-size";
/// A file's permission bits in octal, such as `0644`.
pub const FILE_MODE: &str = "x-file-mode";
/// `true` or `false`.
pub const FILE_IS_DIR: &str = "x-file-isdir";

/// `true` if a listing has another page.
pub const MORE: &str = "x-bhatti-more";
/// Cursor of the first byte of a job's output in the answer.
pub const OUTPUT_OFFSET: &str = "x-bhatti-output-offset";
/// Cursor after the last one; only if the output is not followed.
pub const OUTPUT_NEXT: &str = "x-bhatti-output-next";
/// An API key, where `Authorization` belongs to whatever is behind the proxy route.
pub const TOKEN: &str = "x-bhatti-token";
/// What a connection to a port is upgraded to.
pub const TUNNEL: &str = "bhatti-tunnel";

/// A tar archive.
pub const TAR: &str = "application/x-tar";
/// One line of JSON, then a tar archive with the files that a new sandbox is to have.
pub const CREATE_TAR: &str = "application/vnd.bhatti.create+tar";
/// One line of JSON, then a tar archive with what a build may copy.
pub const BUILD_TAR: &str = "application/vnd.bhatti.build+tar";
/// One JSON object.
pub const JSON: &str = "application/json";
/// One JSON object a line; a client that sends it in `Accept` gets the answer as it happens.
pub const NDJSON: &str = "application/x-ndjson";
/// Exact bytes.
pub const OCTETS: &str = "application/octet-stream";
