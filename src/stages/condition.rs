//! `condition`: on which prompts to act, found on one half of the prompts and tried on the other.
//!
//! For each direction of another stage, how like it each prompt's unedited run is (`action::when`), and of all thresholds, on either side, the one
//! that tells the prompts to act on from the others with the highest F1 on the training half (CAST: Lee et al., arXiv:2409.05907, whose search is
//! over a grid, on the prompts that it is reported on). Main table: a row for each direction; `chosen` the best of them; `likeness` the prompts
//! under it. The chosen direction is an output.

mod figures;
mod search;

use std::sync::Arc;

use crate::model::{ModelHandle, Tokens};
use crate::prompts::PromptSet;
use crate::spec::Choice;
use crate::stats;

use super::action::{Likeness, Over, Similarity};
use super::direction::Direction;
use super::forecast::check_directions;
use super::parameters::{DirectionStage, Fraction, Model, Names, PromptsName};
use super::prelude::*;
use super::sweep;
use super::table::Rows;

use search::{Candidate, Case};

pub(super) static KIND: Kind = Kind {
    figures: Some(figures::figures),
    ..super::kind::<Condition>(
        "condition",
        1,
        Product::Condition,
        "on which prompts to act: a direction and a threshold, found on one half and tried on the other",
        &TOLD,
    )
};

const COLUMNS: &str = "model direction seed layer site over similarity when threshold margin n_train precision_train recall_train f1_train n precision \
     precision_low precision_high recall recall_low recall_high f1 f1_low f1_high f1_of_all auroc";

const OWN: &[ColumnTold] = &[
    ColumnTold::of("n_train", "prompts of the half that chooses", "count"),
    ColumnTold::of("n", "prompts of the half that is held out", "count"),
    ColumnTold::of(
        "auroc",
        "how often a held-out prompt to act on is more like the direction than another, ties for half",
        "0 to 1",
    ),
];

static TOLD: Told = Told {
    computes: "How like a direction each prompt is before anything is edited: the cosine of the direction and the mean over all tokens of the prompt \
        at the direction's layer and site (`over = \"last\"`: its last token), signed; or with `similarity = \"cast\"` CAST's, blind to the sign. For \
        each direction, of all thresholds between two neighbouring values, on either side, the one by which the prompts of the splits `open` are \
        told from those of `closed` with the highest F1 on the training half; of equally good ones that with the widest margin. Everything else is \
        of the held-out half: precision and recall with Wilson's interval, F1 with a bootstrap interval, `f1_of_all` for acting on every prompt. \
        The direction with the highest F1 on the training half is the stage's choice, which an edit takes with `when = { condition = \"NAME\" }`. A \
        prompt exactly on the threshold is not acted on.",
    tables: &[
        TableTold::of("", "a row for each direction with a threshold", COLUMNS).but(OWN),
        TableTold::of("chosen", "the row that is the stage's choice", COLUMNS).but(OWN),
        TableTold::of(
            "likeness",
            "a row for each prompt of both groups, by the chosen condition",
            "id split half wanted likeness edited",
        )
        .but(&[
            ColumnTold::of("half", "`train` or `holdout`", ""),
            ColumnTold::of("wanted", "whether it is one to act on", "true or false"),
            ColumnTold::of("edited", "whether it meets the condition", "true or false"),
        ]),
    ],
    example: r#"
[stages.condition]
model = "inst"
prompts = "main"
direction = "direction"
open = "harmful"
closed = "edge"
"#,
};

parameters! {
    struct Condition {
        /// The model that is asked.
        model: Model,
        /// The prompts.
        prompts: PromptsName,
        /// The directions to choose from, each at its own layer and site.
        direction: DirectionStage,
        /// Splits of prompts to act on.
        open: Names,
        /// Splits of prompts to leave alone.
        closed: Names,
        /// What of a prompt is held against a direction.
        over: Over = "mean",
        /// How like they are.
        similarity: Similarity = "cosine",
        /// The share of the prompts that is held out.
        fraction: Fraction = 0.5,
        /// Which they are.
        seed: u64 = 0,
        settings: Settings,
    }
}

impl Stage for Condition {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(std::slice::from_ref(&self.model), &self.prompts)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let models = std::slice::from_ref(&*self.model);
        check_directions(&self.direction, true, models, inputs, problems);
        for split in self.open.0.iter().chain(&self.closed.0) {
            inputs.check_split(split, &self.prompts, problems);
        }
        for split in &self.open.0 {
            let also = self
                .closed
                .0
                .iter()
                .find(|other| other.value == split.value);
            if let Some(also) = also {
                let message = format!("split `{split}` is to be acted on and left alone");
                problems
                    .error_at(&also.at, message)
                    .label("named in `open`, too")
                    .help("name it on one side");
            }
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some(prompts) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let candidates = inputs.expected_directions(&self.direction).len();
        Cost::of_cells(product(&[candidates, self.asked(prompts).count()]))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let model = inputs.model(&self.model)?;
        let directions = &inputs.stage(&self.direction)?.directions;
        let tokens = sweep::tokens_of(model, prompts, &self.settings)?;
        let mut found: Vec<(&Direction, Candidate)> = Vec::new();
        for direction in directions {
            let cases = self.cases(direction, (model, prompts, &tokens), evaluator)?;
            let candidate = Candidate::of(cases, self.seed)?;
            found.extend(candidate.map(|candidate| (direction, candidate)));
        }
        let chosen = search::best(found.iter().map(|(_, candidate)| candidate));
        let Some((direction, candidate)) = chosen.map(|index| &found[index]) else {
            return Err(StageError::Data(format!(
                "no direction of stage `{}` tells the prompts of `open` from those of `closed`: on the training half every prompt is alike",
                *self.direction
            )));
        };
        let all: Vec<&(&Direction, Candidate)> = found.iter().collect();
        Ok(Output {
            tables: vec![
                (String::new(), self.table(&all)?),
                (
                    "chosen".to_string(),
                    self.table(&[&(*direction, candidate.clone())])?,
                ),
                ("likeness".to_string(), likeness(candidate, prompts)?),
            ],
            findings: candidate
                .finding(&direction.label, direction.layer)
                .into_iter()
                .collect(),
            directions: vec![(*direction).clone()],
            ..Output::default()
        })
    }
}

impl Condition {
    /// The prompts of both groups, and whether each is one to act on.
    fn asked<'p>(&'p self, prompts: &'p PromptSet) -> impl Iterator<Item = (usize, bool)> + 'p {
        let all = prompts.prompts.iter().enumerate();
        all.filter_map(|(index, prompt)| {
            let is_in = |names: &Names| names.values().any(|name| *name == prompt.split);
            match (is_in(&self.open), is_in(&self.closed)) {
                (true, _) => Some((index, true)),
                (false, true) => Some((index, false)),
                (false, false) => None,
            }
        })
    }

    /// How like a direction each prompt is.
    fn cases(
        &self,
        direction: &Direction,
        (model, prompts, tokens): (&ModelHandle, &PromptSet, &[Arc<Tokens>]),
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Case>, StageError> {
        let to = Likeness::to(direction, self.over, self.similarity);
        let cells = self
            .asked(prompts)
            .map(|(prompt, _)| (prompt, to.cell(model, &tokens[prompt])));
        let found = sweep::likenesses(&to, cells.collect(), evaluator)?;
        let case = |((prompt, is_wanted), (_, likeness)): ((usize, bool), (usize, f64))| {
            let id = &prompts.prompts[prompt].id;
            Case {
                prompt,
                is_wanted,
                is_held_out: stats::is_holdout(self.seed, id, self.fraction.value),
                likeness,
            }
        };
        Ok(self.asked(prompts).zip(found).map(case).collect())
    }

    fn table(
        &self,
        rows: &[&(&Direction, Candidate)],
    ) -> Result<polars::prelude::DataFrame, StageError> {
        Rows::of(rows)
            .text("model", |_| &self.model.value)
            .text("direction", |(direction, _)| &direction.label)
            .integer("seed", |(direction, _)| {
                direction.seed.map(|seed| seed as i64)
            })
            .integer("layer", |(direction, _)| direction.layer as i64)
            .text("site", |(direction, _)| direction.site.short_name())
            .text("over", |_| self.over.name())
            .text("similarity", |_| self.similarity.name())
            .text("when", |(_, c)| c.side.name())
            .number("threshold", |(_, c)| c.threshold.threshold)
            .number("margin", |(_, c)| c.threshold.margin)
            .integer("n_train", |(_, c)| c.of_half(false).len() as i64)
            .number("precision_train", |(_, c)| c.train.precision())
            .number("recall_train", |(_, c)| c.train.recall())
            .number("f1_train", |(_, c)| c.train.f1())
            .integer("n", |(_, c)| c.of_half(true).len() as i64)
            .number("precision", |(_, c)| c.held_out.precision())
            .ends(["precision_low", "precision_high"], |(_, c)| {
                c.intervals.precision
            })
            .number("recall", |(_, c)| c.held_out.recall())
            .ends(["recall_low", "recall_high"], |(_, c)| c.intervals.recall)
            .number("f1", |(_, c)| c.held_out.f1())
            .ends(["f1_low", "f1_high"], |(_, c)| c.intervals.f1)
            .number("f1_of_all", |(_, c)| c.f1_of_all())
            .number("auroc", |(_, c)| c.auroc)
            .frame()
    }
}

/// The prompts under a condition.
fn likeness(
    candidate: &Candidate,
    prompts: &PromptSet,
) -> Result<polars::prelude::DataFrame, StageError> {
    let prompt = |case: &Case| &prompts.prompts[case.prompt];
    Rows::of(&candidate.cases)
        .text("id", |case| &prompt(case).id)
        .text("split", |case| &prompt(case).split)
        .text("half", |case| match case.is_held_out {
            true => "holdout",
            false => "train",
        })
        .flag("wanted", |case| case.is_wanted)
        .number("likeness", |case| case.likeness)
        .flag("edited", |case| candidate.is_open(case))
        .frame()
}
