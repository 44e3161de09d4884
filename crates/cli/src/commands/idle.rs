//! When sandboxes sleep: flags that set it, and words that show it.

use api::{IdleSetting, IdleTime, MAX_IDLE_SEC, Sandbox};

use crate::human;

/// What a time of idleness may look like.
const FORM: &str = "it has to be a time such as 30s, 5m, 2h, 7d or a number of seconds, \
                    or the word never or default";

/// The flags.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Idle {
    /// Idle time until the vCPUs are paused: such as 30s, 5m, 2h, 7d; never; default
    #[arg(long = "idle-warm", value_name = "TIME", value_parser = parse)]
    pub(crate) warm: Option<IdleSetting>,
    /// Idle time, from the same moment on, until everything goes to disk
    #[arg(long = "idle-cold", value_name = "TIME", value_parser = parse)]
    pub(crate) cold: Option<IdleSetting>,
}

/// Reads a time of idleness.
pub(crate) fn parse(text: &str) -> Result<IdleSetting, String> {
    match text {
        "never" => return Ok(IdleSetting::Never),
        "default" => return Ok(IdleSetting::Default),
        _ => {}
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(FORM.to_owned()),
    };
    if digits.is_empty() {
        return Err(FORM.to_owned());
    }
    // More digits than a number can have are too many seconds, too.
    let seconds = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=MAX_IDLE_SEC) => Ok(IdleSetting::After(seconds)),
        Some(0) => Err("it has to be 1 second at least".to_owned()),
        _ => Err("it has to be 10 years at most; for ever is the word never".to_owned()),
    }
}

/// When a sandbox sleeps, if the daemon says so.
pub(crate) fn sleeps(sandbox: &Sandbox) -> Option<String> {
    let (warm, cold) = (sandbox.idle_warm_sec?, sandbox.idle_cold_sec?);
    if sandbox.keep_hot {
        return Some("never (keep-hot)".to_owned());
    }
    if (warm, cold) == (IdleTime::Never, IdleTime::Never) {
        return Some("never".to_owned());
    }
    let at = |thermal, time| match time {
        IdleTime::After(seconds) => format!("{thermal} after {}", human::seconds(seconds)),
        IdleTime::Never => format!("{thermal} never"),
    };
    Some(format!("{}, {}", at("warm", warm), at("cold", cold)))
}

/// One setting of its own; a dash where there is none.
pub(crate) fn own(time: Option<IdleTime>) -> String {
    match time {
        Some(IdleTime::After(seconds)) => human::seconds(seconds),
        Some(IdleTime::Never) => "never".to_owned(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::inspect::tests::sandbox;

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        let after = |seconds| Ok(IdleSetting::After(seconds));
        for (text, seconds) in
            [("30s", 30), ("30", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), ("0001", 1)]
        {
            assert_eq!(parse(text), after(seconds), "{text}");
        }
        assert_eq!(parse("3650d"), after(MAX_IDLE_SEC));
        assert_eq!(parse("never"), Ok(IdleSetting::Never));
        assert_eq!(parse("default"), Ok(IdleSetting::Default));
        for bad in
            ["", "s", "-1", "+1", "1.5h", "5 m", " 5m", "5M", "5min", "1w", "Never", "1h30m", "5٣"]
        {
            assert_eq!(parse(bad), Err(FORM.to_owned()), "{bad:?}");
        }
        assert!(parse("0").is_err() && parse("0d").is_err());
        for long in ["3651d", "315360001", "99999999999999999999", "99999999999999999d"] {
            assert!(parse(long).unwrap_err().contains("10 years"), "{long}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_it_is_written(number in 1_u64..=MAX_IDLE_SEC) {
            for (unit, factor) in [("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)] {
                let read = parse(&format!("{number}{unit}"));
                let seconds = number * factor;
                if seconds <= MAX_IDLE_SEC {
                    prop_assert_eq!(read, Ok(IdleSetting::After(seconds)));
                } else {
                    prop_assert!(read.is_err());
                }
            }
        }

        #[test]
        fn what_is_shown_can_be_typed(seconds in 1_u64..=MAX_IDLE_SEC) {
            let shown = human::seconds(seconds).replace(" min", "m").replace(' ', "");
            prop_assert_eq!(parse(&shown), Ok(IdleSetting::After(seconds)));
        }

        #[test]
        fn nothing_that_is_typed_is_read_as_too_short_or_too_long(text in "[0-9]{0,22}[a-zé ]?") {
            if let Ok(setting) = parse(&text) {
                let IdleSetting::After(seconds) = setting else { panic!("{text}") };
                prop_assert!((1..=MAX_IDLE_SEC).contains(&seconds));
            }
        }
    }

    #[test]
    fn when_a_sandbox_sleeps_is_said_in_words() {
        let said = |keep_hot, warm, cold| {
            let (idle_warm_sec, idle_cold_sec) = (Some(warm), Some(cold));
            sleeps(&Sandbox { keep_hot, idle_warm_sec, idle_cold_sec, ..sandbox() }).unwrap()
        };
        let after = IdleTime::After;
        assert_eq!(said(false, after(30), after(1800)), "warm after 30 s, cold after 30 min");
        assert_eq!(said(false, IdleTime::Never, after(90)), "warm never, cold after 90 s");
        assert_eq!(said(false, after(7200), IdleTime::Never), "warm after 2 h, cold never");
        assert_eq!(said(false, IdleTime::Never, IdleTime::Never), "never");
        assert_eq!(said(true, IdleTime::Never, IdleTime::Never), "never (keep-hot)");
        assert_eq!(sleeps(&sandbox()), None);
        assert_eq!([own(Some(after(86_400))), own(None)], ["1 d", "-"]);
    }
}
