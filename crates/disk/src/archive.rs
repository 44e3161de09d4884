//! Archives of whole images.

use crate::image::{Config, Image, ImageError};
use std::{
    io::{Read, Write},
    path::Path,
};

/// Placeholder.
pub fn config(bytes: &[u8]) -> Result<Config, ImageError> {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = &value["config"];
    let list = |name: &str| -> Vec<String> {
        said[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let text = |name: &str| said[name].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    Ok(Config {
        env: list("Env")
            .iter()
            .filter_map(|e| e.split_once('='))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect(),
        user: text("User"),
        working_dir: text("WorkingDir"),
        entrypoint: list("Entrypoint"),
        cmd: list("Cmd"),
        stop_signal: text("StopSignal"),
        architecture: value["architecture"].as_str().unwrap_or_default().to_owned(),
        ..Config::default()
    })
}

/// Placeholder.
pub fn import(_data: &Path, _reader: impl Read, _source: String) -> Result<Image, ImageError> {
    Err(std::io::Error::other("not yet").into())
}

/// Placeholder.
pub fn export(
    _data: &Path,
    _image: &Image,
    _name: &str,
    _to: &mut dyn Write,
) -> Result<(), ImageError> {
    Err(std::io::Error::other("not yet").into())
}
