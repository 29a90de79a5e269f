//! Types of parameters that stages share, and checks of them against models and prompt sets.

use std::marker::PhantomData;
use std::ops::Deref;

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::prompts::{Prompt, PromptSet};
use crate::spec::{Choice, Decode, Layers, Node, OneOrMany, Problems, Spanned};

use super::declare::{FieldType, Keyed, one_or_many};
use super::{Inputs, Name, Needs, Product, StageError, check_layer};

/// Types that are written as another one is: how they are decoded, and what stands behind them.
macro_rules! written_as {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ty) from $written:ty, $build:expr;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct $name(pub(super) $inner);

        impl Deref for $name {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl Decode for $name {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                let written = <$written>::decode(node, problems)?;
                let build: fn($written, &mut Problems) -> Option<$inner> = $build;
                build(written, problems).map(Self)
            }

            fn expected() -> String {
                <$written>::expected()
            }
        }
    )+};
}

written_as! {
    /// The name of a model. It is shown in tables, and so is in the key beside the model's content.
    Model(Name) from Name, |name, _| Some(name);
    /// Names of models, in the order of the table's rows.
    Models(Vec<Name>) from OneOrMany<String>, |names, _| Some(names.0);
    /// The name of a prompt set.
    PromptsName(Name) from Name, |name, _| Some(name);
    /// The name of a split of the prompts, or of a field that they have.
    Label(Name) from Name, |name, _| Some(name);
    /// Names of splits.
    Labels(Vec<Name>) from OneOrMany<String>, |names, _| Some(names.0);
    /// Names of summaries, which are shown.
    Summaries(Vec<Name>) from OneOrMany<String>, |names, _| Some(names.0);
    /// Values of α.
    Alphas(Vec<f64>) from OneOrMany<f64>, |alphas, _| Some(alphas.iter().copied().collect());
    /// Layers that each of several models is edited at. Which these are depends on the models, where it is said with `all`.
    LayersOfEach(Layers) from Layers, |layers, _| Some(layers);
    /// A position counted from the end of the prompt: −1 is the last token.
    Position(i64) from Spanned<i64>, |position, problems| {
        if position.value >= 0 {
            let message = format!("position `{}` is not counted from the end", position.value);
            problems
                .error_at(&position.at, message)
                .label("expected -1 (the last prompt token) or less");
            return None;
        }
        Some(position.value)
    };
    /// How many: at least 1.
    Count(Spanned<usize>) from Spanned<usize>, |count, problems| at_least_one(count, "", problems);
    /// How many prompts are at the top of a ranking, and at the bottom.
    GroupSize(Spanned<usize>) from Spanned<usize>, |n, problems| {
        at_least_one(n, ": a direction is made of two groups of prompts", problems)
    };
}

fn at_least_one(
    count: Spanned<usize>,
    why: &str,
    problems: &mut Problems,
) -> Option<Spanned<usize>> {
    if count.value == 0 {
        let message = format!("`{}` must be at least 1{why}", count.at.field());
        problems.error_at(&count.at, message);
        return None;
    }
    Some(count)
}

/// What a schema and a key say of the types above.
macro_rules! field_types {
    ($($name:ident $(($keyed:expr))?: $schema:expr, |$value:ident| $key:expr $(, refers |$needs:ident| $refer:expr)?;)+) => {$(
        impl FieldType for $name {
            $(const KEYED: Keyed = $keyed;)?

            fn schema() -> Json {
                $schema
            }

            fn key(&self) -> Json {
                let $value = &self.0;
                $key
            }

            $(fn refer(&self, $needs: &mut Needs) {
                let $value = &self.0;
                $refer
            })?
        }
    )+};
}

field_types! {
    Model: json!({ "type": "string" }), |name| json!(name.value), refers |needs| needs.add_model(name);
    Models: one_or_many(&json!({ "type": "string" })), |names| labels(names),
        refers |needs| names.iter().for_each(|name| needs.add_model(name));
    PromptsName (Keyed::ByContent): json!({ "type": "string" }), |name| json!(name.value),
        refers |needs| needs.prompts.push(name.clone());
    Label: json!({ "type": "string" }), |name| json!(name.value);
    Labels: one_or_many(&json!({ "type": "string" })), |names| labels(names);
    Summaries: one_or_many(&json!({ "type": "string" })), |names| labels(names),
        refers |needs| needs.stages.extend(names.iter().map(|name| (name.clone(), Product::Summary)));
    Alphas: one_or_many(&f64::schema()), |alphas| json!(alphas);
    LayersOfEach: Layers::schema(), |layers| layers.key(),
        refers |needs| needs.depths |= *layers == Layers::All;
    Position: json!({ "type": "integer", "maximum": -1 }), |position| json!(position);
    Count: json!({ "type": "integer", "minimum": 1 }), |count| json!(count.value);
    GroupSize: json!({ "type": "integer", "minimum": 1 }), |n| json!(n.value);
}

/// Names in the key.
fn labels(names: &[Name]) -> Json {
    names.iter().map(|name| name.value.as_str()).collect()
}

/// What a stage of another kind has to give; see [`StageOf`].
pub(super) trait Makes {
    const PRODUCT: Product;
}

macro_rules! products {
    ($($name:ident),+) => {$(
        #[derive(Clone, Debug)]
        pub(super) struct $name;

        impl Makes for $name {
            const PRODUCT: Product = Product::$name;
        }
    )+};
}

products!(Scores, Directions, Sweep, Texts);

/// The name of a stage that gives `P`.
#[derive(Clone, Debug)]
pub(super) struct StageOf<P>(Name, PhantomData<P>);

impl<P> Deref for StageOf<P> {
    type Target = Name;

    fn deref(&self) -> &Name {
        &self.0
    }
}

impl<P: Makes> Decode for StageOf<P> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        Name::decode(node, problems).map(|name| Self(name, PhantomData))
    }

    fn expected() -> String {
        Name::expected()
    }
}

impl<P: Makes> FieldType for StageOf<P> {
    const KEYED: Keyed = Keyed::ByContent;

    fn schema() -> Json {
        let wanted = P::PRODUCT.noun();
        json!({ "type": "string", "description": format!("The name of a stage that gives {wanted}.") })
    }

    fn key(&self) -> Json {
        json!(self.0.value)
    }

    fn refer(&self, needs: &mut Needs) {
        needs.stages.push((self.0.clone(), P::PRODUCT));
    }
}

/// Sites of the width of the residual stream, by their short names and those of TransformerLens.
impl Choice for Site {
    const CHOICES: &'static [(&'static str, Self, &'static str)] = &RESIDUAL_SITES;
}

const RESIDUAL_SITES: [(&str, Site, &str); 10] = {
    let mut sites = [("", Site::ResidPre, ""); 10];
    let mut index = 0;
    while index < 5 {
        let site = Site::RESIDUAL[index];
        sites[index] = (site.short_name(), site, "");
        sites[index + 5] = (site.hook_name(), site, "");
        index += 1;
    }
    sites
};

/// The index of a position counted from the end of a prompt of `length` tokens.
pub(super) fn index_of(position: i64, length: usize, prompt: &Prompt) -> Result<usize, StageError> {
    usize::try_from(length as i64 + position).map_err(|_| {
        StageError::Data(format!(
            "prompt `{}` has {length} tokens, so it has no position `{position}`",
            prompt.id
        ))
    })
}

/// The layers meant, for a model of that many.
pub(super) fn layers(wanted: &Layers, n_layers: usize) -> Vec<usize> {
    match wanted {
        Layers::All => (0..n_layers).collect(),
        Layers::List(list) => list.iter().map(|layer| layer.value).collect(),
    }
}

/// Checks a layer list against every model named.
pub(super) fn check_layers(
    wanted: &Layers,
    names: &[Name],
    inputs: &Inputs,
    problems: &mut Problems,
) {
    let Layers::List(list) = wanted else { return };
    for name in names {
        let Some(model) = inputs.models.get(&name.value) else {
            continue;
        };
        let n_layers = model.config().n_layers;
        let mut told = None;
        for layer in list {
            // The layers of a range stand in one place; one of them is enough.
            if layer.value >= n_layers && told != Some(&layer.at) {
                check_layer(layer.value, &layer.at, &name.value, n_layers, problems);
                told = Some(&layer.at);
            }
        }
    }
}

/// Checks that a prompt set has the split that a stage names. Whether it has.
pub(super) fn check_split(
    split: &Name,
    prompts: &Name,
    inputs: &Inputs,
    problems: &mut Problems,
) -> bool {
    let Some(set) = inputs.prompts.get(&prompts.value) else {
        return false;
    };
    let known = set.splits();
    let is_known = known.contains(&split.value.as_str());
    if !is_known {
        let diagnostic = problems.error_at(
            &split.at,
            format!(
                "prompt set `{}` has no split `{}`",
                prompts.value, split.value
            ),
        );
        let meant = crate::spec::suggest(&split.value, known.iter().copied());
        match meant {
            Some(meant) => diagnostic.label(format!("did you mean `{meant}`?")),
            None => diagnostic.label(format!("its splits are `{}`", known.join("`, `"))),
        };
    }
    is_known
}

/// Checks that a ranking of `available` prompts has n at the top and n at the bottom; `whose` says whose they are.
pub(super) fn check_group_size(
    n: &Spanned<usize>,
    available: usize,
    whose: &str,
    allow_overlap: bool,
    problems: &mut Problems,
) {
    let most = if allow_overlap {
        available
    } else {
        available / 2
    };
    if n.value <= most {
        return;
    }
    let count = n.value;
    let message = format!(
        "`n = {count}` asks for {count} prompts at the top and {count} at the bottom, but {whose}"
    );
    let diagnostic = problems.error_at(&n.at, message);
    diagnostic.label(format!("at most {most}"));
    if !allow_overlap && count <= available {
        diagnostic.help("lower `n`, or set `allow_overlap = true` to let prompts be in both groups and have it recorded");
    }
}

/// Indices of a split's prompts, in file order.
pub(super) fn split_indices(set: &PromptSet, split: &str) -> Vec<usize> {
    (0..set.prompts.len())
        .filter(|&i| set.prompts[i].split == split)
        .collect()
}
