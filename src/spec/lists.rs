//! The list forms of a study: sweeps, seeds, layers, and tables whose names the user chooses.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use super::decode::{Decode, Spanned};
use super::diagnostic::Problems;
use super::source::Location;
use super::tree::{Node, Value};

/// The longest range that may be written; a slip such as `"0..2000000000"` should not fill the memory.
const LONGEST_RANGE: u64 = 1_000_000;

/// What may stand in a list that holds nothing twice.
pub(crate) trait Distinct: ToString {
    /// What tells this value from others: the same for values that count as one.
    fn identity(&self) -> String {
        self.to_string()
    }
}

impl Distinct for String {}

impl Distinct for u64 {}

impl Distinct for usize {}

/// Zero is zero whatever its sign.
impl Distinct for f64 {
    fn identity(&self) -> String {
        (self + 0.0).to_string()
    }
}

/// One value or a list of values, at least one and none twice, in the order written: a sweep.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<Spanned<T>>);

impl<T> OneOrMany<T> {
    /// The values, in the order written.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|item| &item.value)
    }
}

impl<T> std::ops::Deref for OneOrMany<T> {
    type Target = [Spanned<T>];

    fn deref(&self) -> &[Spanned<T>] {
        &self.0
    }
}

impl<T: Decode + Distinct> Decode for OneOrMany<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Array(items) => distinct(node, items, problems).map(Self),
            _ => Some(Self(vec![Spanned::decode(node, problems)?])),
        }
    }

    fn expected() -> String {
        format!("{} or a list", T::expected())
    }
}

/// Decodes the items of a list that must not be empty nor hold a value twice.
fn distinct<T: Decode + Distinct>(
    node: &Node,
    items: &[Node],
    problems: &mut Problems,
) -> Option<Vec<Spanned<T>>> {
    if items.is_empty() {
        let message = format!("{} is an empty list", node.at.subject());
        problems
            .error_at(&node.at, message)
            .label("expected at least one value");
        return None;
    }
    let mut values: Vec<Spanned<T>> = Vec::with_capacity(items.len());
    let mut places: HashMap<String, &Location> = HashMap::with_capacity(items.len());
    for item in items {
        let Some(value) = Spanned::<T>::decode(item, problems) else {
            continue;
        };
        match places.entry(value.value.identity()) {
            Entry::Vacant(place) => {
                place.insert(&item.at);
                values.push(value);
            }
            Entry::Occupied(first) => {
                let found = item.value.describe();
                let message = format!("{} holds {found} twice", node.at.subject());
                problems
                    .error_at(&item.at, message)
                    .label("again here")
                    .related(first.get(), "first here");
            }
        }
    }
    // Whatever is wrong with an item has been told.
    (values.len() == items.len()).then_some(values)
}

/// Seeds: `3`, `[0, 1]`, or the half-open range `"0..20"` (0 to 19); at least one and none twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seeds(pub(crate) Vec<Spanned<u64>>);

impl Seeds {
    /// The seeds, in the order written.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|seed| seed.value)
    }
}

impl Decode for Seeds {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        integers(node, &Self::expected(), problems).map(Self)
    }

    fn expected() -> String {
        "an integer of 0 or more, a list of them or a range such as `\"0..20\"`".into()
    }
}

/// Layers, numbered from 0: `20`, `[20, 21]`, the half-open range `"0..20"`, or `"all"`. How many layers there are is
/// for whoever knows the model to check.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Layers {
    /// These, in the order written, none twice.
    List(Vec<Spanned<usize>>),
    /// Every layer of the model.
    All,
}

impl Decode for Layers {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if node.as_str() == Some("all") {
            return Some(Self::All);
        }
        integers(node, &Self::expected(), problems).map(Self::List)
    }

    fn expected() -> String {
        "an integer of 0 or more, a list of them, a range such as `\"0..20\"` or `\"all\"`".into()
    }
}

/// Reads an integer, a list of integers or a range in a string.
fn integers<T>(node: &Node, expected: &str, problems: &mut Problems) -> Option<Vec<Spanned<T>>>
where
    T: Decode + Distinct + TryFrom<u64>,
{
    let numbers = match &node.value {
        Value::Array(items) => return distinct(node, items, problems),
        Value::Integer(number) => u64::try_from(*number).ok().map(|number| number..number + 1),
        Value::String(text) => range(text),
        _ => None,
    };
    let Some(numbers) = numbers else {
        return problems.mismatch(node, expected);
    };
    let spanned = |number| {
        Some(Spanned {
            value: T::try_from(number).ok()?,
            at: node.at.clone(),
        })
    };
    check_range(node, numbers, problems)?.map(spanned).collect()
}

/// `"0..20"` as numbers; `None` where the text is not of that form.
fn range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once("..")?;
    // Without a sign, which `parse` would take.
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    };
    Some(number(start.trim())?..number(end.trim())?)
}

fn check_range(node: &Node, range: Range<u64>, problems: &mut Problems) -> Option<Range<u64>> {
    let Range { start, end } = range;
    let (wrong, label) = match end.saturating_sub(start) {
        0 => (
            "an empty range".to_string(),
            format!("runs from {start} to just before {end}"),
        ),
        1..=LONGEST_RANGE => return Some(range),
        count => (
            format!("a range of {count} numbers"),
            format!("expected {LONGEST_RANGE} at most"),
        ),
    };
    let message = format!("{} is {wrong}", node.at.subject());
    problems.error_at(&node.at, message).label(label);
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::load_text;
    use super::*;

    /// Decodes the value of `x = …`; errors come back as their messages without the drawings.
    fn decode<T: Decode>(value: &str) -> Result<T, Vec<String>> {
        let text = format!("x = {value}\n");
        let document = load_text(Path::new("s.toml"), &text, &[]).unwrap();
        let mut problems = Problems::default();
        let node = document.root.as_table().unwrap().get("x").unwrap();
        let decoded = T::decode(node, &mut problems);
        match problems.finish(&document.sources) {
            Ok(()) => Ok(decoded.unwrap()),
            Err(problems) => {
                assert!(decoded.is_none());
                Err(problems.list.into_iter().map(|d| d.message).collect())
            }
        }
    }

    fn seeds(value: &str) -> Result<Vec<u64>, Vec<String>> {
        decode::<Seeds>(value).map(|seeds| seeds.iter().collect())
    }

    fn numbers(value: &str) -> Result<Vec<f64>, Vec<String>> {
        decode::<OneOrMany<f64>>(value).map(|list| list.values().copied().collect())
    }

    #[test]
    fn one_or_many_keeps_the_order() {
        assert_eq!(numbers("3"), Ok(vec![3.0]));
        assert_eq!(numbers("[6, -10.5, 0]"), Ok(vec![6.0, -10.5, 0.0]));
        assert_eq!(numbers("[]"), Err(vec!["`x` is an empty list".into()]));
        let two = vec![
            "`x[1]` is the string `b`, not a number".into(),
            "`x` holds the number `1.0` twice".into(),
        ];
        assert_eq!(numbers("[1, \"b\", 1.0]"), Err(two));
    }

    #[test]
    fn zero_is_zero_whatever_its_sign() {
        let twice = "`x` holds the number `-0.0` twice";
        assert_eq!(numbers("[0, -0.0]"), Err(vec![twice.into()]));
        let names = decode::<OneOrMany<String>>("[\"a\", \"b\", \"a\"]");
        assert_eq!(names, Err(vec!["`x` holds the string `a` twice".into()]));
    }

    #[test]
    fn a_duplicate_shows_both_places() {
        let text = "alpha = [\n  1,\n  2,\n  1.0,\n]\n";
        let document = load_text(Path::new("s.toml"), text, &[]).unwrap();
        let mut problems = Problems::default();
        let node = document.root.as_table().unwrap().get("alpha").unwrap();
        assert_eq!(OneOrMany::<f64>::decode(node, &mut problems), None);
        let shown = problems.finish(&document.sources).unwrap_err().to_string();
        let expected = "\
error: `alpha` holds the number `1.0` twice
 --> s.toml:4:3
  |
2 |   1,
  |   - first here
3 |   2,
4 |   1.0,
  |   ^^^ again here";
        assert_eq!(shown, expected);
    }

    #[test]
    fn seeds_take_three_forms() {
        assert_eq!(seeds("3"), Ok(vec![3]));
        assert_eq!(seeds("[1, 0]"), Ok(vec![1, 0]));
        assert_eq!(seeds("\"0..3\""), Ok(vec![0, 1, 2]));
        assert_eq!(seeds("\" 5 .. 7 \""), Ok(vec![5, 6]));
    }

    #[test]
    fn bad_seeds_are_explained() {
        let expected = "an integer of 0 or more, a list of them or a range such as `\"0..20\"`";
        let wrong = |value: &str, found: &str| {
            let message = format!("`x` is {found}, not {expected}");
            assert_eq!(seeds(value), Err(vec![message]));
        };
        wrong("-1", "the integer `-1`");
        wrong("\"0..=3\"", "the string `0..=3`");
        wrong("\"all\"", "the string `all`");
        wrong("1.5", "the number `1.5`");
        assert_eq!(seeds("\"3..3\""), Err(vec!["`x` is an empty range".into()]));
        let long = "`x` is a range of 2000000000 numbers";
        assert_eq!(seeds("\"0..2000000000\""), Err(vec![long.into()]));
        let twice = "`x` holds the integer `1` twice";
        assert_eq!(seeds("[1, 1]"), Err(vec![twice.into()]));
    }

    #[test]
    fn layers_may_be_all() {
        assert_eq!(decode("\"all\""), Ok(Layers::All));
        let list = |value| match decode::<Layers>(value) {
            Ok(Layers::List(list)) => list
                .into_iter()
                .map(|layer| layer.value)
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(list("20"), vec![20]);
        assert_eq!(list("[20, 23]"), vec![20, 23]);
        assert!(decode::<Layers>("\"+2..4\"").is_err());
        assert_eq!(list("\"2..4\""), vec![2, 3]);
    }
}
