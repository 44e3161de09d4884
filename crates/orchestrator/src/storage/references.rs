//! What sandboxes and named snapshots depend on.
//!
//! Directories say so, not rows: what has a directory counts, also if the store was replaced by an older
//! copy that does not know it.

use std::{collections::HashSet, io::ErrorKind, path::Path};

use crate::{Error, Kind, Result, layout::Layout, sandbox_dir::SandboxDir};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct References {
    pub(super) templates: HashSet<String>,
    pub(super) images: HashSet<String>,
    pub(super) kernels: HashSet<String>,
}

impl References {
    /// Reads them all.
    ///
    /// # Errors
    /// If there is a directory that does not say what it depends on: anything could be needed then.
    pub(super) fn of(layout: &Layout) -> Result<Self> {
        let mut references = Self::default();
        for parent in [layout.sandboxes(), layout.snapshots()] {
            for entry in fs_err::read_dir(parent)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    continue;
                }
                let directory = SandboxDir::at(entry.path());
                match directory.origin() {
                    Ok(origin) => {
                        references.templates.insert(origin.template);
                        references.images.insert(origin.image_digest);
                        references.kernels.insert(origin.kernel_id);
                    }
                    // Nothing was made of it yet, or nothing is left of it.
                    Err(_) if is_without_layers(&entry.path())? => {}
                    Err(error) => {
                        let message = format!(
                            "{} does not say what it depends on, so nothing is removed",
                            entry.path().display()
                        );
                        return Err(Error::new(Kind::StorageUnclear, message)
                            .hint(
                                "try again if a sandbox is being destroyed right now; otherwise \
                                 move the directory elsewhere once nobody needs it",
                            )
                            .caused_by(error));
                    }
                }
            }
        }
        Ok(references)
    }
}

fn is_without_layers(path: &Path) -> Result<bool> {
    let entries = match fs_err::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    for entry in entries {
        if entry?.file_name().to_string_lossy().starts_with("layer-") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox_dir::Origin;

    fn node() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        fs_err::create_dir(layout.sandboxes()).unwrap();
        fs_err::create_dir(layout.snapshots()).unwrap();
        (dir, layout)
    }

    fn with_a_layer(path: std::path::PathBuf, origin: &Origin) {
        let directory = SandboxDir::at(path);
        directory.create(origin).unwrap();
        directory.disk().add_layer(64 << 20).unwrap();
    }

    #[test]
    fn whatever_has_a_directory_counts_also_what_was_set_aside() {
        let (_dir, layout) = node();
        for (parent, name) in [("sandboxes", "a"), ("sandboxes", "lost-b"), ("snapshots", "c")] {
            let origin = Origin::new(&format!("t-{name}"), &format!("i-{name}"), "k");
            let path = layout.data().join(parent).join(name);
            with_a_layer(path, &origin);
        }
        fs_err::create_dir(layout.sandboxes().join("empty")).unwrap();
        let references = References::of(&layout).unwrap();
        let mut templates: Vec<_> = references.templates.into_iter().collect();
        templates.sort();
        assert_eq!(templates, ["t-a", "t-c", "t-lost-b"]);
        assert_eq!((references.images.len(), references.kernels.len()), (3, 1));
    }

    #[test]
    fn a_directory_that_does_not_say_what_it_needs_protects_everything() {
        let (_dir, layout) = node();
        let path = layout.sandboxes().join("a");
        with_a_layer(path.clone(), &Origin::new("t", "i", "k"));
        fs_err::write(path.join("origin.json"), "{}").unwrap();
        let error = References::of(&layout).unwrap_err();
        assert_eq!(error.kind, Kind::StorageUnclear);
        assert!(error.message.contains("sandboxes/a"), "{error}");
    }
}
