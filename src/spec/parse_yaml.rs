//! YAML text to the YAML library's values, with bounds that the library has not.
//!
//! The library keeps a stack of its own and stops at 128 levels, but only after it has read the whole text, in which every open bracket
//! costs time with every token; and it copies what an alias names as often as it is named.

use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::Value as Yaml;
use serde_yaml::value::{Tag, TaggedValue};

use super::bounds::Room;

/// The most that opening brackets times bytes of text may come to: some seconds of the library's work, at worst.
const MOST_WORK: usize = 4_000_000_000;

/// Why there are no values.
pub(super) enum Refused {
    Invalid(serde_yaml::Error),
    /// There are more brackets than are read.
    Brackets(usize),
    /// The values take too much room.
    Full,
}

pub(super) fn parse(text: &str, room: &mut Room) -> Result<Yaml, Refused> {
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{'));
    let brackets = brackets.count();
    if brackets.saturating_mul(text.len()) > MOST_WORK {
        return Err(Refused::Brackets(brackets));
    }
    let mut is_full = false;
    let values = Values {
        room,
        is_full: &mut is_full,
    };
    let parsed = values.deserialize(serde_yaml::Deserializer::from_str(text));
    match (parsed, is_full) {
        (_, true) => Err(Refused::Full),
        (parsed, false) => parsed.map_err(Refused::Invalid),
    }
}

/// Makes values as long as there is room for them.
struct Values<'r> {
    room: &'r mut Room,
    is_full: &'r mut bool,
}

impl Values<'_> {
    fn inner(&mut self) -> Values<'_> {
        Values {
            room: self.room,
            is_full: self.is_full,
        }
    }

    fn made<E: Error>(self, value: Yaml) -> Result<Yaml, E> {
        let text_bytes = value.as_str().map_or(0, str::len);
        if self.room.take(text_bytes) {
            return Ok(value);
        }
        *self.is_full = true;
        Err(E::custom("no room is left"))
    }
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Yaml;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Yaml;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any YAML value")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Yaml, E> {
        self.made(flag.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Yaml, E> {
        self.made(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Yaml, E> {
        self.made(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Yaml, E> {
        self.made(number.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Yaml, E> {
        self.made(text.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Yaml, E> {
        self.made(Yaml::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Yaml, E> {
        self.made(Yaml::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Yaml, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.inner())? {
            values.push(value);
        }
        self.made(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut values = serde_yaml::Mapping::new();
        while let Some(key) = entries.next_key_seed(self.inner())? {
            let value = entries.next_value_seed(self.inner())?;
            // In the library's words.
            if let (true, Some(name)) = (values.contains_key(&key), key.as_str()) {
                let message = format!("duplicate entry with key {name:?}");
                return Err(A::Error::custom(message));
            }
            values.insert(key, value);
        }
        self.made(values.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(mut self, tagged: A) -> Result<Yaml, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        let value = content.newtype_variant_seed(self.inner())?;
        let tag = Tag::new(tag);
        self.made(Yaml::Tagged(Box::new(TaggedValue { tag, value })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_are_those_of_the_library() {
        let text =
            "a: [1, -2, 1.5, 18446744073709551615, true, ~, x]\nb: !t {c: &d [1], e: *d}\n1: ''\n";
        let values = parse(text, &mut Room::default()).ok();
        assert_eq!(values, serde_yaml::from_str(text).ok());
        assert!(values.is_some());
    }

    #[test]
    fn an_alias_takes_room_wherever_it_is_named() {
        let text = |count| {
            format!(
                "a: &a \"{}\"\nb: [{}]\n",
                "x".repeat(1000),
                "*a,".repeat(count)
            )
        };
        let is_full = |count| {
            matches!(
                parse(&text(count), &mut Room::of(20_000)),
                Err(Refused::Full)
            )
        };
        assert!(!is_full(10));
        assert!(is_full(20));
    }

    #[test]
    fn brackets_are_counted_before_anything_is_read() {
        let deep = format!("a: {}", "[".repeat(100_000));
        let refused = parse(&deep, &mut Room::default());
        assert!(matches!(refused, Err(Refused::Brackets(100_000))));
        let wide = format!("a: [{}]", "[1],".repeat(10_000));
        assert!(parse(&wide, &mut Room::default()).is_ok());
    }
}
