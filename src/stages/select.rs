//! `select`: which of several directions, made at other positions and layers, carries refusal; refusal_direction's choice, or COSMIC's.
//!
//! What neither of them reports is here, too: the choice on prompts that did not make it, with intervals, and random directions in its place. The
//! chosen direction is an output. From a file of evaluations that refusal_direction published the same choice is made with no model.
//!
//! ```text
//! trials     what is tried, on which prompts
//! measure    what candidates do to the model
//! alike      at which layers activations are compared
//! choice     which candidate the rules take
//! published  evaluations of others
//! tables     what comes out
//! figures    the three numbers by layer
//! ```

mod alike;
mod choice;
mod figures;
mod measure;
mod published;
mod tables;
mod trials;

use std::path::PathBuf;

use crate::model::random_unit_vector;
use crate::spec::{Fields, Spanned};

use super::declare::{
    Declaration, Declared, Field, KeyParts, Keyed, Parameter, as_needed, fields_of,
};
use super::direction::Direction;
use super::parameters::{Count, Share};
use super::prelude::*;
use super::{Gives, Needs, sweep};

use choice::{Bounds, Candidate, Method, verdicts};
use measure::{Lab, Measured, Trial};
use tables::{Check, Row};
use trials::Trials;

pub(super) static KIND: Kind = Kind {
    figures: Some(figures::figures),
    ..super::kind::<Select>(
        "select",
        2,
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
    ColumnTold::of(
        "cosine",
        "cosine of the mean activations of A and of B there, of the prompts that made the directions, unedited",
        "−1 to 1",
    ),
    ColumnTold::of(
        "compared",
        "whether it is one of the tenth with the lowest cosine",
        "true or false",
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
        With `method = \"cosmic\"` no score is read: at the tenth of the layers where the prompts that made the directions, A and B, are least alike in \
        the direction of their mean activations (what a block gives, at the last token; what the last block gives behind the final \
        norm), `bypass` is the cosine of harmful prompts without the direction with unedited harmless ones, and `induce` that of harmless ones with it \
        with unedited harmful ones; the highest sum is taken, without a floor of `induce`, and at the last token no layer beyond both of two medians, \
        over the other positions, of the layers at which `bypass` and `induce` are highest (`select_direction_cosmic.py`). \
        The scores are of the rule that `read` names; theirs is `log_odds`. `checks` has the same three numbers of the \
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
        TableTold::of(
            "layers",
            "with `method = \"cosmic\"`, a row for each layer: how alike the sides are there",
            "layer cosine compared",
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
    struct Select {
        from: From,
        /// Whose rule chooses.
        method: Method = "refusal_direction",
        /// The highest divergence of the next token of harmless prompts, in nats.
        max_kl: f64 = 0.1,
        /// The lowest score to which the direction brings harmless prompts; not of `cosmic`.
        min_induce: f64 = 0.0,
        /// The share of the layers, the last ones, of which none is taken.
        last_layers: Share = 0.2,
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
            directions: expected.cloned().into_iter().collect(),
            ..Forecast::about(std::slice::from_ref(&trials.model), &trials.prompts)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        match &self.from {
            From::Model(trials) => trials.check(inputs, problems),
            From::Published { file, n_layers } => {
                let read = read_file(file, *n_layers, inputs);
                for problem in read.and_then(Result::err).unwrap_or_default() {
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
                let read = read_file(file, *n_layers, inputs);
                let missing = || StageError::Internal("evaluations were not read".to_string());
                let candidates = read.ok_or_else(missing)?;
                let candidates =
                    candidates.map_err(|problems| StageError::Data(problems.join("; ")))?;
                let verdicts = verdicts(&candidates, self.method, &self.bounds(), *n_layers);
                choice::first(&verdicts)?;
                let table = tables::of_published(&candidates, &verdicts)?;
                Ok(Output::of(vec![(String::new(), table)]))
            }
        }
    }
}

/// The candidates of a file, or all that is wrong with it; none where it was not read, which is told elsewhere.
fn read_file(
    file: &Spanned<PathBuf>,
    n_layers: usize,
    inputs: &Inputs,
) -> Option<Result<Vec<Candidate>, Vec<String>>> {
    let content = inputs.files.get(&file.value)?;
    let name = file.value.file_name().unwrap_or_default().to_string_lossy();
    let named = |problem: &String| format!("`{name}`: {problem}");
    let read = published::read(&content.bytes, n_layers);
    Some(read.map_err(|problems| problems.iter().map(named).collect()))
}

impl Select {
    fn bounds(&self) -> Bounds {
        Bounds {
            max_kl: self.max_kl,
            min_induce: self.min_induce,
            last_layers: self.last_layers.value,
        }
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
        let mut lab = Lab {
            model,
            reads: &trials.settings,
            readings: trials.settings.on(model)?,
            prompts,
            tokens: &tokens,
            method: self.method,
            compared_at: Vec::new(),
        };
        let [train, held_out] = trials.halves(&lab, evaluator)?;
        let (alike, unknown) = match self.method {
            Method::RefusalDirection => (Vec::new(), None),
            Method::Cosmic => trials.alike(&lab, &train, inputs, evaluator)?,
        };
        let compared = alike.iter().filter(|at| at.is_compared);
        lab.compared_at = compared.map(|at| at.layer).collect();
        let all: Vec<Trial> = directions.iter().map(Trial::of).collect();
        let (measured, unedited) = lab.measure(&all, &train, evaluator)?;
        let candidates: Vec<Candidate> = directions.iter().zip(&measured).map(candidate).collect();
        let n_layers = model.config().n_layers;
        let verdicts = verdicts(&candidates, self.method, &self.bounds(), n_layers);
        let chosen = choice::first(&verdicts)?;
        let direction = &directions[chosen];
        let tried = beside_random(direction, trials.random, model.config().d_model)?;
        let (on_others, unedited_others) = lab.measure(&tried, &held_out, evaluator)?;
        let checks = [
            Check::of(
                "train",
                &train,
                &direction.label,
                (&unedited, &measured[chosen..=chosen]),
            ),
            Check::of(
                "holdout",
                &held_out,
                &direction.label,
                (&unedited_others, &on_others),
            ),
        ]
        .concat();
        let rows: Vec<Row<'_>> = (directions.iter().zip(&measured).zip(&verdicts))
            .map(|((direction, measured), verdict)| Row {
                direction,
                measured,
                verdict,
            })
            .collect();
        let mut tables = vec![
            (String::new(), tables::of_candidates(&rows)?),
            (
                "checks".to_string(),
                tables::of_checks(&checks, direction.layer)?,
            ),
        ];
        if self.method == Method::Cosmic {
            tables.push(("layers".to_string(), alike::table(&alike)?));
        }
        let mut findings = tables::findings(&checks, self.method);
        findings.extend(unknown);
        Ok(Output {
            tables,
            findings,
            directions: vec![direction.clone()],
            ..Output::default()
        })
    }
}

fn candidate((direction, measured): (&Direction, &Measured)) -> Candidate {
    Candidate {
        // The mean over a prompt comes before any of its tokens.
        position: direction.position.unwrap_or(i64::MIN),
        layer: direction.layer,
        bypass: measured.bypass.mean,
        induce: measured.induce.mean,
        kl: measured.kl.mean,
    }
}

/// A direction, and so many random ones in its place.
fn beside_random(
    direction: &Direction,
    count: usize,
    d_model: usize,
) -> Result<Vec<Trial>, StageError> {
    let own = Trial::of(direction);
    let random = (0..count as u64).map(|seed| Ok(own.instead(random_unit_vector(seed, d_model)?)));
    let random = random.collect::<Result<Vec<Trial>, StageError>>()?;
    Ok([own].into_iter().chain(random).collect())
}
