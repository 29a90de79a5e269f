//! From numbers to pixels and colours, and where ticks stand.

use crate::report::{ColourScale, ends};

/// A straight map from a range of values to a range of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Scale {
    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }
}

/// A range that holds the values, a little wider; around one value, one unit wide.
pub(super) fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = ends(values.filter(|value| value.is_finite()));
    if low > high {
        return (0.0, 1.0);
    }
    if high - low < 1e-12 {
        return (low - 0.5, high + 0.5);
    }
    (low, high)
}

/// About `count` round numbers in a range: steps of 1, 2 or 5 times a power of ten.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    if !step.is_finite() || last - first > 50 {
        return vec![low, high];
    }
    (first..=last).map(|index| index as f64 * step).collect()
}

/// A number as an axis writes it: no more digits than it has, and a true minus sign.
pub(super) fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 5e-5 {
        return format!("{value:.0e}").replace('-', "−");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text.strip_prefix('-') {
        Some("0") => "0".to_string(),
        Some(size) => format!("−{size}"),
        None => text.to_string(),
    }
}

/// The colour of a value, between the two nearest of the scale's.
pub(super) fn cell_colour(scale: &ColourScale, value: f64) -> (u8, u8, u8) {
    let steps = scale.colours.len().saturating_sub(1).max(1) as f64;
    let share = ((value - scale.low) / (scale.high - scale.low)).clamp(0.0, 1.0) * steps;
    let below = share.floor().min(steps - 1.0);
    let channels = |index: f64| {
        let colour = scale.colours.get(index as usize);
        colour.map_or([255.0; 3], |colour| channels(colour))
    };
    let (a, b) = (channels(below), channels(below + 1.0));
    let mixed = [0, 1, 2].map(|c: usize| a[c] + (b[c] - a[c]) * (share - below));
    (mixed[0] as u8, mixed[1] as u8, mixed[2] as u8)
}

/// `#RRGGBB`.
pub(super) fn hex((red, green, blue): (u8, u8, u8)) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Red, green and blue of `#RRGGBB`.
fn channels(colour: &str) -> [f64; 3] {
    [1, 3, 5].map(|at| {
        let pair = colour.get(at..at + 2).unwrap_or("00");
        f64::from(u8::from_str_radix(pair, 16).unwrap_or(0))
    })
}

/// Whether text on this colour should be white (relative luminance of sRGB, roughly).
pub(super) fn is_dark((red, green, blue): (u8, u8, u8)) -> bool {
    0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue) < 130.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(
            ticks(-30.0, 30.0, 6),
            [-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0]
        );
        assert_eq!(
            ticks(0.0, 1.0, 5),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert_eq!(ticks(-1.3, 2.2, 4), [-1.0, 0.0, 1.0, 2.0]);
        assert_eq!(ticks(f64::MIN, f64::MAX, 4).len(), 2, "no endless axis");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(-0.5), "−0.5");
        assert_eq!(number(0.6000000000000001), "0.6");
        assert_eq!(number(-0.0), "0");
        assert_eq!(number(20.0), "20");
        assert_eq!(
            number(-2e-7),
            "−2e−7",
            "an axis of tiny numbers is not all 0"
        );
    }

    #[test]
    fn colours_run_from_end_to_end() {
        let scale = ColourScale::diverging("Δ", &[Some(-2.0), Some(1.0), None]);
        assert_eq!(cell_colour(&scale, -2.0), (0x00, 0x72, 0xB2));
        assert_eq!(cell_colour(&scale, 0.0), (0xF7, 0xF7, 0xF7));
        assert_eq!(cell_colour(&scale, 9.0), (0xD5, 0x5E, 0x00));
    }
}
