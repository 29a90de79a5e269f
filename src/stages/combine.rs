//! `combine`: sums of other stages' directions, less what they have of others, place by place.
//!
//! r = Σ wᵢ·vᵢ, each vᵢ as long as it was (`length = "keep"`) or 1 long, then r − Σ (r·q)q with q an orthonormal basis of the directions of `without`, at
//! each layer, site and position of the first. With one term that is heretic's projected direction, r − (r·g)g. Main table: a row for each direction;
//! `terms` what each is made of; `cosine` between all of them.

mod sum;

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use crate::spec::{Decode, Layers, Node, Value};

use super::declare::{FieldType, Keyed, Parameter, Table, parameters};
use super::direction::{Direction, cosines, figures};
use super::field_types::one_or_many;
use super::forecast::ExpectedDirection;
use super::parameters::DirectionStage;
use super::prelude::*;
use super::vector::Length;
use super::{Needs, distinct};
use sum::{Made, Source, between_models, table, terms};

pub(super) static KIND: super::Kind = super::Kind {
    figures: Some(figures),
    ..super::kind::<Combine>(
        "combine",
        1,
        Product::Directions,
        "sums and differences of directions, and what is left of one without others",
        &TOLD,
    )
};

const OWN: &[ColumnTold] = &[
    ColumnTold::of(
        "direction",
        "what the direction is made of, by the names of the stages",
        "",
    ),
    ColumnTold::of(
        "pre_norm",
        "its length, before it was made 1: what α counts in units of `pre_norm`",
        "as activations",
    ),
    ColumnTold::of(
        "resid_norm",
        "that of the first term; blank where that has none",
        "as activations",
    ),
    ColumnTold::of(
        "left",
        "share of the sum's length that is left without the directions of `without`",
        "0 to 1",
    ),
];

const OF_TERMS: &[ColumnTold] = &[
    ColumnTold::of("role", "`term` of the sum, or `without`", ""),
    ColumnTold::of("stage", "the stage of the direction", ""),
    ColumnTold::of("direction", "what that calls it", ""),
    ColumnTold::of(
        "weight",
        "how often it is added; blank of one that is taken out",
        "count",
    ),
    ColumnTold::of(
        "length",
        "how long it is in the sum; blank of one that is taken out",
        "as activations",
    ),
    ColumnTold::of("cosine", "its cosine with what became of it all", "−1 to 1"),
];

static TOLD: Told = Told {
    computes: "`r = Σ wᵢ·vᵢ` over the directions of the stages in `of`, at each layer, site and position that the first has one; each as long as it \
        was before it was made 1 (`length = \"keep\"`), so that a sum of differences of means is the difference of the sums, or 1 long \
        (`\"unit\"`). What `r` has along the directions of `without` is taken out of it, `r − Σ (r·q)q` with an orthonormal basis `q` of these: \
        with one term and the mean of a group (`method = \"mean_b\"` of `direction`) that is heretic's projected direction. `resid_post` of a \
        layer is `resid_pre` of the next. A direction that has no partner is an error, and so are terms that cancel out. The result is kept with \
        norm 1 and the norm that it had as `pre_norm`.",
    tables: &[
        TableTold::of(
            "",
            "a row for each direction",
            "model direction seed layer site position pre_norm resid_norm left",
        )
        .but(OWN),
        TableTold::of(
            "terms",
            "a row for each direction and each that it is made of",
            "seed layer role stage direction weight length cosine",
        )
        .but(OF_TERMS),
        told::COSINES,
    ],
    example: r#"
[stages.combine]
of = ["direction"]
without = "mean"
"#,
};

parameters! {
    struct Combine {
        /// The stages whose directions are added, each by its name, or as a table with a `weight`: `["a", { direction = "b", weight = -1 }]`.
        of: Terms,
        /// Stages whose directions are taken out of the sum.
        without: Option<Without>,
        /// How long the directions are that are added.
        length: Length = "keep",
        /// Layers of the first stage's directions that are taken; all where left out.
        layer: Option<Layers>,
    }
}

parameters! {
    /// A direction and how often it is added.
    #[derive(Clone, Debug)]
    struct Term {
        /// The stage whose directions are added.
        direction: DirectionStage,
        /// How often.
        weight: f64 = 1.0,
    }
}

/// Terms of a sum; no stage twice.
#[derive(Clone, Debug)]
struct Terms(Vec<Term>);

impl Decode for Terms {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let one = std::slice::from_ref(node);
        let items = match &node.value {
            Value::Array(items) if items.is_empty() => {
                return problems.mismatch(node, &Self::expected());
            }
            Value::Array(items) => items.as_slice(),
            _ => one,
        };
        let term = |item: &Node| match &item.value {
            Value::String(_) => Some(Term {
                direction: DirectionStage::decode(item, problems)?,
                weight: 1.0,
            }),
            _ => Table::<Term>::decode(item, problems).map(|Table(term)| term),
        };
        let terms: Vec<Option<Term>> = items.iter().map(term).collect();
        let terms: Vec<Term> = terms.into_iter().collect::<Option<_>>()?;
        let mut names = HashSet::new();
        let twice = terms
            .iter()
            .find(|term| !names.insert(&term.direction.value));
        if let Some(Term { direction, .. }) = twice {
            problems
                .error_at(
                    &direction.at,
                    format!("stage `{}` is added twice", **direction),
                )
                .help("give it a `weight`");
            return None;
        }
        Some(Terms(terms))
    }

    fn expected() -> String {
        "a name, or a list of names or tables".into()
    }
}

impl FieldType for Terms {
    fn schema() -> Json {
        let one = json!({ "anyOf": [{ "type": "string" }, Table::<Term>::schema()] });
        one_or_many(&one)
    }

    fn key(&self) -> Json {
        let term = |term: &Term| json!([term.direction.value, term.weight]);
        self.0.iter().map(term).collect()
    }

    fn refer(&self, needs: &mut Needs) {
        self.0.iter().for_each(|term| term.add_needs(needs));
    }
}

super::field_types::wrappers! {
    /// Names of stages whose directions are taken out; they are in the result's name.
    Without(super::parameters::Names): ByValue, |names, needs| names.0.iter().for_each(|name| needs.add_stage(name, Product::Directions));
}

impl Stage for Combine {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let Some(first) = self.of.0.first() else {
            return Forecast::default();
        };
        let all = inputs.expected_directions(&first.direction).iter();
        let directions: Vec<ExpectedDirection> =
            all.filter(|d| self.is_taken(d.layer)).cloned().collect();
        Forecast {
            models: distinct(directions.iter().map(|d| d.model.clone())),
            directions,
            ..Forecast::default()
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let (Some(Layers::List(layers)), Some(first)) = (&self.layer, self.of.0.first()) else {
            return;
        };
        let expected = inputs.expected_directions(&first.direction);
        let is_missing = |layer: usize| expected.iter().all(|d| d.layer != layer);
        for layer in layers
            .iter()
            .filter(|layer| !expected.is_empty() && is_missing(layer.value))
        {
            let message = format!(
                "stage `{}` makes no direction at layer {}",
                *first.direction, layer.value
            );
            problems.error_at(&layer.at, message);
        }
    }

    fn run(&self, inputs: &Inputs, _evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let sources = |names: &[&Name]| -> Result<Vec<Source>, StageError> {
            let source = |name: &&Name| {
                Ok(Source {
                    stage: name.value.clone(),
                    directions: inputs.stage(name)?.directions.clone(),
                })
            };
            names.iter().map(source).collect()
        };
        let of: Vec<&Name> = self.of.0.iter().map(|term| &*term.direction).collect();
        let of = sources(&of)?;
        let without: Vec<&Name> = self
            .without
            .iter()
            .flat_map(|names| names.0.0.iter())
            .collect();
        let without = sources(&without)?;
        let first = of
            .first()
            .ok_or_else(|| StageError::Internal("a sum of nothing".to_string()))?;
        let taken: Vec<&Direction> = first
            .directions
            .iter()
            .filter(|d| self.is_taken(d.layer))
            .collect();
        let made = taken.iter().map(|at| self.made(at, &of, &without));
        let made = made.collect::<Result<Vec<Made>, StageError>>()?;
        let directions: Vec<Direction> = made.iter().map(|made| made.direction.clone()).collect();
        Ok(Output {
            tables: vec![
                (String::new(), table(&made)?),
                ("terms".to_string(), terms(&made)?),
                ("cosine".to_string(), cosines(&directions)?),
            ],
            findings: between_models(&made).into_iter().collect(),
            directions,
            ..Output::default()
        })
    }
}
