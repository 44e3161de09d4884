//! From an archive that somebody sends to an image.

use std::sync::Arc;

use base::{clock, fault, ids::Name};
use bytes::Bytes;
use disk::{
    archive::{self, Imported},
    layer::Limits,
};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{
    ImageView, Making, NewImage,
    find::Meaning,
    making,
    places::Incoming,
    pull::{Stop, Until, check_name},
};
use crate::{
    Error, Kind, Result,
    model::User,
    node::{Node, blocking},
    processes::Processes,
    store::image_taken,
};

/// What the archive is called while it lies here.
const ARCHIVE: &str = "archive.tar";

/// An archive that is being sent. Dropping it gives it up.
#[derive(Debug)]
pub struct Upload {
    node: Arc<Node>,
    user: User,
    name: Name,
    /// Which image of the archive, if there are several.
    wanted: Option<String>,
    file: File,
    length: u64,
    incoming: Incoming,
}

impl Upload {
    /// # Errors
    /// The user has an image of that name.
    pub(super) async fn begin(
        node: &Arc<Node>,
        user: &User,
        name: Name,
        wanted: Option<String>,
    ) -> Result<Self> {
        check_name(&name)?;
        if node.store.own_image(&user.id, &name).is_some() {
            return Err(image_taken(&name));
        }
        let making = Arc::clone(node);
        let incoming = blocking(move || Incoming::make(&making.layout)).await?;
        let file = File::create(incoming.path().join(ARCHIVE)).await?;
        let (node, user) = (Arc::clone(node), user.clone());
        Ok(Self { node, user, name, wanted, file, length: 0, incoming })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Kind::TooLarge`], [`Kind::HostDiskFull`].
    pub async fn write(&mut self, bytes: &Bytes) -> Result<()> {
        let max = self.node.images.import_max;
        self.length = self.length.saturating_add(bytes.len() as u64);
        if self.length > max {
            let message = format!("the archive is larger than {max} bytes");
            return Err(Error::new(Kind::TooLarge, message)
                .hint("whoever runs this node can allow more: max_import_bytes of [images]"));
        }
        Ok(self.file.write_all(bytes).await?)
    }

    /// Makes the image of all that was sent. Dropped, it is given up.
    ///
    /// # Errors
    /// [`Kind::ImageInvalid`] if it is no archive of an image, [`Kind::ImageExists`].
    pub async fn finish(mut self) -> Result<ImageView> {
        self.file.flush().await?;
        self.convert().await
    }

    async fn convert(self) -> Result<ImageView> {
        let Self { node, user, name, wanted, file, incoming, .. } = self;
        drop(file);
        fault::point("import.arrived")?;
        let _turn = node.images.turn().await?;
        let making = Making::begin(&node).await?;
        let (data, held) = (node.layout.data().to_owned(), Arc::clone(&making));
        let source = format!("import:{name}");
        let said = source.clone();
        // Goes with this future, and ends the reading.
        let stop = Stop::default();
        let stopped = stop.watch();
        let image = blocking(move || {
            let (_making, incoming) = (held, incoming);
            let file = fs_err::File::open(incoming.path().join(ARCHIVE))?;
            let mut reader = Until { stop: stopped, reader: file };
            let limits = Limits::default();
            let Imported { layers, config, .. } =
                archive::import(&data, &mut reader, wanted.as_deref(), &limits, &|_| ())?;
            Processes::from_config(&config)?;
            making::assemble(&data, &layers, config, said)
        })
        .await?;
        fault::point("import.assembled")?;
        let kept = NewImage {
            owner: user.id.clone(),
            name,
            digest: image.digest().to_owned(),
            reference: None,
            source,
            created_at: clock::unix_seconds(),
        };
        let record = node.store.keep_image(kept).await?;
        making.done();
        Ok(Meaning::Kept(record).view(&user.id, Some(&image)))
    }
}
