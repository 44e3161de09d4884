//! Where a bucket is and who may use it.

use std::{fmt, io, path::PathBuf};

use rusty_s3::{Bucket, BucketError, Credentials, UrlStyle};

/// What an operator says of a storage.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The address of the service, `https://…` or `http://…`, without the bucket.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What keys begin with: empty, or names with slashes between them.
    pub prefix: String,
    /// The bucket is part of the path, not of the host's name.
    pub path_style: bool,
    /// The id of the access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// Further authorities to trust, in PEM.
    pub ca: Option<PathBuf>,
}

/// Without the secret.
impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, region, bucket, prefix, path_style, access_key, .. } = self;
        f.debug_struct("S3Config")
            .field("endpoint", endpoint)
            .field("region", region)
            .field("bucket", bucket)
            .field("prefix", prefix)
            .field("path_style", path_style)
            .field("access_key", access_key)
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The endpoint, with the bucket, is no address.
    #[error("endpoint `{0}` is no address; it begins with https:// or http:// and has a host")]
    Endpoint(String),
    /// The bucket's name makes no address.
    #[error("bucket `{0}` makes no address with this endpoint; try path_style = true")]
    Bucket(String),
    /// The prefix is no path.
    #[error("prefix `{0}` is not names with slashes between them")]
    Prefix(String),
    /// The certificates cannot be had.
    #[error("certificates to trust")]
    Ca(#[source] io::Error),
}

impl S3Config {
    pub(super) fn bucket(&self) -> Result<Bucket, ConfigError> {
        let style = if self.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint =
            self.endpoint.parse().map_err(|_| ConfigError::Endpoint(self.endpoint.clone()))?;
        let bucket = Bucket::new(endpoint, style, self.bucket.clone(), self.region.clone());
        bucket.map_err(|error| match error {
            BucketError::UnsupportedScheme | BucketError::MissingHost => {
                ConfigError::Endpoint(self.endpoint.clone())
            }
            BucketError::ParseError(_) => ConfigError::Bucket(self.bucket.clone()),
        })
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials::new(self.access_key.clone(), self.secret_key.clone())
    }

    /// The prefix with a slash at its end, if there is one.
    pub(super) fn prefix(&self) -> Result<String, ConfigError> {
        let trimmed = self.prefix.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(String::new());
        }
        let usable = |name: &str| !matches!(name, "" | "." | "..");
        if !trimmed.split('/').all(usable) || trimmed.chars().any(char::is_control) {
            return Err(ConfigError::Prefix(self.prefix.clone()));
        }
        Ok(format!("{trimmed}/"))
    }
}
