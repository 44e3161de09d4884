//! Where backups are kept.

use std::{
    fmt, io,
    io::Read,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use crate::{
    folder::Folder,
    s3::{S3, S3Error, upload_of},
    spool::Made,
};

/// Most bytes of a key.
const KEY_MAX: usize = 512;

/// What a backup is kept under: names with slashes between them, that reach nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

/// A key that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no key of a backup")]
pub struct KeyError(String);

impl Key {
    /// Accepts names of letters, digits, `.`, `_` and `-` that begin with a letter or digit.
    ///
    /// # Errors
    /// [`KeyError`] for anything else.
    pub fn new(text: &str) -> std::result::Result<Self, KeyError> {
        let name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if text.len() <= KEY_MAX && text.split('/').all(name) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyError(text.chars().filter(|c| !c.is_control()).take(80).collect()))
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Under what.
    pub key: Key,
    /// Its length.
    pub bytes: u64,
}

/// A place for backups.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A directory of this host.
    Folder(Folder),
    /// A bucket.
    S3(Box<S3>),
}

/// Why a destination does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// The directory, or something in it.
    #[error("the directory for backups")]
    Folder(#[source] io::Error),
    /// The storage.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// There is no such backup.
    #[error("there is nothing under {0}")]
    Missing(Key),
}

type Result<T> = std::result::Result<T, DestinationError>;

impl Destination {
    /// Keeps the file that was `made` under `key`. If that fails, or the process dies, it goes on
    /// where it was when it is called again with the same `journal`; the file `journal` is made
    /// and removed here. `progress` hears how many bytes are there.
    ///
    /// # Errors
    /// What went wrong; errors that may pass have been waited for.
    pub async fn put(
        &self,
        file: &Path,
        made: &Made,
        key: &Key,
        journal: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        match self {
            Self::Folder(folder) => {
                let (file, key) = (file.to_owned(), key.clone());
                blocking(folder, move |folder| folder.put(&file, &key)).await?;
                progress(made.bytes);
                Ok(())
            }
            Self::S3(s3) => Ok(s3.put(file, made.bytes, key, journal, progress).await?),
        }
    }

    /// Forgets what [`Self::put`] began and did not end.
    ///
    /// # Errors
    /// If the storage cannot be told; it is told again by the next [`Self::sweep`].
    pub async fn abandon(&self, journal: &Path) -> Result<()> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::S3(s3) => Ok(s3.abandon(journal).await?),
        }
    }

    /// What is kept under `key`, for somebody who blocks. Whether it is what it was is for
    /// [`crate::spool::restore`] to find out.
    ///
    /// # Errors
    /// [`DestinationError::Missing`] if there is nothing.
    pub async fn get(&self, key: &Key, bytes: u64) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Folder(folder) => {
                let wanted = key.clone();
                match blocking(folder, move |folder| folder.open(&wanted)).await {
                    Ok(file) => Ok(Box::new(io::BufReader::with_capacity(256 << 10, file))),
                    Err(DestinationError::Folder(error))
                        if error.kind() == io::ErrorKind::NotFound =>
                    {
                        Err(DestinationError::Missing(key.clone()))
                    }
                    Err(error) => Err(error),
                }
            }
            Self::S3(s3) => match s3.length(key).await? {
                None => Err(DestinationError::Missing(key.clone())),
                Some(found) if found != bytes => Err(S3Error::Differs("another length").into()),
                Some(_) => Ok(Box::new(s3.fetch(key, bytes))),
            },
        }
    }

    /// Removes what is kept under `key`. That there is nothing is no error.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        match self {
            Self::Folder(folder) => {
                let key = key.clone();
                blocking(folder, move |folder| folder.delete(&key)).await
            }
            Self::S3(s3) => Ok(s3.delete(key).await?),
        }
    }

    /// All that is kept below `prefix`, which ends with a slash.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        match self {
            Self::Folder(folder) => {
                let prefix = prefix.to_owned();
                blocking(folder, move |folder| folder.list(&prefix)).await
            }
            Self::S3(s3) => Ok(s3.list(prefix).await?),
        }
    }

    /// Removes what was begun under `keys` and is in none of the journals `keep`, and says how
    /// many there were. Must not run while anything is put there by somebody without a journal.
    ///
    /// # Errors
    /// If it cannot be looked for.
    pub async fn sweep(&self, keys: &[Key], keep: &[PathBuf]) -> Result<usize> {
        match self {
            Self::Folder(folder) => {
                let keys = keys.to_vec();
                blocking(folder, move |folder| folder.sweep(&keys)).await
            }
            Self::S3(s3) => {
                let keep: Vec<String> = keep.iter().filter_map(|path| upload_of(path)).collect();
                Ok(s3.sweep(keys, &keep).await?)
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    folder: &Folder,
    work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let folder = folder.clone();
    let done = spawn_blocking(move || work(&folder)).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(DestinationError::Folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reaches_nothing_but_what_it_names() {
        for good in ["a", "volumes/usr_1/data/0123.bhatti", "a.b/c-d_e"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(513);
        for bad in ["", "/", "/etc", "a//b", "a/", "../a", "a/../b", "a/.b", "a b", "ä", &long] {
            assert!(Key::new(bad).is_err(), "{bad}");
        }
    }
}
