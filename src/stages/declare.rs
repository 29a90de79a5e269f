//! What a table of a study file may hold, said once.
//!
//! [`parameters!`] declares the fields of a table: each with its name, its type, its default and, as its documentation, what a person is
//! told of it. From that come the struct, its decoding with every problem told, the names it refers to, what enters a stage's key, and the
//! list of [`Field`]s that documentation and the JSON Schema are made of. A stage computes from its struct, and whatever is in the struct
//! is in the key, unless the type of a field says otherwise ([`Keyed`]): there is no way to read a parameter and to leave it out.
//!
//! ```text
//! parameters! {
//!     struct Steer {
//!         /// Models that are steered.        what people are told of the field `model`
//!         model: Models,                      required
//!         /// Site of the edit.
//!         site: Option<Site>,                 may be left out
//!         /// Position of the edit.
//!         position: Position = -1,            a default, as a study file has it
//!         strength: Strength,                 several fields that mean something together
//!         settings: Settings,                 what is said for the whole study
//!     }
//! }
//! ```
//!
//! A type of one field is a [`FieldType`]. What spans several fields is a [`Parameter`]: another `struct` of the macro, a `group` or an
//! `enum` of it, of which only the reading is written by hand ([`Together`]), or in the last resort written by hand altogether.

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use crate::spec::{Choice, Decode, Fields, Layers, Node, Problems, Seeds, Spanned};

use super::Needs;
use super::settings::Settings;

/// How a field decides the key of its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyed {
    /// By its value.
    ByValue,
    /// By the content of what it names: a model, a prompt set, a file, the output of a stage.
    ByContent,
    /// Not at all: no number depends on it.
    No,
}

/// A field of a table, for documentation, schema and tests.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// What it is, in Markdown.
    pub(crate) about: String,
    /// Whether every table has it; one that only some need is not.
    pub(crate) is_required: bool,
    pub(crate) default: Option<Json>,
    /// The JSON Schema of its value.
    pub(crate) schema: Json,
    pub(crate) keyed: Keyed,
}

impl Field {
    /// The schema of its value with all that is told of it.
    pub(crate) fn described(&self) -> Json {
        let mut schema = self.schema.clone();
        let of_type = schema["description"].as_str().unwrap_or_default();
        let no_number = match self.keyed {
            Keyed::No => "No number depends on it.",
            Keyed::ByValue | Keyed::ByContent => "",
        };
        let told = [self.about.as_str(), of_type, no_number];
        let told: Vec<&str> = told.into_iter().filter(|text| !text.is_empty()).collect();
        schema["description"] = told.join(" ").into();
        if let Some(default) = &self.default {
            schema["default"] = default.clone();
        }
        schema
    }

    /// A field that may be left out.
    pub(crate) fn of<T: FieldType>(name: &'static str, about: &str) -> Self {
        Declared {
            name,
            about,
            default: None,
        }
        .field::<T>(false)
    }
}

/// A field as it is written in a declaration.
pub(crate) struct Declared<'a> {
    pub(crate) name: &'static str,
    pub(crate) about: &'a str,
    pub(crate) default: Option<Json>,
}

impl Declared<'_> {
    fn field<T: FieldType>(&self, is_required: bool) -> Field {
        let lines: Vec<&str> = self.about.lines().map(str::trim).collect();
        Field {
            name: self.name,
            about: lines.join(" ").trim().to_string(),
            is_required,
            default: self.default.clone(),
            schema: T::schema(),
            keyed: T::KEYED,
        }
    }
}

/// The type of one field.
pub(crate) trait FieldType: Decode {
    const KEYED: Keyed = Keyed::ByValue;

    /// What a JSON Schema says of the value. `description` is put behind what the declaration says.
    fn schema() -> Json;

    /// The value in canonical form, for the key; asked for only of what is keyed by value.
    fn key(&self) -> Json;

    /// Adds the names that it stands for.
    fn refer(&self, _needs: &mut Needs) {}
}

/// One or several fields of a table.
pub(crate) trait Parameter: Sized {
    /// Reads it; `None`, with the problem pushed, where a stage cannot do without.
    fn read_from(
        fields: &mut Fields<'_, '_>,
        declared: &Declared<'_>,
        settings: &Settings,
    ) -> Option<Self>;

    /// Adds what decides the output to the parameters in the key. `name` is its name in the declaration.
    fn add_key(&self, name: &'static str, parts: &mut Map<String, Json>);

    /// Adds the names that it stands for.
    fn add_needs(&self, needs: &mut Needs);

    fn list(declared: &Declared<'_>) -> Vec<Field>;
}

/// Fields that mean something together: which are needed depends on what others say.
pub(crate) trait Together: Sized {
    /// Reads them; those that have no meaning here are told, or not asked for and so told as unknown.
    fn read_together(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Self>;
}

/// Parameters of which all is declared.
pub(crate) trait Parameters: Sized {
    fn read(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Self>;

    fn fields() -> Vec<Field>;
}

/// What the declaration of a stage's parameters makes of them.
pub trait Declaration {
    /// The names it refers to.
    fn needs(&self) -> Needs;

    /// The parameters that decide the output, beyond the content of the inputs, in canonical form. Part of the stage key.
    fn parameters(&self) -> Json;
}

impl<T: FieldType> Parameter for T {
    fn read_from(
        fields: &mut Fields<'_, '_>,
        declared: &Declared<'_>,
        _settings: &Settings,
    ) -> Option<Self> {
        match &declared.default {
            None => fields.required(declared.name),
            Some(default) => fields.or(declared.name, default),
        }
    }

    fn add_key(&self, name: &'static str, parts: &mut Map<String, Json>) {
        if T::KEYED == Keyed::ByValue {
            parts.insert(name.to_string(), self.key());
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.refer(needs);
    }

    fn list(declared: &Declared<'_>) -> Vec<Field> {
        vec![declared.field::<T>(declared.default.is_none())]
    }
}

/// A field that may be left out.
impl<T: FieldType> Parameter for Option<T> {
    fn read_from(
        fields: &mut Fields<'_, '_>,
        declared: &Declared<'_>,
        _settings: &Settings,
    ) -> Option<Self> {
        Some(fields.optional(declared.name))
    }

    fn add_key(&self, name: &'static str, parts: &mut Map<String, Json>) {
        if T::KEYED == Keyed::ByValue {
            parts.insert(name.to_string(), self.as_ref().map(T::key).into());
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.iter().for_each(|value| value.refer(needs));
    }

    fn list(declared: &Declared<'_>) -> Vec<Field> {
        vec![declared.field::<T>(false)]
    }
}

/// A name that may be left out; the key says whether it is there, since its content alone does not say whose it is.
#[derive(Clone, Debug)]
pub(crate) struct IfGiven<T>(pub(crate) Option<T>);

impl<T: FieldType> Parameter for IfGiven<T> {
    fn read_from(
        fields: &mut Fields<'_, '_>,
        declared: &Declared<'_>,
        _settings: &Settings,
    ) -> Option<Self> {
        Some(Self(fields.optional(declared.name)))
    }

    fn add_key(&self, name: &'static str, parts: &mut Map<String, Json>) {
        parts.insert(name.to_string(), self.0.is_some().into());
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.0.add_needs(needs);
    }

    fn list(declared: &Declared<'_>) -> Vec<Field> {
        vec![declared.field::<T>(false)]
    }
}

/// What is hashed with the content that it leads to.
#[derive(Clone, Debug)]
pub(crate) struct ByContent<T>(pub(crate) T);

/// A table inside another.
pub(crate) struct Table<T>(pub(crate) T);

impl<T: Parameters> Decode for Table<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::new(node, problems)?;
        let read = T::read(&mut fields, &Settings::default());
        fields.finish();
        read.map(Self)
    }

    fn expected() -> String {
        "a table".into()
    }
}

impl<T: Parameters + Declaration> FieldType for Table<T> {
    fn schema() -> Json {
        object(&T::fields())
    }

    fn key(&self) -> Json {
        self.0.parameters()
    }
}

/// What no number depends on.
#[derive(Clone, Debug)]
pub(crate) struct Unkeyed<T>(pub(crate) T);

macro_rules! keyed_otherwise {
    ($($wrapper:ident: $keyed:expr),+) => {$(
        impl<T: Decode> Decode for $wrapper<T> {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                T::decode(node, problems).map(Self)
            }

            fn expected() -> String {
                T::expected()
            }
        }

        impl<T: FieldType> FieldType for $wrapper<T> {
            const KEYED: Keyed = $keyed;

            fn schema() -> Json {
                T::schema()
            }

            fn key(&self) -> Json {
                self.0.key()
            }
        }
    )+};
}

keyed_otherwise!(ByContent: Keyed::ByContent, Unkeyed: Keyed::No);

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
        impl FieldType for $type {
            fn schema() -> Json {
                serde_json::json!($schema)
            }

            fn key(&self) -> Json {
                serde_json::json!(self)
            }
        }
    )+};
}

plain! {
    bool: { "type": "boolean" },
    f64: { "type": "number" },
    u64: { "type": "integer", "minimum": 0 },
    usize: { "type": "integer", "minimum": 0 },
    String: { "type": "string" },
    PathBuf: { "type": "string", "minLength": 1 },
}

/// A value or a list of at least one, none twice.
pub(crate) fn one_or_many(schema: &Json) -> Json {
    serde_json::json!({ "anyOf": [schema, { "type": "array", "items": schema, "minItems": 1, "uniqueItems": true }] })
}

/// Integers in one of the ways a study has for them, and perhaps others.
fn integers(others: &[Json]) -> Json {
    let mut ways = vec![
        usize::schema(),
        serde_json::json!({ "type": "array", "items": usize::schema(), "minItems": 1, "uniqueItems": true }),
        serde_json::json!({ "type": "string", "pattern": r"^\s*[0-9]+\s*\.\.\s*[0-9]+\s*$" }),
    ];
    ways.extend_from_slice(others);
    serde_json::json!({ "anyOf": ways })
}

impl FieldType for Seeds {
    fn schema() -> Json {
        integers(&[])
    }

    fn key(&self) -> Json {
        self.iter().collect()
    }
}

impl FieldType for Layers {
    fn schema() -> Json {
        integers(&[serde_json::json!({ "const": "all" })])
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
        let described: Vec<String> = described
            .map(|(name, _, about)| format!("`{name}`: {about}"))
            .collect();
        let names: Vec<&str> = T::CHOICES.iter().map(|(name, ..)| *name).collect();
        serde_json::json!({ "enum": names, "description": described.join("; ") })
    }

    fn key(&self) -> Json {
        self.name().into()
    }
}

/// A parameter of a kind or section as the macro below takes it apart.
macro_rules! declared {
    ([$($doc:literal)*] $field:ident $($default:expr)?) => {
        $crate::stages::declare::Declared {
            name: stringify!($field).trim_start_matches("r#"),
            about: concat!($($doc, "\n",)*),
            default: None $(.or(Some(serde_json::json!($default))))?,
        }
    };
}

/// Declares the parameters of a table; see the head of this file.
macro_rules! parameters {
    // Fields that are read one by one.
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:expr)?),+ $(,)?
        }
    ) => {
        parameters! {
            @struct $(#[$meta])* $visibility $name
            { $([$($doc)*] $field: $type $(= $default)?),+ }
        }

        impl $crate::stages::declare::Parameters for $name {
            fn read(
                fields: &mut $crate::spec::Fields<'_, '_>,
                settings: &$crate::stages::Settings,
            ) -> Option<Self> {
                $(let $field = <$type as $crate::stages::declare::Parameter>::read_from(
                    fields,
                    &declared!([$($doc)*] $field $($default)?),
                    settings,
                );)+
                Some(Self { $($field: $field?),+ })
            }

            fn fields() -> Vec<$crate::stages::declare::Field> {
                Self::all_fields()
            }
        }
    };

    // Fields of which some decide what others mean.
    (
        $(#[$meta:meta])*
        $visibility:vis group $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:expr)?),+ $(,)?
        }
    ) => {
        parameters! {
            @struct $(#[$meta])* $visibility $name
            { $([$($doc)*] $field: $type $(= $default)?),+ }
        }

        impl $crate::stages::declare::Parameters for $name {
            fn read(
                fields: &mut $crate::spec::Fields<'_, '_>,
                settings: &$crate::stages::Settings,
            ) -> Option<Self> {
                <Self as $crate::stages::declare::Together>::read_together(fields, settings)
            }

            fn fields() -> Vec<$crate::stages::declare::Field> {
                $crate::stages::declare::as_needed(Self::all_fields())
            }
        }
    };

    // One of several sets of fields, as the field `$tag` says, with a key of its own.
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $(#[doc = $tag_doc:literal])* by $tag:ident: $tag_type:ty $(= $tag_default:expr)?;
            $($(#[$variant_meta:meta])* $variant:ident {
                $($(#[doc = $doc:literal])* $field:ident $(as $key:literal)?: $type:ty $(= $default:expr)?),+ $(,)?
            }),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility enum $name {
            $($(#[$variant_meta])* $variant { $($(#[doc = $doc])* $field: $type),+ }),+
        }

        impl $crate::stages::declare::Parameter for $name {
            fn read_from(
                fields: &mut $crate::spec::Fields<'_, '_>,
                _: &$crate::stages::declare::Declared<'_>,
                settings: &$crate::stages::Settings,
            ) -> Option<Self> {
                <Self as $crate::stages::declare::Together>::read_together(fields, settings)
            }

            fn add_key(
                &self,
                name: &'static str,
                parts: &mut serde_json::Map<String, serde_json::Value>,
            ) {
                use $crate::stages::declare::Parameter;
                let mut own = serde_json::Map::new();
                match self {
                    $(Self::$variant { $($field),+ } => {
                        $(Parameter::add_key(
                            $field,
                            [$($key,)? stringify!($field)][0],
                            &mut own,
                        );)+
                    })+
                }
                parts.insert(name.to_string(), own.into());
            }

            fn add_needs(&self, needs: &mut $crate::stages::Needs) {
                match self {
                    $(Self::$variant { $($field),+ } => {
                        $($crate::stages::declare::Parameter::add_needs($field, needs);)+
                    })+
                }
            }

            fn list(_: &$crate::stages::declare::Declared<'_>) -> Vec<$crate::stages::declare::Field> {
                use $crate::stages::declare::Parameter;
                let mut fields = <$tag_type as Parameter>::list(&declared!([$($tag_doc)*] $tag $($tag_default)?));
                let mut needed = Vec::new();
                $($(needed.extend(<$type as Parameter>::list(&declared!([$($doc)*] $field $($default)?)));)+)+
                fields.extend($crate::stages::declare::as_needed(needed));
                fields
            }
        }
    };

    (@struct $(#[$meta:meta])* $visibility:vis $name:ident {
        $([$($doc:literal)*] $field:ident: $type:ty $(= $default:expr)?),+
    }) => {
        $(#[$meta])*
        $visibility struct $name {
            $($(#[doc = $doc])* pub(crate) $field: $type),+
        }

        impl $name {
            fn all_keys(&self, parts: &mut serde_json::Map<String, serde_json::Value>) {
                let Self { $($field),+ } = self;
                $($crate::stages::declare::Parameter::add_key(
                    $field,
                    stringify!($field).trim_start_matches("r#"),
                    parts,
                );)+
            }

            fn all_needs(&self, needs: &mut $crate::stages::Needs) {
                let Self { $($field),+ } = self;
                $($crate::stages::declare::Parameter::add_needs($field, needs);)+
            }

            fn all_fields() -> Vec<$crate::stages::declare::Field> {
                let mut fields = Vec::new();
                $(fields.extend(<$type as $crate::stages::declare::Parameter>::list(
                    &declared!([$($doc)*] $field $($default)?),
                ));)+
                fields
            }
        }

        impl $crate::stages::declare::Declaration for $name {
            fn needs(&self) -> $crate::stages::Needs {
                let mut needs = $crate::stages::Needs::default();
                self.all_needs(&mut needs);
                needs
            }

            fn parameters(&self) -> serde_json::Value {
                let mut parts = serde_json::Map::new();
                self.all_keys(&mut parts);
                parts.into()
            }
        }

        // As part of another table.
        impl $crate::stages::declare::Parameter for $name {
            fn read_from(
                fields: &mut $crate::spec::Fields<'_, '_>,
                _: &$crate::stages::declare::Declared<'_>,
                settings: &$crate::stages::Settings,
            ) -> Option<Self> {
                <Self as $crate::stages::declare::Parameters>::read(fields, settings)
            }

            fn add_key(&self, _: &'static str, parts: &mut serde_json::Map<String, serde_json::Value>) {
                self.all_keys(parts);
            }

            fn add_needs(&self, needs: &mut $crate::stages::Needs) {
                self.all_needs(needs);
            }

            fn list(
                _: &$crate::stages::declare::Declared<'_>,
            ) -> Vec<$crate::stages::declare::Field> {
                <Self as $crate::stages::declare::Parameters>::fields()
            }
        }
    };
}

/// The JSON Schema of a table of these fields and no others.
pub(crate) fn object(fields: &[Field]) -> Json {
    let properties = fields
        .iter()
        .map(|field| (field.name.to_string(), field.described()));
    let required = fields.iter().filter(|field| field.is_required);
    let required: Vec<&str> = required.map(|field| field.name).collect();
    let mut schema = serde_json::json!({
        "type": "object",
        "properties": properties.collect::<Map<_, _>>(),
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = serde_json::json!(required);
    }
    schema
}

/// Fields that some tables have to have and others may not have.
pub(crate) fn as_needed(fields: Vec<Field>) -> Vec<Field> {
    fields
        .into_iter()
        .map(|field| Field {
            is_required: false,
            ..field
        })
        .collect()
}

pub(crate) use {declared, parameters};
