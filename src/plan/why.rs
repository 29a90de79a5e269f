//! Why a stage would run: what its key is made of, against the most similar record in the cache.

use serde_json::Value as Json;

use super::record::StageRecord;

/// More differences than this are counted, not listed.
const LISTED: usize = 2;
/// A value longer than this many characters is cut.
const LONGEST_VALUE: usize = 32;

/// How a stage's key parts differ from those of the most similar stage of its kind that ever ran here, in a few words.
pub(super) fn reason(parts: &Json, records: &[StageRecord]) -> String {
    let earlier = records.iter().map(|record| &record.key_parts);
    let differences = earlier
        .filter(|earlier| earlier["kind"] == parts["kind"])
        .map(|earlier| differences(earlier, parts))
        .min_by_key(Vec::len);
    match differences {
        None => "not run before".to_string(),
        Some(list) if list.is_empty() => "an artifact of it is gone from the cache".to_string(),
        Some(list) => {
            let more = list.len().saturating_sub(LISTED);
            let shown = list[..list.len().min(LISTED)].join(", ");
            match more {
                0 => format!("changed: {shown}"),
                more => format!("changed: {shown} and {more} more"),
            }
        }
    }
}

fn differences(earlier: &Json, now: &Json) -> Vec<String> {
    let mut list = Vec::new();
    let inputs = [
        ("version", "the stage's version"),
        ("evaluation", "the model code's version"),
        ("models", "a model"),
        ("prompts", "the prompts"),
        ("stages", "what an earlier stage gave"),
    ];
    let changed = inputs.iter().filter(|(part, _)| earlier[part] != now[part]);
    list.extend(changed.map(|(_, words)| (*words).to_string()));
    compare("", &earlier["parameters"], &now["parameters"], &mut list);
    list
}

/// Lists the parameters that differ, `name old → new`.
fn compare(name: &str, earlier: &Json, now: &Json, list: &mut Vec<String>) {
    if let (Json::Object(before), Json::Object(after)) = (earlier, now) {
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        for key in after.keys().chain(gone) {
            compare(key, &earlier[key], &now[key], list);
        }
    } else if earlier != now {
        list.push(format!("{name} {} → {}", short(earlier), short(now)));
    }
}

fn short(value: &Json) -> String {
    let text = value.to_string();
    if text.chars().count() <= LONGEST_VALUE {
        return text;
    }
    let start: String = text.chars().take(LONGEST_VALUE - 1).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parts(alphas: &Json, prompts: &str) -> Json {
        json!({
            "kind": "steer", "version": 1, "evaluation": 1, "models": ["m"], "prompts": [prompts], "stages": ["d"],
            "parameters": { "alphas": alphas, "settings": { "threshold": 0.0 } },
        })
    }

    fn record(key_parts: Json) -> StageRecord {
        StageRecord {
            tables: vec![],
            directions: vec![],
            findings: vec![],
            key_parts,
            seconds: 0.0,
            cells: 0,
        }
    }

    #[test]
    fn the_most_similar_record_of_the_kind_is_compared() {
        let mut other_kind = parts(&json!([0, 1, 2]), "p");
        other_kind["kind"] = json!("random");
        let records = [
            record(parts(&json!([5]), "q")),
            record(parts(&json!([0, 1]), "p")),
            record(other_kind),
        ];
        let now = parts(&json!([0, 1, 2]), "p");
        assert_eq!(reason(&now, &records), "changed: alphas [0,1] → [0,1,2]");
        assert_eq!(reason(&now, &records[2..]), "not run before");
        let now = parts(&json!([0, 1]), "p");
        assert_eq!(
            reason(&now, &records),
            "an artifact of it is gone from the cache"
        );
    }

    #[test]
    fn long_values_are_cut_and_long_lists_counted() {
        let mut now = parts(&json!((0..100).collect::<Vec<_>>()), "r");
        now["models"] = json!(["n"]);
        let text = reason(&now, &[record(parts(&json!([0, 1]), "p"))]);
        assert_eq!(text, "changed: a model, the prompts and 1 more");
        let now = parts(&json!((0..100).collect::<Vec<_>>()), "p");
        let text = reason(&now, &[record(parts(&json!([0, 1]), "p"))]);
        assert_eq!(
            text,
            "changed: alphas [0,1] → [0,1,2,3,4,5,6,7,8,9,10,11,12,1…"
        );
    }
}
