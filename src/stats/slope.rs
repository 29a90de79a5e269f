//! Least-squares slope of score on alpha.
//!
//! Every prompt is scored at the same alphas, and the slope is linear in the scores. So the slope of the mean score equals the mean
//! of the prompts' own slopes, for the whole set and for every resample of it, and the bootstrap over prompts reduces to
//! a bootstrap of the mean of one number per prompt.

use super::describe::finite_mean;
use super::{StatsError, require_finite, require_length};

/// Slope of the ordinary least-squares line of `y` on `x`, in units of y per unit of x. `None` unless `x` has two different values.
pub(crate) fn ols_slope(x: &[f64], y: &[f64]) -> Result<Option<f64>, StatsError> {
    require_length("the list of y values", y.len(), x.len())?;
    require_finite("the x values", x)?;
    require_finite("the y values", y)?;
    let (Some(x_mean), Some(y_mean)) = (finite_mean(x), finite_mean(y)) else {
        return Ok(None);
    };
    // By comparison rather than by a zero sum of squares, because the mean of equal values may be off by rounding.
    if x.iter().all(|value| *value == x[0]) {
        return Ok(None);
    }
    let squares: f64 = x.iter().map(|value| (value - x_mean).powi(2)).sum();
    let products = x.iter().zip(y).map(|(x, y)| (x - x_mean) * (y - y_mean));
    Ok(Some(products.sum::<f64>() / squares))
}

/// [`ols_slope`] of each prompt's scores `[prompt][alpha]` on the alphas, score per unit of alpha. `None` unless there are two
/// different alphas.
pub(crate) fn per_prompt_slopes(
    alphas: &[f64],
    scores: &[Vec<f64>],
) -> Result<Option<Vec<f64>>, StatsError> {
    let slope_of = |(index, prompt): (usize, &Vec<f64>)| {
        ols_slope(alphas, prompt).map_err(|error| error.in_row("prompt", index))
    };
    scores.iter().enumerate().map(slope_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALPHAS: [f64; 11] = [-10.0, -8.0, -6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 6.0];

    #[test]
    fn the_slope_equals_scipy() {
        // scipy 1.17.1: stats.linregress(alphas, y).slope; sums of eleven numbers agree to 1e-14.
        let y = [0.0, 0.1, 0.05, 0.2, 0.4, 0.35, 0.5, 0.8, 0.7, 0.9, 1.0];
        let slope = ols_slope(&ALPHAS, &y).unwrap().unwrap();
        assert!((slope - 0.06812362838332113).abs() < 1e-14, "{slope}");
        assert_eq!(
            ols_slope(&[1.0, 2.0, 3.0], &[5.0, 3.0, 1.0]),
            Ok(Some(-2.0))
        );
    }

    #[test]
    fn an_undefined_slope_is_none() {
        assert_eq!(ols_slope(&[], &[]), Ok(None));
        assert_eq!(ols_slope(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]), Ok(None));
        assert_eq!(per_prompt_slopes(&[1.0], &[vec![2.0]]), Ok(None));
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(ols_slope(&[1.0, 2.0], &[1.0]).is_err());
        let found = ols_slope(&[1.0, 2.0], &[1.0, f64::NAN]);
        assert!(found.is_err_and(|error| error.0.contains("`NaN` at index 1 of")));
        let ragged = per_prompt_slopes(&[1.0, 2.0], &[vec![0.0, 1.0], vec![0.0]]).unwrap_err();
        assert_eq!(
            ragged.to_string(),
            "in prompt 1: the list of y values has `1` values: expected 2; give one value for each"
        );
    }

    #[test]
    fn the_slope_of_the_mean_is_the_mean_of_the_slopes() {
        let scores: Vec<Vec<f64>> = (0..40)
            .map(|prompt| {
                let own = f64::from((prompt * 17) % 23) / 23.0;
                ALPHAS
                    .iter()
                    .enumerate()
                    .map(|(place, alpha)| {
                        own * alpha + f64::from((prompt * 7 + place as i32 * 5) % 11)
                    })
                    .collect()
            })
            .collect();
        let mean_scores: Vec<f64> = (0..ALPHAS.len())
            .map(|place| scores.iter().map(|row| row[place]).sum::<f64>() / 40.0)
            .collect();
        let of_mean = ols_slope(&ALPHAS, &mean_scores).unwrap().unwrap();
        let slopes = per_prompt_slopes(&ALPHAS, &scores).unwrap().unwrap();
        let mean = finite_mean(&slopes).unwrap();
        // Equal in exact arithmetic; sums of a few hundred numbers of size 10 round at 1e-14.
        assert!((mean - of_mean).abs() < 1e-12);
    }
}
