//! Which stages of a study a run is about.

use std::collections::BTreeSet;

use crate::plan::Study;

use super::RunError;

/// The stages to run. What they need runs too, since that is what decides whether they are cached; where it is cached, that costs a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Every stage.
    #[default]
    All,
    /// One stage.
    Only(String),
    /// One stage and every stage that builds on it.
    From(String),
}

impl Selection {
    /// Names of the stages to run.
    pub(super) fn stages(&self, study: &Study) -> Result<BTreeSet<String>, RunError> {
        let mut wanted = match self {
            Selection::All => study.stages.iter().map(|s| s.name.clone()).collect(),
            Selection::Only(stage) => {
                check(study, stage, "--only")?;
                BTreeSet::from([stage.clone()])
            }
            Selection::From(stage) => {
                check(study, stage, "--from")?;
                downstream(study, stage)
            }
        };
        // Stages come after those they need, so one walk backwards finds everything.
        for spec in study.stages.iter().rev() {
            if wanted.contains(&spec.name) {
                let needed = spec.stage.needs().stages.into_iter();
                wanted.extend(needed.map(|(name, _)| name.value));
            }
        }
        Ok(wanted)
    }
}

/// A stage and every stage that builds on it.
fn downstream(study: &Study, stage: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::from([stage.to_string()]);
    for spec in &study.stages {
        let needs = spec.stage.needs().stages;
        if needs.iter().any(|(name, _)| names.contains(&name.value)) {
            names.insert(spec.name.clone());
        }
    }
    names
}

/// Checks that a stage is one of the study's.
fn check(study: &Study, stage: &str, option: &str) -> Result<(), RunError> {
    match study.unknown_stage(stage) {
        None => Ok(()),
        Some(hint) => Err(RunError::UnknownStage(format!(
            "the study has no stage `{stage}` to run with `{option}`; {hint}"
        ))),
    }
}

/// Checks that the stages to compute again are among those to run.
pub(super) fn check_forced(
    study: &Study,
    wanted: &BTreeSet<String>,
    forced: &[String],
) -> Result<(), RunError> {
    for stage in forced {
        check(study, stage, "--force")?;
        if !wanted.contains(stage) {
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            return Err(RunError::UnknownStage(format!(
                "stage `{stage}` is to be computed again with `--force`, but is not among the stages to run: `{}`",
                wanted.join("`, `")
            )));
        }
    }
    Ok(())
}
