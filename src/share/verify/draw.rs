//! Which cells are computed again: a simple draw without replacement, by a seed of the reviewer's.
//!
//! The seed is the machine's own randomness unless the reviewer gives one; it is shown and recorded, so that whoever has it can draw the same. The
//! file decides nothing of the draw but which keys there are: keys are sorted, and the numbers come from BLAKE3 in its keyed extended form, keyed
//! by a hash of the seed and of all the keys. Of these numbers Floyd's algorithm (Bentley and Floyd 1987) takes as many different places as
//! are wanted, every set of places as likely as every other. Two lists of keys have draws that know nothing of each other.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use blake3::{Hasher, OutputReader};

use crate::cache::Key;

/// A seed that nobody could know.
///
/// # Errors
/// A system without a source of randomness.
pub(crate) fn fresh_seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// So many of the keys, in their order; all of them where there are no more.
pub(crate) fn draw(keys: &BTreeSet<Key>, wanted: u64, seed: u64) -> BTreeSet<Key> {
    let count = keys.len() as u64;
    let wanted = wanted.min(count);
    let mut stream = stream(keys, seed);
    let mut places = BTreeSet::new();
    for last in count - wanted..count {
        let place = below(&mut stream, last + 1);
        if !places.insert(place) {
            places.insert(last);
        }
    }
    let numbered = keys.iter().zip(0u64..);
    let drawn = numbered.filter(|(_, place)| places.contains(place));
    drawn.map(|(key, _)| *key).collect()
}

/// How many to draw of each stratum, about `wanted` in all: four fifths by their size, so that something can be said of all values together, and
/// of a small one no fewer than its part of the rest, so that something can be said of each.
pub(crate) fn shares(populations: &[u64], wanted: u64) -> Vec<u64> {
    let all: u128 = populations.iter().map(|&count| u128::from(count)).sum();
    if u128::from(wanted) >= all {
        return populations.to_vec();
    }
    let least = wanted / 5 / (populations.len() as u64).max(1);
    let by_size = u128::from(wanted - wanted / 5);
    let of = |&count: &u64| {
        let share = (u128::from(count) * by_size).div_ceil(all.max(1));
        u64::try_from(share)
            .unwrap_or(u64::MAX)
            .max(least)
            .min(count)
    };
    let mut shares: Vec<u64> = populations.iter().map(of).collect();
    // What is left over goes to the largest.
    let mut left = wanted.saturating_sub(shares.iter().sum());
    let mut largest: Vec<usize> = (0..populations.len()).collect();
    largest.sort_by_key(|&number| std::cmp::Reverse(populations[number]));
    for number in largest {
        let more = left.min(populations[number] - shares[number]);
        shares[number] += more;
        left -= more;
    }
    shares
}

fn stream(keys: &BTreeSet<Key>, seed: u64) -> OutputReader {
    let mut hasher = Hasher::new_derive_key("dial verify draw v1");
    hasher.update(&seed.to_le_bytes());
    for key in keys {
        hasher.update(key.as_bytes());
    }
    hasher.finalize_xof()
}

/// A number below another, each as likely: what lies beyond the largest multiple of it is passed over.
fn below(stream: &mut OutputReader, bound: u64) -> u64 {
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        let mut bytes = [0; 8];
        stream.fill(&mut bytes);
        let number = u64::from_le_bytes(bytes);
        if number < fair {
            return number % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> BTreeSet<Key> {
        (0..count)
            .map(|number| Key::of(&number.to_le_bytes()))
            .collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_others() {
        let keys = keys(1000);
        let first = draw(&keys, 30, 7);
        assert_eq!(first.len(), 30);
        assert!(first.is_subset(&keys));
        assert_eq!(draw(&keys, 30, 7), first);
        assert!(draw(&keys, 30, 8).intersection(&first).count() < 15);
        assert_eq!(draw(&keys, 1000, 7), keys);
        assert_eq!(draw(&keys, 5000, 7), keys);
        assert!(draw(&keys, 0, 7).is_empty() && draw(&BTreeSet::new(), 3, 7).is_empty());
        // As a program of another language draws: whoever has a seed of an earlier version draws the same.
        let recorded: Vec<String> = draw(&keys, 3, 1)
            .iter()
            .map(|key| key.to_string()[..8].to_string())
            .collect();
        assert_eq!(recorded, ["157a4deb", "52459ae5", "99494e9e"]);
    }

    #[test]
    fn one_key_less_is_another_draw() {
        let all = keys(100);
        let drawn = draw(&all, 50, 3);
        let mut fewer = all.clone();
        fewer.pop_first();
        assert!(draw(&fewer, 50, 3).intersection(&drawn).count() < 45);
    }

    /// χ² of how often each key, and each pair, is drawn over many seeds.
    #[test]
    fn every_key_and_every_pair_is_as_likely() {
        let keys: Vec<Key> = keys(8).into_iter().collect();
        let set: BTreeSet<Key> = keys.iter().copied().collect();
        let (seeds, wanted) = (20_000u64, 3);
        let mut single = [0u64; 8];
        let mut pairs = [[0u64; 8]; 8];
        for seed in 0..seeds {
            let drawn = draw(&set, wanted, seed);
            let places: Vec<usize> = (0..8)
                .filter(|place| drawn.contains(&keys[*place]))
                .collect();
            assert_eq!(places.len(), 3);
            for &one in &places {
                single[one] += 1;
                for &other in &places {
                    pairs[one][other] += u64::from(one < other);
                }
            }
        }
        let near = |count: u64, chance: f64| {
            let expected = seeds as f64 * chance;
            let spread = (expected * (1.0 - chance)).sqrt();
            assert!(
                (count as f64 - expected).abs() < 4.5 * spread,
                "{count} {expected}"
            );
        };
        single.iter().for_each(|&count| near(count, 3.0 / 8.0));
        for (one, row) in pairs.iter().enumerate() {
            row[one + 1..]
                .iter()
                .for_each(|&count| near(count, 3.0 / 28.0));
        }
    }

    #[test]
    fn four_fifths_are_by_size_and_a_small_stratum_has_its_part_of_the_rest() {
        let populations = [1, 10, 1000, 0, 400_000];
        let drawn = shares(&populations, 500);
        let share = 400.0 / 401_011.0;
        for (drawn, population) in drawn.iter().zip(populations) {
            assert!(*drawn <= population && *drawn as f64 >= share * population as f64);
        }
        assert_eq!(drawn, [1, 10, 20, 0, 469]);
        assert_eq!(shares(&populations, u64::MAX), populations);
        assert_eq!(shares(&[], 5), Vec::<u64>::new());
    }

    #[test]
    fn fresh_seeds_differ() {
        assert_ne!(fresh_seed().unwrap(), fresh_seed().unwrap());
    }
}
