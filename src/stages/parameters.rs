//! Types of parameters that stages share, and checks of them against models and prompt sets.

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Decode, Layers, Node, OneOrMany, Problems, Spanned, choice};

use super::declare::{FieldType, Keyed};
use super::field_types::wrappers;
use super::{Inputs, Name, Needs, Product};

wrappers! {
    /// The name of a model. It is shown in tables, and so is in the key beside the model's content.
    Model(Name): ByValue, |name, needs| needs.add_model(name);
    /// Names of models, in the order of the table's rows.
    Models(Names): ByValue, |names, needs| names.0.iter().for_each(|name| needs.add_model(name));
    /// The name of a prompt set.
    PromptsName(Name): ByContent, |name, needs| needs.prompts.push(name.clone());
    /// Names of summaries, which are shown.
    Summaries(Names): ByValue, |names, needs| names.0.iter().for_each(|name| needs.add_stage(name, Product::Summary));
    /// Layers that each of several models is edited at. Which these are depends on the models, where it is said with `all`.
    LayersOfEach(Layers): ByValue, |layers, needs| needs.depths |= *layers == Layers::All;
    /// Whether a text ends with an end-of-text token: which these are, the models say.
    StopAtEnd(bool): ByValue, |stops, needs| needs.ends |= *stops;
}

/// Names of stages, by what the stages give.
macro_rules! stages_of {
    ($($name:ident: $product:ident),+) => {$(
        wrappers! {
            $name(Name): ByContent, |name, needs| needs.add_stage(name, Product::$product),
                { "description": format!("The name of a stage that gives {}.", Product::$product.noun()) };
        }
    )+};
}

stages_of! {
    ScoreStage: Scores, DirectionStage: Directions, ConditionStage: Condition, SweepStage: Sweep, TextStage: Texts
}

/// Names, none twice.
pub(super) type Names = OneOrMany<String>;

/// Values of α, none twice.
pub(super) type Alphas = OneOrMany<f64>;

/// Numbers that are not just any: what is asked of one, and what is told of others.
macro_rules! bounded {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ty): $bounds:tt, |$is:ident| $test:expr, |$at:ident, $value:ident| $message:expr, $label:expr;)+) => {
        wrappers! {$(
            $(#[doc = $doc])*
            $name(Spanned<$inner>): ByValue, |_number, _needs| {}, $bounds, |number, problems| {
                let $is = number.value;
                let is_good = $test;
                if !is_good {
                    let ($at, $value) = (number.at.field(), number.value);
                    let problem = problems.error_at(&number.at, $message);
                    let label: Option<&str> = $label;
                    if let Some(label) = label {
                        problem.label(label);
                    }
                }
                is_good
            };
        )+}
    };
}

bounded! {
    /// How many: at least 1.
    Count(usize): { "minimum": 1 }, |x| x > 0, |name, _x| format!("`{name}` must be at least 1"), None;
    /// How many prompts are at the top of a ranking, and at the bottom.
    GroupSize(usize): { "minimum": 1 }, |x| x > 0,
        |name, _x| format!("`{name}` must be at least 1: a direction is made of two groups of prompts"), None;
    /// The share of the prompts that is held out.
    Fraction(f64): { "exclusiveMinimum": 0, "exclusiveMaximum": 1 }, |x| x > 0.0 && x < 1.0,
        |_name, x| format!("fraction `{x}` leaves one half empty"),
        Some("expected a number between 0 and 1");
    /// A part of all, and not all of it.
    Share(f64): { "minimum": 0, "exclusiveMaximum": 1 }, |x| (0.0..1.0).contains(&x),
        |name, x| format!("{name} `{x}` leaves nothing, or is no share"),
        Some("expected a number from 0 to below 1");
    /// A difference of scores below which there is no effect to recover.
    Floor(f64): { "exclusiveMinimum": 0 }, |x| x > 0.0, |_name, x| format!("floor `{x}` is not above 0"),
        Some("where donor and recipient score the same there is nothing to recover");
    /// How much large weights of a regression cost.
    Penalty(f64): { "exclusiveMinimum": 0 }, |x| x > 0.0, |_name, x| format!("penalty `{x}` is not above 0"),
        Some("without one there is no regression where the groups can be told apart");
    /// A temperature of sampling.
    Temperature(f64): { "exclusiveMinimum": 0 }, |x| x > 0.0,
        |_name, x| format!("temperature `{x}` is not above 0"),
        Some("leave it out for the most probable token each time");
    /// A rate of refusals.
    Rate(f64): { "minimum": 0, "maximum": 1 }, |x| (0.0..=1.0).contains(&x),
        |name, x| format!("{name} `{x}` is not a rate"),
        Some("expected a number from 0 to 1");
}

/// A site of the width of the residual stream, by its short name or TransformerLens's.
impl Decode for Site {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        choice(node, problems, &residual_sites())
    }

    fn expected() -> String {
        String::expected()
    }
}

impl FieldType for Site {
    fn schema() -> Json {
        json!({ "enum": residual_sites().map(|(name, _)| name), "description": "" })
    }

    fn key(&self) -> Json {
        self.short_name().into()
    }

    fn refer(&self, needs: &mut Needs) {
        needs.sites.push(*self);
    }
}

/// Both names of each, the usual ones first.
pub(super) fn residual_sites() -> [(&'static str, Site); 10] {
    let count = Site::RESIDUAL.len();
    std::array::from_fn(|index| {
        let site = Site::RESIDUAL[index % count];
        match index < count {
            true => (site.short_name(), site),
            false => (site.hook_name(), site),
        }
    })
}

/// The layers meant, for a model of that many.
pub(super) fn layers(wanted: &Layers, n_layers: usize) -> Vec<usize> {
    match wanted {
        Layers::All => (0..n_layers).collect(),
        Layers::List(list) => list.iter().map(|layer| layer.value).collect(),
    }
}

pub(super) fn known_layers(n_layers: usize) -> String {
    format!("the model has {n_layers} layers, 0 to {}", n_layers - 1)
}

impl Inputs {
    /// Checks a layer list against every model named.
    pub(super) fn check_layers(&self, wanted: &Layers, names: &[Name], problems: &mut Problems) {
        let Layers::List(list) = wanted else { return };
        for name in names {
            let n_layers = self.n_layers(&name.value);
            let is_beyond = |layer: usize| n_layers > 0 && layer >= n_layers;
            let beyond: Vec<_> = list.iter().filter(|l| is_beyond(l.value)).collect();
            // The layers of a range stand in one place; one of them is enough.
            for layers in beyond.chunk_by(|a, b| a.at == b.at) {
                let layer = layers[0].value;
                let message = format!("layer `{layer}` is out of range for model `{name}`");
                problems
                    .error_at(&layers[0].at, message)
                    .label(known_layers(n_layers));
            }
        }
    }

    /// Checks that a prompt set has the split that a stage names. Whether it has.
    pub(super) fn check_split(&self, split: &Name, set: &Name, problems: &mut Problems) -> bool {
        let Some(prompts) = self.prompts.get(&set.value) else {
            return false;
        };
        let known = prompts.splits();
        let is_known = known.contains(&split.value.as_str());
        if !is_known {
            let message = format!("prompt set `{set}` has no split `{split}`");
            let splits = format!("its splits are `{}`", known.join("`, `"));
            problems
                .error_at(&split.at, message)
                .suggest(&split.value, known, &splits);
        }
        is_known
    }
}

/// Checks that a ranking of `available` prompts has n at the top and n at the bottom; `whose` says whose they are.
pub(super) fn check_group_size(
    n: &Spanned<usize>,
    available: usize,
    whose: &str,
    allow_overlap: bool,
    problems: &mut Problems,
) {
    let most = match allow_overlap {
        true => available,
        false => available / 2,
    };
    let count = n.value;
    if count <= most {
        return;
    }
    let message = format!(
        "`n = {count}` asks for {count} prompts at the top and {count} at the bottom, but {whose}"
    );
    let diagnostic = problems.error_at(&n.at, message);
    diagnostic.label(format!("at most {most}"));
    if !allow_overlap && count <= available {
        diagnostic.help("lower `n`, or set `allow_overlap = true` to let prompts be in both groups and have it recorded");
    }
}

/// Indices of at most `limit` prompts of each split, split by split.
pub(super) fn first_indices(set: &PromptSet, splits: &[&str], limit: usize) -> Vec<usize> {
    let of_split = |split: &&str| split_indices(set, split).into_iter().take(limit);
    splits.iter().flat_map(of_split).collect()
}

/// Indices of a split's prompts, in file order.
pub(super) fn split_indices(set: &PromptSet, split: &str) -> Vec<usize> {
    (0..set.prompts.len())
        .filter(|&i| set.prompts[i].split == split)
        .collect()
}
