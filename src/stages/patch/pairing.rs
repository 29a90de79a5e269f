//! Who gives to whom: one prompt in two models, or two prompts in one model.

use std::collections::{HashMap, VecDeque};

use serde_json::json;

use crate::model::ModelConfig;
use crate::prompts::{Prompt, PromptSet};
use crate::spec::{Fields, Problems};

use super::super::declare::{Together, declared, parameters};
use super::super::field_types::choices;
use super::super::parameters::{self, Model};
use super::super::settings::Settings;
use super::super::{Inputs, Name};

/// A donor and a recipient, by index into the prompt set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(crate) donor: usize,
    pub(crate) recipient: usize,
}

choices! {
    /// Whose runs are paired.
    pub(super) enum Between {
        /// the same prompt in two models
        Models = "models",
        /// prompts of two splits in one model
        Prompts = "prompts",
    }
}

parameters! {
    /// How runs are paired.
    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum Pairing {
        /// Whose runs are paired.
        by pairing: Between;
        /// The same prompt in two models.
        Models {
            /// The model that gives; with `pairing = "models"`.
            donor as "donor_model": Model,
            /// The model that receives; with `pairing = "models"`.
            recipient as "recipient_model": Model,
        },
        /// Prompts of two splits in the same model: by order, the shorter split deciding; or the i-th donor with a value of the field
        /// `pair_by` with the i-th recipient with that value.
        Prompts {
            /// The model; with `pairing = "prompts"`.
            model: Model,
            /// The split of the prompts that give; with `pairing = "prompts"`.
            donors: Name,
            /// The split of the prompts that receive; with `pairing = "prompts"`.
            recipients: Name,
            /// A field of the prompts that both of a pair have the same value of; they are paired by order where it is left out.
            pair_by: Option<Name>,
        },
    }
}

impl Together for Pairing {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let Some(between) = fields.required("pairing") else {
            // What they mean is not known, but one mistake should not make a dozen.
            for name in [
                "donor",
                "recipient",
                "model",
                "donors",
                "recipients",
                "pair_by",
            ] {
                fields.node(name);
            }
            return None;
        };
        match between {
            Between::Models => {
                let (donor, recipient) = (fields.required("donor"), fields.required("recipient"));
                Some(Pairing::Models {
                    donor: donor?,
                    recipient: recipient?,
                })
            }
            Between::Prompts => {
                let model = fields.required("model");
                let donors = fields.required("donors");
                let recipients = fields.required("recipients");
                let pair_by = fields.optional("pair_by");
                Some(Pairing::Prompts {
                    model: model?,
                    donors: donors?,
                    recipients: recipients?,
                    pair_by,
                })
            }
        }
    }
}

impl Pairing {
    pub(super) fn models(&self) -> (&Name, &Name) {
        match self {
            Pairing::Models { donor, recipient } => (donor, recipient),
            Pairing::Prompts { model, .. } => (model, model),
        }
    }

    /// The pairs: between models at most `limit` prompts of each split, between prompts at most `limit` pairs.
    pub(super) fn pairs(&self, prompts: &PromptSet, limit: Option<usize>) -> Vec<Pair> {
        let limit = limit.unwrap_or(usize::MAX);
        match self {
            Pairing::Models { .. } => {
                let chosen = parameters::first_indices(prompts, &prompts.splits(), limit);
                in_order(chosen.into_iter().map(|prompt| (prompt, prompt)))
            }
            Pairing::Prompts {
                donors,
                recipients,
                pair_by,
                ..
            } => {
                let donors = parameters::split_indices(prompts, &donors.value);
                let recipients = parameters::split_indices(prompts, &recipients.value);
                let mut pairs = match pair_by {
                    Some(field) => by_field(prompts, &donors, &recipients, &field.value),
                    None => in_order(donors.into_iter().zip(recipients)),
                };
                pairs.truncate(limit);
                pairs
            }
        }
    }

    /// What to say of prompts that found no partner with their value of the field.
    pub(super) fn finding(&self, prompts: &PromptSet) -> Option<String> {
        let Pairing::Prompts {
            donors,
            recipients,
            pair_by: Some(field),
            ..
        } = self
        else {
            return None;
        };
        let paired = self.pairs(prompts, None).len();
        let without =
            |split: &Name| parameters::split_indices(prompts, &split.value).len() - paired;
        let (donors, recipients) = (without(donors), without(recipients));
        (donors + recipients > 0).then(|| {
            format!(
                "{donors} donors and {recipients} recipients are left out: they have no partner with the same `{field}`"
            )
        })
    }

    /// Checks the splits, and that there is a pair at all; between two models, that their streams have one shape.
    pub(super) fn check(&self, set: &Name, inputs: &Inputs, problems: &mut Problems) {
        match self {
            Pairing::Models { donor, recipient } => {
                check_shapes(donor, recipient, inputs, problems)
            }
            Pairing::Prompts {
                donors,
                recipients,
                pair_by,
                ..
            } => {
                let are_known =
                    [donors, recipients].map(|split| inputs.check_split(split, set, problems));
                let prompts = inputs.prompts.get(&set.value);
                if are_known == [true; 2]
                    && let (Some(field), Some(prompts)) = (pair_by, prompts)
                    && self.pairs(prompts, None).is_empty()
                {
                    problems
                        .error_at(&field.at, format!("no prompts can be paired by `{field}`"))
                        .label(format!("no `{donors}` prompt has the same value of it as a `{recipients}` prompt"))
                        .help("name a field of the prompt file, or leave `pair_by` out to pair by order");
                }
            }
        }
    }
}

/// A donor's vector must fit into the recipient, layer by layer.
fn check_shapes(donor: &Name, recipient: &Name, inputs: &Inputs, problems: &mut Problems) {
    let config = |name: &Name| inputs.models.get(&name.value).map(|model| model.config());
    let (Some(from), Some(to)) = (config(donor), config(recipient)) else {
        return;
    };
    if (from.n_layers, from.d_model) != (to.n_layers, to.d_model) {
        let message = format!("model `{recipient}` cannot receive activations of `{donor}`");
        let shape =
            |of: &ModelConfig| format!("has {} layers of width {}", of.n_layers, of.d_model);
        problems
            .error_at(&recipient.at, message)
            .label(shape(to))
            .related(&donor.at, shape(from));
    }
}

fn in_order(pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Pair> {
    let pair = |(donor, recipient)| Pair { donor, recipient };
    pairs.map(pair).collect()
}

/// The i-th donor with a value and the i-th recipient with that value, in the order of the recipients.
fn by_field(prompts: &PromptSet, donors: &[usize], recipients: &[usize], field: &str) -> Vec<Pair> {
    let mut waiting: HashMap<String, VecDeque<usize>> = HashMap::new();
    for &donor in donors {
        if let Some(value) = value_of(&prompts.prompts[donor], field) {
            waiting.entry(value).or_default().push_back(donor);
        }
    }
    let partner = |&recipient: &usize| {
        let value = value_of(&prompts.prompts[recipient], field)?;
        let donor = waiting.get_mut(&value)?.pop_front()?;
        Some(Pair { donor, recipient })
    };
    recipients.iter().filter_map(partner).collect()
}

/// A prompt's value of a field as JSON text, so that `1` and `"1"` differ; none where it is missing, null or an empty category.
fn value_of(prompt: &Prompt, field: &str) -> Option<String> {
    if field == "category" {
        let category = &prompt.category;
        return (!category.is_empty()).then(|| json!(category).to_string());
    }
    let value = prompt.other.get(field)?;
    (!value.is_null()).then(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::Value as Json;

    use crate::spec::load_text;

    use super::*;

    fn prompt(id: &str, split: &str, category: &str, topic: Json) -> Prompt {
        let mut other = serde_json::Map::new();
        other.insert("topic".to_string(), topic);
        Prompt {
            id: id.to_string(),
            text: format!("text of {id}"),
            split: split.to_string(),
            category: category.to_string(),
            other,
            line: 1,
        }
    }

    /// Indices:  0 h1 fire, 1 e1 rain, 2 h2 rain, 3 h3 fire, 4 e2 fire, 5 e3 (null), 6 e4 fire, 7 h4 snow.
    fn prompts() -> PromptSet {
        PromptSet {
            notes: Vec::new(),
            public: None,
            prompts: vec![
                prompt("h1", "harmful", "a", json!("fire")),
                prompt("e1", "edge", "b", json!("rain")),
                prompt("h2", "harmful", "b", json!("rain")),
                prompt("h3", "harmful", "b", json!("fire")),
                prompt("e2", "edge", "", json!("fire")),
                prompt("e3", "edge", "a", Json::Null),
                prompt("e4", "edge", "b", json!("fire")),
                prompt("h4", "harmful", "", json!("snow")),
            ],
        }
    }

    fn read(text: &str) -> (Option<Pairing>, Vec<String>) {
        let document = load_text(Path::new("study.toml"), text, &[]).expect("valid TOML");
        let mut problems = Problems::default();
        let mut fields = Fields::new(&document.root, &mut problems).expect("a table");
        let pairing = Pairing::read_together(&mut fields, &Settings::default());
        fields.finish();
        let told = problems
            .finish(&document.sources)
            .err()
            .map(|d| d.to_string());
        (pairing, told.into_iter().collect())
    }

    fn by_prompts(more: &str) -> Pairing {
        let text =
            "pairing = \"prompts\"\nmodel = \"m\"\ndonors = \"harmful\"\nrecipients = \"edge\"\n";
        let (pairing, told) = read(&format!("{text}{more}"));
        assert_eq!(told, Vec::<String>::new());
        pairing.expect("a pairing")
    }

    fn indices(pairs: &[Pair]) -> Vec<(usize, usize)> {
        pairs
            .iter()
            .map(|pair| (pair.donor, pair.recipient))
            .collect()
    }

    #[test]
    fn prompts_pair_by_order_and_the_shorter_split_decides() {
        let mut set = prompts();
        let pairing = by_prompts("");
        let pairs = pairing.pairs(&set, None);
        assert_eq!(indices(&pairs), [(0, 1), (2, 4), (3, 5), (7, 6)]);
        assert_eq!(indices(&pairing.pairs(&set, Some(2))), [(0, 1), (2, 4)]);
        assert_eq!(pairing.finding(&set), None);
        set.prompts.truncate(5);
        assert_eq!(indices(&pairing.pairs(&set, None)), [(0, 1), (2, 4)]);
    }

    #[test]
    fn prompts_pair_by_a_field_in_order_within_each_value() {
        let set = prompts();
        let pairing = by_prompts("pair_by = \"topic\"");
        let pairs = pairing.pairs(&set, None);
        assert_eq!(indices(&pairs), [(2, 1), (0, 4), (3, 6)]);
        assert_eq!(indices(&pairing.pairs(&set, Some(1))), [(2, 1)]);
        let finding = pairing.finding(&set).unwrap_or_default();
        assert!(
            finding.starts_with("1 donors and 1 recipients"),
            "{finding}"
        );
        let by_category = by_prompts("pair_by = \"category\"").pairs(&set, None);
        assert_eq!(indices(&by_category), [(2, 1), (0, 5), (3, 6)]);
    }

    #[test]
    fn a_number_and_its_text_are_different_values() {
        let set = PromptSet {
            notes: Vec::new(),
            public: None,
            prompts: vec![
                prompt("h1", "harmful", "", json!(1)),
                prompt("e1", "edge", "", json!("1")),
            ],
        };
        assert_eq!(by_prompts("pair_by = \"topic\"").pairs(&set, None), []);
    }

    #[test]
    fn models_pair_each_prompt_with_itself_split_by_split() {
        let (pairing, told) =
            read("pairing = \"models\"\ndonor = \"inst\"\nrecipient = \"base\"\n");
        assert_eq!(told, Vec::<String>::new());
        let pairing = pairing.expect("a pairing");
        let pairs = pairing.pairs(&prompts(), Some(3));
        assert_eq!(
            indices(&pairs),
            [(0, 0), (2, 2), (3, 3), (1, 1), (4, 4), (5, 5)]
        );
        let (donor, recipient) = pairing.models();
        assert_eq!(
            (donor.value.as_str(), recipient.value.as_str()),
            ("inst", "base")
        );
    }

    #[test]
    fn bad_pairings_are_told() {
        let (pairing, told) = read("pairing = \"model\"\ndonors = \"harmful\"\n");
        assert_eq!(pairing, None);
        assert!(told[0].contains("did you mean `models`?"), "{}", told[0]);
        assert!(!told[0].contains("unknown field"), "{}", told[0]);
        let (_, told) = read("donors = \"harmful\"\n");
        assert!(told[0].contains("has no field `pairing`"), "{}", told[0]);
        assert!(!told[0].contains("unknown field"), "{}", told[0]);
        let (_, told) = read("pairing = \"models\"\ndonor = \"inst\"\nrecipients = \"edge\"\n");
        assert!(told[0].contains("has no field `recipient`"), "{}", told[0]);
        assert!(
            told[0].contains("unknown field `recipients`"),
            "{}",
            told[0]
        );
    }

    #[test]
    fn a_field_that_pairs_nothing_and_unknown_splits_are_told() {
        let text = "prompts = \"main\"\npairing = \"prompts\"\nmodel = \"m\"\ndonors = \"harmful\"\nrecipients = \"edge\"\n";
        let told = |more: &str, text: &str| {
            let document = load_text(Path::new("study.toml"), &format!("{text}{more}"), &[])
                .expect("valid TOML");
            let mut problems = Problems::default();
            let mut fields = Fields::new(&document.root, &mut problems).expect("a table");
            let set: Name = fields.required("prompts").expect("a name");
            let pairing =
                Pairing::read_together(&mut fields, &Settings::default()).expect("a pairing");
            let mut inputs = Inputs::default();
            inputs
                .prompts
                .insert("main".to_string(), Arc::new(prompts()));
            pairing.check(&set, &inputs, &mut problems);
            problems
                .finish(&document.sources)
                .err()
                .map(|d| d.to_string())
        };
        assert_eq!(told("pair_by = \"topic\"", text), None);
        let message = told("pair_by = \"topics\"", text).unwrap_or_default();
        assert!(
            message.contains("no prompts can be paired by `topics`"),
            "{message}"
        );
        let message =
            told("pair_by = \"topic\"", &text.replace("\"edge\"", "\"egde\"")).unwrap_or_default();
        assert!(message.contains("did you mean `edge`?"), "{message}");
        assert!(!message.contains("can be paired"), "{message}");
    }
}
