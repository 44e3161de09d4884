//! Bytes as what a registry says of an image: the first line is a manifest or an index, the rest its
//! configuration. Nothing panics, and layers that are believed are within the limits.

#![no_main]

use disk::archive::read_config;
use libfuzzer_sys::fuzz_target;
use registry::Limits;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (manifest, config) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let limits = Limits::default();
    if let Ok(layers) = registry::read_documents(manifest, config, &limits) {
        assert!(layers.len() <= limits.layers);
        assert!(layers.iter().all(|layer| layer.size <= limits.layer_bytes));
        let all: u128 = layers.iter().map(|layer| u128::from(layer.size)).sum();
        assert!(all <= u128::from(limits.image_bytes));
    }
    if let Ok((config, _)) = read_config(config) {
        let said = serde_json::to_vec(&config).expect("a configuration can be said");
        let again: disk::image::Config = serde_json::from_slice(&said).expect("and understood");
        assert_eq!(again, config);
    }
});
