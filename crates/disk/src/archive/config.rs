//! What an image says about itself, as OCI and Docker write it.

use std::collections::BTreeMap;

use oci_spec::image::{Config as Process, ImageConfiguration};
use serde_json::{Value, json};

use super::{ArchiveError, platform};
use crate::{
    image::Config,
    layer::{LayerId, shown},
};

/// The step that stands for a layer of which nobody knows any more how it was made.
const EXPORTED: &str = "bhatti image export";

/// When each step was done, for readers that need it: nobody wrote it down, and the same image is
/// to give the same bytes.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Reads an image's configuration: what it says of processes, and its layers, lowest first.
///
/// # Errors
/// If it is none, or is for another kind of machine than this one.
pub fn read_config(text: &[u8]) -> Result<(Config, Vec<LayerId>), ArchiveError> {
    let refused = |reason: String| ArchiveError::Document {
        name: "configuration".to_owned(),
        reason: shown(reason.as_bytes()),
    };
    let told: ImageConfiguration =
        serde_json::from_slice(text).map_err(|error| refused(error.to_string()))?;
    let (os, architecture) = (told.os().to_string(), told.architecture().to_string());
    if os != "linux" || architecture != platform::architecture() {
        let found = vec![shown(format!("{os}/{architecture}").as_bytes())];
        return Err(ArchiveError::WrongArchitecture { wanted: platform::shown(), found });
    }
    let layers = told.rootfs().diff_ids().iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    let history = told.history().iter().flatten().filter_map(|step| step.created_by().clone());
    let history: Vec<String> = history.filter(|step| step != EXPORTED).collect();
    let default = Process::default();
    let config = of_process(told.config().as_ref().unwrap_or(&default));
    let config = Config { architecture, history, ..config };
    if text_of(&config).any(|text| text.contains('\0')) {
        return Err(refused("something in it has a zero byte".to_owned()));
    }
    Ok((config, layers))
}

fn of_process(told: &Process) -> Config {
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let env = told.env().iter().flatten().map(|entry| match entry.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (entry.clone(), String::new()),
    });
    let mut exposed_ports = told.exposed_ports().clone().unwrap_or_default();
    exposed_ports.sort();
    Config {
        env: env.collect(),
        user: some(told.user()),
        working_dir: some(told.working_dir()),
        entrypoint: told.entrypoint().clone().unwrap_or_default(),
        cmd: told.cmd().clone().unwrap_or_default(),
        exposed_ports,
        labels: told.labels().clone().unwrap_or_default().into_iter().collect(),
        stop_signal: some(told.stop_signal()),
        ..Config::default()
    }
}

/// What becomes arguments, variables and paths.
fn text_of(config: &Config) -> impl Iterator<Item = &String> {
    let env = config.env.iter().flat_map(|(name, value)| [name, value]);
    let one = config.user.iter().chain(&config.working_dir).chain(&config.stop_signal);
    env.chain(one).chain(&config.entrypoint).chain(&config.cmd)
}

/// Writes the configuration of an image with these layers.
pub(super) fn write_config(config: &Config, layers: &[LayerId]) -> Vec<u8> {
    let env: Vec<String> =
        config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let ports: BTreeMap<&str, Value> =
        config.exposed_ports.iter().map(|port| (port.as_str(), json!({}))).collect();
    let mut process = json!({
        "Env": env, "Entrypoint": config.entrypoint, "Cmd": config.cmd,
        "ExposedPorts": ports, "Labels": config.labels,
    });
    for (key, value) in [
        ("User", &config.user),
        ("WorkingDir", &config.working_dir),
        ("StopSignal", &config.stop_signal),
    ] {
        if let Some(value) = value {
            process[key] = json!(value);
        }
    }
    let architecture = match config.architecture.as_str() {
        "" => platform::architecture(),
        told => told,
    };
    let ids: Vec<String> = layers.iter().map(|id| format!("sha256:{id}")).collect();
    let text = json!({
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": history(config, layers.len()),
    });
    text.to_string().into_bytes()
}

/// Steps of which as many have a layer as there are layers, as readers of it want. Which of the
/// known steps had one is not known, unless all had.
fn history(config: &Config, layers: usize) -> Vec<Value> {
    let known = &config.history;
    let step = |text: &str, is_empty| json!({"created": CREATED, "created_by": text, "empty_layer": is_empty});
    if known.len() == layers {
        return known.iter().map(|text| step(text, false)).collect();
    }
    let known = known.iter().map(|text| step(text, true));
    known.chain((0..layers).map(|_| step(EXPORTED, false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(process: &Value) -> Vec<u8> {
        let text = json!({
            "architecture": platform::architecture(), "os": "linux", "config": process,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "a".repeat(64))]},
            "history": [{"created_by": "one"}, {"empty_layer": true}, {"created_by": EXPORTED}],
        });
        text.to_string().into_bytes()
    }

    #[test]
    fn a_configuration_is_read_and_written_with_everything_in_it() {
        let (config, layers) = read_config(&text(&json!({
            "Env": ["A=b=c", "EMPTY=", "ALONE"], "User": "7:8", "WorkingDir": "/w",
            "Entrypoint": ["/x", "-y"], "Cmd": ["z"], "StopSignal": "SIGINT",
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}, "Labels": {"k": "v"},
        })))
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(config.env, [pair("A", "b=c"), pair("EMPTY", ""), pair("ALONE", "")]);
        assert_eq!(config.user.as_deref(), Some("7:8"));
        assert_eq!(config.exposed_ports, ["443/tcp", "80/tcp"]);
        assert_eq!((config.entrypoint.len(), config.cmd.len()), (2, 1));
        assert_eq!(config.history, ["one"]);
        assert_eq!(layers.len(), 1);
        for count in [0, 1, 3] {
            let layers = vec![layers[0].clone(); count];
            let again = read_config(&write_config(&config, &layers)).unwrap();
            assert_eq!(again, (config.clone(), layers));
        }
    }

    #[test]
    fn what_is_not_set_is_nothing() {
        for process in [
            json!({}),
            json!(null),
            json!({"Env": null, "User": "", "Cmd": null, "Labels": null, "ExposedPorts": null}),
        ] {
            let (config, _) = read_config(&text(&process)).unwrap();
            let history = vec!["one".to_owned()];
            let architecture = platform::architecture().to_owned();
            assert_eq!(config, Config { history, architecture, ..Config::default() });
        }
    }

    #[test]
    fn another_machine_and_what_no_process_can_have_is_refused() {
        let other = String::from_utf8(text(&json!({}))).unwrap().replace("linux", "windows");
        let error = read_config(other.as_bytes()).unwrap_err();
        assert!(matches!(error, ArchiveError::WrongArchitecture { .. }), "{error}");
        for process in [json!({"Env": ["A=\0"]}), json!({"Cmd": ["\0"]}), json!({"Cmd": "sh"})] {
            let error = read_config(&text(&process)).unwrap_err();
            assert!(matches!(error, ArchiveError::Document { .. }), "{error}");
        }
        assert!(read_config(b"").is_err());
        assert!(read_config(&b"[".repeat(1 << 20)).is_err());
    }
}
