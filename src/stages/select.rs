//! `select`: which of several directions, made at other positions and layers, carries refusal; refusal_direction's choice, or COSMIC's.
//!
//! What neither of them reports is here, too: the choice on prompts that did not make it, with intervals, and random directions in its place. The
//! chosen direction is an output. From a file of evaluations that refusal_direction published the same choice is made with no model.
//!
//! ```text
//! choice     which candidate the rules take
//! measure    what candidates do to the model
//! published  evaluations of others
//! figures    the three numbers by layer
//! ```

mod choice;
mod figures;
mod measure;
mod published;

use std::path::PathBuf;

use polars::prelude::DataFrame;

use crate::model::random_unit_vector;
use crate::prompts::PromptSet;
use crate::spec::{Fields, Spanned};
use crate::stats;

use super::declare::{
    Declaration, Declared, Field, KeyParts, Keyed, Parameter, as_needed, fields_of,
};
use super::direction::Direction;
use super::forecast::{ExpectedDirection, check_directions};
use super::parameters::{Count, DirectionStage, Fraction, Model, Names, PromptsName};
use super::prelude::*;
use super::table::Rows;
use super::{Gives, Needs, parameters, sweep};

use choice::{Bounds, Candidate, Method, Verdict, verdicts};
use measure::{Lab, Mean, Measured, Sides, Trial, compared_layers};

pub(super) static KIND: Kind = Kind {
    figures: Some(figures::figures),
    ..super::kind::<Select>(
        "select",
        1,
        Product::Directions,
        "which of several directions to take, by what each does to the model",
        &TOLD,
    )
};

const OWN: &[ColumnTold] = &[
    ColumnTold::of(
        "bypass",
        "harmful prompts with the direction ablated everywhere: the mean score, lower is better; with `method = \"cosmic\"` the cosine of what they \
         become with what harmless ones are, higher is better",
        "logits, or −1 to 1",
    ),
    ColumnTold::of(
        "bypass_low",
        "lower end of its 95 % bootstrap interval over prompts",
        "logits",
    ),
    ColumnTold::of("bypass_high", "upper end", "logits"),
    ColumnTold::of(
        "induce",
        "harmless prompts with the direction added at its layer, at every token, as long as it was made: the mean score; or the cosine of what they \
         become with what harmful ones are",
        "logits, or −1 to 1",
    ),
    ColumnTold::of("induce_low", "lower end of its interval", "logits"),
    ColumnTold::of("induce_high", "upper end", "logits"),
    ColumnTold::of(
        "kl",
        "harmless prompts with the direction ablated everywhere: mean KL of the unedited next token to the edited one, 1e-6 in both logarithms",
        "nats",
    ),
    ColumnTold::of("kl_low", "lower end of its interval", "nats"),
    ColumnTold::of("kl_high", "upper end", "nats"),
    ColumnTold::of(
        "discarded",
        "why it cannot be chosen, the first reason of several; blank where it can",
        "",
    ),
    ColumnTold::of(
        "rank",
        "its place among those that can be chosen; 1 is the choice",
        "index",
    ),
    ColumnTold::of("half", "`train` chose, `holdout` did not", ""),
    ColumnTold::of("n_harmful", "harmful prompts", "count"),
    ColumnTold::of("n_harmless", "harmless prompts", "count"),
];

static TOLD: Told = Told {
    computes: "For each direction of a stage, usually a grid of positions and layers, three numbers on the training half of the prompts (Arditi et al., \
        arXiv:2406.11717, `select_direction.py`). `bypass`: the mean score of harmful prompts with the direction ablated at the input of every block \
        and at what attention and MLP add, in every token. `induce`: that of harmless prompts with the direction added at its own layer, in every token, \
        as long as it was made (α = 1 in units of `pre_norm`). `kl`: of harmless prompts the mean divergence of the next token under ablation. Left out \
        are directions of which a number is missing, of the last share `last_layers` of the layers, of `kl` above `max_kl` and of `induce` below \
        `min_induce`; of the others the one with the lowest `bypass` is taken, and of equals the one at the earlier position, then the lower layer. \
        With `method = \"cosmic\"` no score is read: at the tenth of the layers where the mean activations of both sides at the last token are least alike \
        in direction, `bypass` is the cosine of harmful prompts without the direction with unedited harmless ones, and `induce` that of harmless ones with it \
        with unedited harmful ones; the highest sum is taken, without a floor of `induce`, and at the last token no layer beyond the median of the layers \
        where either cosine is highest. The scores are of the rule that `read` names; theirs is `log_odds`. `checks` has the same three numbers of the \
        choice on the half that did not choose it, and of random directions in its place. With `file`, which starts from `import.folder`, the choice is \
        made of numbers that refusal_direction wrote (`direction_evaluations.json`), and no model is asked.",
    tables: &[
        TableTold::of(
            "",
            "a row for each direction",
            "model direction seed layer site position token bypass bypass_low bypass_high induce induce_low induce_high kl kl_low kl_high discarded rank",
        )
        .but(OWN),
        TableTold::of(
            "checks",
            "where a model is asked, a row for what is unedited (`none`) and for the choice on each half, and for random directions on the held-out one",
            "half direction seed layer n_harmful n_harmless bypass bypass_low bypass_high induce induce_low induce_high kl kl_low kl_high",
        )
        .but(OWN),
    ],
    example: r#"
[stages.select]
model = "inst"
prompts = "main"
direction = "direction"
harmful = "harmful"
harmless = "edge"
max_kl = 100
min_induce = -100
last_layers = 0
limit = 8
"#,
};

parameters! {
    /// Directions to try, and on what.
    pub(super) struct Trials {
        /// The model that is asked.
        model: Model,
        /// The prompts.
        prompts: PromptsName,
        /// The directions to choose from, each at its own layer and site.
        direction: DirectionStage,
        /// Splits of prompts from which refusal is to go.
        harmful: Names,
        /// Splits of prompts to which it is to come.
        harmless: Names,
        /// How many prompts of each split at most.
        limit: Option<Count>,
        /// Whether only those prompts are asked that the unedited model takes as their side says: harmful ones that count by the rule, and
        /// harmless ones that do not.
        filter: bool = false,
        /// The share of the prompts that does not choose.
        fraction: Fraction = 0.5,
        /// Which they are.
        seed: u64 = 0,
        /// How many random directions are tried in the place of the choice.
        random: usize = 5,
        settings: ReadsOne,
    }
}

parameters! {
    struct Select {
        from: From,
        /// Whose rule chooses.
        method: Method = "refusal_direction",
        /// The highest divergence of the next token of harmless prompts, in nats.
        max_kl: f64 = 0.1,
        /// The lowest score to which the direction brings harmless prompts; not of `cosmic`.
        min_induce: f64 = 0.0,
        /// The share of the layers, the last ones, of which none is taken.
        last_layers: f64 = 0.2,
    }
}

/// Where the three numbers come from.
enum From {
    Model(Box<Trials>),
    Published {
        file: Spanned<PathBuf>,
        n_layers: usize,
    },
}

impl Parameter for From {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        if fields.peek("file").is_none() {
            return Trials::read(fields, declared, study)
                .map(|trials| From::Model(Box::new(trials)));
        }
        let file = fields.required::<Name>("file");
        let n_layers = fields.required::<Count>("n_layers");
        let file = file.map(|file| Spanned {
            value: study.import.folder.join(&file.value),
            at: file.at,
        });
        Some(From::Published {
            file: file?,
            n_layers: n_layers?.value,
        })
    }

    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        match self {
            From::Model(trials) => key.insert("trials".to_string(), trials.parameters()),
            From::Published { n_layers, .. } => {
                key.insert("n_layers".to_string(), (*n_layers).into())
            }
        };
    }

    fn add_needs(&self, needs: &mut Needs) {
        match self {
            From::Model(trials) => trials.add_needs(needs),
            From::Published { file, .. } => needs.files.push(file.clone()),
        }
    }

    fn list(_: &Declared) -> Vec<Field> {
        let mut fields = as_needed(fields_of::<Trials>());
        fields.push(Field {
            keyed: Keyed::ByContent,
            ..Field::optional::<Name>(
                "file",
                "Instead of a model: evaluations that refusal_direction wrote, in the folder `import.folder`.",
            )
        });
        fields.push(Field::optional::<Count>(
            "n_layers",
            "The number of layers of the model that they are of; with `file`.",
        ));
        fields
    }
}

/// What is measured of a direction, or of none.
struct Check<'a> {
    half: &'a str,
    direction: String,
    seed: Option<u64>,
    sides: &'a Sides,
    measured: Measured,
}

impl Stage for Select {
    fn gives(&self) -> Option<Gives> {
        let product = match self.from {
            From::Model(_) => Product::Directions,
            From::Published { .. } => Product::Choice,
        };
        Some(Gives {
            product,
            tables: KIND.name,
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let From::Model(trials) = &self.from else {
            return Forecast::default();
        };
        // One of them, whichever it is.
        let expected = inputs.expected_directions(&trials.direction).first();
        Forecast {
            directions: expected
                .cloned()
                .into_iter()
                .collect::<Vec<ExpectedDirection>>(),
            ..Forecast::about(std::slice::from_ref(&trials.model), &trials.prompts)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        match &self.from {
            From::Model(trials) => trials.check(inputs, problems),
            From::Published { file, .. } => {
                if let Some(Err(problem)) = read_file(file, inputs) {
                    problems.error_at(&file.at, problem);
                }
            }
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        match &self.from {
            From::Model(trials) => trials.cost(self.method, inputs),
            From::Published { .. } => Cost::default(),
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        match &self.from {
            From::Model(trials) => self.chosen_by(trials, inputs, evaluator),
            From::Published { file, n_layers } => {
                let read = read_file(file, inputs);
                let missing = || StageError::Internal("evaluations were not read".to_string());
                let candidates = read.ok_or_else(missing)?.map_err(StageError::Data)?;
                let verdicts = verdicts(&candidates, self.method, &self.bounds(), *n_layers);
                self.first(&verdicts)?;
                let rows: Vec<_> = candidates.iter().zip(&verdicts).collect();
                let table = Rows::of(&rows)
                    .integer("layer", |(c, _)| c.layer as i64)
                    .integer("position", |(c, _)| c.position)
                    .number("bypass", |(c, _)| there(c.bypass))
                    .number("induce", |(c, _)| there(c.induce))
                    .number("kl", |(c, _)| there(c.kl));
                let table = judged(table, |(_, verdict)| verdict).frame()?;
                Ok(Output::of(vec![(String::new(), table)]))
            }
        }
    }
}

/// The candidates of a file; none where it was not read, which is told elsewhere.
fn read_file(file: &Spanned<PathBuf>, inputs: &Inputs) -> Option<Result<Vec<Candidate>, String>> {
    let content = inputs.files.get(&file.value)?;
    let name = file.value.file_name().unwrap_or_default().to_string_lossy();
    let read = published::read(&content.bytes);
    Some(read.map_err(|problem| format!("`{name}` {problem}")))
}

/// A number, where it is one.
fn there(number: f64) -> Option<f64> {
    (!number.is_nan()).then_some(number)
}

fn judged<'r, R>(rows: Rows<'r, R>, of: impl Fn(&'r R) -> &'r Verdict + Copy) -> Rows<'r, R> {
    rows.text("discarded", move |row| of(row).discarded)
        .integer("rank", move |row| of(row).rank.map(|rank| rank as i64))
}

impl Select {
    fn bounds(&self) -> Bounds {
        Bounds {
            max_kl: self.max_kl,
            min_induce: self.min_induce,
            last_layers: self.last_layers,
        }
    }

    /// The choice.
    ///
    /// # Errors
    /// All are discarded.
    fn first(&self, verdicts: &[Verdict]) -> Result<usize, StageError> {
        let first = verdicts.iter().position(|verdict| verdict.rank == Some(1));
        first.ok_or_else(|| {
            let mut why: Vec<&str> = verdicts.iter().map(|verdict| verdict.discarded).collect();
            let of = |reason: &str| why.iter().filter(|why| **why == reason).count();
            let mut reasons: Vec<String> = Vec::new();
            let counts: Vec<(usize, &str)> = why.iter().map(|why| (of(why), *why)).collect();
            why.sort_unstable();
            why.dedup();
            for reason in why {
                let count = counts.iter().find(|(_, why)| *why == reason);
                reasons.push(format!("{} {reason}", count.map_or(0, |(count, _)| *count)));
            }
            StageError::Data(format!(
                "no direction can be chosen: of {} {}; see `max_kl`, `min_induce` and `last_layers`",
                verdicts.len(),
                reasons.join(", ")
            ))
        })
    }

    fn chosen_by(
        &self,
        trials: &Trials,
        inputs: &Inputs,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Output, StageError> {
        let model = inputs.model(&trials.model)?;
        let prompts = inputs.prompt_set(&trials.prompts)?;
        let directions = &inputs.stage(&trials.direction)?.directions;
        let tokens = sweep::tokens_of(model, prompts, &trials.settings)?;
        let lab = Lab {
            model,
            reads: &trials.settings,
            readings: trials.settings.on(model)?,
            prompts,
            tokens: &tokens,
            method: self.method,
        };
        let [train, held_out] = trials.halves(&lab, evaluator)?;
        let all: Vec<Trial> = directions.iter().map(Trial::of).collect();
        let (measured, unedited) = lab.measure(&all, &train, evaluator)?;
        let candidate = |(direction, measured): (&Direction, &Measured)| Candidate {
            position: direction.position,
            layer: direction.layer,
            bypass: measured.bypass.mean,
            induce: measured.induce.mean,
            kl: measured.kl.mean,
        };
        let candidates: Vec<Candidate> = directions.iter().zip(&measured).map(candidate).collect();
        let n_layers = model.config().n_layers;
        let verdicts = verdicts(&candidates, self.method, &self.bounds(), n_layers);
        let chosen = self.first(&verdicts)?;
        let direction = &directions[chosen];
        let mut tried = vec![Trial::of(direction)];
        for seed in 0..trials.random as u64 {
            let vector = random_unit_vector(seed, model.config().d_model)?;
            tried.push(tried[0].instead(vector));
        }
        let (on_others, unedited_others) = lab.measure(&tried, &held_out, evaluator)?;
        let check = |(half, sides), name: &str, seed, measured: &Measured| Check {
            half,
            direction: name.to_string(),
            seed,
            sides,
            measured: *measured,
        };
        let (own, others) = (("train", &train), ("holdout", &held_out));
        let mut checks = vec![
            check(own, "none", None, &unedited),
            check(own, &direction.label, None, &measured[chosen]),
            check(others, "none", None, &unedited_others),
            check(others, &direction.label, None, &on_others[0]),
        ];
        let random = on_others[1..].iter().zip(0..);
        checks.extend(random.map(|(measured, seed)| check(others, "random", Some(seed), measured)));
        let rows: Vec<Row<'_>> = (directions.iter().zip(&measured).zip(&verdicts))
            .map(|((direction, measured), verdict)| Row {
                direction,
                measured,
                verdict,
            })
            .collect();
        Ok(Output {
            tables: vec![
                (String::new(), table(&rows)?),
                ("checks".to_string(), checked(&checks, direction.layer)?),
            ],
            findings: findings(&checks, self.method),
            directions: vec![direction.clone()],
            ..Output::default()
        })
    }
}

impl Trials {
    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let models = std::slice::from_ref(&*self.model);
        check_directions(&self.direction, true, models, inputs, problems);
        for split in self.harmful.0.iter().chain(&self.harmless.0) {
            inputs.check_split(split, &self.prompts, problems);
        }
        for split in &self.harmful.0 {
            let mut others = self.harmless.0.iter();
            if let Some(also) = others.find(|other| other.value == split.value) {
                problems
                    .error_at(&also.at, format!("split `{split}` is harmful and harmless"))
                    .label("named in `harmful`, too")
                    .help("name it on one side");
            }
        }
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    fn cost(&self, method: Method, inputs: &Inputs) -> Cost {
        let Some(prompts) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let [harmful, harmless] =
            [&self.harmful, &self.harmless].map(|side| self.of(side, prompts));
        let (both, harmless) = (harmful.len() + harmless.len(), harmless.len());
        let n_layers = inputs.n_layers(&self.model.value);
        let trials = inputs.expected_directions(&self.direction).len() + 1 + self.random;
        let models = std::slice::from_ref(&*self.model);
        let read = |rows: u64| self.settings.cost(rows, models, inputs);
        let edited = match method {
            Method::RefusalDirection => read(product(&[trials, both])),
            Method::Cosmic => Cost::of_cells(product(&[trials, both, compared_layers(n_layers)])),
        };
        let unedited = match method {
            Method::RefusalDirection => Cost::default(),
            Method::Cosmic => Cost::of_cells(product(&[n_layers, both])),
        };
        // The unedited scores are asked for where they filter, and where they are compared with.
        edited
            .and(Cost::of_cells(product(&[trials, harmless])))
            .over(30)
            .and(unedited)
            .and(read(both as u64))
    }

    /// The first prompts of some splits, by index.
    fn of(&self, splits: &Names, prompts: &PromptSet) -> Vec<usize> {
        let splits: Vec<&str> = splits.values().map(String::as_str).collect();
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| limit.value);
        parameters::first_indices(prompts, &splits, limit)
    }

    /// The prompts that choose, and those that do not.
    ///
    /// # Errors
    /// A side of a half without a prompt.
    fn halves(
        &self,
        lab: &Lab<'_>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<[Sides; 2], StageError> {
        let mut sides = Sides {
            harmful: self.of(&self.harmful, lab.prompts),
            harmless: self.of(&self.harmless, lab.prompts),
        };
        if self.filter {
            let rule = self.settings.main();
            let mut kept = |prompts: &[usize], counts: bool| -> Result<Vec<usize>, StageError> {
                let scores = lab.scores(prompts, evaluator)?;
                let of_side = prompts
                    .iter()
                    .zip(scores)
                    .filter(|(_, score)| rule.counts(*score) == counts);
                Ok(of_side.map(|(prompt, _)| *prompt).collect())
            };
            sides = Sides {
                harmful: kept(&sides.harmful, true)?,
                harmless: kept(&sides.harmless, false)?,
            };
        }
        let of_half = |prompts: &[usize], is_held_out: bool| -> Vec<usize> {
            let id = |prompt: usize| &lab.prompts.prompts[prompt].id;
            let is_of_half = |prompt: &usize| {
                stats::is_holdout(self.seed, id(*prompt), self.fraction.value) == is_held_out
            };
            prompts.iter().copied().filter(is_of_half).collect()
        };
        let halves = [false, true].map(|is_held_out| Sides {
            harmful: of_half(&sides.harmful, is_held_out),
            harmless: of_half(&sides.harmless, is_held_out),
        });
        for (half, name) in halves.iter().zip(["that chooses", "that is held out"]) {
            for (side, word) in [(&half.harmful, "harmful"), (&half.harmless, "harmless")] {
                if side.is_empty() {
                    return Err(StageError::Data(format!(
                        "the half {name} has no {word} prompt: there are {} and {} in both, with `fraction = {}` and `seed = {}`",
                        sides.harmful.len(),
                        sides.harmless.len(),
                        self.fraction.value,
                        self.seed
                    )));
                }
            }
        }
        Ok(halves)
    }
}

struct Row<'a> {
    direction: &'a Direction,
    measured: &'a Measured,
    verdict: &'a Verdict,
}

fn table(rows: &[Row<'_>]) -> Result<DataFrame, StageError> {
    let table = Rows::of(rows)
        .text("model", |row| &row.direction.model)
        .text("direction", |row| &row.direction.label)
        .integer("seed", |row| row.direction.seed.map(|seed| seed as i64))
        .integer("layer", |row| row.direction.layer as i64)
        .text("site", |row| row.direction.site.short_name())
        .integer("position", |row| row.direction.position)
        .text("token", |row| {
            row.direction.token.as_deref().unwrap_or_default()
        });
    let table = numbers(table, |row| row.measured);
    judged(table, |row| row.verdict).frame()
}

fn checked(checks: &[Check<'_>], layer: usize) -> Result<DataFrame, StageError> {
    let table = Rows::of(checks)
        .text("half", |check| check.half)
        .text("direction", |check| &check.direction)
        .integer("seed", |check| check.seed.map(|seed| seed as i64))
        .integer("layer", |check| {
            (check.direction != "none").then_some(layer as i64)
        })
        .integer("n_harmful", |check| check.sides.harmful.len() as i64)
        .integer("n_harmless", |check| check.sides.harmless.len() as i64);
    numbers(table, |check| &check.measured).frame()
}

fn numbers<'r, R>(rows: Rows<'r, R>, of: impl Fn(&'r R) -> &'r Measured + Copy) -> Rows<'r, R> {
    let with = |rows: Rows<'r, R>, names: [&str; 3], mean: fn(&Measured) -> &Mean| {
        rows.number(names[0], move |row| mean(of(row)).mean)
            .ends([names[1], names[2]], move |row| mean(of(row)).interval)
    };
    let rows = with(rows, ["bypass", "bypass_low", "bypass_high"], |m| &m.bypass);
    let rows = with(rows, ["induce", "induce_low", "induce_high"], |m| &m.induce);
    with(rows, ["kl", "kl_low", "kl_high"], |m| &m.kl)
}

/// What to say of a choice that does no more than a random direction where it was not chosen.
fn findings(checks: &[Check<'_>], method: Method) -> Vec<String> {
    let others = || checks.iter().filter(|check| check.half == "holdout");
    let random: Vec<&Check<'_>> = others().filter(|check| check.seed.is_some()).collect();
    let chosen = others().find(|check| check.seed.is_none() && check.direction != "none");
    let (Some(chosen), false) = (chosen, random.is_empty()) else {
        return Vec::new();
    };
    let bypass = chosen.measured.bypass.mean;
    let is_as_good = |check: &&&Check<'_>| match method {
        Method::RefusalDirection => check.measured.bypass.mean <= bypass,
        Method::Cosmic => check.measured.bypass.mean >= bypass,
    };
    let as_good = random.iter().filter(is_as_good).count();
    match as_good {
        0 => Vec::new(),
        _ => vec![format!(
            "on the held-out prompts {as_good} of {} random directions bypass as well as `{}`, the choice",
            random.len(),
            chosen.direction
        )],
    }
}
