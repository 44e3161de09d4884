//! Shows what a long operation is doing, and stays silent if it is not long.

use std::{pin::pin, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::printer::Printer;

/// How long nothing is drawn on a terminal; most creates are done by then.
const QUIET: Duration = Duration::from_millis(150);
/// How long a step must last to be worth a line in a log.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(80);

/// A place for the current step, to be handed to [`show`] at one end and filled at the other.
pub(crate) fn steps() -> (watch::Sender<String>, watch::Receiver<String>) {
    watch::channel(String::new())
}

/// Does `work` while showing the steps.
pub(crate) async fn show<T>(
    printer: &Printer,
    mut steps: watch::Receiver<String>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let mut display = Display::new(printer);
    loop {
        let step = async {
            match display.due {
                Some(due) => timeout_at(due, steps.changed()).await.ok(),
                None => Some(steps.changed().await),
            }
        };
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            step = step => match step {
                Some(Ok(())) => display.step(steps.borrow_and_update().clone()),
                Some(Err(_)) => return work.await,
                None => display.show(),
            },
        }
    }
}

struct Display<'a> {
    printer: &'a Printer,
    in_place: bool,
    current: String,
    /// When the current step is to be shown; `None` if it is shown or there is none.
    due: Option<Instant>,
    spinner: Option<ProgressBar>,
}

impl<'a> Display<'a> {
    fn new(printer: &'a Printer) -> Self {
        let in_place = printer.stderr_is_terminal() && !printer.is_json();
        Self { printer, in_place, current: String::new(), due: None, spinner: None }
    }

    fn step(&mut self, step: String) {
        self.current = step;
        match &self.spinner {
            Some(spinner) => spinner.set_message(self.current.clone()),
            None if self.in_place => self.due = self.due.or(Some(Instant::now() + QUIET)),
            None => self.due = Some(Instant::now() + WORTH_A_LINE),
        }
    }

    fn show(&mut self) {
        self.due = None;
        if !self.in_place {
            if !self.printer.is_json() {
                self.printer.note(&format!("{} …", self.current));
            }
            return;
        }
        let spinner = ProgressBar::new_spinner().with_message(self.current.clone());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(TICK);
        self.spinner = Some(spinner);
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
