//! How many of some values differ at most, when so many were drawn and so many of these differed.
//!
//! **One draw.** Of N values n are drawn without replacement, of which k differ. If K of the N differ, k is hypergeometric. [`Draw::at_most`] is
//! the largest K for which P(X ≤ k) > 0.05: the exact one-sided upper confidence limit at 95 %. With no value drawn it is N, with all k.
//!
//! **Several draws**, each from values of its own (strata), as one statement about all the values: [`at_most_in_all`]. What was drawn whole
//! is known, of what nothing was drawn all may differ, and both are just added. For the rest, let f be the smallest share drawn of a stratum, n
//! all that was drawn and k all that differed. A hypergeometric count is a sum of independent trials (Vatutin and Mikhailov 1982), at
//! most min(n, K) of them over all strata, and wherever the K values lie their mean is at least K · f. By Hoeffding's theorem (1956, theorem 4) the
//! sum of independent trials with a mean μ ≥ k + 1 is k or less at most as often as a binomial count of as many trials with that mean. So
//! every K with K · f ≥ k + 1 and P(Binomial(m, K f / m) ≤ k) ≤ 0.05, m = min(n, K), is ruled out at 95 %, whichever strata
//! the values lie in. That needs no correction for the number of strata, and is as good as one draw of all where the shares are alike. With one
//! stratum left it is the exact limit.
//!
//! Probabilities are computed as in Loader (2000), *Fast and accurate computation of binomial probabilities*, without differences of large
//! numbers.

use std::f64::consts::{LN_2, PI};

use super::StatsError;

/// What is left of certainty.
const LEVEL: f64 = 0.05;
/// Of the level: probabilities this close to it are taken to be it.
const SLACK: f64 = 1e-11;

/// A simple draw without replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    /// Values that were drawn from.
    pub(crate) population: u64,
    pub(crate) drawn: u64,
    /// Of those drawn.
    pub(crate) differing: u64,
}

impl Draw {
    /// How many of the population differ at most, at 95 %.
    ///
    /// # Errors
    /// More drawn than there are, or more that differ than were drawn.
    pub(crate) fn at_most(&self) -> Result<u64, StatsError> {
        let Draw {
            population,
            drawn,
            differing,
        } = *self;
        if differing > drawn || drawn > population {
            return Err(StatsError(format!(
                "`{differing}` of `{drawn}` drawn of `{population}`: expected no more than there are"
            )));
        }
        let most = population - (drawn - differing);
        Ok(largest(differing, most, |all| {
            is_ruled_out(self.as_few(all))
        }))
    }

    /// P(X ≤ k) if `all` values of the population differ.
    fn as_few(&self, all: u64) -> f64 {
        let (population, drawn, found) = (self.population, self.drawn, self.differing);
        let others = population - all;
        if found >= all.min(drawn) {
            return 1.0;
        }
        if found < drawn.saturating_sub(others) {
            return 0.0;
        }
        let share = drawn as f64 / population as f64;
        let probability = |found: u64| {
            let logarithm =
                ln_binomial(found, all, share) + ln_binomial(drawn - found, others, share);
            (logarithm - ln_binomial(drawn, population, share)).exp()
        };
        // Numbers of i values that differ and of drawn − i that do not: how the probability of i is to that of i − 1.
        let ratio = |i: u64| {
            let differing = (all - i + 1) as f64 / i as f64;
            let alike = (drawn - i + 1) as f64 / (others + i - drawn) as f64;
            differing * alike
        };
        let least = drawn.saturating_sub(others);
        lower_tail(
            found,
            (least, all.min(drawn)),
            all as f64 * share,
            probability,
            ratio,
        )
    }
}

/// How many of the values of all strata differ at most, at 95 %, for the draws that were made of each by itself.
///
/// # Errors
/// As [`Draw::at_most`].
pub(crate) fn at_most_in_all(strata: &[Draw]) -> Result<u64, StatsError> {
    for stratum in strata {
        stratum.at_most()?;
    }
    let of = |wanted: fn(&Draw) -> bool, count: fn(&Draw) -> u64| -> u64 {
        let wanted = strata.iter().filter(|stratum| wanted(stratum));
        wanted.map(count).sum()
    };
    let whole = of(|s| s.drawn == s.population, |s| s.differing);
    let unseen = of(|s| s.drawn == 0 && s.population > 0, |s| s.population);
    let rest = strata
        .iter()
        .filter(|s| s.drawn > 0 && s.drawn < s.population);
    let rest: Vec<Draw> = rest.copied().collect();
    let in_rest = match rest.as_slice() {
        [] => 0,
        [one] => one.at_most()?,
        several => at_most_in_several(several),
    };
    Ok(whole + unseen + in_rest)
}

/// The same where of every stratum some were drawn, and not all.
fn at_most_in_several(strata: &[Draw]) -> u64 {
    let sum = |count: fn(&Draw) -> u64| strata.iter().map(count).sum::<u64>();
    let (drawn, found) = (sum(|s| s.drawn), sum(|s| s.differing));
    let most = sum(|s| s.population - (s.drawn - s.differing));
    let shares = strata.iter().map(|s| s.drawn as f64 / s.population as f64);
    let share = shares.fold(1.0, f64::min);
    largest(found, most, |all| {
        let mean = all as f64 * share;
        let trials = drawn.min(all);
        mean >= (found + 1) as f64
            && is_ruled_out(binomial_as_few(found, trials, mean / trials as f64))
    })
}

/// P(X ≤ `found`) of a binomial count, where `found` is below its mean.
fn binomial_as_few(found: u64, trials: u64, chance: f64) -> f64 {
    if chance >= 1.0 {
        return 0.0;
    }
    let probability = |found: u64| ln_binomial(found, trials, chance).exp();
    let odds = chance / (1.0 - chance);
    let ratio = |i: u64| (trials - i + 1) as f64 / i as f64 * odds;
    lower_tail(
        found,
        (0, trials),
        trials as f64 * chance,
        probability,
        ratio,
    )
}

fn is_ruled_out(probability: f64) -> bool {
    probability <= LEVEL * (1.0 + SLACK)
}

/// The largest number from `least` to `most` that is not ruled out; those that are are the largest, and `least` is none of them.
fn largest(least: u64, most: u64, is_ruled_out: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (least, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match is_ruled_out(middle) {
            true => high = middle - 1,
            false => low = middle,
        }
    }
    low
}

/// P(X ≤ `found`) of a count from `least` to `most` whose probabilities rise up to its mean and fall behind. `ratio` of i is that of the
/// probability of i to the one of i − 1.
fn lower_tail(
    found: u64,
    (least, most): (u64, u64),
    mean: f64,
    probability: impl Fn(u64) -> f64,
    ratio: impl Fn(u64) -> f64,
) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    if (found as f64) < mean {
        for i in (least + 1..=found).rev() {
            term /= ratio(i);
            sum += term;
            if term < sum * f64::EPSILON / 4.0 {
                break;
            }
        }
        return probability(found) * sum;
    }
    for i in found + 2..=most {
        term *= ratio(i);
        sum += term;
        if term < sum * f64::EPSILON / 4.0 {
            break;
        }
    }
    1.0 - probability(found + 1) * sum
}

/// ln of the probability that `count` of so many trials succeed.
fn ln_binomial(count: u64, trials: u64, chance: f64) -> f64 {
    let (x, n) = (count as f64, trials as f64);
    if count == 0 {
        return n * (-chance).ln_1p();
    }
    if count == trials {
        return n * chance.ln();
    }
    let errors = stirling_error(trials) - stirling_error(count) - stirling_error(trials - count);
    let deviance = deviance(x, n * chance) + deviance(n - x, n * (1.0 - chance));
    let spread = LN_2 + PI.ln() + x.ln() + (-x / n).ln_1p();
    errors - deviance - spread / 2.0
}

/// ln n! less Stirling's formula for it.
fn stirling_error(n: u64) -> f64 {
    let x = n as f64;
    if n <= 15 {
        // Whole numbers that a float holds.
        let factorial: f64 = (1..=n).map(|i| i as f64).product();
        let formula = match n {
            0 => 0.0,
            _ => (x + 0.5) * x.ln() - x,
        };
        return factorial.ln() - formula - (LN_2 + PI.ln()) / 2.0;
    }
    let square = 1.0 / (x * x);
    let series = [
        1.0 / 12.0,
        -1.0 / 360.0,
        1.0 / 1260.0,
        -1.0 / 1680.0,
        1.0 / 1188.0,
    ];
    series
        .iter()
        .rev()
        .fold(0.0, |sum, term| sum * square + term)
        / x
}

/// x ln(x / m) + m − x.
fn deviance(x: f64, m: f64) -> f64 {
    if (x - m).abs() >= 0.1 * (x + m) {
        return x * (x / m).ln() + m - x;
    }
    let v = (x - m) / (x + m);
    let mut sum = (x - m) * v;
    let mut term = 2.0 * x * v;
    for j in 1..1000 {
        term *= v * v;
        let next = sum + term / f64::from(2 * j + 1);
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn draw(population: u64, drawn: u64, differing: u64) -> Draw {
        Draw {
            population,
            drawn,
            differing,
        }
    }

    fn at_most(population: u64, drawn: u64, differing: u64) -> u64 {
        draw(population, drawn, differing).at_most().unwrap()
    }

    fn golden(name: &str) -> Vec<Vec<Value>> {
        let text = include_str!("../../tests/golden/hypergeometric.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        serde_json::from_value(golden[name].clone()).unwrap()
    }

    #[test]
    fn tails_are_scipy_s() {
        for row in golden("tails") {
            let number = |at: usize| row[at].as_u64().unwrap();
            let (found, expected) = (number(3), row[4].as_f64().unwrap());
            let tail = draw(number(0), number(2), found).as_few(number(1));
            assert!((tail / expected - 1.0).abs() < 1e-9, "{row:?}: {tail}");
        }
    }

    #[test]
    fn bounds_are_those_of_whole_numbers() {
        for row in golden("bounds") {
            let [population, drawn, found, expected] =
                [0, 1, 2, 3].map(|at| row[at].as_u64().unwrap());
            assert_eq!(at_most(population, drawn, found), expected, "{row:?}");
        }
    }

    #[test]
    fn by_hand() {
        // One of 20 drawn, and alike: with 19 that differ it is drawn in 1 of 20 draws, which is ruled out.
        assert_eq!(at_most(20, 1, 0), 18);
        // P(X = 0) = C(7, 4) / C(10, 4) = 1/6 with 3, C(6, 4) / C(10, 4) = 1/14 with 4, C(5, 4) / C(10, 4) = 1/42 with 5.
        assert_eq!(at_most(10, 4, 0), 4);
        assert!((draw(10, 4, 0).as_few(5) - 1.0 / 42.0).abs() < 1e-15);
        // The rule of three: about 3 in 300.
        assert!((at_most(1_000_000, 300, 0) as f64 / 1e6 - 0.01).abs() < 1e-3);
        assert!(draw(10, 4, 5).at_most().is_err() && draw(3, 4, 0).at_most().is_err());
    }

    #[test]
    fn of_several_strata() {
        let all = |strata: &[Draw]| at_most_in_all(strata).unwrap();
        assert_eq!(all(&[]), 0);
        assert_eq!(
            all(&[draw(10, 10, 2), draw(7, 0, 0), draw(100, 59, 0)]),
            2 + 7 + 3
        );
        // Shares that are alike give what one draw of all gives, or a little more.
        let parts = all(&[draw(5000, 150, 0), draw(3000, 90, 0), draw(2000, 60, 0)]);
        let one = at_most(10_000, 300, 0);
        assert!(parts >= one && parts <= one + 2, "{parts} {one}");
        // The smallest share counts, wherever the values lie.
        assert!(all(&[draw(5000, 10, 0), draw(5000, 290, 0)]) > 1400);
    }

    /// Every way to spread so many values over two strata: how often the bound does not hold.
    #[test]
    fn the_bound_of_several_holds_however_the_values_lie() {
        let (sizes, drawn) = ([12u64, 9], [5u64, 3]);
        let chance = |stratum: usize, all: u64, found: u64| {
            let at = |found| draw(sizes[stratum], drawn[stratum], found).as_few(all);
            at(found) - if found == 0 { 0.0 } else { at(found - 1) }
        };
        for first in 0..=sizes[0] {
            for second in 0..=sizes[1] {
                let mut missed = 0.0;
                for one in 0..=drawn[0] {
                    for other in 0..=drawn[1] {
                        let probability = chance(0, first, one) * chance(1, second, other);
                        let strata = [
                            draw(sizes[0], drawn[0], one),
                            draw(sizes[1], drawn[1], other),
                        ];
                        if at_most_in_all(&strata).unwrap() < first + second {
                            missed += probability;
                        }
                    }
                }
                assert!(missed <= LEVEL + 1e-9, "{first} {second}: {missed}");
            }
        }
    }

    proptest! {
        #[test]
        fn more_found_is_more_and_more_drawn_is_less((population, drawn, found) in drawn_of(1_000_000)) {
            let bound = at_most(population, drawn, found);
            prop_assert!(bound >= found && bound <= population - (drawn - found));
            if found < drawn {
                prop_assert!(at_most(population, drawn, found + 1) >= bound);
            }
            if drawn < population {
                prop_assert!(at_most(population, drawn + 1, found) <= bound);
            }
            prop_assert_eq!(at_most(population, 0, 0), population);
            prop_assert_eq!(at_most(population, population, found), found);
        }

        #[test]
        fn so_many_are_not_ruled_out_and_one_more_is((population, drawn, found) in drawn_of(5000)) {
            let this = draw(population, drawn, found);
            let bound = this.at_most().unwrap();
            prop_assert!(this.as_few(bound) > LEVEL);
            if bound < population - (drawn - found) {
                prop_assert!(this.as_few(bound + 1) <= LEVEL * (1.0 + 1e-9));
            }
        }
    }

    fn drawn_of(most: u64) -> impl Strategy<Value = (u64, u64, u64)> {
        (1..=most)
            .prop_flat_map(|population| (Just(population), 0..=population))
            .prop_flat_map(|(population, drawn)| (Just(population), Just(drawn), 0..=drawn))
    }
}
