//! The YAML library's values, with a bound that the library has not: it copies what an alias names as often as it is named.

use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::Value as Yaml;
use serde_yaml::value::{Tag, TaggedValue};

use super::bounds::Room;

/// Makes values as long as there is room for them; that there was none is seen by the room, which is full then.
pub(super) struct Values<'r>(pub(super) &'r mut Room);

impl Values<'_> {
    fn made<E: Error>(self, value: Yaml) -> Result<Yaml, E> {
        let text_bytes = value.as_str().map_or(0, str::len);
        match self.0.take(text_bytes) {
            true => Ok(value),
            false => Err(E::custom("no room is left")),
        }
    }
}

macro_rules! scalars {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E: Error>(self, value: $kind) -> Result<Yaml, E> { self.made(value.into()) })*
    };
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

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: Error>(self) -> Result<Yaml, E> {
        self.made(Yaml::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Yaml, E> {
        self.made(Yaml::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Values(self.0))? {
            values.push(value);
        }
        self.made(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut values = serde_yaml::Mapping::new();
        while let Some(key) = entries.next_key_seed(Values(self.0))? {
            let value = entries.next_value_seed(Values(self.0))?;
            // In the library's words.
            if let (true, Some(name)) = (values.contains_key(&key), key.as_str()) {
                let message = format!("duplicate entry with key {name:?}");
                return Err(A::Error::custom(message));
            }
            values.insert(key, value);
        }
        self.made(values.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Yaml, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        let value = content.newtype_variant_seed(Values(self.0))?;
        let tag = Tag::new(tag);
        self.made(Yaml::Tagged(Box::new(TaggedValue { tag, value })))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounds::MOST_BYTES;
    use super::*;

    fn parse(text: &str, room: &mut Room) -> Result<Yaml, serde_yaml::Error> {
        Values(room).deserialize(serde_yaml::Deserializer::from_str(text))
    }

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
            let mut room = Room::default();
            room.taken = MOST_BYTES - 20_000;
            parse(&text(count), &mut room).is_err() && room.is_full()
        };
        assert!(!is_full(10));
        assert!(is_full(20));
    }
}
