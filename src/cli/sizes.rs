//! Sizes and ages on the command line.

use std::time::Duration;

/// A number of bytes as people write it.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("B", 1),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
    ];
    let expected = || "expected a size such as `4GB`, `1.5GiB` or `512MiB`".to_string();
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    let unit = unit.trim().to_uppercase();
    let unit = UNITS.iter().find(|(name, _)| *name == unit);
    let bytes = number * unit.ok_or_else(expected)?.1 as f64;
    match bytes.is_finite() && bytes >= 0.0 {
        true => Ok(bytes as usize),
        false => Err(expected()),
    }
}

/// An age as people write it: `12h`, `30d`, `6w`.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let expected = || "expected an age such as `12h`, `30d` or `6w`".to_string();
    let text = text.trim();
    let (number, seconds) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "h")) => (number, 3600.0),
        Some((number, "d")) => (number, 24.0 * 3600.0),
        Some((number, "w")) => (number, 7.0 * 24.0 * 3600.0),
        _ => return Err(expected()),
    };
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::{age, bytes};

    #[test]
    fn ages_are_read_as_people_write_them() {
        for (text, hours) in [
            ("12h", 12),
            ("30d", 720),
            ("1.5 d", 36),
            ("2w", 336),
            ("0d", 0),
        ] {
            let read = age(text).map(|age| age.as_secs());
            assert_eq!(read, Ok(hours * 3600), "{text}");
        }
        for text in ["", "d", "30", "-1d", "nand", "3 months"] {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let sizes = [
            ("4GB", 4_000_000_000),
            ("1.5 GiB", 3 << 29),
            ("512mib", 512 << 20),
            ("0", 0),
            ("7 B", 7),
            ("2TB", 2_000_000_000_000),
        ];
        for (text, expected) in sizes {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GB", "4 apples", "-1GB", "nan"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
