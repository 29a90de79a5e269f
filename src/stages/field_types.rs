//! The types of fields that any table may have, and how one is made of another.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::spec::{
    Choice, Decode, Distinct, Fields, Layers, Node, OneOrMany, Problems, Seeds, Spanned,
};

use super::Needs;
use super::declare::{Declared, Field, FieldType, KeyParts, Keyed, Parameter};
use super::settings::Settings;

/// Types that are another but for how they are keyed, what they refer to, what is told of them, or which of its values are good; whatever
/// is wrong with others the last of these tells.
macro_rules! wrappers {
    ($($(#[doc = $doc:literal])* $name:ident $(<$inner_type:ident>)? ($inner:ty): $keyed:ident, |$value:ident, $needs:ident| $refer:expr $(, $told:tt $(, |$read:ident, $problems:ident| $is_good:expr)?)?;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name $(<$inner_type>)? (pub(crate) $inner);

        impl $(<$inner_type>)? std::ops::Deref for $name $(<$inner_type>)? {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl $(<$inner_type: Decode>)? Decode for $name $(<$inner_type>)? {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                let value = <$inner>::decode(node, problems)?;
                $($({
                    let ($read, $problems) = (&value, problems);
                    if !$is_good {
                        return None;
                    }
                })?)?
                Some(Self(value))
            }

            fn expected() -> String {
                <$inner>::expected()
            }
        }

        impl $(<$inner_type: FieldType>)? FieldType for $name $(<$inner_type>)? {
            const KEYED: Keyed = Keyed::$keyed;

            fn schema() -> Json {
                let schema = <$inner>::schema();
                $(let schema = $crate::stages::field_types::with(schema, &serde_json::json!($told));)?
                schema
            }

            fn key(&self) -> Json {
                self.0.key()
            }

            fn refer(&self, $needs: &mut Needs) {
                let $value = &self.0;
                $refer
            }
        }
    )+};
}

wrappers! {
    /// What is hashed with the content that it leads to.
    ByContent<T>(T): ByContent, |inner, needs| inner.refer(needs);
    /// What is in the key by its content, and by whether it is there.
    Given<T>(T): IfGiven, |inner, needs| inner.refer(needs);
    /// What no number depends on.
    Unkeyed<T>(T): No, |inner, needs| inner.refer(needs);
}

/// What is in the key only where it is so: keys are what they were before it could be said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OnlyIfTrue(pub(crate) bool);

impl Parameter for OnlyIfTrue {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, _: &Settings) -> Option<Self> {
        match fields.node(declared.name) {
            None => Some(OnlyIfTrue(false)),
            Some(_) => fields.optional(declared.name).map(OnlyIfTrue),
        }
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        if self.0 {
            key.insert(name.to_string(), true.into());
        }
    }

    fn list(declared: &Declared) -> Vec<Field> {
        <bool as Parameter>::list(declared)
    }
}

impl<T: FieldType> FieldType for Spanned<T> {
    const KEYED: Keyed = T::KEYED;

    fn schema() -> Json {
        T::schema()
    }

    fn key(&self) -> Json {
        self.value.key()
    }

    fn refer(&self, needs: &mut Needs) {
        self.value.refer(needs);
    }
}

/// Types whose value is its own canonical form.
macro_rules! plain {
    ($($type:ty: $schema:tt),+ $(,)?) => {$(
        impl $crate::stages::declare::FieldType for $type {
            fn schema() -> serde_json::Value {
                serde_json::json!($schema)
            }

            fn key(&self) -> serde_json::Value {
                serde_json::json!(self)
            }
        }
    )+};
}

plain! {
    bool: { "type": "boolean" },
    i64: { "type": "integer" },
    f64: { "type": "number" },
    u64: { "type": "integer", "minimum": 0 },
    usize: { "type": "integer", "minimum": 0 },
    String: { "type": "string" },
    PathBuf: { "type": "string", "minLength": 1 },
}

/// A schema with more told of its values.
pub(crate) fn with(mut schema: Json, told: &Json) -> Json {
    for (name, value) in told.as_object().into_iter().flatten() {
        schema[name] = value.clone();
    }
    schema
}

/// An enum of which each value has a name in study files, and as its documentation what is told of it.
macro_rules! choices {
    ($(#[doc = $doc:literal])* $visibility:vis enum $name:ident { $(#[doc = $about:literal] $value:ident = $word:literal),+ $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $(#[doc = $about] $value),+ }

        impl $crate::spec::Choice for $name {
            const CHOICES: &'static [(&'static str, Self, &'static str)] =
                &[$(($word, Self::$value, $about.trim_ascii())),+];
        }
    };
}

/// Of several values at least one, none twice.
fn list_of(schema: &Json) -> Json {
    json!({ "type": "array", "items": schema, "minItems": 1, "uniqueItems": true })
}

/// A value or a list.
pub(crate) fn one_or_many(schema: &Json) -> Json {
    json!({ "anyOf": [schema, list_of(schema)] })
}

impl<T: FieldType + Distinct> FieldType for OneOrMany<T> {
    fn schema() -> Json {
        one_or_many(&T::schema())
    }

    fn key(&self) -> Json {
        self.values().map(FieldType::key).collect()
    }
}

const RANGE: &str = r"^\s*[0-9]+\s*\.\.\s*[0-9]+\s*$";

impl FieldType for Seeds {
    fn schema() -> Json {
        let one = u64::schema();
        json!({ "anyOf": [one, list_of(&one), { "type": "string", "pattern": RANGE }] })
    }

    fn key(&self) -> Json {
        self.iter().collect()
    }
}

impl FieldType for Layers {
    fn schema() -> Json {
        let one = usize::schema();
        json!({ "anyOf": [one, list_of(&one), { "type": "string", "pattern": RANGE }, { "const": "all" }] })
    }

    fn key(&self) -> Json {
        match self {
            Layers::All => "all".into(),
            Layers::List(list) => list.iter().map(|layer| layer.value).collect(),
        }
    }
}

impl<T: Choice> FieldType for T {
    fn schema() -> Json {
        let described = T::CHOICES.iter().filter(|(_, _, about)| !about.is_empty());
        let described = described.map(|(name, _, about)| format!("`{name}`: {about}"));
        let names: Vec<&str> = T::CHOICES.iter().map(|(name, ..)| *name).collect();
        json!({ "enum": names, "description": described.collect::<Vec<_>>().join("; ") })
    }

    fn key(&self) -> Json {
        self.name().into()
    }
}

pub(crate) use {choices, plain, wrappers};
