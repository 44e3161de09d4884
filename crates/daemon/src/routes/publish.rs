//! Publishing ports of sandboxes. The public itself never comes here; see [`crate::public`].

use api::{ErrorCode, Publish, PublishAuth, PublishRule, headers};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use orchestrator::{
    Sandbox,
    publications::{PublishRequest, WantedGuard, WantedPlace},
};

use super::ports::parse_port;
use crate::{
    app::App,
    auth::{Caller, OwnedSandbox},
    body,
    failure::Failure,
    show,
};

/// Whose password it is, if nobody says.
const USER: &str = "bhatti";

pub(crate) async fn publish(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<Response, Failure> {
    let wanted = request(body::json(body, app.json_body_max).await?)?;
    let published = match (&app.host_ports, &wanted.place) {
        (Some(ports), WantedPlace::HostPort(_)) => ports.publish(&sandbox, wanted).await?,
        _ => app.orchestrator.publish(&sandbox, wanted).await?,
    };
    let name = sandbox.view().name;
    let mut rule = show::publication(&published.publication, name.as_str(), app.site.as_ref());
    rule.secret = published.secret;
    if !published.existing {
        return Ok((StatusCode::CREATED, Json(rule)).into_response());
    }
    let mut response = Json(rule).into_response();
    let existing = HeaderName::from_static(headers::EXISTING);
    response.headers_mut().insert(existing, HeaderValue::from_static("true"));
    Ok(response)
}

pub(crate) async fn list(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Json<Vec<PublishRule>> {
    Json(rules(&app, &sandbox))
}

/// Of all sandboxes of the caller.
pub(crate) async fn list_all(
    State(app): State<App>,
    Caller(user): Caller,
) -> Json<Vec<PublishRule>> {
    let sandboxes = app.orchestrator.sandboxes(&user.id);
    Json(sandboxes.iter().flat_map(|sandbox| rules(&app, sandbox)).collect())
}

pub(crate) async fn unpublish(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    Path((_, port)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    app.orchestrator.unpublish(&sandbox, parse_port(&port)?).await?;
    if let Some(ports) = &app.host_ports {
        ports.settle().await;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn rules(app: &App, sandbox: &Sandbox) -> Vec<PublishRule> {
    let view = sandbox.view();
    let all = app.store.publications_of(&view.id);
    let shown = |one: &_| show::publication(one, view.name.as_str(), app.site.as_ref());
    all.iter().map(|one| shown(one)).collect()
}

fn request(wanted: Publish) -> Result<PublishRequest, Failure> {
    let invalid = |message: String| Err(Failure::new(ErrorCode::InvalidRequest, message));
    let guard = match (wanted.auth.unwrap_or(PublishAuth::None), wanted.user) {
        (PublishAuth::Basic, user) => {
            WantedGuard::Basic { user: user.unwrap_or_else(|| USER.to_owned()) }
        }
        (_, Some(_)) => return invalid("only auth basic has a user".to_owned()),
        (PublishAuth::None, None) => WantedGuard::Open,
        (PublishAuth::Token, None) => WantedGuard::Token,
        (PublishAuth::Unknown(word), None) => {
            let shown: String = word.chars().take(40).collect();
            return invalid(format!("auth is none, token or basic, not {shown:?}"));
        }
    };
    let place = match (wanted.alias, wanted.host_port) {
        (Some(_), Some(_)) => {
            return invalid("a port has an alias or a port of the host, not both".to_owned());
        }
        (alias, None) => WantedPlace::Alias(alias),
        (None, Some(port)) => WantedPlace::HostPort(port),
    };
    let allow = wanted.allow_cidr.iter().map(|text| range(text)).collect::<Result<_, _>>()?;
    Ok(PublishRequest { port: wanted.port, place, guard, allow })
}

/// A range of addresses, or one address.
fn range(text: &str) -> Result<IpNet, Failure> {
    let range = text.parse::<IpNet>().ok();
    let range = range.or_else(|| text.parse().ok().map(|one: std::net::IpAddr| one.into()));
    range.map(|range| range.trunc()).ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        let message = format!("{shown:?} is no range of addresses, such as 192.0.2.0/24");
        Failure::new(ErrorCode::InvalidRequest, message)
    })
}
