//! Numbers as people see them: rounded once, from the value, and alike in a terminal and on the page.

/// What is smaller is rounding of numbers that are of the size of logits.
const NOTHING: f64 = 1e-12;

/// From here on two digits are no longer than three decimals.
const SMALL: f64 = 0.000_995;

/// Three decimals, of small numbers two digits, of large ones none; a whole number as such.
pub(crate) fn shown(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size < NOTHING {
        return "0".to_string();
    }
    if size < SMALL {
        return two_digits(value);
    }
    let decimals = if size >= 1000.0 { 0 } else { 3 };
    let text = format!("{value:.decimals$}");
    match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole.to_string(),
        _ => text,
    }
}

/// Two significant digits, with an exponent from the seventh decimal on, as a browser writes them.
fn two_digits(value: f64) -> String {
    let text = format!("{value:.1e}");
    let exponent = text
        .split_once('e')
        .and_then(|(_, e)| e.parse::<i32>().ok());
    match exponent {
        Some(exponent @ -6..=-1) => format!("{value:.*}", (1 - exponent) as usize),
        _ => text,
    }
}

/// The number that is [`shown`], for a page that writes it itself.
pub(super) fn as_shown(value: f64) -> f64 {
    shown(value).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_a_reader_needs() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (3e-16, "0"),
            (-3e-16, "0"),
            (1.0, "1"),
            (-30.0, "-30"),
            (0.123_456_789, "0.123"),
            (-0.5, "-0.500"),
            (0.9996, "1"),
            (0.0005, "0.00050"),
            (-0.000_012_34, "-0.000012"),
            (1.25e-8, "1.2e-8"),
            (1234.567, "1235"),
            (20_000_003.0, "20000003"),
        ] {
            assert_eq!(shown(value), text, "{value:e}");
        }
    }

    #[test]
    fn what_is_shown_is_shown_again() {
        for value in [
            0.000_999_96,
            0.000_994,
            0.123_449_99,
            999.9996,
            1234.5,
            5e-7,
            0.0012,
        ] {
            assert_eq!(shown(as_shown(value)), shown(value), "{value}");
        }
    }
}
