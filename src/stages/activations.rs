//! `activations`: vectors at named places for every prompt of a set, as arrays, for probes in a notebook.
//!
//! `tensors/NAME.safetensors` holds one tensor for each model, layer and site, `[rows, width]`, float32, called after the model and the place
//! (`inst.blocks.20.hook_resid_pre`). What a row is says the main table, what a tensor is the table `tensors`. The token ids of each
//! prompt are there, too, as each model reads it: `MODEL.token_ids`, one prompt behind the other, and `MODEL.token_offsets`, where each
//! begins and, last, where all end.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::model::{Cell, Cells, HookPoint, ModelHandle, Readout, Site, Tokens, Value};
use crate::prompts::{Prompt, PromptSet};
use crate::spec::{Decode, Distinct, Node, OneOrMany, Spanned, choice};

use super::declare::FieldType;
use super::parameters::{self, LayersOfEach, Models, PromptsName};
use super::position::{Layout, Position};
use super::prelude::*;
use super::sweep;
use super::table::Rows;
use super::tensors::{Numbers, Tensor, Tensors};
use super::{Name, Needs};

pub(super) static KIND: Kind = super::kind::<Activations>(
    "activations",
    1,
    Product::Activations,
    "vectors inside a model for every prompt, for probes",
    &TOLD,
);

const OF_ROWS: &[ColumnTold] = &[
    ColumnTold::of("row", "the row of the model's tensors, from 0", "index"),
    ColumnTold::of(
        "position",
        "the position that is read, counted from the end: -1 is the last token",
        "index",
    ),
    ColumnTold::of("index", "the same, counted from the start, from 0", "index"),
    ColumnTold::of("tokens", "tokens of the prompt in the chat", "count"),
    ColumnTold::of("token_id", "the token at the position", ""),
    ColumnTold::of("token", "as the vocabulary spells it", ""),
];
const OF_TENSORS: &[ColumnTold] = &[
    ColumnTold::of("tensor", "its name in the file", ""),
    ColumnTold::of("rows", "its rows, as in the main table", "count"),
    ColumnTold::of("width", "numbers of a row", "count"),
];

static TOLD: Told = Told {
    computes: "The vectors at each layer and site named, at a position of every prompt, as the model computes them without any edit. \
        `tensors/NAME.safetensors` holds them: for each model, layer and site a tensor of shape `[rows, width]`, float32, called \
        `MODEL.blocks.LAYER.SITE` with TransformerLens's name of the site (`inst.blocks.20.hook_resid_pre`); its rows are those of the main \
        table. Beside them are the token ids of every prompt in the chat of the study: `MODEL.token_ids` (int64, one prompt behind the other) \
        and `MODEL.token_offsets` (int64): prompt `i` of the set, from 0, has the ids from `offsets[i]` to `offsets[i + 1]`. What is in the \
        file it says itself, in its metadata. Where prompts are withheld, `dial export` leaves the file out.",
    tables: &[
        TableTold::of(
            "",
            "a row for each model, prompt and position: what the rows of the model's tensors are",
            "model row id split category position index tokens token_id token",
        )
        .but(OF_ROWS),
        TableTold::of(
            "tensors",
            "a row for each tensor of vectors",
            "tensor model layer site rows width",
        )
        .but(OF_TENSORS),
    ],
    example: r#"
[stages.activations]
model = "inst"
prompts = "main"
layer = [10, 20]
site = ["resid_pre", "mlp_post"]
"#,
};

parameters! {
    struct Activations {
        /// Models that are read, in the order of the tables.
        model: Models,
        /// The prompts.
        prompts: PromptsName,
        /// Layers that are read, `"all"` for every layer of each model.
        layer: LayersOfEach,
        /// Sites that are read, of those that a model's blocks have.
        site: Sites = "resid_pre",
        /// Which tokens are read, as `steer` has it; of several each has a row of its own.
        position: Position = -1,
        settings: Settings,
    }
}

type Sites = OneOrMany<AnySite>;

/// A site whatever its width: what is only read need not be of that of the stream.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AnySite(Site);

impl Decode for AnySite {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        choice(node, problems, &all_sites()).map(AnySite)
    }

    fn expected() -> String {
        String::expected()
    }
}

impl std::fmt::Display for AnySite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Distinct for AnySite {}

impl FieldType for AnySite {
    fn schema() -> Json {
        let names: Vec<&str> = all_sites().into_iter().map(|(name, _)| name).collect();
        json!({ "enum": names, "description": "" })
    }

    fn key(&self) -> Json {
        self.0.short_name().into()
    }

    fn refer(&self, needs: &mut Needs) {
        needs.sites.push(self.0);
    }
}

/// Both names of each, the usual ones first.
fn all_sites() -> Vec<(&'static str, Site)> {
    let short = Site::ALL.map(|site| (site.short_name(), site));
    let long = Site::ALL.map(|site| (site.hook_name(), site));
    short.into_iter().chain(long).collect()
}

/// A row of the tensors of a model: a position of a prompt.
struct Row<'a> {
    model: &'a ModelHandle,
    /// From 0, of the tensors of the model.
    number: usize,
    prompt: &'a Prompt,
    tokens: Arc<Tokens>,
    /// From the end.
    position: i64,
    /// The same from the start.
    index: usize,
}

/// What is read of one model: every row at every place.
struct Read<'a> {
    model: &'a ModelHandle,
    places: Vec<HookPoint>,
    rows: Vec<Row<'a>>,
}

impl Cells for Read<'_> {
    fn count(&self) -> usize {
        self.places.len() * self.rows.len()
    }

    fn cell(&self, number: usize) -> Cell {
        let row = &self.rows[number % self.rows.len()];
        let readout = Readout::Activation {
            hook: self.places[number / self.rows.len()],
            position: row.index,
        };
        let (model, n_layers) = (self.model.fingerprint, self.model.config().n_layers);
        Cell::new(model, Arc::clone(&row.tokens), vec![], readout, n_layers)
    }
}

impl Read<'_> {
    /// The vectors of each place, one row behind the other.
    fn vectors(&self, evaluator: &mut dyn Evaluate) -> Result<Vec<Vec<f32>>, StageError> {
        let width = |place: &HookPoint| place.width(self.model.config());
        let of_place = |place| vec![f32::NAN; width(place) * self.rows.len()];
        let mut vectors: Vec<Vec<f32>> = self.places.iter().map(of_place).collect();
        let mut told = Ok(());
        evaluator.evaluate_each(self, &mut |number, value| {
            let (place, row) = (number / self.rows.len(), number % self.rows.len());
            let width = width(&self.places[place]);
            match value {
                Value::Activation(vector) if vector.len() == width => {
                    vectors[place][row * width..][..width].copy_from_slice(&vector);
                }
                other => told = Err(sweep::unexpected("an activation", &other)),
            }
        })?;
        told.map(|()| vectors)
    }

    fn name(&self, place: HookPoint) -> String {
        format!("{}.{place}", self.model.name)
    }
}

impl Stage for Activations {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.model, &self.prompts)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        inputs.check_layers(&self.layer, &self.model, problems);
        self.position.check_of_prompt(problems);
        for name in self.model.iter() {
            let Some(model) = inputs.models.get(&name.value) else {
                continue;
            };
            for site in &self.site.0 {
                self.check_site(site, name, model, problems);
            }
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let prompts = sweep::prompt_count(inputs, &self.prompts);
        let layers = |model: &Name| parameters::layers(&self.layer, inputs.n_layers(&model.value));
        let layers = self.model.iter().map(|model| layers(model).len()).sum();
        Cost::of_cells(product(&[layers, self.site.len(), prompts]))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let mut read = Vec::new();
        let (mut ids, mut vectors) = (Vec::new(), Vec::new());
        for model in inputs.models_named(&self.model)? {
            let tokens = sweep::tokens_of(model, prompts, &self.settings)?;
            ids.extend(token_ids(model, &tokens));
            let of_model = self.read(model, prompts, &tokens)?;
            let found = of_model.vectors(evaluator)?;
            for (place, numbers) in of_model.places.iter().zip(found) {
                vectors.push(Tensor {
                    name: of_model.name(*place),
                    shape: vec![of_model.rows.len(), place.width(model.config())],
                    numbers: Numbers::F32(numbers),
                });
            }
            read.push(of_model);
        }
        let file = Tensors {
            name: String::new(),
            tensors: ids.into_iter().chain(vectors).collect(),
            metadata: self.metadata(&read),
        };
        let models = inputs.models_named(&self.model)?;
        Ok(Output {
            tables: tables(&read)?,
            tensors: vec![file],
            findings: sweep::findings(&self.position, &models, &self.settings)?,
            ..Output::default()
        })
    }
}

impl Activations {
    /// Checks that every layer named has a site: where a model has experts, not all blocks are alike.
    fn check_site(
        &self,
        site: &Spanned<AnySite>,
        name: &Name,
        model: &ModelHandle,
        problems: &mut Problems,
    ) {
        let config = model.config();
        let layers = parameters::layers(&self.layer, config.n_layers);
        let lacks = |layer: &usize| !HookPoint::block(*layer, site.value.0).is_in(config);
        // What the first block lacks is told of every stage alike, and so is a layer that is not there.
        let mut layers = layers.into_iter().filter(|layer| *layer < config.n_layers);
        if lacks(&0) {
            return;
        }
        if let Some(layer) = layers.find(lacks) {
            let message = format!(
                "layer {layer} of model `{name}` has no site `{}`",
                site.value
            );
            problems
                .error_at(&site.at, message)
                .label(format!("it has {}", config.sites(layer)))
                .help("read it in a stage of its own, at the layers that have it");
        }
    }

    /// What is read of a model.
    fn read<'a>(
        &self,
        model: &'a ModelHandle,
        prompts: &'a PromptSet,
        tokens: &[Arc<Tokens>],
    ) -> Result<Read<'a>, StageError> {
        let layers = parameters::layers(&self.layer, model.config().n_layers);
        let sites = || self.site.values().map(|site| site.0);
        let places = layers
            .into_iter()
            .flat_map(|layer| sites().map(move |site| HookPoint::block(layer, site)));
        let layout = Layout::of(&self.position, model, &self.settings.chat)?;
        let mut rows = Vec::new();
        for (prompt, tokens) in prompts.prompts.iter().zip(tokens) {
            let positions = self.position.of(&layout, tokens, prompt)?;
            for index in positions.below(tokens.len()) {
                rows.push(Row {
                    model,
                    number: rows.len(),
                    prompt,
                    tokens: Arc::clone(tokens),
                    position: index as i64 - tokens.len() as i64,
                    index,
                });
            }
        }
        Ok(Read {
            model,
            places: places.collect(),
            rows,
        })
    }

    /// What the file says of itself.
    fn metadata(&self, read: &[Read<'_>]) -> BTreeMap<String, String> {
        let models: Map<String, Json> = read
            .iter()
            .map(|read| {
                let (model, config) = (read.model, read.model.config());
                let said = json!({
                    "fingerprint": model.fingerprint.to_hex().to_string(),
                    "dtype": model.dtype.name(),
                    "n_layers": config.n_layers,
                    "d_model": config.d_model,
                });
                (model.name.clone(), said)
            })
            .collect();
        let about = "MODEL.blocks.LAYER.SITE: vectors as the model computes them, [rows, width], float32; rows as in the stage's main table. \
            MODEL.token_ids: token ids of all prompts in the chat, one prompt behind the other, [tokens]; prompt i of the set has those from \
            MODEL.token_offsets[i] to [i + 1], [prompts + 1].";
        BTreeMap::from([
            ("about".to_string(), about.to_string()),
            ("position".to_string(), self.position.to_string()),
            ("models".to_string(), Json::Object(models).to_string()),
            (
                "dial".to_string(),
                format!("activations, version {}", KIND.version),
            ),
        ])
    }
}

/// The token ids of every prompt, and where those of each begin.
fn token_ids(model: &ModelHandle, tokens: &[Arc<Tokens>]) -> [Tensor; 2] {
    let ids: Vec<i64> = tokens
        .iter()
        .flat_map(|tokens| tokens.ids().iter().map(|id| i64::from(*id)))
        .collect();
    let mut offsets = vec![0];
    for tokens in tokens {
        let before = offsets.last().copied().unwrap_or(0);
        offsets.push(before + tokens.len() as i64);
    }
    [("token_ids", ids), ("token_offsets", offsets)].map(|(what, numbers)| Tensor {
        name: format!("{}.{what}", model.name),
        shape: vec![numbers.len()],
        numbers: Numbers::I64(numbers),
    })
}

/// What the rows are, and what the tensors are.
fn tables(read: &[Read<'_>]) -> Result<Vec<(String, polars::prelude::DataFrame)>, StageError> {
    let rows: Vec<&Row<'_>> = read.iter().flat_map(|read| &read.rows).collect();
    let token = |row: &&Row<'_>| row.tokens.ids()[row.index];
    let main = Rows::of(&rows)
        .text("model", |row| &row.model.name)
        .integer("row", |row| row.number as i64)
        .text("id", |row| &row.prompt.id)
        .text("split", |row| &row.prompt.split)
        .text("category", |row| &row.prompt.category)
        .integer("position", |row| row.position)
        .integer("index", |row| row.index as i64)
        .integer("tokens", |row| row.tokens.len() as i64)
        .integer("token_id", |row| i64::from(token(row)))
        .text("token", |row| row.model.spelling(token(row)))
        .frame()?;
    let tensors: Vec<(&Read<'_>, HookPoint)> = read
        .iter()
        .flat_map(|read| read.places.iter().map(move |place| (read, *place)))
        .collect();
    let tensors = Rows::of(&tensors)
        .text("tensor", |(read, place)| read.name(*place))
        .text("model", |(read, _)| &read.model.name)
        .integer("layer", |(_, place)| {
            block_of(*place).map(|(layer, _)| layer as i64)
        })
        .text("site", |(_, place)| {
            block_of(*place).map_or("", |(_, site)| site.short_name())
        })
        .integer("rows", |(read, _)| read.rows.len() as i64)
        .integer("width", |(read, place)| {
            place.width(read.model.config()) as i64
        })
        .frame()?;
    Ok(vec![
        (String::new(), main),
        ("tensors".to_string(), tensors),
    ])
}

/// The layer and the site of a place in a block.
fn block_of(place: HookPoint) -> Option<(usize, Site)> {
    match place {
        HookPoint::Block { layer, site } => Some((layer, site)),
        HookPoint::Embed | HookPoint::FinalNormalized | HookPoint::FinalNorm => None,
    }
}
