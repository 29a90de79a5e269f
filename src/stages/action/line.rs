//! One direction at one place, and the edits that are made of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::when::Gate;
use crate::model::{Edit, HookPoint, Intervention, ModelConfig, Positions, Site, Vector};
/// A named group of prompts, by index into the prompt set.
pub(crate) type Set = (String, Vec<usize>);

/// What is done at one layer and site; all parts of a line share its α.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) layer: usize,
    pub(super) site: Site,
    pub(super) act: Act,
}

/// An edit before its α is known.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Add {
        vector: Arc<Vector>,
        unit_length: f64,
    },
    Ablate(Arc<Vector>),
    /// At the input of every block and at what attention and MLP add.
    AblateEverywhere(Arc<Vector>),
    AblateSpan(Arc<[Arc<Vector>]>),
    /// To the level `base + α · unit`.
    SetLevel {
        read: Arc<Vector>,
        write: Arc<Vector>,
        base: f64,
        unit: f64,
    },
    Rotate {
        first: Arc<Vector>,
        second: Arc<Vector>,
    },
}

/// One direction at one place, or several at once, with the prompts it is tried on.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What the direction is, e.g. `top_bottom_30` or `random`, and what is done with it.
    pub(crate) direction: String,
    /// The seed behind it, if there is one.
    pub(crate) seed: Option<u64>,
    /// Where it acts; of several layers at once the first.
    pub(crate) layer: usize,
    pub(crate) site: Site,
    /// Whether what is done is done more or less.
    pub(crate) has_alpha: bool,
    /// All layers at which it acts at once, where they are several.
    pub(crate) layers: Option<String>,
    pub(super) parts: Arc<[Part]>,
    /// What else is done in the same run.
    pub(super) also: Arc<[Line]>,
    /// α of each of these; none of an ablation.
    pub(crate) also_alphas: Arc<[Option<f64>]>,
    /// On which prompts all of it is done; on all where there is none.
    pub(crate) gate: Option<Arc<Gate>>,
    /// Named groups of prompts; lines share them.
    pub(crate) sets: Arc<[Set]>,
    /// Texts of the prompts the direction was made from.
    pub(crate) builders: Arc<HashSet<String>>,
}

impl Line {
    /// The edits at α and these positions: first its own, then those of what else is done, at the positions of each.
    pub(crate) fn edits(
        &self,
        alpha: f64,
        positions: &[Positions],
        config: &ModelConfig,
    ) -> Vec<Intervention> {
        let others = self.also.iter().zip(self.also_alphas.iter());
        let others = others.map(|(line, alpha)| (line, alpha.unwrap_or(0.0)));
        let lines = [(self, alpha)].into_iter().chain(others).zip(positions);
        let each = lines.flat_map(|((line, alpha), positions)| {
            let parts = line.parts.iter();
            parts.flat_map(move |part| part.edits(alpha, positions, config))
        });
        each.collect()
    }

    /// A direction that is added at one place.
    #[cfg(test)]
    pub(crate) fn adding(
        (direction, seed): (&str, Option<u64>),
        (layer, site): (usize, Site),
        unit_length: f64,
    ) -> Self {
        let vector = Arc::new(Vector::new(vec![1.0]));
        let act = Act::Add {
            vector,
            unit_length,
        };
        Line {
            direction: direction.to_string(),
            seed,
            layer,
            site,
            has_alpha: true,
            layers: None,
            parts: [Part { layer, site, act }].into(),
            also: Arc::from([]),
            also_alphas: Arc::from([]),
            gate: None,
            sets: Arc::from([]),
            builders: Arc::default(),
        }
    }

    /// The same line with prompts to try it on.
    pub(crate) fn on(self, sets: Arc<[Set]>) -> Self {
        Line { sets, ..self }
    }
}

/// The edits that take a direction out at the input of every block and of what attention and MLP add.
pub(in crate::stages) fn ablated_everywhere(
    vector: &Arc<Vector>,
    positions: &Positions,
    config: &ModelConfig,
) -> Vec<Intervention> {
    let sites = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
    let places =
        (0..config.n_layers).flat_map(|layer| sites.map(|site| HookPoint::block(layer, site)));
    let there = places.filter(|hook| hook.is_in(config));
    let edit = |hook| Intervention {
        hook,
        positions: positions.clone(),
        edit: Edit::Ablate(Arc::clone(vector)),
    };
    there.map(edit).collect()
}

impl Part {
    fn edits(&self, alpha: f64, positions: &Positions, config: &ModelConfig) -> Vec<Intervention> {
        let at = |layer: usize, site: Site, edit: Edit| Intervention {
            hook: HookPoint::block(layer, site),
            positions: positions.clone(),
            edit,
        };
        let edit = match &self.act {
            Act::AblateEverywhere(vector) => return ablated_everywhere(vector, positions, config),
            Act::Add {
                vector,
                unit_length,
            } => Edit::Add {
                vector: Arc::clone(vector),
                scale: alpha * unit_length,
            },
            Act::Ablate(vector) => Edit::Ablate(Arc::clone(vector)),
            Act::AblateSpan(span) => Edit::AblateSpan(Arc::clone(span)),
            Act::SetLevel {
                read,
                write,
                base,
                unit,
            } => Edit::SetLevel {
                read: Arc::clone(read),
                write: Arc::clone(write),
                level: base + alpha * unit,
            },
            Act::Rotate { first, second } => Edit::Rotate {
                first: Arc::clone(first),
                second: Arc::clone(second),
                degrees: alpha,
            },
        };
        vec![at(self.layer, self.site, edit)]
    }
}

impl Line {
    /// At another layer, and perhaps another site. Away from home a direction says where it came from, so that its rows can be told from those of
    /// a direction that is at home there.
    pub(in crate::stages) fn at(self, layer: usize, site: Option<Site>) -> Self {
        let is_span = |part: &Part| matches!(&part.act, Act::AblateSpan(span) if span.len() > 1);
        let direction = match layer == self.layer || self.parts.iter().any(is_span) {
            true => self.direction.clone(),
            false => format!("{}_from_layer_{}", self.direction, self.layer),
        };
        let site = site.unwrap_or(self.site);
        let parts = self.parts.iter().map(|part| Part {
            layer,
            site,
            act: part.act.clone(),
        });
        Line {
            direction,
            layer,
            site,
            parts: parts.collect(),
            ..self
        }
    }

    /// At its own layers, and perhaps another site.
    pub(in crate::stages) fn to(self, site: Option<Site>) -> Self {
        match site {
            None => self,
            Some(_) => {
                let layer = self.layer;
                self.at(layer, site)
            }
        }
    }

    /// At every one of these layers at once.
    pub(in crate::stages) fn at_each_of(self, layers: impl Iterator<Item = usize>) -> Self {
        let parts = layers.flat_map(|layer| {
            let parts = self.parts.iter();
            parts.map(move |part| Part {
                layer,
                ..part.clone()
            })
        });
        Line {
            parts: parts.collect(),
            ..self
        }
    }
}

/// Several lines as one, whose parts share its α: all directions of a seed, each at its own place, or one direction at several layers.
pub(in crate::stages) fn together(lines: Vec<Line>) -> Vec<Line> {
    let mut by_seed: BTreeMap<Option<u64>, Vec<Line>> = BTreeMap::new();
    for line in lines {
        by_seed.entry(line.seed).or_default().push(line);
    }
    let joined = by_seed.into_values().filter_map(|lines| {
        let numbers: Vec<String> = lines.iter().map(|line| line.layer.to_string()).collect();
        let parts = lines.iter().flat_map(|line| line.parts.iter().cloned());
        let parts = parts.collect();
        let first = lines.into_iter().next()?;
        Some(Line {
            layers: Some(numbers.join("+")),
            parts,
            ..first
        })
    });
    joined.collect()
}
