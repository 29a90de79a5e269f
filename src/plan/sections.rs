//! The sections of a study beside its stages: what each may hold.

use std::path::PathBuf;

use serde::Serialize;

use crate::model::Dtype;
use crate::spec::{Choice, Decode, Fields, Node, OneOrMany, Problems, Spanned};
use crate::stages::declare::{Declared, Parameter, Table, Together, declared, parameters};
use crate::stages::field_types::{ByContent, Unkeyed, plain};
use crate::stages::{Name, Settings};

parameters! {
    /// The section `[study]`.
    pub(super) struct About {
        /// Name of the study, which names the folder of its runs; the name of its file where left out.
        name: Option<Unkeyed<StudyName>>,
        /// The question it asks, for its report.
        question: Option<Unkeyed<String>>,
        /// Its title, where it is shared.
        title: Option<Unkeyed<String>>,
        /// What it is about, where it is shared.
        description: Option<Unkeyed<String>>,
        /// Who made it: a name, or several, each with an address in `<…>` where it has one, such as that of an ORCID.
        authors: Option<Unkeyed<OneOrMany<String>>>,
        /// The licence that it is shared under: an SPDX identifier such as `CC-BY-4.0`, or the address of its text.
        licence: Option<Unkeyed<String>>,
    }
}

parameters! {
    /// An entry of `[models]`.
    pub(super) struct ModelEntry {
        /// A GGUF file, a Hugging Face folder, or `hf:org/name@revision`. A path starts from the folder of the file it is written in.
        source: ByContent<Spanned<String>>,
        /// Dtype of weights and activations.
        dtype: ByContent<Dtype> = "float32",
        /// The model that lends its chat template.
        template_from: Option<ByContent<Name>>,
        /// The licence of the model: an SPDX identifier, or the address of its text.
        licence: Option<Unkeyed<String>>,
    }
}

parameters! {
    /// An entry of `[prompts]`.
    pub(super) struct PromptsEntry {
        /// The file of the prompts: JSON Lines, a JSON array of objects or of texts, CSV, TSV, text with a prompt on each line or Parquet, as its name ends. The path starts from the folder of the file it is written in.
        path: ByContent<Spanned<PathBuf>>,
        /// What the fields of a prompt are called in the file, where that is not as usual.
        columns: Option<ByContent<Table<ColumnsEntry>>>,
        /// Prompts are drawn out of a file of XSTest's form: unsafe ones become `harmful`, safe ones `edge`.
        draw: Option<ByContent<Table<DrawEntry>>>,
        /// The licence of the prompts: an SPDX identifier such as `CC-BY-4.0`, or the address of its text. That of a file of `dial data list` is known where none is said.
        licence: Option<Unkeyed<String>>,
        /// Whether its texts may be shared; where not, `dial export` leaves them out, and all that models wrote after them.
        share: Unkeyed<bool> = true,
    }
}

parameters! {
    /// The names that a file has for the fields of a prompt.
    pub(super) struct ColumnsEntry {
        /// The field that names the prompt; where left out and the file has none, a prompt's id is a hash of its text.
        id: Option<String>,
        /// The field that the model is asked.
        prompt: Option<String>,
        /// The field that says in which split the prompt is.
        split: Option<String>,
        /// The field that says of which category the prompt is.
        category: Option<String>,
    }
}

parameters! {
    /// What is drawn out of a set: seeded caps, or the prompts that a file names.
    pub(super) group DrawEntry {
        /// A file that names the prompts by `xstest_id`, in place of all else here.
        selection: Option<Spanned<PathBuf>>,
        caps: Caps,
    }
}

parameters! {
    /// What a seed draws: so many prompts of each kind.
    #[derive(Default)]
    pub(super) struct Caps {
        /// Seed of the order in which prompts are drawn.
        seed: u64 = 0,
        /// How many unsafe prompts at most; all where left out.
        harmful: Option<usize>,
        /// How many safe prompts at most, after the benign ones; all that are left where left out.
        edge: Option<usize>,
        /// How many safe prompts are set apart as the split `benign`.
        benign: usize = 0,
    }
}

impl Together for DrawEntry {
    fn read_together(fields: &mut Fields<'_, '_>, study: &Settings) -> Option<Self> {
        let selection = fields.optional("selection");
        let caps = match &selection {
            None => Caps::read(fields, &Declared::default(), study)?,
            Some(_) => Caps::default(),
        };
        Some(DrawEntry { selection, caps })
    }
}

/// The name of a study, which names a folder.
#[derive(Serialize)]
pub(super) struct StudyName(pub(super) String);

/// Bytes of a study's name, which is that of a folder.
const LONGEST_STUDY: usize = 200;

impl Decode for StudyName {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let name = String::decode(node, problems)?;
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
        let fits = (1..=LONGEST_STUDY).contains(&name.len());
        if fits && !name.starts_with('.') && name.chars().all(good) {
            return Some(Self(name));
        }
        let message = format!("study name `{name}` cannot name a folder");
        problems
            .error_at(&node.at, message)
            .label("expected letters, digits, spaces, `-`, `_` and `.`, and 200 bytes at most");
        None
    }

    fn expected() -> String {
        String::expected()
    }
}

impl Choice for Dtype {
    const CHOICES: &'static [(&'static str, Self, &'static str)] = &[
        ("float32", Dtype::Float32, ""),
        ("bfloat16", Dtype::BFloat16, ""),
        ("float16", Dtype::Float16, ""),
    ];
}

plain! {
    StudyName: { "type": "string", "minLength": 1, "maxLength": LONGEST_STUDY },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::Value as Json;

    use crate::model::Chat;
    use crate::spec::load_text;
    use crate::stages::chat::{self, ChatSection};
    use crate::stages::declare::fields_of;
    use crate::stages::declare_tests::values;
    use crate::stages::{Rules, ScoreRule, Settings};

    use super::*;

    /// The settings that a section makes, as they enter keys.
    fn key(section: &str, field: &str, value: &Json) -> String {
        let text = format!("[{section}]\n{field} = {}\n", toml_of(value));
        let document = load_text(Path::new("s.toml"), &text, &[]).unwrap();
        let mut problems = Problems::default();
        let node = document.root.as_table().unwrap().get(section).unwrap();
        let mut settings = Settings::default();
        match section {
            "chat" => settings.chat = chat::decode(node, &Chat::default(), &mut problems).0,
            _ => settings.rules = Rules::read(Some(node), &mut problems),
        }
        assert!(problems.is_empty(), "{text}");
        let default = settings.rules.default_rule();
        format!("{} {default:?}", settings.chat.key())
    }

    fn toml_of(value: &Json) -> String {
        match value {
            Json::Object(map) => format!("{{ a = {} }}", map["a"]),
            other => other.to_string(),
        }
    }

    #[test]
    fn every_field_of_chat_and_score_is_in_the_keys() {
        let fields = [
            ("chat", fields_of::<ChatSection>()),
            ("score", fields_of::<ScoreRule>()),
        ];
        for (section, fields) in fields {
            for field in fields {
                let values = values(&field.schema).into_iter();
                let keys = values.map(|value| key(section, field.name, &value));
                let keys: BTreeSet<String> = keys.collect();
                assert!(
                    keys.len() > 1,
                    "`{section}.{}` is read and not keyed",
                    field.name
                );
            }
        }
    }
}
