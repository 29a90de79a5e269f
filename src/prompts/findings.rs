//! What a reader should know of a sound set: how its file was read, and names that look alike and are not the same.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;

use super::error::quoted;
use super::{Prompt, PromptSet};

/// How many groups of names are listed of each kind; the rest are counted.
const LISTED: usize = 3;

/// A name and the line of the file where it is first used.
type Named<'a> = (&'a str, usize);

impl PromptSet {
    /// What a reader should know of the set: fragments that follow its name.
    pub(crate) fn findings(&self) -> Vec<String> {
        let finding = |kind, name_of: fn(&Prompt) -> &str, consequence| {
            let alike = look_alike(self.prompts.iter().map(|p| (name_of(p), p.line)));
            (!alike.is_empty()).then(|| sentence(kind, &alike, consequence))
        };
        let different = "they count as different prompts";
        let left_out = "a stage that names one leaves the others out";
        let findings = [
            finding("ids", |prompt| &prompt.id, different),
            finding("splits", |prompt| &prompt.split, left_out),
            finding(
                "categories",
                |prompt| &prompt.category,
                "tables keep them apart",
            ),
        ];
        let notes = self.notes.iter().cloned();
        notes.chain(findings.into_iter().flatten()).collect()
    }
}

/// Groups of names that differ only in what cannot be seen, in the order of the file.
fn look_alike<'a>(names: impl Iterator<Item = Named<'a>>) -> Vec<Vec<Named<'a>>> {
    let mut by_look: BTreeMap<String, Vec<Named<'a>>> = BTreeMap::new();
    for (name, line) in names {
        let group = by_look.entry(look(name)).or_default();
        if group.iter().all(|(known, _)| *known != name) {
            group.push((name, line));
        }
    }
    let mut alike: Vec<_> = by_look.into_values().collect();
    alike.retain(|group| group.len() > 1);
    alike.sort_by_key(|group| group[0].1);
    alike
}

/// What a person sees of a name: composed characters, without those that have no width, and one space for any white space inside.
fn look(name: &str) -> String {
    let has_no_width = |c: &char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    let seen: String = name.nfc().filter(|c| !has_no_width(c)).collect();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sentence(kind: &str, alike: &[Vec<Named<'_>>], consequence: &str) -> String {
    let groups = alike.iter().take(LISTED).map(|group| {
        let names = group
            .iter()
            .map(|(name, line)| format!("{} (line {line})", quoted(name)));
        names.collect::<Vec<_>>().join(" and ")
    });
    let more = match alike.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more such groups"),
    };
    format!(
        "{kind} that look the same and differ in Unicode form, white space or characters without width: {}{more}; {consequence}",
        groups.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{PromptSet, read_jsonl};

    fn findings(rows: &[[&str; 3]]) -> Vec<String> {
        let lines = rows.iter().map(|[id, split, category]| {
            serde_json::json!({"id": id, "prompt": "p", "split": split, "category": category})
                .to_string()
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let set =
            PromptSet::parse(Path::new("p.jsonl"), text.as_bytes(), read_jsonl::read).unwrap();
        set.findings()
    }

    #[test]
    fn names_that_differ_in_what_is_not_seen_are_told_with_their_lines() {
        let found = findings(&[
            ["caf\u{e9}", "edge", "c"],
            ["b", "edge ", "c"],
            ["cafe\u{301}", "edge", "c\u{200b}"],
            ["b\u{a0}", "harmful", "c"],
        ]);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(
            found[0].ends_with("`caf\u{e9}` (line 1) and `cafe\u{301}` (line 3), `b` (line 2) and `b\u{a0}` (line 4); they count as different prompts"),
            "{found:#?}"
        );
        assert!(
            found[1].starts_with("splits that look the same"),
            "{found:#?}"
        );
        assert!(
            found[1].contains("`edge` (line 1) and `edge ` (line 2)"),
            "{found:#?}"
        );
        assert!(
            found[2].starts_with("categories that look the same"),
            "{found:#?}"
        );
    }

    #[test]
    fn names_that_can_be_told_apart_are_no_finding() {
        let found = findings(&[
            ["a", "edge", "c"],
            ["A", "Edge", "C"],
            ["\u{ff41}", "edge2", ""],
            ["a b", "ed ge", "c"],
            ["ab", "edge", "c"],
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn many_are_counted() {
        let ids: Vec<String> = (0..5).map(|i| i.to_string()).collect();
        let spaced: Vec<String> = ids.iter().map(|id| format!("{id} ")).collect();
        let rows: Vec<[&str; 3]> = ids
            .iter()
            .chain(&spaced)
            .map(|id| [id.as_str(), "s", "c"])
            .collect();
        let found = findings(&rows);
        assert!(found[0].contains("and 2 more such groups"), "{found:?}");
    }
}
