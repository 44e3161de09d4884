//! Signals by name or number.

use api::ErrorCode;

use crate::failure::Failure;

/// What a kill sends if it does not say.
const DEFAULT: i32 = 15;
/// The highest number of a signal.
const MAX: i32 = 64;
/// The first of those without a meaning, as C libraries count.
const RTMIN: i32 = 34;

/// Linux's signals with a name, which have these numbers on every architecture that we run on.
const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of a signal given as `TERM`, `SIGTERM`, in any case, or as a number.
pub(crate) fn parse(text: Option<&str>) -> Result<i32, Failure> {
    let Some(text) = text else { return Ok(DEFAULT) };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse().ok().filter(|number| (1..=MAX).contains(number));
        return number.ok_or_else(|| unknown(text));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let from_first = name.strip_prefix("RTMIN+").and_then(|more| more.parse::<i32>().ok());
    if let Some(more) = from_first.filter(|more| (0..=MAX - RTMIN).contains(more)) {
        return Ok(RTMIN + more);
    }
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number).ok_or_else(|| unknown(text))
}

fn unknown(text: &str) -> Failure {
    let shown: String = text.chars().take(40).collect();
    Failure::new(ErrorCode::InvalidRequest, format!("{shown:?} is no signal"))
        .hint(format!("a name such as TERM or SIGKILL, or a number from 1 to {MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(parse(None).unwrap(), 15);
        for (text, number) in [
            ("TERM", 15),
            ("sigterm", 15),
            ("SigKill", 9),
            ("usr1", 10),
            ("CONT", 18),
            ("stop", 19),
            ("1", 1),
            ("64", 64),
            ("09", 9),
            ("SIGRTMIN+3", 37),
            ("rtmin+0", 34),
        ] {
            assert_eq!(parse(Some(text)).unwrap(), number, "{text}");
        }
        let long = "9".repeat(100);
        for bad in [
            "",
            "0",
            "65",
            "-9",
            "+9",
            "SIG",
            "TERM ",
            "SIGSIGTERM",
            "9x",
            "RTMIN+31",
            "RTMIN+-1",
            &long,
        ] {
            assert_eq!(parse(Some(bad)).unwrap_err().code, ErrorCode::InvalidRequest, "{bad}");
        }
    }
}
