//! How far a value that is computed again may be from the stored one.
//!
//! On the same device, processor and libtorch every value has the same bits, with any number of threads: there nothing is allowed. Elsewhere sums
//! are taken in another order, and a value is as far off as the roundings on its way add up to. Roundings are as often up as down, so that m of
//! them come to about √m units of rounding u. A path through the largest models that are read has some 2^20 of them in float32 (products of a
//! thousand numbers and more in each of a hundred layers), where u is 2^-24; twice the result is 2^-13, about 1.2e-4. In the short formats sums are taken
//! in float32, too, and what counts is that each layer's results are rounded, some 2^10 times on a path: with u of 2^-11 (float16) and 2^-8 (bfloat16)
//! twice that is 2^-5 and 2^-2. A value that was changed by less than that cannot be told from one that was computed elsewhere.

use serde::Serialize;

use crate::model::Dtype;
use crate::plan::Lock;

/// What is allowed, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Tolerance {
    /// Of the larger of 1 and the largest stored number of a value; 0 where the bits must be the same.
    pub(crate) relative: f64,
    /// A clause.
    pub(crate) why: String,
}

impl Tolerance {
    /// Between what computed a study and what computes here, as their locks have it, for a model of a dtype.
    pub(crate) fn between(stored: &Lock, here: &Lock, dtype: Dtype) -> Self {
        let (there, here) = (&stored.environment, &here.environment);
        let mut differs = Vec::new();
        for (what, is_same) in [
            ("device", there.device == here.device),
            (
                "processor",
                there.processor.is_some() && there.processor == here.processor,
            ),
            ("libtorch", there.libtorch == here.libtorch),
            ("dial", there.dial == here.dial),
        ] {
            if !is_same {
                differs.push(what);
            }
        }
        // Which one it was is not recorded.
        if differs.is_empty() && here.device != "cpu" {
            differs.push("graphics processor, perhaps,");
        }
        if differs.is_empty() {
            return Tolerance {
                relative: 0.0,
                why: "device, processor, libtorch and dial are the same, which give the same bits"
                    .to_string(),
            };
        }
        let relative = match dtype {
            Dtype::Float32 => 2f64.powi(-13),
            Dtype::Float16 => 2f64.powi(-5),
            Dtype::BFloat16 => 2f64.powi(-2),
        };
        Tolerance {
            relative,
            why: format!(
                "another {} rounds otherwise, in {} by about so much",
                differs.join(" and another "),
                dtype.name()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(device: &str, processor: Option<&str>, libtorch: &str) -> Lock {
        let mut lock = Lock::default();
        lock.environment.device = device.to_string();
        lock.environment.processor = processor.map(str::to_string);
        lock.environment.libtorch = libtorch.to_string();
        lock
    }

    #[test]
    fn bits_are_asked_for_where_nothing_differs_and_a_bound_is_stated_elsewhere() {
        let author = lock("cpu", Some("one"), "2.9");
        let to = |here: &Lock, dtype| Tolerance::between(&author, here, dtype);
        assert_eq!(to(&author, Dtype::BFloat16).relative, 0.0);
        let other = to(&lock("cpu", Some("other"), "2.8"), Dtype::Float32);
        assert!((other.relative - 1.2e-4).abs() < 1e-5);
        assert_eq!(
            other.why,
            "another processor and another libtorch rounds otherwise, in float32 by about so much"
        );
        assert_eq!(
            to(&lock("cuda:0", Some("one"), "2.9"), Dtype::Float16).relative,
            1.0 / 32.0
        );
        // A processor that is not known may be another, and a graphics processor is not recorded.
        let unknown = lock("cpu", None, "2.9");
        assert_ne!(
            Tolerance::between(&unknown, &unknown, Dtype::Float32).relative,
            0.0
        );
        let graphics = lock("cuda:0", Some("one"), "2.9");
        assert_ne!(
            Tolerance::between(&graphics, &graphics, Dtype::Float32).relative,
            0.0
        );
    }
}
