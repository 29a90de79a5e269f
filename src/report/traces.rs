//! A sweep as curves of plain numbers, for charts in a line of text.

use super::figures::{distinct, points};
use super::{FinishedRun, FinishedStage};

/// A curve over α.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    pub(crate) stage: String,
    pub(crate) model: String,
    pub(crate) layer: i64,
    pub(crate) set: String,
    pub(crate) alphas: Vec<f64>,
    pub(crate) means: Vec<f64>,
    pub(crate) rates: Vec<f64>,
}

/// The curves of every sweep, or of one stage's.
pub(crate) fn traces(run: &FinishedRun, only: Option<&str>) -> Vec<Trace> {
    let mut traces = Vec::new();
    let stages = run
        .stages
        .iter()
        .filter(|stage| only.is_none_or(|name| name == stage.name));
    let is_sweep =
        |stage: &&FinishedStage| stage.node.product.is_some_and(|product| product.is_sweep());
    for stage in stages.filter(is_sweep) {
        let points = points(run, stage);
        for place in distinct(points.iter().map(|point| (&point.place, &point.direction))) {
            let mut here: Vec<_> = points
                .iter()
                .filter(|p| (&p.place, &p.direction) == place)
                .collect();
            here.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
            traces.push(Trace {
                stage: stage.name.clone(),
                model: place.0.model.clone(),
                layer: place.0.layer,
                set: place.0.set.clone(),
                alphas: here.iter().map(|p| p.alpha).collect(),
                means: here.iter().map(|p| p.mean.value).collect(),
                rates: here.iter().map(|p| p.rate.value).collect(),
            });
        }
    }
    traces
}
