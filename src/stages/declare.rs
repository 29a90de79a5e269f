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

use serde_json::{Map, Value as Json, json};

use crate::spec::{Decode, Fields, Node, Problems};

use super::Needs;
use super::field_types::with;
use super::settings::Settings;

/// The parameters in a stage's key, by name.
pub(crate) type KeyParts = Map<String, Json>;

/// How a field decides the key of its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyed {
    ByValue,
    /// By the content of what it names: a model, a prompt set, a file, the output of a stage.
    ByContent,
    /// So too, and by whether it is there: the content alone does not say whose it is.
    IfGiven,
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
    /// A field that may be left out.
    pub(crate) fn optional<T: FieldType>(name: &'static str, about: &'static str) -> Self {
        let default = None;
        Declared {
            name,
            about,
            default,
        }
        .field::<T>(false)
    }

    /// The schema of its value with all that is told of it.
    pub(crate) fn described(&self) -> Json {
        let mut schema = self.schema.clone();
        let of_type = schema["description"].as_str().unwrap_or_default();
        let no_number = match self.keyed {
            Keyed::No => "No number depends on it.",
            _ => "",
        };
        let texts = [self.about.as_str(), of_type, no_number];
        let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        schema["description"] = texts.join(" ").into();
        if let Some(default) = &self.default {
            schema["default"] = default.clone();
        }
        schema
    }
}

/// A field as it is written in a declaration.
#[derive(Default)]
pub(crate) struct Declared {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) default: Option<Json>,
}

impl Declared {
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

pub(crate) trait FieldType: Decode {
    const KEYED: Keyed = Keyed::ByValue;

    /// What a JSON Schema says of the value. `description` is put behind what the declaration says.
    fn schema() -> Json;

    /// The value in canonical form, for the key; asked for only of what is keyed by value.
    fn key(&self) -> Json;

    /// Adds the names that it stands for.
    fn refer(&self, _needs: &mut Needs) {}
}

/// One or several fields of a table, or what goes with them.
pub(crate) trait Parameter: Sized {
    /// Reads it; `None`, with the problem pushed, where a stage cannot do without.
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self>;

    /// Adds what decides the output to the parameters in the key. `name` is its name in the declaration.
    fn add_key(&self, name: &'static str, key: &mut KeyParts);

    /// Adds the names that it stands for.
    fn add_needs(&self, _needs: &mut Needs) {}

    fn list(_declared: &Declared) -> Vec<Field> {
        Vec::new()
    }
}

/// Fields that mean something together: which are needed depends on what others say.
pub(crate) trait Together: Sized {
    /// Reads them; those that have no meaning here are told, or not asked for and so told as unknown.
    fn read_together(fields: &mut Fields<'_, '_>, study: &Settings) -> Option<Self>;
}

/// What the declaration of a stage's parameters makes of them.
pub trait Declaration {
    /// The names it refers to.
    fn needs(&self) -> Needs;

    /// The parameters that decide the output, beyond the content of the inputs, in canonical form. Part of the stage key.
    fn parameters(&self) -> Json;
}

impl<T: Parameter> Declaration for T {
    fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        self.add_needs(&mut needs);
        needs
    }

    fn parameters(&self) -> Json {
        let mut key = KeyParts::new();
        self.add_key("", &mut key);
        key.into()
    }
}

impl<T: FieldType> Parameter for T {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, _: &Settings) -> Option<Self> {
        match &declared.default {
            None => fields.required(declared.name),
            Some(default) => fields.or(declared.name, default),
        }
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        if T::KEYED == Keyed::ByValue {
            key.insert(name.to_string(), self.key());
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.refer(needs);
    }

    fn list(declared: &Declared) -> Vec<Field> {
        vec![declared.field::<T>(declared.default.is_none())]
    }
}

/// A field that may be left out.
impl<T: FieldType> Parameter for Option<T> {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, _: &Settings) -> Option<Self> {
        Some(fields.optional(declared.name))
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        let value: Json = match T::KEYED {
            Keyed::ByValue => self.as_ref().map(T::key).into(),
            Keyed::IfGiven => self.is_some().into(),
            Keyed::ByContent | Keyed::No => return,
        };
        key.insert(name.to_string(), value);
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.iter().for_each(|value| value.refer(needs));
    }

    fn list(declared: &Declared) -> Vec<Field> {
        vec![declared.field::<T>(false)]
    }
}

/// A table by itself, or inside another.
#[derive(Clone, Debug)]
pub(crate) struct Table<T>(pub(crate) T);

impl<T: Parameter> Decode for Table<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::new(node, problems)?;
        let read = T::read(&mut fields, &Declared::default(), &Settings::default());
        fields.finish();
        read.map(Self)
    }

    fn expected() -> String {
        "a table".into()
    }
}

impl<T: Parameter> FieldType for Table<T> {
    fn schema() -> Json {
        let fields = fields_of::<T>();
        with(object(&fields), &json!({ "required": required(&fields) }))
    }

    fn key(&self) -> Json {
        self.0.parameters()
    }

    fn refer(&self, needs: &mut Needs) {
        self.0.add_needs(needs);
    }
}

pub(crate) fn fields_of<T: Parameter>() -> Vec<Field> {
    T::list(&Declared::default())
}

/// The JSON Schema of a table of these fields and no others.
pub(crate) fn object(fields: &[Field]) -> Json {
    let properties = fields.iter().map(|f| (f.name.to_string(), f.described()));
    let properties: KeyParts = properties.collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// The names of the fields that every such table has.
pub(crate) fn required(fields: &[Field]) -> Json {
    let required = fields.iter().filter(|field| field.is_required);
    required.map(|field| field.name).collect()
}

/// Fields that some tables have to have and others may not have.
pub(crate) fn as_needed(mut fields: Vec<Field>) -> Vec<Field> {
    fields
        .iter_mut()
        .for_each(|field| field.is_required = false);
    fields
}

/// A field as the macro below takes it apart.
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
    ($(#[$meta:meta])* $visibility:vis struct $($rest:tt)+) => {
        parameters! { @table one_by_one $(#[$meta])* $visibility $($rest)+ }
    };

    // Fields of which some decide what others mean.
    ($(#[$meta:meta])* $visibility:vis group $($rest:tt)+) => {
        parameters! { @table together $(#[$meta])* $visibility $($rest)+ }
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

        const _: () = {
            use $crate::stages::declare::prelude::*;

            impl Parameter for $name {
                parameters! { @read together }

                fn add_key(&self, name: &'static str, key: &mut KeyParts) {
                    let mut own = KeyParts::new();
                    match self {
                        $(Self::$variant { $($field),+ } => {
                            $($field.add_key([$($key,)? stringify!($field)][0], &mut own);)+
                        })+
                    }
                    key.insert(name.to_string(), own.into());
                }

                fn add_needs(&self, needs: &mut Needs) {
                    match self {
                        $(Self::$variant { $($field),+ } => { $($field.add_needs(needs);)+ })+
                    }
                }

                fn list(_: &Declared) -> Vec<Field> {
                    let tag = <$tag_type as Parameter>::list(&declared!([$($tag_doc)*] $tag $($tag_default)?));
                    let others = [$($(<$type as Parameter>::list(&declared!([$($doc)*] $field $($default)?))),+),+];
                    [tag, as_needed(others.concat())].concat()
                }
            }
        };
    };

    (
        @table $how:ident $(#[$meta:meta])*
        $visibility:vis $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:expr)?),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility struct $name {
            $($(#[doc = $doc])* pub(crate) $field: $type),+
        }

        const _: () = {
            use $crate::stages::declare::prelude::*;

            impl Parameter for $name {
                parameters! { @read $how $($field: $type, declared!([$($doc)*] $field $($default)?));+ }

                fn add_key(&self, _: &'static str, key: &mut KeyParts) {
                    $(self.$field.add_key(declared!([] $field).name, key);)+
                }

                fn add_needs(&self, needs: &mut Needs) {
                    $(self.$field.add_needs(needs);)+
                }

                fn list(_: &Declared) -> Vec<Field> {
                    let fields = [$(<$type as Parameter>::list(&declared!([$($doc)*] $field $($default)?))),+];
                    parameters! { @list $how fields.concat() }
                }
            }
        };
    };

    (@read together $($rest:tt)*) => {
        fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
            <Self as Together>::read_together(fields, study)
        }
    };
    (@read one_by_one $($field:ident: $type:ty, $declared:expr);+) => {
        fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
            $(let $field = <$type as Parameter>::read(fields, &$declared, study);)+
            Some(Self { $($field: $field?),+ })
        }
    };

    (@list together $fields:expr) => { as_needed($fields) };
    (@list one_by_one $fields:expr) => { $fields };
}

pub(crate) use {declared, parameters};

/// What the macro names.
pub(crate) mod prelude {
    pub(crate) use super::{Declared, Field, KeyParts, Parameter, Together, as_needed};
    pub(crate) use crate::spec::Fields;
    pub(crate) use crate::stages::{Needs, Settings};
}
