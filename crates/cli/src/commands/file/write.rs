use std::process::ExitCode;

use anyhow::Result;

use crate::app::{App, DONE};

/// Replace a file with what comes on stdin
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Absolute path; missing directories are made
    path: String,
    /// Permission bits in octal [default: those of the old file, or 0644]
    #[arg(long, value_parser = mode)]
    mode: Option<String>,
    /// `USER`, `USER:GROUP` or `:GROUP`, names or ids [default: that of the old file, or of the
    /// directory]
    #[arg(long)]
    owner: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let written = app.with_client(async |client| {
        let Args { sandbox, path, mode, owner } = args;
        let (mode, owner) = (mode.as_deref(), owner.as_deref());
        Ok(client.file_write_as(sandbox, path, mode, owner, tokio::io::stdin()).await?)
    })?;
    let line = format!("{} written ({} bytes)", args.path, written.size);
    app.printer().outcome(&written, &line)?;
    DONE
}

/// Permission bits as the API wants them.
pub(crate) fn mode(text: &str) -> Result<String, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(format!("{mode:04o}")),
        _ => Err("it has to be octal, such as 0644".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_get_four_digits() {
        assert_eq!(mode("755").as_deref(), Ok("0755"));
        for bad in ["", "rw", "0o644", "+644", "99", "10000"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
