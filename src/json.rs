//! JSON in which no key is given twice.
//!
//! Readers differ in which of two values they take, silently; nothing that decides a number may depend on that.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};

/// Reads a value from JSON.
///
/// # Errors
/// A fragment: the text is not JSON, has a key twice in one object, or is not such a value.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let twice = RefCell::default();
    let unique = Unique(&twice).deserialize(&mut serde_json::Deserializer::from_str(text));
    unique
        .and_then(|()| serde_json::from_str(text))
        .map_err(|error| format!("not as expected: {error}"))
}

/// The first key that an object in one line of sound JSON has twice, at any depth, and how many bytes stand before the second; one
/// that is written with escapes is pointed at from behind.
pub(crate) fn key_given_twice(line: &str) -> Option<(String, usize)> {
    let twice = RefCell::default();
    let mut reader = serde_json::Deserializer::from_str(line);
    let error = Unique(&twice).deserialize(&mut reader).err()?;
    let key = twice.into_inner()?;
    // The error stands behind the key.
    let end = error.column().min(line.len());
    let before = line.get(..end).unwrap_or(line);
    let written = serde_json::to_string(&key).unwrap_or_default();
    let start = before.strip_suffix(&written).map_or(end, str::len);
    Some((key, start))
}

macro_rules! scalars {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E>(self, _: $kind) -> Result<(), E> { Ok(()) })*
    };
}

/// Goes through any JSON and keeps nothing but the keys of the objects it is in; fails at a key that its object has already, which it
/// then holds.
#[derive(Clone, Copy)]
struct Unique<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(key) = keys.replace(key) {
                let message = format!("key `{key}` is given twice");
                self.0.replace(Some(key));
                return Err(A::Error::custom(message));
            }
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    scalars!(visit_bool: bool, visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_str: &str);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_key_may_be_in_two_objects_but_not_twice_in_one() {
        let text = r#"{"a": [1, -2, 3.5, null, true, "x"], "b": {"a": 1}}"#;
        assert!(read::<Value>(text).is_ok());
        for text in [
            r#"{"a": 1, "b": 2, "a": 1}"#,
            r#"[{"b": {"a": 1, "\u0061": 2}}]"#,
        ] {
            let problem = read::<Value>(text).unwrap_err();
            assert!(
                problem.contains("key `a` is given twice at line 1"),
                "{problem}"
            );
        }
        // As deep as memory would allow, but for the parser's own bound.
        assert!(read::<Value>(&"[".repeat(1 << 20)).is_err());
    }
}
