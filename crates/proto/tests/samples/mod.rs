//! One or more of everything that host and agent can say.
//!
//! Values are written out in full, without `..`, and every list of variants is an exhaustive match,
//! so a field or a variant that is added does not compile until it has a sample here.

mod requests;
mod responses;

pub(crate) use self::requests::{attach_controls, requests};
pub(crate) use self::responses::{error_codes, responses};

/// Values of an enum, at least one of each variant; each is checked to be what it is listed under.
macro_rules! every {
    ($type:ty { $($variant:pat => $values:expr),+ $(,)? }) => {{
        let mut all: Vec<$type> = Vec::new();
        $(
            let before = all.len();
            all.extend($values);
            assert!(all.len() > before, "{} has no sample", stringify!($variant));
            for value in &all[before..] {
                assert!(matches!(value, $variant), "{value:?} is listed wrongly");
            }
        )+
        // What makes a forgotten variant an error of the compiler.
        for value in &all {
            match value { $($variant => {}),+ }
        }
        all
    }};
}
pub(crate) use every;

pub(crate) fn text(text: &str) -> String {
    text.to_owned()
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().copied().map(text).collect()
}
