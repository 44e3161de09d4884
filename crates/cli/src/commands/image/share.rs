use std::process::ExitCode;

use anyhow::Result;
use api::{ImageShares, ShareImage};

use crate::app::{App, DONE};

/// Let other users make sandboxes of an image
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name or id of a user; repeatable
    #[arg(long = "user", required = true, value_name = "USER")]
    users: Vec<String>,
}

/// Let users make sandboxes of an image no more; those that they have go on
#[derive(Debug, clap::Args)]
pub(crate) struct UnshareArgs {
    /// Name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name or id of a user; repeatable
    #[arg(long = "user", required = true, value_name = "USER")]
    users: Vec<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = ShareImage { users: args.users.clone() };
    let now =
        app.with_client(async |client| Ok(client.image_share(&args.image, &request).await?))?;
    app.printer().outcome(&now, &line(&now))?;
    DONE
}

pub(crate) fn run_unshare(args: &UnshareArgs, app: &App) -> Result<ExitCode> {
    let now =
        app.with_client(async |client| Ok(client.image_unshare(&args.image, &args.users).await?))?;
    app.printer().outcome(&now, &line(&now))?;
    DONE
}

fn line(now: &ImageShares) -> String {
    if now.shared_with.is_empty() {
        return format!("image/{} is shared with nobody", now.image);
    }
    format!("image/{} is shared with {}", now.image, now.shared_with.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn users_are_named_and_the_line_says_who_may_now() {
        assert!(try_args("image share web --user bob --user ann").is_ok());
        assert!(try_args("image share web").is_err());
        assert!(try_args("image unshare web").is_err());
        let now = |users: &[&str]| ImageShares {
            image: "web".into(),
            shared_with: users.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(line(&now(&["ann", "bob"])), "image/web is shared with ann, bob");
        assert_eq!(line(&now(&[])), "image/web is shared with nobody");
    }
}
