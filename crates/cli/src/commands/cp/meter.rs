//! How much was copied, shown while it is.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, ReadBuf};

const BAR: &str = "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
const COUNT: &str = "{spinner} {bytes} {binary_bytes_per_sec}";
/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);

/// Counts bytes, and draws if somebody sees it.
#[derive(Debug)]
pub(crate) struct Meter {
    count: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Meter {
    /// A meter that is drawn if `seen`; `total` in bytes, if it is known.
    pub(crate) fn new(seen: bool, total: Option<u64>) -> Arc<Self> {
        let bar = seen.then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = if total.is_some() { BAR } else { COUNT };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Arc::new(Self { count: AtomicU64::new(0), bar })
    }

    /// Counts more.
    pub(crate) fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.count.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Takes the picture away, and gives the number of bytes.
    pub(crate) fn finish(&self) -> u64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.count.load(Ordering::Relaxed)
    }

    /// Counts what is read.
    pub(crate) fn reading<R>(self: &Arc<Self>, reader: R) -> Metered<R> {
        Metered { reader, meter: Arc::clone(self) }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A reader that is counted.
#[derive(Debug)]
pub(crate) struct Metered<R> {
    reader: R,
    meter: Arc<Meter>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, buffer))?;
        self.meter.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}
