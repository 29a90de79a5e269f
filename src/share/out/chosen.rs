//! The direction that is meant: of a run, a stage, and what tells several of that stage apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use crate::manifest;
use crate::model::Site;
use crate::plan::Study;
use crate::report::FinishedRun;
use crate::stages::Direction;

use super::{OutError, asked};

/// Directions that a message lists.
const LISTED: usize = 20;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Which {
    /// The run's folder.
    pub(crate) run: PathBuf,
    pub(crate) stage: String,
    pub(crate) layer: Option<usize>,
    pub(crate) site: Option<Site>,
    pub(crate) position: Option<i64>,
    pub(crate) seed: Option<u64>,
}

/// A direction of a run.
pub(crate) struct Chosen {
    pub(crate) run: FinishedRun,
    pub(crate) stage: String,
    pub(crate) direction: Direction,
}

impl Which {
    /// The direction that is meant.
    ///
    /// # Errors
    /// No such stage, one without directions, or several that fit, with those that there are.
    pub(crate) fn choose(&self) -> Result<Chosen, OutError> {
        let run = FinishedRun::open(&self.run)?;
        let stage = &self.stage;
        if run.stage(stage).is_none() {
            let names = run.stages.iter().map(|stage| stage.name.as_str());
            let hint = match crate::spec::suggest(stage, names) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => with_directions(&run)?,
            };
            return asked(format!("the run has no stage `{stage}`; {hint}"));
        }
        let all = run.directions(stage)?;
        if all.is_empty() {
            let others = with_directions(&run)?;
            return asked(format!("stage `{stage}` left no direction; {others}"));
        }
        let fitting: Vec<&Direction> = all.iter().filter(|d| self.fits(d)).collect();
        let direction = match fitting.as_slice() {
            [only] => (*only).clone(),
            [] => {
                return asked(format!(
                    "stage `{stage}` has no such direction; it has\n{}",
                    listed(&all.iter().collect::<Vec<_>>())
                ));
            }
            several => {
                return asked(format!(
                    "stage `{stage}` has {} directions that could be meant; say which\n{}",
                    several.len(),
                    listed(several)
                ));
            }
        };
        Ok(Chosen {
            run,
            stage: stage.clone(),
            direction,
        })
    }

    fn fits(&self, direction: &Direction) -> bool {
        self.layer.is_none_or(|layer| layer == direction.layer)
            && self.site.is_none_or(|site| site == direction.site)
            && (self.position.is_none() || self.position == direction.position)
            && self.seed.is_none_or(|seed| Some(seed) == direction.seed)
    }
}

/// The stages of a run that left directions, as a hint.
fn with_directions(run: &FinishedRun) -> Result<String, OutError> {
    let mut names = Vec::new();
    for stage in &run.stages {
        if !run.directions(&stage.name)?.is_empty() {
            names.push(format!("`{}`", stage.name));
        }
    }
    Ok(match names.is_empty() {
        true => "no stage of the run did".to_string(),
        false => format!("directions are left by {}", names.join(", ")),
    })
}

/// How each direction would be asked for: by what is not the same in all.
fn listed(directions: &[&Direction]) -> String {
    let options = |d: &Direction| {
        [
            format!("--layer {}", d.layer),
            format!("--site {}", d.site.short_name()),
            d.position
                .map_or(String::new(), |position| format!("--position {position}")),
            d.seed
                .map_or(String::new(), |seed| format!("--seed {seed}")),
        ]
    };
    let each: Vec<[String; 4]> = directions.iter().map(|d| options(d)).collect();
    let varies = |at: usize| each.iter().map(|o| &o[at]).collect::<BTreeSet<_>>().len() > 1;
    let shown: Vec<usize> = (0..4).filter(|at| varies(*at) || each.len() == 1).collect();
    let mut text = String::new();
    for options in each.iter().take(LISTED) {
        let words: Vec<&str> = shown.iter().map(|at| options[*at].as_str()).collect();
        let _ = writeln!(text, "  {}", words.join(" ").trim_end());
    }
    match each.len().saturating_sub(LISTED) {
        0 => text.trim_end().to_string(),
        more => format!("{text}  … and {more} more"),
    }
}

impl Chosen {
    /// What the run's manifest has of the model that the direction was made on.
    pub(super) fn model(&self) -> Option<&manifest::Model> {
        self.run.manifest.models.get(&self.direction.model)
    }

    /// What a file says of the direction, by name.
    pub(super) fn about(&self, study: Option<&Study>) -> BTreeMap<String, String> {
        let Direction {
            label,
            seed,
            model,
            fingerprint,
            layer,
            site,
            position,
            token,
            pre_norm,
            resid_norm,
            ..
        } = &self.direction;
        let known = self.model();
        let source = known.and_then(|model| model.source.clone());
        let licence = study.and_then(|study| study.models.get(model)?.licence.clone());
        let said = [
            (
                "made_by",
                Some(format!("dial {}", env!("CARGO_PKG_VERSION"))),
            ),
            ("study", Some(self.run.study().to_string())),
            ("stage", Some(self.stage.clone())),
            ("direction", Some(label.clone())),
            ("seed", seed.map(|seed| seed.to_string())),
            ("model", Some(model.clone())),
            // A path is this machine's own.
            (
                "model_source",
                source.filter(|source| source.starts_with("hf:")),
            ),
            ("model_fingerprint", Some(fingerprint.clone())),
            (
                "model_type",
                known.map(|model| model.config.architecture.clone()),
            ),
            ("model_licence", licence),
            (
                "licence",
                study.and_then(|study| study.credits.licence.clone()),
            ),
            ("layer", Some(layer.to_string())),
            ("site", Some(site.short_name().to_string())),
            // A mean over all tokens has none.
            ("position", position.map(|position| position.to_string())),
            ("token", token.clone()),
            ("pre_norm", Some(pre_norm.to_string())),
            ("resid_norm", resid_norm.map(|norm| norm.to_string())),
        ];
        let said = said
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_string(), value?)));
        said.filter(|(_, value)| !value.is_empty()).collect()
    }
}
