//! The train/holdout split: a hash of seed and id, so that a prompt's side depends on nothing else in the set.

use md5::{Digest, Md5};

/// The hash keeps this many values: 10^7.
const BUCKETS: u32 = 10_000_000;

/// A prompt's place in [0, 1) for one seed: `(md5("{seed}::{id}") as a big-endian integer mod 10^7) / 10^7`, the id in UTF-8.
/// The formula is the study's; MD5 serves as a stable spreading function here, not for security.
pub(crate) fn holdout_unit(seed: u64, id: &str) -> f64 {
    let digest: [u8; 16] = Md5::digest(format!("{seed}::{id}")).into();
    let bucket = u128::from_be_bytes(digest) % u128::from(BUCKETS);
    bucket as f64 / f64::from(BUCKETS)
}

/// Whether a prompt is held out: [`holdout_unit`] strictly below `fraction` (0 to 1).
pub(crate) fn is_holdout(seed: u64, id: &str, fraction: f64) -> bool {
    holdout_unit(seed, id) < fraction
}

/// Indices into the ids that were split, each list in lexicographic order of the ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HoldoutSplit {
    /// Prompts that may build the direction.
    pub(crate) train: Vec<usize>,
    /// Prompts kept for evaluation.
    pub(crate) holdout: Vec<usize>,
}

/// Splits ids by [`is_holdout`]. The order within each half is lexicographic by code point, whatever the order given; equal
/// ids keep theirs. At a given `fraction` either half may come out empty.
pub(crate) fn holdout_split<S: AsRef<str>>(seed: u64, ids: &[S], fraction: f64) -> HoldoutSplit {
    let (holdout, train) = lexicographic_order(ids)
        .into_iter()
        .partition(|&index| is_holdout(seed, ids[index].as_ref(), fraction));
    HoldoutSplit { train, holdout }
}

/// The indices of `ids` in lexicographic order; UTF-8 byte order is code point order.
pub(super) fn lexicographic_order<S: AsRef<str>>(ids: &[S]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by(|&a, &b| ids[a].as_ref().cmp(ids[b].as_ref()));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_equal_python() {
        // (int(hashlib.md5(f"{seed}::{id}".encode()).hexdigest(), 16) % 10**7) / 10**7, the same division of the same integers.
        assert_eq!(holdout_unit(0, "e001"), 0.8813081);
        assert_eq!(holdout_unit(0, "e002"), 0.8604491);
        assert_eq!(holdout_unit(4, "e120"), 0.5983052);
        assert_eq!(holdout_unit(7, "naïve"), 0.172766);
    }

    #[test]
    fn the_fraction_is_a_strict_bound() {
        let unit = holdout_unit(0, "e001");
        assert!(!is_holdout(0, "e001", unit));
        assert!(is_holdout(0, "e001", unit + 1e-9));
        assert!(!is_holdout(0, "e001", 0.0));
        assert!(is_holdout(0, "e001", 1.0));
    }

    #[test]
    fn the_split_is_lexicographic_and_does_not_depend_on_the_order_given() {
        let ids = ["e010", "e9", "e002", "E1", "é", "e001"];
        let split = holdout_split(0, &ids, 0.0);
        let named: Vec<&str> = split.train.iter().map(|&i| ids[i]).collect();
        assert_eq!(named, ["E1", "e001", "e002", "e010", "e9", "é"]);
        assert!(split.holdout.is_empty());

        let mut reversed = ids;
        reversed.reverse();
        let half = holdout_split(3, &ids, 0.5);
        let other = holdout_split(3, &reversed, 0.5);
        let name = |ids: &[&str], half: &[usize]| -> Vec<String> {
            half.iter().map(|&i| ids[i].to_owned()).collect()
        };
        assert_eq!(name(&ids, &half.train), name(&reversed, &other.train));
        assert_eq!(name(&ids, &half.holdout), name(&reversed, &other.holdout));
        assert_eq!(half.train.len() + half.holdout.len(), ids.len());
    }
}
