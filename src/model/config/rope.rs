//! Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) and the ways to stretch them.
//!
//! A pair i of a head at position p is turned by the angle p · f_i. Unscaled, f_i = θ^(−2i / d_head); each
//! scaling changes the f_i, and YaRN also multiplies cosine and sine by a constant. The formulas are those of
//! `modeling_rope_utils.py` in Hugging Face transformers 5, so that a checkpoint behaves as it does there. The
//! arithmetic is float64, rounded to float32 once.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// The base θ of the geometric series of frequencies.
    pub theta: f64,
    /// How the frequencies are changed for contexts longer than those of pre-training.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies. `factor` is the ratio of the longer context to the original one, which is that of pre-training, in
/// tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RopeScaling {
    None,
    /// Position interpolation (arXiv:2306.15595): every frequency is divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Dynamic NTK scaling. It changes nothing up to the model's context length, which is the limit here.
    Dynamic {
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended.
    Llama3 {
        factor: f64,
        /// Turns per original context below which a frequency counts as low.
        low_freq_factor: f64,
        /// Turns per original context above which a frequency counts as high.
        high_freq_factor: f64,
        original_context_length: usize,
    },
    /// YaRN (arXiv:2309.00071): a ramp over the pairs between interpolated and kept frequencies.
    Yarn {
        factor: f64,
        original_context_length: usize,
        /// What cosine and sine are multiplied by.
        attention_factor: f64,
        /// Turns per original context at which the ramp starts.
        beta_fast: f64,
        /// Turns per original context at which the ramp ends.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded outwards to whole pairs.
        truncate: bool,
    },
    /// LongRoPE (arXiv:2402.13753): one divisor per pair, `[d_head / 2]`, for texts within the context of pre-training, and another for longer
    /// ones, which then holds at every position.
    LongRope {
        short_factor: Vec<f64>,
        long_factor: Vec<f64>,
        original_context_length: usize,
        /// What cosine and sine are multiplied by.
        attention_factor: f64,
    },
    /// One divisor per pair, as GGUF files store Llama 3.1's scaling (`rope_freqs.weight`), `[d_head / 2]`.
    Divisors {
        divisors: Vec<f32>,
    },
}

/// YaRN's default attention factor, 0.1 · mscale · ln(factor) + 1.
pub(in crate::model) fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// How many elements of a head turn where that is a share of its width, rounded down. An odd number of them would turn no pairs; the error is a
/// fragment.
pub(in crate::model) fn rotary_width(d_head: usize, share: f64) -> Result<usize, String> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(format!(
            "`partial_rotary_factor` is `{share}`, expected a number above 0 and up to 1"
        ));
    }
    let width = (d_head as f64 * share) as usize;
    match width > 0 && width.is_multiple_of(2) {
        true => Ok(width),
        false => Err(format!(
            "`partial_rotary_factor` makes `{width}` of the `{d_head}` elements of a head turn, expected an even number of at least 2"
        )),
    }
}

impl Rope {
    /// The angle per position of each pair, in radians, `[d_head / 2]`, and the factor on cosine and sine.
    pub(crate) fn inverse_frequencies(&self, d_head: usize) -> (Vec<f32>, f32) {
        let plain = self.plain_frequencies(d_head);
        let mut attention = 1.0;
        let scaled: Vec<f64> = match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context_length,
            } => {
                let blend = |f: f64| {
                    let turns = *original_context_length as f64 * f / (2.0 * PI);
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    (1.0 - kept) * f / factor + kept * f
                };
                plain.map(blend).collect()
            }
            RopeScaling::Yarn {
                factor,
                original_context_length,
                attention_factor,
                beta_fast,
                beta_slow,
                truncate,
            } => {
                attention = *attention_factor;
                let pair_turning = |turns: &f64| {
                    let wavelengths = *original_context_length as f64 / (turns * 2.0 * PI);
                    d_head as f64 * wavelengths.ln() / (2.0 * self.theta.ln())
                };
                // The pairs (fractional indices) at which the ramp starts and ends.
                let (mut low, mut high) = (pair_turning(beta_fast), pair_turning(beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(d_head as f64 - 1.0));
                // Keeps the ramp's slope finite, by the same amount as the reference.
                let high = if low == high { high + 0.001 } else { high };
                let blend = |(pair, f): (usize, f64)| {
                    let interpolated = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * interpolated + f * (1.0 - interpolated)
                };
                plain.enumerate().map(blend).collect()
            }
            RopeScaling::LongRope {
                short_factor,
                attention_factor,
                ..
            } => {
                attention = *attention_factor;
                let pairs = plain.zip(short_factor);
                pairs.map(|(f, factor)| f / factor).collect()
            }
            RopeScaling::Divisors { divisors } => plain
                .zip(divisors)
                .map(|(f, divisor)| f / f64::from(*divisor))
                .collect(),
        };
        (scaled.iter().map(|f| *f as f32).collect(), attention as f32)
    }

    fn plain_frequencies(&self, d_head: usize) -> impl Iterator<Item = f64> {
        (0..d_head / 2).map(move |pair| self.theta.powf(-2.0 * pair as f64 / d_head as f64))
    }

    /// The angles of longer texts and the number of tokens that those have more of, where they have angles of their own. The factor on cosine
    /// and sine is the same.
    pub(crate) fn long_inverse_frequencies(&self, d_head: usize) -> Option<(Vec<f32>, usize)> {
        let RopeScaling::LongRope {
            long_factor,
            original_context_length,
            ..
        } = &self.scaling
        else {
            return None;
        };
        let pairs = self.plain_frequencies(d_head).zip(long_factor);
        let frequencies = pairs.map(|(f, factor)| (f / factor) as f32).collect();
        Some((frequencies, *original_context_length))
    }

    /// Whether the numbers make sense for heads of which `d_head` elements turn; the error is a fragment naming the field.
    pub(in crate::model) fn validate(&self, d_head: usize) -> Result<(), String> {
        if !d_head.is_multiple_of(2) {
            return Err(format!(
                "the head width is `{d_head}`, expected an even number: rotary embeddings turn pairs"
            ));
        }
        let theta = self.theta;
        // Comparisons are false for what is not a number.
        if !(theta > 1.0 && theta <= 1e15) {
            return Err(format!(
                "`rope_theta` is `{theta}`, expected a number above 1 and up to 1e15"
            ));
        }
        if let RopeScaling::Divisors { divisors } = &self.scaling
            && divisors.len() != d_head / 2
        {
            return Err(format!(
                "`{}` rope divisors, expected `{}`: one per pair of a head",
                divisors.len(),
                d_head / 2
            ));
        }
        let lists = match &self.scaling {
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                ..
            } => vec![("short_factor", short_factor), ("long_factor", long_factor)],
            _ => Vec::new(),
        };
        if let Some((name, list)) = lists.iter().find(|(_, list)| list.len() != d_head / 2) {
            return Err(format!(
                "`{name}` has `{}` numbers, expected `{}`: one for each pair that turns",
                list.len(),
                d_head / 2
            ));
        }
        // Within these bounds every frequency is a number in float32, too.
        let mut values = self.scaling.positive_values().into_iter();
        match values.find(|(_, value)| !(*value >= 1e-9 && *value <= 1e9)) {
            None => Ok(()),
            Some((name, value)) => Err(format!(
                "rope `{name}` is `{value}`, expected a positive number from 1e-9 to 1e9"
            )),
        }
    }
}

impl RopeScaling {
    /// The numbers (or differences) that must be positive, by the names of `config.json`.
    fn positive_values(&self) -> Vec<(&'static str, f64)> {
        match self {
            Self::None => Vec::new(),
            Self::Linear { factor } | Self::Dynamic { factor } => vec![("factor", *factor)],
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context_length: original,
            } => vec![
                ("factor", *factor),
                ("low_freq_factor", *low),
                ("high_freq_factor - low_freq_factor", high - low),
                ("original_max_position_embeddings", *original as f64),
            ],
            Self::Yarn {
                factor,
                original_context_length: original,
                attention_factor,
                beta_fast,
                beta_slow,
                ..
            } => vec![
                ("factor", *factor),
                ("original_max_position_embeddings", *original as f64),
                ("attention_factor", *attention_factor),
                ("beta_slow", *beta_slow),
                ("beta_fast - beta_slow", beta_fast - beta_slow),
            ],
            Self::LongRope {
                short_factor,
                long_factor,
                original_context_length: original,
                attention_factor,
            } => {
                let short = short_factor.iter().map(|factor| ("short_factor", *factor));
                let long = long_factor.iter().map(|factor| ("long_factor", *factor));
                let both = short.chain(long);
                both.chain([
                    ("original_max_position_embeddings", *original as f64),
                    ("attention_factor", *attention_factor),
                ])
                .collect()
            }
            Self::Divisors { divisors } => divisors
                .iter()
                .map(|divisor| ("divisor", f64::from(*divisor)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected numbers come from transformers 5.23's own functions, run on float32 arrays; they carry the rounding
    /// of float32 powers and products, a few units in the seventh digit, hence 1e-6 relative.
    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs(),
                "{found} is not {expected}"
            );
        }
    }

    fn rope(theta: f64, scaling: RopeScaling) -> Rope {
        Rope { theta, scaling }
    }

    #[test]
    fn unscaled_and_dynamic_frequencies_are_powers_of_the_base() {
        let expected = [
            1.0,
            0.316_227_76,
            0.1,
            0.031_622_78,
            0.01,
            0.003_162_277_6,
            0.001,
            0.000_316_227_8,
        ];
        for scaling in [RopeScaling::None, RopeScaling::Dynamic { factor: 4.0 }] {
            let (frequencies, attention) = rope(10_000.0, scaling).inverse_frequencies(16);
            assert_close(&frequencies, &expected);
            assert_eq!(attention, 1.0);
        }
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let (frequencies, _) =
            rope(10_000.0, RopeScaling::Linear { factor: 4.0 }).inverse_frequencies(16);
        let expected = [
            0.25,
            0.079_056_94,
            0.025,
            0.007_905_695,
            0.002_5,
            0.000_790_569_47,
            0.000_25,
            7.905_695e-5,
        ];
        assert_close(&frequencies, &expected);
    }

    #[test]
    fn llama3_scaling_agrees_with_transformers() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_length: 8192,
        };
        let (frequencies, attention) = rope(500_000.0, scaling).inverse_frequencies(64);
        // Pairs 12 to 19: kept, blended (15, 16, 17) and divided.
        let expected = [
            0.007_292_665,
            0.004_839_421_2,
            0.003_211_446,
            0.001_290_548,
            0.000_429_556_7,
            9.708_286e-5,
            1.946_163_9e-5,
            1.291_476_8e-5,
        ];
        assert_close(&frequencies[12..20], &expected);
        assert_close(&frequencies[30..], &[1.419_272e-7, 9.418_307e-8]);
        assert_eq!(attention, 1.0);
    }

    #[test]
    fn yarn_agrees_with_transformers() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context_length: 32_768,
            attention_factor: yarn_attention_factor(4.0, 1.0),
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        let (frequencies, attention) = rope(1_000_000.0, scaling).inverse_frequencies(64);
        let expected = [
            0.013_335_215,
            0.008_659_643,
            0.005_154_795_5,
            0.003_043_117_7,
            0.001_778_530_3,
            0.001_026_617_8,
            0.000_583_333_37,
            0.000_324_690_83,
            0.000_175_706_9,
            9.128_065e-5,
            4.445_698_5e-5,
        ];
        assert_close(&frequencies[10..21], &expected);
        assert_close(&[attention], &[1.138_629_4]);
    }

    #[test]
    fn yarn_without_truncation_agrees_with_transformers() {
        let scaling = RopeScaling::Yarn {
            factor: 8.0,
            original_context_length: 4096,
            attention_factor: yarn_attention_factor(8.0, 0.707) / yarn_attention_factor(8.0, 1.0),
            beta_fast: 16.0,
            beta_slow: 2.0,
            truncate: false,
        };
        let (frequencies, attention) = rope(10_000.0, scaling).inverse_frequencies(32);
        let expected = [
            0.031_622_78,
            0.015_371_677,
            0.006_221_889,
            0.002_136_700_3,
            0.000_435_575_58,
        ];
        assert_close(&frequencies[6..11], &expected);
        assert_close(&[attention], &[0.949_560_9]);
    }

    #[test]
    fn longrope_agrees_with_transformers_on_both_sides_of_the_border() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 1.1, 1.2, 1.3],
            long_factor: vec![2.0, 3.0, 4.0, 5.0],
            original_context_length: 4096,
            attention_factor: 1.25,
        };
        let rope = rope(10_000.0, scaling);
        let (frequencies, attention) = rope.inverse_frequencies(8);
        let expected = [1.0, 0.090_909_09, 0.008_333_333, 0.000_769_230_77];
        assert_close(&frequencies, &expected);
        assert_eq!(attention, 1.25);
        let (frequencies, border) = rope.long_inverse_frequencies(8).unwrap();
        assert_close(&frequencies, &[0.5, 0.033_333_335, 0.0025, 0.0002]);
        assert_eq!(border, 4096);
    }

    #[test]
    fn divisors_apply_pair_by_pair() {
        let scaling = RopeScaling::Divisors {
            divisors: vec![1.0, 2.0, 8.0],
        };
        let (frequencies, _) = rope(1000.0, scaling).inverse_frequencies(6);
        assert_close(&frequencies, &[1.0, 0.05, 0.00125]);
    }

    #[test]
    fn senseless_numbers_are_refused() {
        let refused = rope(10_000.0, RopeScaling::Linear { factor: 0.0 }).validate(8);
        assert_eq!(
            refused.unwrap_err(),
            "rope `factor` is `0`, expected a positive number from 1e-9 to 1e9"
        );
        assert!(rope(f64::NAN, RopeScaling::None).validate(8).is_err());
        let divisors = vec![1.0; 3];
        assert!(
            rope(10_000.0, RopeScaling::Divisors { divisors })
                .validate(8)
                .is_err()
        );
    }
}
