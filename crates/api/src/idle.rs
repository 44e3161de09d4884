//! How long something may be idle: a number of seconds or the word `never`, and in requests also
//! `default`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest time that can be asked for: ten years, in seconds.
pub const MAX_IDLE_SEC: u64 = 10 * 365 * 24 * 60 * 60;

const NEVER: &str = "never";
const DEFAULT: &str = "default";

/// How long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleTime {
    /// So many seconds.
    After(u64),
    /// Without end.
    Never,
}

/// How long it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleSetting {
    /// So many seconds, 1 to [`MAX_IDLE_SEC`].
    After(u64),
    /// Without end.
    Never,
    /// What the next wider setting says: a sandbox's user, a user's node, the program itself.
    Default,
}

impl Serialize for IdleTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(seconds) => serializer.serialize_u64(*seconds),
            Self::Never => serializer.serialize_str(NEVER),
        }
    }
}

impl<'de> Deserialize<'de> for IdleTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What is shown is taken as it is: another version may allow more.
        match deserializer.deserialize_any(Read { longest: u64::MAX, shortest: 0 })? {
            IdleSetting::After(seconds) => Ok(Self::After(seconds)),
            IdleSetting::Never => Ok(Self::Never),
            IdleSetting::Default => {
                Err(de::Error::invalid_value(de::Unexpected::Str(DEFAULT), &"seconds or \"never\""))
            }
        }
    }
}

impl Serialize for IdleSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(seconds) => serializer.serialize_u64(*seconds),
            Self::Never => serializer.serialize_str(NEVER),
            Self::Default => serializer.serialize_str(DEFAULT),
        }
    }
}

impl<'de> Deserialize<'de> for IdleSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Read { longest: MAX_IDLE_SEC, shortest: 1 })
    }
}

/// Reads a number or a word.
struct Read {
    shortest: u64,
    longest: u64,
}

impl de::Visitor<'_> for Read {
    type Value = IdleSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shortest, longest } = self;
        write!(f, "seconds from {shortest} to {longest}, \"{NEVER}\" or \"{DEFAULT}\"")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<IdleSetting, E> {
        if (self.shortest..=self.longest).contains(&seconds) {
            return Ok(IdleSetting::After(seconds));
        }
        Err(E::invalid_value(de::Unexpected::Unsigned(seconds), &self))
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<IdleSetting, E> {
        match u64::try_from(seconds) {
            Ok(seconds) => self.visit_u64(seconds),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(seconds), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<IdleSetting, E> {
        match word {
            NEVER => Ok(IdleSetting::Never),
            DEFAULT => Ok(IdleSetting::Default),
            _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_number_or_a_word_and_keeps_its_form() {
        for (json, setting) in [
            ("1", IdleSetting::After(1)),
            ("315360000", IdleSetting::After(MAX_IDLE_SEC)),
            ("\"never\"", IdleSetting::Never),
            ("\"default\"", IdleSetting::Default),
        ] {
            assert_eq!(serde_json::from_str::<IdleSetting>(json).unwrap(), setting);
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
        }
        for bad in ["0", "-1", "1.5", "315360001", "\"30s\"", "\"Never\"", "true", "[]", "null"] {
            let error = serde_json::from_str::<IdleSetting>(bad).unwrap_err().to_string();
            let expected = "seconds from 1 to 315360000, \"never\" or \"default\"";
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn a_time_of_a_daemon_that_allows_more_is_read() {
        for (json, time) in [
            ("0", IdleTime::After(0)),
            ("999999999999", IdleTime::After(999_999_999_999)),
            ("\"never\"", IdleTime::Never),
        ] {
            assert_eq!(serde_json::from_str::<IdleTime>(json).unwrap(), time);
            assert_eq!(serde_json::to_string(&time).unwrap(), json);
        }
        assert!(serde_json::from_str::<IdleTime>("\"default\"").is_err());
    }
}
