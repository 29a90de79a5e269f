//! Why a stage would run: what its key is made of, against the most similar record in the cache.

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::stages::{Inputs, Name};

use super::record::{ModelParts, StageRecord};
use super::study::StageSpec;

/// More differences than this are counted in a plan's line, not listed.
const LISTED: usize = 2;
/// In a plan's line a value longer than this many characters is cut.
const LONGEST_VALUE: usize = 32;
/// Hexadecimal digits that tell one hash from another for a person.
const HASH_DIGITS: usize = 8;

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// The version of the stage kind's code.
    StageVersion,
    /// The version of the code that evaluates models.
    ModelCode,
    /// The content of a model: weights, configuration, tokenizer, template or dtype.
    Model,
    Prompts,
    Input,
    File,
    Parameter,
}

/// One difference between what a stage is asked now and what it was asked before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Difference {
    pub(crate) part: Part,
    /// Name of the model, prompt set, stage or parameter as the study has it; empty for versions.
    pub(crate) name: String,
    /// The part of the model, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<&'static str>,
    /// Before: a value, or a content hash; null where there was none.
    pub(crate) old: Json,
    /// Now; null where there is none any more, or where it is not known before an earlier stage has run.
    pub(crate) new: Json,
}

/// The most similar earlier run of a stage, and how it differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Nearest {
    /// Name of the stage in the study that was run.
    pub(crate) stage: String,
    /// When its output was made, as RFC 3339; empty in records of early versions.
    pub(crate) created: String,
    /// What differs, parameters last. Empty where only an artifact is gone.
    pub(crate) differences: Vec<Difference>,
}

/// The record of the stage's kind that differs least, the newest of those that differ equally. Inputs that are not known yet (null in
/// `parts`) are not compared.
pub(super) fn nearest(
    spec: &StageSpec,
    parts: &Json,
    records: &[StageRecord],
    inputs: &Inputs,
) -> Option<Nearest> {
    let of_kind = records.iter();
    let of_kind = of_kind.filter(|record| record.key_parts["kind"] == parts["kind"]);
    let compared = of_kind.map(|record| (record, differences(spec, &record.key_parts, parts)));
    let (record, differences) = compared.min_by(|(a, of_a), (b, of_b)| {
        let fewest = of_a.len().cmp(&of_b.len());
        fewest.then_with(|| b.created.cmp(&a.created))
    })?;
    let told = differences.into_iter();
    let told = told.flat_map(|difference| parts_of_models(difference, record, inputs));
    Some(Nearest {
        stage: record.stage.clone(),
        created: record.created.clone(),
        differences: told.collect(),
    })
}

/// Of a model that differs, which parts of it do, where that is known; any other difference as it is.
fn parts_of_models(
    difference: Difference,
    record: &StageRecord,
    inputs: &Inputs,
) -> Vec<Difference> {
    let old = difference.old.as_str();
    let old = old.and_then(|fingerprint| record.models.get(fingerprint));
    let new = inputs.models.get(&difference.name);
    let (Part::Model, Some(old), Some(new)) = (difference.part, old, new) else {
        return vec![difference];
    };
    let new = ModelParts::of(new);
    let parts = [
        ("dtype", json!(old.dtype), json!(new.dtype)),
        ("weights", json!(old.weights), json!(new.weights)),
        ("tokenizer", json!(old.tokenizer), json!(new.tokenizer)),
        ("chat template", json!(old.template), json!(new.template)),
    ];
    let differ = parts.into_iter().filter(|(_, old, new)| old != new);
    let differ: Vec<Difference> = differ
        .map(|(of, old, new)| Difference {
            of: Some(of),
            old,
            new,
            ..difference.clone()
        })
        .collect();
    match differ.is_empty() {
        // What is left of a fingerprint.
        true => vec![Difference {
            of: Some("configuration"),
            ..difference
        }],
        false => differ,
    }
}

/// The same in a few words, for a line of a plan.
pub(super) fn in_a_few_words(nearest: Option<&Nearest>) -> String {
    let Some(nearest) = nearest else {
        return "no earlier output".to_string();
    };
    if nearest.differences.is_empty() {
        return "an artifact of it is gone from the cache".to_string();
    }
    let listed = nearest.differences.iter().take(LISTED);
    let listed: Vec<String> = listed.map(Difference::in_a_few_words).collect();
    match nearest.differences.len().saturating_sub(LISTED) {
        0 => format!("changed: {}", listed.join(", ")),
        more => format!("changed: {} and {more} more", listed.join(", ")),
    }
}

impl Difference {
    /// What differs, with its name.
    pub(crate) fn subject(&self) -> String {
        match self.part {
            Part::StageVersion => "the version of the stage's code".to_string(),
            Part::ModelCode => "the version of the model code".to_string(),
            Part::Model => match self.of {
                Some(of) => format!("model `{}`, {of}", self.name),
                None => format!("model `{}`", self.name),
            },
            Part::Prompts => format!("prompts `{}`", self.name),
            Part::Input => format!("what `{}` gave", self.name),
            Part::File => format!("file `{}`", self.name),
            Part::Parameter => self.name.clone(),
        }
    }

    fn in_a_few_words(&self) -> String {
        match self.part {
            Part::Parameter => {
                let (old, new) = self.values(LONGEST_VALUE);
                format!("{} {old} → {new}", self.name)
            }
            Part::Model if self.of == Some("dtype") => {
                let (old, new) = self.values(LONGEST_VALUE);
                format!("{} {old} → {new}", self.subject())
            }
            _ => self.subject(),
        }
    }

    /// Before and now, each at most some `longest` characters, with what differs in them.
    pub(crate) fn values(&self, longest: usize) -> (String, String) {
        let (old, new) = (text(&self.old), text(&self.new));
        match (self.part, &self.old, &self.new) {
            (Part::Model, Json::String(old), Json::String(new)) if self.of == Some("dtype") => {
                (old.clone(), new.clone())
            }
            (Part::Model | Part::Prompts | Part::Input | Part::File, old, new) => {
                (hash(old), hash(new))
            }
            (Part::Parameter, Json::Array(before), Json::Array(now))
                if old.chars().count() > longest || new.chars().count() > longest =>
            {
                lists(before, now, longest)
            }
            _ => where_they_part(&old, &new, longest),
        }
    }
}

fn hash(value: &Json) -> String {
    // Of several files the first stands for all.
    let value = value.get(0).unwrap_or(value);
    let text = value.as_str().unwrap_or("none");
    text.chars().take(HASH_DIGITS).collect()
}

fn text(value: &Json) -> String {
    match value {
        Json::Null => "none".to_string(),
        value => value.to_string(),
    }
}

/// Long lists as their lengths, and what is in one of them only: their beginnings are mostly the same.
fn lists(old: &[Json], new: &[Json], longest: usize) -> (String, String) {
    let sorted = |list: &[Json]| {
        let mut texts: Vec<String> = list.iter().map(Json::to_string).collect();
        texts.sort_unstable();
        texts
    };
    let (sorted_old, sorted_new) = (sorted(old), sorted(new));
    if sorted_old == sorted_new {
        let count = format!("{} values", old.len());
        return (count, "the same in another order".to_string());
    }
    let of = |these: &[Json], those: &[String], sign: &str| {
        let is_only_here = |value: &&Json| those.binary_search(&value.to_string()).is_err();
        let only: Vec<Json> = these.iter().filter(is_only_here).cloned().collect();
        let count = these.len();
        match only.is_empty() {
            true => format!("{count} values"),
            false => {
                let only = cut(
                    &Json::Array(only).to_string(),
                    0,
                    longest.saturating_sub(12),
                );
                format!("{count} values ({sign} {only})")
            }
        }
    };
    (of(old, &sorted_new, "−"), of(new, &sorted_old, "+"))
}

/// Two texts, where they are too long each from a little before their first difference on.
fn where_they_part(old: &str, new: &str, longest: usize) -> (String, String) {
    let same = old.chars().zip(new.chars()).take_while(|(a, b)| a == b);
    let same = same.count();
    let fits = |text: &str| text.chars().count() <= longest;
    let start = match fits(old) && fits(new) || same < longest / 2 {
        true => 0,
        false => same - longest / 4,
    };
    (cut(old, start, longest), cut(new, start, longest))
}

/// At most so many characters of a text from some character on, with `…` for what is left out.
fn cut(text: &str, start: usize, longest: usize) -> String {
    let before = if start > 0 { "…" } else { "" };
    let mut rest: Vec<char> = text.chars().skip(start).collect();
    let room = longest.saturating_sub(before.chars().count());
    if rest.len() > room {
        rest.truncate(room.saturating_sub(1));
        rest.push('…');
    }
    before.chars().chain(rest).collect()
}

fn differences(spec: &StageSpec, earlier: &Json, now: &Json) -> Vec<Difference> {
    let mut list = Vec::new();
    for (part, field) in [
        (Part::StageVersion, "version"),
        (Part::ModelCode, "evaluation"),
    ] {
        compare(part, "", &earlier[field], &now[field], &mut list);
    }
    let needs = spec.stage.needs();
    let names = |list: Vec<Name>| list.into_iter().map(|name| name.value).collect();
    let stages = needs.stages.into_iter().map(|(name, _)| name);
    let files = needs.files.iter();
    let files = files.map(|file| file.value.display().to_string());
    let inputs: [(Part, &str, Vec<String>); 4] = [
        (Part::Model, "models", names(needs.models)),
        (Part::Prompts, "prompts", names(needs.prompts)),
        (Part::Input, "stages", names(stages.collect())),
        (Part::File, "files", files.collect()),
    ];
    for (part, field, names) in inputs {
        compare_inputs(part, &names, &earlier[field], &now[field], &mut list);
    }
    for (name, field) in [
        ("further end-of-text tokens", "further_ends"),
        ("number of layers of each model", "depths"),
        ("", "parameters"),
    ] {
        let (earlier, now) = (&earlier[field], &now[field]);
        compare(Part::Parameter, name, earlier, now, &mut list);
    }
    list
}

/// Lists the inputs that differ. Names are in no key, and so in no record: what was there before in another place is no difference, and of
/// the others those of one place are taken for the same. What is not known yet may turn out to be any that is gone.
fn compare_inputs(
    part: Part,
    names: &[String],
    earlier: &Json,
    now: &Json,
    list: &mut Vec<Difference>,
) {
    let values = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let (earlier, now) = (values(earlier), values(now));
    let (mut gone, mut come) = unmatched(&earlier, &now);
    let mut pending: Vec<usize> = (0..now.len()).filter(|&i| now[i].is_null()).collect();
    if gone.is_empty() && come.is_empty() && pending.is_empty() {
        // The same in another order is another key.
        come = (0..now.len()).filter(|&i| earlier[i] != now[i]).collect();
        gone = come.clone();
    }
    gone.retain(|place| {
        let counterpart = pending.iter().position(|i| i == place);
        counterpart.map(|at| pending.remove(at)).is_none()
    });
    gone.drain(..pending.len().min(gone.len()));
    for place in 0..earlier.len().max(now.len()) {
        let value = |places: &[usize], of: &[Json]| {
            let is_there = places.contains(&place);
            is_there.then(|| of[place].clone())
        };
        let (old, new) = (value(&gone, &earlier), value(&come, &now));
        let name = match (names.get(place), &new, &old) {
            (_, None, None) => continue,
            (Some(name), Some(_), _) => name.clone(),
            (None, Some(_), _) => format!("number {}", place + 1),
            (_, None, Some(_)) => format!("number {} before", place + 1),
        };
        list.push(Difference {
            part,
            name,
            of: None,
            old: old.unwrap_or_default(),
            new: new.unwrap_or_default(),
        });
    }
}

/// The places of those that are in one list only; what is not known yet is in neither.
fn unmatched(earlier: &[Json], now: &[Json]) -> (Vec<usize>, Vec<usize>) {
    let known: Vec<usize> = (0..now.len()).filter(|&i| !now[i].is_null()).collect();
    let mut gone: Vec<usize> = (0..earlier.len()).collect();
    // Those in their place first, so that of several equal ones no other takes their part.
    gone.retain(|&place| !(known.contains(&place) && earlier[place] == now[place]));
    let in_place = |place: &usize| earlier.get(*place) == Some(&now[*place]);
    let mut come = Vec::new();
    for place in known.into_iter().filter(|place| !in_place(place)) {
        match gone.iter().position(|&at| earlier[at] == now[place]) {
            Some(at) => drop(gone.remove(at)),
            None => come.push(place),
        }
    }
    (gone, come)
}

/// Lists what differs; of tables each field.
fn compare(part: Part, name: &str, earlier: &Json, now: &Json, list: &mut Vec<Difference>) {
    if let (Json::Object(before), Json::Object(after)) = (earlier, now) {
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        for key in after.keys().chain(gone) {
            compare(part, &name_in(name, key), &earlier[key], &now[key], list);
        }
    } else if earlier != now {
        list.push(Difference {
            part,
            name: name.to_string(),
            of: None,
            old: earlier.clone(),
            new: now.clone(),
        });
    }
}

/// The name of a parameter as the study has it: those of the sections `[chat]` and `[score]` with their section, the others, which are the
/// stage's own, without.
fn name_in(group: &str, key: &str) -> String {
    match group.split('.').next() {
        Some("chat" | "score") => format!("{group}.{key}"),
        _ => key.to_string(),
    }
}

#[cfg(test)]
mod tests;
