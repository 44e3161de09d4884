//! Names that all may use: files that say which content they mean.

use std::{io, path::Path};

use base::{fault, files, ids::Name};
use fs_err as fs;

use super::{
    ImageError, NAME_FORMAT, NAME_MAGIC, Pointer, hold, known, names_directory, open_digest,
};
use crate::manifest;

/// Has `new` mean the image with that digest from now on, whatever it meant before.
///
/// # Errors
/// [`ImageError::Unknown`] if there is no such image; if the disk fails, and then the name keeps
/// its old meaning.
pub fn name(data: &Path, new: &Name, digest: &str) -> Result<(), ImageError> {
    let _hold = hold(data)?;
    open_digest(data, digest)?;
    let names = names_directory(data);
    fs::create_dir_all(&names)?;
    let pointer = Pointer { name: new.clone(), sha256: digest.to_owned() };
    let text = manifest::render(NAME_MAGIC, NAME_FORMAT, &pointer)?;
    let place = names.join(new.as_str());
    let before = match fs::read(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    let named = files::write_atomic(&place, &text, 0o644);
    if named.is_err() {
        // It may be there and only not be certain to stay.
        let _ = match before {
            Some(before) => files::write_atomic(&place, &before, 0o644),
            None => files::remove_any(&place),
        };
    }
    Ok(named?)
}

/// Takes the name away; the content stays for those who use it.
///
/// # Errors
/// [`ImageError::Unknown`] if there is no such name.
pub fn remove(data: &Path, name: &str) -> Result<(), ImageError> {
    let name: Name = name.parse()?;
    let names = names_directory(data);
    fault::point("name.remove")?;
    match fs::remove_file(names.join(name.as_str())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ImageError::Unknown { name: name.to_string(), known: known(data)? })
        }
        other => Ok(other.and_then(|()| files::sync_directory(&names))?),
    }
}
