//! `summary`: the statistics of sweeps, with intervals and controls.
//!
//! Any of `steer`, `holdout`, `random` and `xstest` may be given; each is the name of a stage that sweeps. Two splits are compared:
//! `edge` prompts, which should be answered, and `harmful` ones, which should be refused; gap = harmful rate − edge rate. On a holdout
//! sweep edge is the held-out half. The main table describes every (source, model, layer, α, set). The others, each left out
//! where its source is not given:
//!
//! | table | what it holds | file |
//! |---|---|---|
//! | `verdict` | what the study shows of each direction, part by part | `summary/verdict.rs` |
//! | `texts` | how much the score refuses beside how much the texts do | `summary/texts.rs` |
//! | `controls` | rates and gap over the seeds of holdout and random | `summary/controls.rs` |
//! | `generalisation` | how far held-out rates lie from training rates | `summary/controls.rs` |
//! | `pareto` | α with the fewest edge and the most harmful refusals | `summary/operating.rs` |
//! | `operating_points` | the α that a reader asks for first | `summary/operating.rs` |
//! | `operating_halves` | the same, chosen on one half of the prompts and reported on the other | `summary/halves.rs` |
//! | `prompted` | what another system prompt does, of the stage that `prompted` names | `summary/prompted.rs` |
//! | `learned_vs_random` | slope and largest gap against random directions | `summary/learned.rs` |
//! | `xstest` | rates by label and type, with and without builders | `summary/xstest.rs` |
//! | `direction_cosines` | how much the holdout directions of different seeds and layers have in common | `summary/controls.rs` |
//! | `agreement` | generated texts against the score (κ), of the stage that `generate` names | `generate/tables.rs` |
//!
//! An imported sweep may have a row for each group of prompts instead of one for each prompt (`summary/grid.rs`): the same tables, but
//! means and slopes have no intervals over prompts.
//!
//! A summary is of one score rule, after which the column of rates is called. Texts are refusals or not: where the rule is another than the
//! default, they say nothing of it.
//!
//! A sweep over many seeds has many rows of one prompt, which are not independent. Means and rates are over all rows, and intervals
//! are over prompts: see `summary/pool.rs`.

use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::spec::{Choice, Fields};
use crate::stats::{self, Targets};

use super::declare::{Declared, Field, FieldType, KeyParts, Parameter};
use super::field_types::Given;
use super::parameters::{Rate, ScoreStage, SweepStage, TextStage};
use super::prelude::*;
use super::rules::REFUSED;
use super::{Artifacts, Needs, distinct};

mod controls;
mod describe;
mod grid;
mod halves;
mod learned;
mod operating;
mod pool;
mod prompted;
mod texts;
mod verdict;
mod xstest;

pub(crate) use grid::Source;
use grid::{Grid, Splits};
pub(crate) use verdict::{Outcome, PARTS};

pub(super) static KIND: Kind = super::kind::<Summary>(
    "summary",
    7,
    Product::Summary,
    "rates with intervals, operating points, and controls",
    &TOLD,
);

const GENERALISATION_MEAN: ColumnTold = ColumnTold::of(
    "gap_mean",
    "mean over α of |held-out edge rate − training edge rate|, both means over seeds",
    "0 to 1",
);
const GENERALISATION_MAX: ColumnTold = ColumnTold::of("gap_max", "the largest over α", "0 to 1");

const TESTED: ColumnTold = ColumnTold::of(
    "n",
    "random directions, texts or seeds behind the test",
    "count",
);

const TEXTS: ColumnTold = ColumnTold::of("n", "texts", "count");

const PROMPTED_CHANGE: ColumnTold = ColumnTold::of(
    "change",
    "mean over prompts of the score less that of the same prompt at α = 0; blank where a prompt of the set was not steered",
    "logits",
);

static TOLD: Told = Told {
    computes: "Statistics of sweeps: any of `steer`, `holdout`, `random`, `xstest` names a stage, and at least one is given. Two splits are \
        compared, `edge`, whose prompts should be answered, and `harmful`, whose prompts should be refused; `gap = harmful rate − edge \
        rate`. On a holdout sweep edge is the half held out, and so is `harmful` where it is one of the groups that were divided. Means and rates are over all rows, their intervals over prompts (one prompt \
        under several seeds is one prompt). What α does is paired: `change = mean over rows of (score at α − score of the same prompt at α = \
        0)`, with an interval of its own. One prompt has no interval, nor have values that are all alike. All is of one score rule, `read`; texts are told \
        refusals by, and nothing of other rules. Slopes are least squares of the mean score on α. `p = (1 + k) / (1 + n)` where k of n random \
        directions do as well.",
    tables: &[
        TableTold::of(
            "",
            "a row for each sweep, model, place, α and set",
            "source model layer site direction alpha set n prompts mean std ddof mean_low mean_high change change_low change_high refusal_rate? <rule>_rate? rate_low rate_high",
        ),
        TableTold::of(
            "verdict",
            "what the study shows of each direction: a row for each model, place, part and what it was tested on",
            "model layer site direction? part of outcome value low high p smallest_p auroc n why",
        )
        .but(&[TESTED]),
        TableTold::of(
            "texts",
            "what the score calls refusals beside what the texts are: a row for each direction's model and place, classifier, and α that count; with `generate`",
            "model layer site direction? classifier over n prompts score_rate score_rate_low score_rate_high text_rate text_rate_low text_rate_high agreement \
             kappa kappa_low kappa_high auroc",
        )
        .but(&[TEXTS]),
        TableTold::of(
            "controls",
            "rates and gap over seeds: a row for each sweep, model, place and α; of holdout and random",
            "source model layer site direction? alpha seeds edge_mean edge_std harmful_mean harmful_std gap_mean gap_std",
        ),
        TableTold::of(
            "generalisation",
            "how far refusal rates on held-out prompts lie from those on training prompts: a row for each model and place; of holdout",
            "model layer site direction? seeds gap_mean gap_max",
        )
        .but(&[GENERALISATION_MEAN, GENERALISATION_MAX]),
        TableTold::of(
            "pareto",
            "the α that no other beats in both rates: fewer edge and more harmful refusals",
            "source model layer site direction? alpha edge_rate harmful_rate gap edge_rate_low edge_rate_high harmful_rate_low harmful_rate_high",
        ),
        TableTold::of(
            "operating_points",
            "the α that a reader asks for first: a row for each sweep, model and place. `<point>` is `edge_target`, `harmful_target` or `largest_gap`",
            "source model layer site direction? gap_at_zero edge_target harmful_target largest_gap alpha_at_<point> edge_rate_at_<point> harmful_rate_at_<point>",
        ),
        TableTold::of(
            "operating_halves",
            "the same α chosen on one half of the prompts, by a hash of seed and id, and their rates on the other half, which had no say: a row for \
             each sweep, model, place and point",
            "source model layer site point target alpha chosen_edge_rate chosen_harmful_rate chosen_gap chosen_edge_n chosen_harmful_n edge_rate \
             edge_rate_low edge_rate_high harmful_rate harmful_rate_low harmful_rate_high gap edge_n harmful_n",
        ),
        TableTold::of(
            "prompted",
            "what another system prompt does to the score, beside what α does: a row for each model and split of the stage that `prompted` names",
            "model set n mean mean_low mean_high change change_low change_high refusal_rate rate_low rate_high",
        )
        .but(&[PROMPTED_CHANGE]),
        TableTold::of(
            "learned_vs_random",
            "the learned direction against the random ones: a row for each model, place and set, and one for the gap",
            "model layer site direction? learned_from set statistic n_alpha learned learned_low learned_high holdout holdout_low holdout_high random_mean \
             random_std n_random z p_one_sided p_two_sided",
        ),
        TableTold::of(
            "direction_cosines",
            "how much holdout directions have in common: a row for each pair of layers, of one layer over pairs of seeds, of two over seeds",
            "layer_a layer_b pairs cosine_mean cosine_low cosine_high",
        ),
        told::AGREEMENT,
    ],
    example: r#"
[stages.summary]
steer = "steer"
holdout = "holdout"
random = "random"
xstest = "xstest"
generate = "generate"
"#,
};

parameters! {
    struct Summary {
        sources: Sources,
        /// The split of prompts that should be answered.
        edge: Name = "edge",
        /// The split of prompts that should be refused.
        harmful: Name = "harmful",
        /// The rate of refusals among `edge` prompts to stay at or below.
        edge_target: Rate = Targets::default().edge,
        /// The rate of refusals among `harmful` prompts to stay at or below.
        harmful_target: Rate = Targets::default().harmful,
        /// Seed of the bootstrap, and of the halves that operating points are chosen and reported on.
        seed: u64 = 0,
        /// A stage of texts, whose agreement with the score is told; refusals, by the default score rule.
        generate: Option<Given<TextStage>>,
        /// Scores of the same prompts under another system prompt (`[stages.NAME.chat]`), which are told beside the steered ones.
        prompted: Option<Given<ScoreStage>>,
        /// The score rule that is summarised, where a sweep reads several; the first that each reads where left out.
        read: OfRule,
    }
}

/// The sweeps that are summarised: at least one, in the order of [`Source`].
struct Sources(Vec<(Source, SweepStage)>);

impl Parameter for Sources {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        let mut found = Vec::new();
        for (name, source, _) in Source::CHOICES {
            found.extend(fields.optional(name).map(|stage| (*source, stage)));
        }
        let mut names = Source::CHOICES.iter().map(|(name, ..)| name);
        if names.all(|name| fields.node(name).is_none()) {
            let at = fields.at;
            let expected = "`steer`, `holdout`, `random` or `xstest`, with the name of a stage";
            fields
                .problems
                .error_at(at, "a summary needs at least one sweep")
                .label(format!("expected {expected}"));
        }
        (!found.is_empty()).then_some(Self(found))
    }

    /// Which input is which; their content is in the key already. How often the bootstrap draws, no study says.
    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        let given = self.0.iter().map(|(source, _)| source.name());
        key.insert(name.to_string(), given.collect());
        key.insert("resamples".to_string(), stats::BOOTSTRAP_RESAMPLES.into());
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.0.iter().for_each(|(_, stage)| stage.refer(needs));
    }

    fn list(_: &Declared) -> Vec<Field> {
        let all = Source::CHOICES.iter();
        let fields = all.map(|(name, _, about)| Field::optional::<SweepStage>(name, about));
        fields.collect()
    }
}

impl Stage for Summary {
    fn compared_splits(&self) -> Option<Splits> {
        Some(self.splits())
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        self.check_rule(inputs, problems);
        for (source, name) in &self.sources.0 {
            let Some(forecast) = inputs.forecast(name) else {
                continue;
            };
            if !forecast.has_alpha && !forecast.sets.is_empty() {
                let message = format!("stage `{}` has no α to summarise", name.value);
                problems
                    .error_at(&name.at, message)
                    .label("an ablation is one setting, not a sweep");
            }
            self.read.check(name, inputs, problems);
            if *source != Source::XsTest {
                self.check_sets(*source, name, &forecast.sets, problems);
            }
        }
        if let Some(Given(scores)) = &self.prompted {
            self.check_prompted(scores, inputs, problems);
        }
    }

    fn run(&self, inputs: &Inputs, _evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let mut grids = Vec::new();
        // Of each grid, whether it is of the prompts that are scored under another system prompt.
        let mut of_prompted = Vec::new();
        let mut between_holdouts = None;
        for (source, name_of_stage) in &self.sources.0 {
            let swept = inputs.stage(name_of_stage)?;
            let name = &name_of_stage.value;
            if !swept.has_table("") {
                return Err(StageError::Data(format!(
                    "stage `{name}` has no scores of prompts and no rates of groups to summarise"
                )));
            }
            // A rule that is not the main table's has one of its own.
            let of_rule = self.read.name().filter(|rule| swept.has_table(rule));
            let found = grid::read(*source, &swept.table(of_rule.unwrap_or_default())?)
                .map_err(|problem| StageError::Data(format!("stage `{name}`: {problem}")))?;
            of_prompted.extend(
                found
                    .iter()
                    .map(|_| self.is_of_prompted(name_of_stage, inputs)),
            );
            grids.extend(found);
            // An imported holdout has no directions, and so no cosines.
            if *source == Source::Holdout && swept.has_table("cosine") {
                between_holdouts = Some(swept.table("cosine")?);
            }
        }
        let rule = one_rule(&grids)?;
        let splits = self.splits();
        let comparisons = learned::compare(&grids, &splits, self.seed)?;
        let written = self.generate.as_ref().map(|name| inputs.stage(name));
        let written = written.transpose()?;
        let of_texts = written.filter(|written| rule == REFUSED && written.has_table(""));
        let of_texts = of_texts.map(|written| written.table("")).transpose()?;
        let compared = of_texts
            .map(|table| texts::compare(learned::places(&comparisons), &table, self.seed))
            .transpose()?;
        let evidence = verdict::Evidence {
            texts: compared.as_deref(),
            has_texts: written.is_some(),
            rule,
            cosines: between_holdouts.as_ref(),
        };
        let tests = verdict::tests(&comparisons, &evidence)?;
        let points = operating::table(&grids, &splits, self.targets())?;
        let mut tables = vec![
            ("", describe::table(&grids, rule, self.seed)?),
            ("verdict", verdict::table(&tests)?),
            (
                "texts",
                texts::table(compared.as_deref().unwrap_or_default())?,
            ),
            ("controls", controls::table(&grids, &splits)?),
            ("generalisation", controls::generalisation(&grids, &splits)?),
            ("pareto", operating::pareto(&grids, &splits)?),
            ("operating_points", points),
            (
                "operating_halves",
                halves::table(&grids, &splits, self.targets(), self.seed)?,
            ),
            ("learned_vs_random", learned::table(&comparisons)?),
        ];
        if let Some(Given(scores)) = &self.prompted {
            let scores = inputs.stage(scores)?.table("")?;
            let grids = grids.iter().zip(of_prompted).filter(|(_, is)| *is);
            let grids = grids.map(|(grid, _)| grid);
            tables.push(("prompted", prompted::table(&scores, grids, self.seed)?));
        }
        if let Some(cosines) = &between_holdouts {
            tables.push(("direction_cosines", controls::direction_cosines(cosines)?));
        }
        let agrees = |written: &&Arc<Artifacts>| rule == REFUSED && written.has_table("agreement");
        if let Some(written) = written.filter(agrees) {
            tables.push(("agreement", written.table("agreement")?));
        }
        tables.retain(|(_, table)| table.height() > 0);
        let mut findings = verdict::findings(&tests);
        findings.extend(describe::without_room(
            &learned::places(&comparisons),
            &splits,
        ));
        findings.extend(learned::findings(&comparisons, &grids));
        findings.extend(xstest::finding(&grids));
        let named = |(name, table): (&str, _)| (name.to_string(), table);
        Ok(Output {
            tables: tables.into_iter().map(named).collect(),
            findings,
            ..Output::default()
        })
    }
}

impl Summary {
    fn splits(&self) -> Splits {
        Splits {
            edge: self.edge.value.clone(),
            harmful: self.harmful.value.clone(),
        }
    }

    fn targets(&self) -> Targets {
        Targets {
            edge: self.edge_target.value,
            harmful: self.harmful_target.value,
        }
    }

    /// Whether a sweep is of the prompts that the stage `prompted` scores.
    fn is_of_prompted(&self, sweep: &Name, inputs: &Inputs) -> bool {
        let set = |stage: &Name| inputs.forecast(stage)?.prompts.as_ref();
        let scored = self.prompted.as_ref().and_then(|scores| set(scores));
        scored.is_some() && scored == set(sweep)
    }

    /// Checks that scores under another system prompt stand beside a sweep of the same prompts on the same model.
    fn check_prompted(&self, scores: &Name, inputs: &Inputs, problems: &mut Problems) {
        let Some(scored) = inputs.forecast(scores) else {
            return;
        };
        let sweeps = self.sources.0.iter().map(|(_, sweep)| &sweep.0);
        let beside: Vec<&Name> = sweeps
            .filter(|sweep| self.is_of_prompted(sweep, inputs))
            .collect();
        // A name that stands for nothing has been told where it stands.
        let is_known = |set: &String| inputs.prompts.contains_key(set);
        if beside.is_empty() && scored.prompts.as_ref().is_some_and(is_known) {
            let set = scored.prompts.as_deref().unwrap_or_default();
            let message = format!(
                "stage `{scores}` scores the prompts of `{set}`, and no sweep here is of these"
            );
            problems
                .error_at(&scores.at, message)
                .label("expected scores of prompts that are steered");
            return;
        }
        let is_steered = |model: &String| {
            let mut forecasts = beside.iter().filter_map(|sweep| inputs.forecast(sweep));
            forecasts.any(|sweep| sweep.models.contains(model))
        };
        if !beside.is_empty() && !scored.models.iter().any(is_steered) {
            let models = scored.models.join("`, `");
            let message = format!("stage `{scores}` scores `{models}`, which no sweep here steers");
            problems
                .error_at(&scores.at, message)
                .label("expected scores of a model that is steered");
        }
    }

    /// Checks that it is known which score rule is summarised, and that texts are compared with no other.
    fn check_rule(&self, inputs: &Inputs, problems: &mut Problems) {
        let first = |name: &Name| inputs.forecast(name)?.rules.first().cloned();
        let sweeps = self.sources.0.iter();
        let sweeps = sweeps.filter_map(|(_, name)| Some((name, first(name)?)));
        let sweeps: Vec<(&SweepStage, String)> = sweeps.collect();
        let Some((one, rule)) = sweeps.first() else {
            return;
        };
        let rule = self.read.name().unwrap_or(rule);
        let other = sweeps.iter().find(|(_, other)| other != rule);
        if let (None, Some((name, other))) = (self.read.name(), other) {
            let message = format!(
                "the sweeps of `{}` are by the score rule `{rule}`, those of `{}` by `{other}`",
                one.value, name.value
            );
            problems
                .error_at(&name.at, message)
                .label(format!("by `{other}`"))
                .help("say with `read` which rule is summarised, and name it in the field `read` of each sweep");
        }
        let texts = self.generate.as_ref().map(|texts| -> &Name { texts });
        let by = texts.and_then(|texts| Some((texts, first(texts)?)));
        if let Some((texts, by)) = by.filter(|(_, by)| rule == REFUSED && by != REFUSED) {
            let message = format!(
                "the texts of `{texts}` have scores by the rule `{by}`, not by `{REFUSED}`"
            );
            problems
                .error_at(&texts.at, message)
                .label("nothing to hold the texts against")
                .help("leave `read` out there, or `generate` here");
        }
    }

    /// Checks that a sweep has the two sets that are compared.
    fn check_sets(&self, source: Source, sweep: &Name, sets: &[String], problems: &mut Problems) {
        // Where a name is not written, its place is that of the stage.
        let place = |label: &Name, name| (label.at.field() == name).then(|| label.at.clone());
        let wanted = [
            (&self.edge, place(&self.edge, "edge")),
            (&self.harmful, place(&self.harmful, "harmful")),
        ];
        let is_there = |set: &str| sets.iter().any(|known| known == set);
        for (split, at) in wanted {
            let set = source.set_of(&split.value, is_there);
            if !sets.is_empty() && !sets.contains(&set) {
                let message = format!("stage `{sweep}` has no prompts called `{set}`");
                problems
                    .error_at(at.as_ref().unwrap_or(&sweep.at), message)
                    .label(format!("it has `{}`", sets.join("`, `")))
                    .help("say which splits are compared with `edge` and `harmful`");
            }
        }
    }
}

/// The score rule that all grids are of.
///
/// # Errors
/// Sweeps of several rules.
fn one_rule(grids: &[Grid]) -> Result<&str, StageError> {
    let rules = distinct(grids.iter().map(|grid| grid.rule.as_str()));
    match rules.as_slice() {
        [] => Ok(REFUSED),
        [one] => Ok(one),
        several => Err(StageError::Data(format!(
            "the sweeps are by several score rules, `{}`; say with `read` which of them is summarised, which each sweep has to read",
            several.join("`, `")
        ))),
    }
}

/// Rates of an XSTest sweep by label and type: the `rates` of the xstest stage.
pub(super) fn xstest_rates(rows: &DataFrame) -> Result<DataFrame, StageError> {
    xstest::table(&grid::read(Source::XsTest, rows)?)
}

#[cfg(test)]
mod tests;
