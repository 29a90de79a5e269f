//! `independence`: whether taking one direction out of the stream leaves what the stream has along another as it was, and the other way round.
//!
//! Orthogonal directions need not be independent: what writes one may read the other. Two are where, at every layer, cos(b, h) of the last token is the same
//! with a ablated at every site and without, and cos(a, h) with b ablated (Wollschläger et al., arXiv:2502.17420, "representational independence").
//! Main table: a row for each way round and layer.

use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::figure::{Axis, Figure, Mark, PALETTE, Panel, Shape};
use crate::model::{Cell, HookPoint, Intervention, ModelHandle, Positions, Readout, Site, Tokens};
use crate::prompts::PromptSet;
use crate::spec::{Layers, Spanned};
use crate::stats::{self, Interval};

use super::Artifacts;
use super::action::ablated_everywhere;
use super::direction::Direction;
use super::forecast::check_directions;
use super::parameters::{self, Count, DirectionStage, Model, Names, PromptsName};
use super::prelude::*;
use super::sweep;
use super::table::{self, Rows};

pub(super) static KIND: super::Kind = super::Kind {
    figures: Some(figures),
    ..super::kind::<Independence>(
        "independence",
        1,
        Product::Independence,
        "whether ablating one direction changes what the stream has along another",
        &TOLD,
    )
};

const COLUMNS: &str = "model direction ablated cosine layer n mean std mean_ablated std_ablated change change_low change_high";

const OWN: &[ColumnTold] = &[
    ColumnTold::of(
        "direction",
        "the direction that the stream is held against, by its stage",
        "",
    ),
    ColumnTold::of(
        "ablated",
        "the direction that is taken out at every site, by its stage",
        "",
    ),
    ColumnTold::of("cosine", "cosine between the two", "−1 to 1"),
    ColumnTold::of("layer", "the layer whose input the stream is", "index"),
    ColumnTold::of("n", "prompts", "count"),
    ColumnTold::of(
        "mean",
        "mean cosine of direction and stream, at the last token",
        "−1 to 1",
    ),
    ColumnTold::of(
        "std",
        "its standard deviation over prompts (one degree of freedom taken off)",
        "−1 to 1",
    ),
    ColumnTold::of(
        "mean_ablated",
        "the same mean without the other direction",
        "−1 to 1",
    ),
    ColumnTold::of("std_ablated", "its standard deviation", "−1 to 1"),
    ColumnTold::of(
        "change",
        "mean change of a prompt's cosine: without the other − with it",
        "−1 to 1",
    ),
    ColumnTold::of(
        "change_low",
        "lower end of its 95 % interval: bootstrap over prompts",
        "−1 to 1",
    ),
    ColumnTold::of("change_high", "upper end", "−1 to 1"),
];

static TOLD: Told = Told {
    computes: "At each layer, `cos(b, h)` for the stream `h` that enters it at the last token of each prompt, with and without `a` ablated at the input of \
        every block and at what attention and MLP add, in every token; and the same with `a` and `b` the other way round. Two directions whose \
        ablation leaves each other's cosines as they are, are independent in the representation (Wollschläger et al. 2025); that they are \
        orthogonal does not make them so. At layer 0 and a template's token every prompt has the same.",
    tables: &[TableTold::of("", "a row for each way round and layer", COLUMNS).but(OWN)],
    example: r#"
[stages.independence]
model = "inst"
prompts = "main"
direction = "direction"
other = "vector"
at = 20
limit = 4
"#,
};

parameters! {
    struct Independence {
        /// The model that is asked.
        model: Model,
        /// The prompts that it is asked.
        prompts: PromptsName,
        /// The stage of the one direction.
        direction: DirectionStage,
        /// The stage of the other.
        other: DirectionStage,
        /// The layer of each direction that is meant, where its stage has several.
        at: Option<Spanned<usize>>,
        /// Layers whose input is looked at; a range such as `"0..20"` for those below one.
        layer: Layers = "all",
        /// Splits of the prompts that are asked; all where left out.
        split: Option<Names>,
        /// How many prompts of each split at most.
        limit: Option<Count>,
        settings: Settings,
    }
}

impl Stage for Independence {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(std::slice::from_ref(&self.model), &self.prompts)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let models = std::slice::from_ref(&*self.model);
        for stage in [&self.direction, &self.other] {
            check_directions(stage, false, models, inputs, problems);
        }
        for split in self.split.iter().flat_map(|splits| splits.0.iter()) {
            inputs.check_split(split, &self.prompts, problems);
        }
        inputs.check_layers(&self.layer, models, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some(prompts) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let layers = self.layers(inputs.n_layers(&self.model.value)).len();
        Cost::of_cells(product(&[3, layers, self.asked(prompts).len()]))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let model = inputs.model(&self.model)?;
        let prompts = inputs.prompt_set(&self.prompts)?;
        let tokens = sweep::tokens_of(model, prompts, &self.settings)?;
        let asked: Vec<Arc<Tokens>> = self
            .asked(prompts)
            .into_iter()
            .map(|i| Arc::clone(&tokens[i]))
            .collect();
        let ends = [
            self.end(&self.direction, inputs)?,
            self.end(&self.other, inputs)?,
        ];
        let clean = self.streams(model, &asked, None, evaluator)?;
        let mut rows = Vec::new();
        for (read, ablated) in [(&ends[1], &ends[0]), (&ends[0], &ends[1])] {
            let without = self.streams(model, &asked, Some(ablated.direction), evaluator)?;
            let cosine = stats::cosine(
                &stats::wide(read.direction.vector.values()),
                &stats::wide(ablated.direction.vector.values()),
            )?;
            for ((layer, with), without) in self
                .layers(model.config().n_layers)
                .into_iter()
                .zip(&clean)
                .zip(&without)
            {
                rows.push(Row {
                    read: read.stage,
                    ablated: ablated.stage,
                    cosine,
                    layer,
                    changes: Changes::of(read.direction, with, without)?,
                });
            }
        }
        Ok(Output::of(vec![(String::new(), self.table(&rows)?)]))
    }
}

/// A direction of a stage.
struct End<'a> {
    stage: &'a str,
    direction: &'a Direction,
}

struct Row<'a> {
    read: &'a str,
    ablated: &'a str,
    cosine: Option<f64>,
    layer: usize,
    changes: Changes,
}

/// Cosines of a direction with two streams, prompt by prompt.
struct Changes {
    n: usize,
    with: [Option<f64>; 2],
    without: [Option<f64>; 2],
    change: Option<f64>,
    interval: Option<Interval>,
}

impl Changes {
    fn of(
        direction: &Direction,
        with: &[Vec<f32>],
        without: &[Vec<f32>],
    ) -> Result<Self, StageError> {
        let v = stats::wide(direction.vector.values());
        let mut pairs = Vec::new();
        for (with, without) in with.iter().zip(without) {
            // A stream of which nothing is left points nowhere.
            let cosines = [
                stats::cosine(&stats::wide(with), &v)?,
                stats::cosine(&stats::wide(without), &v)?,
            ];
            if let [Some(with), Some(without)] = cosines {
                pairs.push((with, without));
            }
        }
        let (with, without): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let changes: Vec<f64> = pairs.iter().map(|(with, without)| without - with).collect();
        let described = |values: &[f64]| -> Result<[Option<f64>; 2], StageError> {
            Ok([stats::mean(values)?, stats::std(values, 1)?])
        };
        Ok(Changes {
            n: pairs.len(),
            with: described(&with)?,
            without: described(&without)?,
            change: stats::mean(&changes)?,
            interval: stats::bootstrap_mean(&changes, 0)?,
        })
    }
}

impl Independence {
    fn layers(&self, n_layers: usize) -> Vec<usize> {
        parameters::layers(&self.layer, n_layers)
    }

    /// The prompts that are asked, by number.
    fn asked(&self, prompts: &PromptSet) -> Vec<usize> {
        let splits: Vec<&str> = match &self.split {
            Some(splits) => splits.values().map(String::as_str).collect(),
            None => prompts.splits(),
        };
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| limit.value);
        parameters::first_indices(prompts, &splits, limit)
    }

    /// The direction of a stage: that at the layer named, or the only one.
    fn end<'a>(
        &'a self,
        stage: &'a DirectionStage,
        inputs: &'a Inputs,
    ) -> Result<End<'a>, StageError> {
        let all = &inputs.stage(stage)?.directions;
        let at = self.at.as_ref().map(|at| at.value);
        let here = || {
            all.iter()
                .filter(move |d| at.is_none_or(|at| d.layer == at))
        };
        let found = match (all.as_slice(), here().count()) {
            ([only], _) => Some(only),
            (_, 1) => here().next(),
            _ => None,
        };
        let direction = found.ok_or_else(|| {
            StageError::Data(format!(
                "stage `{}` has {} directions, and not just one {} to compare; name a layer where it has one with `at`",
                stage.value,
                all.len(),
                at.map_or("there is".to_string(), |at| format!("at layer {at}"))
            ))
        })?;
        Ok(End {
            stage: &stage.value,
            direction,
        })
    }

    /// By layer and prompt what enters the layer at the last token, without a direction where one is named.
    fn streams(
        &self,
        model: &ModelHandle,
        asked: &[Arc<Tokens>],
        without: Option<&Direction>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Vec<Vec<f32>>>, StageError> {
        let config = model.config();
        let edits: Vec<Intervention> = match without {
            Some(direction) => ablated_everywhere(&direction.vector, &Positions::From(0), config),
            None => Vec::new(),
        };
        let cell = |layer: usize, tokens: &Arc<Tokens>| {
            let readout = Readout::Activation {
                hook: HookPoint::block(layer, Site::ResidPre),
                position: tokens.len().saturating_sub(1),
            };
            Cell::new(
                model.fingerprint,
                Arc::clone(tokens),
                edits.clone(),
                readout,
                config.n_layers,
            )
        };
        // Prompt by prompt, so that all layers are read in one pass.
        let layers = self.layers(config.n_layers);
        let of_prompt = |tokens| layers.iter().map(move |&layer| (layer, tokens));
        let cells = asked.iter().flat_map(of_prompt);
        let cells: Vec<Cell> = cells.map(|(layer, tokens)| cell(layer, tokens)).collect();
        let vectors = sweep::activations(evaluator.evaluate(&cells)?)?;
        let mut by_layer: Vec<Vec<Vec<f32>>> = layers.iter().map(|_| Vec::new()).collect();
        for (number, vector) in vectors.into_iter().enumerate() {
            by_layer[number % layers.len()].push(vector);
        }
        Ok(by_layer)
    }

    fn table(&self, rows: &[Row<'_>]) -> Result<DataFrame, StageError> {
        Rows::of(rows)
            .text("model", |_| &self.model.value)
            .text("direction", |row| row.read)
            .text("ablated", |row| row.ablated)
            .number("cosine", |row| row.cosine)
            .integer("layer", |row| row.layer as i64)
            .integer("n", |row| row.changes.n as i64)
            .number("mean", |row| row.changes.with[0])
            .number("std", |row| row.changes.with[1])
            .number("mean_ablated", |row| row.changes.without[0])
            .number("std_ablated", |row| row.changes.without[1])
            .number("change", |row| row.changes.change)
            .ends(["change_low", "change_high"], |row| row.changes.interval)
            .frame()
    }
}

/// Both ways round: the cosine by layer with and without the other direction, a standard deviation either side.
fn figures(stage: &str, left: &Artifacts) -> Result<Vec<Figure>, StageError> {
    let all = left.table("")?;
    let layers = table::read_integers(&all, "layer")?;
    let (read, ablated) = (
        table::read_text(&all, "direction")?,
        table::read_text(&all, "ablated")?,
    );
    let column = |name: &str| -> Result<Vec<Option<f64>>, StageError> {
        Ok(all.column(name)?.f64()?.iter().collect())
    };
    let with = (column("mean")?, column("std")?);
    let without = (column("mean_ablated")?, column("std_ablated")?);
    let ways = super::distinct(read.iter().zip(&ablated));
    let panel = |(of, other): (&String, &String)| {
        let rows: Vec<usize> = (0..all.height())
            .filter(|&i| read[i] == *of && ablated[i] == *other)
            .collect();
        let marks = |name: String,
                     colour: &str,
                     shape: Shape,
                     (mean, std): &(Vec<Option<f64>>, Vec<Option<f64>>)| {
            let at = |i: usize| layers[i].unwrap_or_default() as f64;
            let points = rows.iter().filter_map(|&i| Some((at(i), mean[i]?)));
            let edges = rows
                .iter()
                .filter_map(|&i| Some((at(i), mean[i]? - std[i]?, mean[i]? + std[i]?)));
            [
                Mark::band(format!("{name}, standard deviation"), colour, edges),
                Mark::new(name, colour, shape, points),
            ]
        };
        let clean = marks("as it is".to_string(), PALETTE[0], Shape::Line, &with);
        let edited = marks(
            format!("without `{other}`"),
            PALETTE[1],
            Shape::Dashed,
            &without,
        );
        Panel::new(
            format!("`{of}`"),
            Axis::of("layer"),
            Axis::of("cosine with the stream"),
            clean.into_iter().chain(edited).collect(),
        )
    };
    Ok(vec![Figure {
        title: "Whether one direction depends on the other".to_string(),
        note: "Mean over prompts of the cosine of each direction with the stream at the last token, and a standard deviation either side. Where both lines are one, \
               ablating the other direction at every site changes nothing along this one."
            .to_string(),
        panels: ways.into_iter().map(panel).collect(),
        columns: 2,
        ..Figure::of(stage, "independence")
    }])
}
