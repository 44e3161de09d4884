//! Text as the name of an image: what is one is the same when it is said again, and no part of it leads
//! anywhere but to its registry.

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry::{Digest, Reference};

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
    }
    let Ok(reference) = text.parse::<Reference>() else { return };
    let said = reference.to_string();
    assert_eq!(said.parse::<Reference>().ok().as_ref(), Some(&reference), "{said:?}");
    let odd = |c: char| c.is_control() || c.is_whitespace() || "?#%\\@".contains(c);
    for part in [reference.registry(), reference.repository(), reference.tag().unwrap_or("x")] {
        assert!(!part.is_empty() && !part.contains(odd), "{said:?}");
    }
    assert!(!reference.repository().split('/').any(|part| part.is_empty() || part == ".."));
    let _ = reference.default_name();
});
