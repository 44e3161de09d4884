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

/// One JSON object.
pub const JSON: &str = "application/json";
/// One JSON object a line; a client that sends it in `Accept` gets the answer as it happens.
pub const NDJSON: &str = "application/x-ndjson";
/// Exact bytes.
pub const OCTETS: &str = "application/octet-stream";
