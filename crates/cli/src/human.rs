//! Numbers as people read them.

use std::time::Duration;

/// `71 ms`, `1.3 s`, `2 min 5 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Whole seconds, exactly, in the largest unit that they are a multiple of: `30 s`, `90 min`, `2 d`.
pub(crate) fn seconds(seconds: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "min")];
    let fits = |unit: &&(u64, &str)| seconds > 0 && seconds.is_multiple_of(unit.0);
    let (size, name) = UNITS.iter().find(fits).unwrap_or(&(1, "s"));
    format!("{} {name}", seconds / size)
}

/// Milliseconds with one decimal, for measuring.
pub(crate) fn fine_duration(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Reads a number of bytes: `4096`, `512K`, `10M`, `1G`; a unit is a power of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err("it has to be a number of bytes, such as 4096, 512K, 10M or 1G".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "it has to be a number of bytes, such as 4096, 512K, 10M or 1G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is too much".to_owned())
}

/// `17 bytes`, `1.5 MB`; a unit is a power of 1024, as in [`parse_size`].
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_get_coarser_as_they_grow() {
        assert_eq!(duration(Duration::from_micros(71_400)), "71 ms");
        assert_eq!(duration(Duration::from_millis(1340)), "1.3 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(fine_duration(Duration::from_micros(1240)), "1.2 ms");
    }

    #[test]
    fn seconds_are_shown_exactly() {
        let shown = [0, 30, 60, 90, 5400, 7200, 86_400, 86_401].map(seconds);
        assert_eq!(shown, ["0 s", "30 s", "1 min", "90 s", "90 min", "2 h", "1 d", "86401 s"]);
    }

    #[test]
    fn sizes_are_read_with_or_without_a_unit() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("512k"), Ok(512 << 10));
        assert_eq!((parse_size("10M"), parse_size("1GB")), (Ok(10 << 20), Ok(1 << 30)));
        for bad in ["", "M", "-1", "1X", "1.5M", "99999999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let shown = [0, 1023, 1024, 1536 << 10, 3 << 40].map(size);
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.0 KB", "1.5 MB", "3.0 TB"]);
    }
}
