//! `xstest`: the steer evaluation on XSTest (Röttger et al., NAACL 2024) or a set of its form.
//!
//! Directions come from another stage, usually `holdout`. Main table: that of a sweep, where `split` is XSTest's label and `category` its
//! type; `built_direction` marks prompts whose text helped to build the direction. `rates`: refusal rates by type and by label, with
//! and without those prompts.

use std::collections::BTreeSet;

use crate::model::ModelHandle;
use crate::spec::Seeds;

use super::action::Action;
use super::direction::Direction;
use super::forecast::check_directions;
use super::parameters::{DirectionStage, Models, PromptsName};
use super::position::Position;
use super::prelude::*;
use super::steer::are_of_one_depth;
use super::summary;
use super::sweep::{self, Sweep};
use super::table;

pub(super) static KIND: Kind = super::kind::<XsTest>(
    "xstest",
    1,
    Product::SweepByType,
    "refusal rates by XSTest type under a direction",
    &TOLD,
);

static TOLD: Told = Told {
    computes: "The sweep of `steer` on prompts of XSTest's form (Röttger et al., NAACL 2024): safe prompts of several types that sound unsafe, \
        and unsafe ones. `split` is XSTest's label and `category` its type. Rates are given with and without the prompts whose text \
        helped to build the direction of their row.",
    tables: &[
        told::SWEEP_TABLE,
        TableTold::of(
            "rates",
            "a row for each model, place, α, label and type",
            "model layer site direction? alpha label type n prompts refusal_rate rate_low rate_high n_without prompts_without refusal_rate_without rate_low_without rate_high_without",
        ),
        told::SWEEP_OF_RULE,
        TableTold::of(
            "<rule>_rates",
            "its rates",
            "model layer site alpha label type n prompts <rule>_rate rate_low rate_high n_without prompts_without <rule>_rate_without rate_low_without rate_high_without",
        ),
    ],
    example: r#"
[stages.xstest]
model = "inst"
prompts = "xstest"
direction = "holdout"
seed = 0
alpha = [-20, 0, 20]
"#,
};

parameters! {
    struct XsTest {
        /// Models that are steered, in the order of the table.
        model: Models,
        /// Prompts of XSTest's form.
        prompts: PromptsName,
        /// The directions that act, each at its own layer and site.
        direction: DirectionStage,
        /// Which of the directions act, by the seed behind them; all where left out.
        seed: Option<Seeds>,
        action: Action,
        /// Which tokens are edited, as `steer` has it.
        position: Position = -1,
        settings: Reads,
    }
}

impl Stage for XsTest {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            has_alpha: self.action.mode.has_alpha(),
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        check_directions(&self.direction, true, &self.model, inputs, problems);
        self.action.check(&self.model, inputs, problems);
        self.position.check_of_prompt(problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
        let expected = inputs.expected_directions(&self.direction);
        let made: BTreeSet<u64> = expected.iter().filter_map(|d| d.seed).collect();
        for seed in self.seed.iter().flat_map(|seeds| &seeds.0) {
            if !expected.is_empty() && !made.contains(&seed.value) {
                let (stage, missing) = (&self.direction.value, seed.value);
                let message = format!("stage `{stage}` makes no direction with seed {missing}");
                problems
                    .error_at(&seed.at, message)
                    .label(match made.is_empty() {
                        true => "its directions have no seeds; leave `seed` out".to_string(),
                        false => {
                            let seeds: Vec<String> = made.iter().map(u64::to_string).collect();
                            format!("its seeds are {}", seeds.join(", "))
                        }
                    });
            }
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let expected = inputs.expected_directions(&self.direction).iter();
        let rows = product(&[
            expected.filter(|d| self.takes(d.seed)).count(),
            self.action.count(),
            self.model.len(),
            sweep::prompt_count(inputs, &self.prompts),
        ]);
        self.settings
            .cost(rows, &self.model, inputs)
            .over(self.position.expected_tokens())
            .and(self.action.condition_cost(
                sweep::prompt_count(inputs, &self.prompts),
                &self.model,
                &self.settings,
                inputs,
            ))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let directions = &inputs.stage(&self.direction)?.directions;
        let taken = || directions.iter().filter(|d| self.takes(d.seed));
        let built = taken().map(|direction| {
            let texts = prompts.prompts.iter().map(|prompt| &prompt.text);
            texts
                .filter(|text| direction.builders.contains(*text))
                .count()
        });
        let built = built.max().unwrap_or(0);
        let sets = sweep::sets_by_split(prompts);
        let acting = self.action.acting(inputs)?;
        let taken: Vec<Direction> = taken().cloned().collect();
        let lines = |model: &ModelHandle| {
            let lines = acting.lines(&taken, false)?;
            Ok(acting.finished(lines, model.config().n_layers, &sets))
        };
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            action: &self.action,
            position: &self.position,
            reads: &self.settings,
        };
        let mut tables = Vec::new();
        for (name, swept) in sweep.run(are_of_one_depth, lines, evaluator)? {
            let rows = table::whole(&swept)?;
            let rates = summary::xstest_rates(&rows)?;
            let of_rates = match name.as_str() {
                "" => "rates".to_string(),
                rule => format!("{rule}_rates"),
            };
            tables.extend([(name, rows), (of_rates, rates)]);
        }
        let finding = (built > 0).then(|| format!("{built} of the {} prompts helped to build the direction; rates are given with and without them", prompts.prompts.len()));
        let mut findings = sweep.findings()?;
        findings.extend(finding);
        Ok(Output {
            tables,
            findings,
            ..Output::default()
        })
    }
}

impl XsTest {
    /// Whether a direction with that seed is one of those asked for.
    fn takes(&self, seed: Option<u64>) -> bool {
        match &self.seed {
            None => true,
            Some(seeds) => seeds.iter().any(|wanted| seed == Some(wanted)),
        }
    }
}
