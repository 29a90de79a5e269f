//! Some of the stored values computed again with the models themselves, and what that says of all the stored values.
//!
//! What is drawn from are the distinct cells of each stage and model, as [`Stratum`]s; a cell of several stages belongs to the first, so that no
//! cell is in two. Each has a draw of its own, and no smaller share is drawn of one than of all. The cells are then computed without any cache
//! and compared: [`of_stratum`] says of each stratum how many of its values differ at most, and [`Recomputed::at_most`] the same of all of
//! them, each at 95 %; `stats::hypergeometric` says why. A cell that could not be computed counts as one that differs.
//!
//! All this speaks of stored values, and not of what is concluded from them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::Serialize;

use crate::cache::Key;
use crate::model::{Cell, LoadedModel, ModelError, Step, Value};
use crate::stats::{Draw, StatsError, at_most_in_all};

use super::draw::{draw, shares};
use super::drift::{Drift, Summary};
use super::tolerance::Tolerance;

/// The distinct cells of a stage and a model that no stage before it has.
#[derive(Clone, Debug)]
pub(crate) struct Stratum {
    pub(crate) stage: String,
    /// By its name in the study.
    pub(crate) model: String,
    pub(crate) keys: BTreeSet<Key>,
    /// Models whose activations are put into its runs and are not in the file.
    pub(crate) donors: BTreeSet<String>,
    /// Most tokens that one of its cells generates.
    pub(crate) longest: usize,
}

impl Stratum {
    pub(crate) fn count(&self) -> u64 {
        self.keys.len() as u64
    }
}

/// A draw of each of some strata.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) seed: u64,
    /// How many were asked for.
    pub(crate) wanted: u64,
    pub(crate) strata: Vec<Stratum>,
    /// The keys that were drawn, of each stratum.
    pub(crate) drawn: Vec<BTreeSet<Key>>,
}

/// What was found of a stratum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct OfStratum {
    pub(crate) stage: String,
    pub(crate) model: String,
    /// Stored values.
    pub(crate) stored: u64,
    /// How far a value may be from the stored one.
    pub(crate) tolerance: Tolerance,
    /// Of those that were computed again; cells without a value are among them.
    pub(crate) drift: Summary,
    /// Cells that gave no value.
    pub(crate) failed: u64,
    /// How many of the stored values differ by more than the tolerance at most, at 95 %.
    pub(crate) at_most: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Recomputed {
    /// By which the same cells are drawn again.
    pub(crate) seed: u64,
    pub(crate) wanted: u64,
    pub(crate) strata: Vec<OfStratum>,
    pub(crate) stored: u64,
    pub(crate) compared: u64,
    pub(crate) differing: u64,
    /// How many of all the stored values differ by more than the tolerance at most, at 95 %.
    pub(crate) at_most: u64,
    /// Cells that were computed so that each layer has one, too; they are not counted.
    pub(crate) further: Summary,
    /// Activations that were computed to be put into other runs, and how many of them have the hash that the file says.
    pub(crate) donors: u64,
    pub(crate) donors_same: u64,
}

impl Sample {
    /// Draws `wanted` of all the cells, or a few more, by a seed; all of them where there are no more.
    pub(crate) fn of(strata: Vec<Stratum>, wanted: u64, seed: u64) -> Self {
        let populations: Vec<u64> = strata
            .iter()
            .map(|stratum| stratum.keys.len() as u64)
            .collect();
        let shares = shares(&populations, wanted);
        let drawn = strata.iter().zip(shares);
        Sample {
            drawn: drawn
                .map(|(stratum, share)| draw(&stratum.keys, share, seed))
                .collect(),
            seed,
            wanted,
            strata,
        }
    }

    /// What was found, where `drifts` are those of the cells drawn of each stratum, none for a cell that gave no value, each with the tolerance
    /// of its stratum.
    ///
    /// # Errors
    /// Drifts that are not those of the draw.
    pub(crate) fn found(
        &self,
        drifts: &[(Vec<Option<Drift>>, Tolerance)],
    ) -> Result<Recomputed, StatsError> {
        let strata = self.strata.iter().zip(drifts);
        let strata =
            strata.map(|(stratum, (drifts, tolerance))| of_stratum(stratum, drifts, tolerance));
        let found: Vec<(OfStratum, Draw)> = strata.collect::<Result<_, _>>()?;
        let (strata, draws): (Vec<OfStratum>, Vec<Draw>) = found.into_iter().unzip();
        let sum = |count: fn(&Draw) -> u64| draws.iter().map(count).sum();
        Ok(Recomputed {
            seed: self.seed,
            wanted: self.wanted,
            strata,
            stored: sum(|draw| draw.population),
            compared: sum(|draw| draw.drawn),
            differing: sum(|draw| draw.differing),
            at_most: at_most_in_all(&draws)?,
            further: Summary::default(),
            donors: 0,
            donors_same: 0,
        })
    }
}

fn of_stratum(
    stratum: &Stratum,
    drifts: &[Option<Drift>],
    tolerance: &Tolerance,
) -> Result<(OfStratum, Draw), StatsError> {
    let given: Vec<Drift> = drifts.iter().copied().flatten().collect();
    let failed = (drifts.len() - given.len()) as u64;
    let drift = Summary::of(&given, tolerance.relative);
    let draw = Draw {
        population: stratum.keys.len() as u64,
        drawn: drifts.len() as u64,
        differing: drift.differing + failed,
    };
    let of_stratum = OfStratum {
        stage: stratum.stage.clone(),
        model: stratum.model.clone(),
        stored: draw.population,
        at_most: draw.at_most()?,
        tolerance: tolerance.clone(),
        drift,
        failed,
    };
    Ok((of_stratum, draw))
}

/// The values that a model gives, without any cache; none for a cell that gives none, and for all that are left when `on_step` ends the work,
/// which hears how many are done.
///
/// # Errors
/// What keeps it from giving any more values.
pub(crate) fn values(
    model: &mut LoadedModel,
    cells: &[Cell],
    on_step: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<(Vec<Option<Value>>, ControlFlow<()>), ModelError> {
    let mut values = vec![None; cells.len()];
    let mut done = 0;
    let computed = model(&cells, &mut |step| {
        if let Step::Values(some) = step {
            done += some.len();
            for (number, value) in some {
                if let Some(place) = values.get_mut(number) {
                    *place = Some(value);
                }
            }
        }
        on_step(done)
    });
    match computed {
        Ok(flow) => Ok((values, flow)),
        // They are told as what they are: cells without a value.
        Err(ModelError::Cells { .. }) => Ok((values, ControlFlow::Continue(()))),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        self, DeviceName, ModelHandle, NoMemory, Readout, ScoreDtype, TokenSets, Tokens,
        write_any_model,
    };

    fn stratum(stage: &str, first: u32, count: u32) -> Stratum {
        Stratum {
            stage: stage.to_string(),
            model: "inst".to_string(),
            keys: (first..first + count)
                .map(|number| Key::of(&number.to_le_bytes()))
                .collect(),
            donors: BTreeSet::new(),
            longest: 0,
        }
    }

    #[test]
    fn what_differs_and_what_failed_is_counted_and_bounded() {
        let strata = vec![stratum("score", 0, 100), stratum("steer", 1000, 5000)];
        let sample = Sample::of(strata, 255, 1);
        let counts: Vec<usize> = sample.drawn.iter().map(BTreeSet::len).collect();
        assert_eq!(counts, [25, 230]);
        let tolerance = |relative| Tolerance {
            relative,
            why: String::new(),
        };
        let with = |drifts: &[Vec<Option<Drift>>], relative| {
            let drifts = drifts.iter().cloned();
            let drifts: Vec<_> = drifts.map(|drifts| (drifts, tolerance(relative))).collect();
            sample.found(&drifts).unwrap()
        };
        let mut drifts = vec![
            vec![Some(Drift::Same); 25],
            vec![Some(Drift::By(1e-7)); 230],
        ];
        let found = with(&drifts, 1e-6);
        assert_eq!(
            (found.stored, found.compared, found.differing),
            (5100, 255, 0)
        );
        assert_eq!(found.strata[1].drift.largest, Some(1e-7));
        assert!(
            found.at_most >= found.strata[1].at_most && found.at_most < 5100 / 50,
            "{found:?}"
        );
        drifts[0][0] = None;
        drifts[1][0] = Some(Drift::By(1.0));
        let worse = with(&drifts, 1e-6);
        assert_eq!((worse.strata[0].failed, worse.differing), (1, 2));
        assert!(worse.at_most > found.at_most);
        // At no tolerance a value that is not the same to the bit differs.
        assert_eq!(with(&drifts, 0.0).differing, 231);
        let all = Sample::of(sample.strata.clone(), u64::MAX, 1);
        let drifts = [100, 5000].map(|count| (vec![Some(Drift::Same); count], tolerance(0.0)));
        assert_eq!(all.found(&drifts).unwrap().at_most, 0);
    }

    #[test]
    fn a_model_gives_the_values_of_its_cells_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        write_any_model(folder.path());
        let handle = ModelHandle::open(
            "inst",
            folder.path(),
            model::Dtype::Float32,
            None,
            &NoMemory,
        )
        .unwrap();
        let readout = Readout::Score(Arc::new(TokenSets {
            refuse: vec![1],
            comply: vec![2],
            dtype: ScoreDtype::Float32,
        }));
        let cell = |ids: &[u32]| {
            let tokens = Arc::new(Tokens::new(ids.to_vec()));
            Cell::new(
                handle.fingerprint,
                tokens,
                Vec::new(),
                readout.clone(),
                handle.config().n_layers,
            )
        };
        let cells = [cell(&[3, 4, 5]), cell(&[6, 7])];
        let compute = |flow: ControlFlow<()>| {
            let mut model = model::load(&handle, DeviceName::Cpu, 1 << 20).unwrap();
            values(&mut model, &cells, &mut |_| flow).unwrap()
        };
        let (first, flow) = compute(ControlFlow::Continue(()));
        assert!(flow.is_continue() && first.iter().all(Option::is_some));
        assert_eq!(compute(ControlFlow::Continue(())).0, first);
        assert!(compute(ControlFlow::Break(())).1.is_break());
    }
}
