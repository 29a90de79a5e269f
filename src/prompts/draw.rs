//! Drawing a prompt set out of a larger one of XSTest's form: unsafe prompts become `harmful`, safe ones `edge`.
//!
//! Which prompts are drawn depends on the seed and on each prompt's id alone: prompts stand in the order of blake3(seed, id), and the first
//! of each label are taken. So a larger cap keeps what a smaller one drew. Drawn prompts are numbered (`h001`, `e001`, `b001`) and keep the
//! id they had as `xstest_id`. Or the prompts are those that a file names by `xstest_id`, with its ids, splits and order.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Prompt, PromptErrors, PromptSet};

/// The field that says which prompt of the larger set a drawn one is.
pub(crate) const ORIGIN: &str = "xstest_id";

/// What is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// So many of each kind at most.
    Seeded {
        seed: u64,
        /// Of the unsafe prompts; none for all.
        harmful: Option<usize>,
        /// Of the safe prompts, after the benign ones; none for all that are left.
        edge: Option<usize>,
        /// Of the safe prompts, set apart as the split `benign`.
        benign: usize,
    },
    /// The prompts that this file names by `xstest_id`.
    Selection(PathBuf),
}

impl PromptSet {
    /// The prompts that are drawn out of this set; `path` names it in messages.
    ///
    /// # Errors
    /// A label that is neither `safe` nor `unsafe`, a cap larger than what there is, and for a selection a file that cannot be read,
    /// a prompt without `xstest_id`, or one that is not in this set.
    pub(crate) fn drawn(&self, path: &Path, draw: &Draw) -> Result<PromptSet, PromptErrors> {
        let prompts = match draw {
            Draw::Selection(file) => self.selected(path, file)?,
            &Draw::Seeded {
                seed,
                harmful,
                edge,
                benign,
            } => {
                let [safe, unsafe_] = self.by_label(path, seed)?;
                for (what, cap, there) in [
                    ("harmful", harmful.unwrap_or(0), unsafe_.len()),
                    ("benign and edge", benign + edge.unwrap_or(0), safe.len()),
                ] {
                    if cap > there {
                        let message =
                            format!("{cap} {what} prompts are to be drawn, but there are {there}");
                        return Err(PromptErrors::whole_file(path, message));
                    }
                }
                let (apart, rest) = safe.split_at(benign);
                let groups = [
                    (
                        "harmful",
                        unsafe_.iter().take(harmful.unwrap_or(usize::MAX)),
                    ),
                    ("edge", rest.iter().take(edge.unwrap_or(usize::MAX))),
                    ("benign", apart.iter().take(benign)),
                ];
                let named = groups.into_iter().flat_map(|(split, prompts)| {
                    let numbered = prompts.zip(1..);
                    numbered.map(move |(prompt, number)| Prompt {
                        id: format!("{}{number:03}", &split[..1]),
                        split: split.to_string(),
                        ..with_origin(prompt)
                    })
                });
                named.collect()
            }
        };
        if prompts.is_empty() {
            let message = "nothing was drawn; raise a cap".to_string();
            return Err(PromptErrors::whole_file(path, message));
        }
        Ok(PromptSet {
            prompts,
            notes: self.notes.clone(),
            public: self.public,
        })
    }

    /// The safe and the unsafe prompts, each in the order of the seed.
    fn by_label(&self, path: &Path, seed: u64) -> Result<[Vec<&Prompt>; 2], PromptErrors> {
        let labels = ["safe", "unsafe"];
        if let Some(other) = self.splits().into_iter().find(|s| !labels.contains(s)) {
            let message = format!(
                "label `{other}` is not one that prompts are drawn by; expected `safe` and `unsafe`"
            );
            return Err(PromptErrors::whole_file(path, message));
        }
        Ok(labels.map(|label| {
            let mut list: Vec<&Prompt> = self.split(label).collect();
            list.sort_by_key(|prompt| place(seed, &prompt.id));
            list
        }))
    }

    fn selected(&self, path: &Path, file: &Path) -> Result<Vec<Prompt>, PromptErrors> {
        let selection = PromptSet::load(file)?;
        let by_id: HashMap<&str, &Prompt> =
            self.prompts.iter().map(|p| (p.id.as_str(), p)).collect();
        let mut seen = HashSet::new();
        let mut prompts = Vec::new();
        for named in &selection.prompts {
            let wrong = |what: String| {
                let message = format!("prompt `{}` {what}", named.id);
                PromptErrors::whole_file(file, message)
            };
            let origin = match named.other.get(ORIGIN) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ => return Err(wrong(format!("has no `{ORIGIN}`"))),
            };
            let Some(found) = by_id.get(origin.as_str()) else {
                let path = path.display();
                let message = format!("is `{ORIGIN}` {origin}, which `{path}` does not have");
                return Err(wrong(message));
            };
            if !seen.insert(origin.clone()) {
                return Err(wrong(format!("names `{ORIGIN}` {origin} again")));
            }
            prompts.push(Prompt {
                id: named.id.clone(),
                split: named.split.clone(),
                ..with_origin(found)
            });
        }
        Ok(prompts)
    }
}

fn with_origin(prompt: &Prompt) -> Prompt {
    let mut prompt = prompt.clone();
    let origin = Value::String(prompt.id.clone());
    prompt.other.insert(ORIGIN.to_string(), origin);
    prompt
}

/// Where a prompt stands in the order of a seed.
fn place(seed: u64, id: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("dial draw of a prompt set");
    hasher.update(&seed.to_le_bytes()).update(id.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> PromptSet {
        let prompt = |i: usize| Prompt {
            id: i.to_string(),
            text: format!("question {i}?"),
            split: if i.is_multiple_of(3) {
                "unsafe"
            } else {
                "safe"
            }
            .to_string(),
            category: "homonyms".to_string(),
            other: serde_json::Map::new(),
            line: i + 2,
        };
        PromptSet {
            notes: Vec::new(),
            public: None,
            prompts: (0..30).map(prompt).collect(),
        }
    }

    fn seeded(seed: u64, harmful: usize, edge: usize, benign: usize) -> Draw {
        Draw::Seeded {
            seed,
            harmful: Some(harmful),
            edge: Some(edge),
            benign,
        }
    }

    fn texts(set: &PromptSet, split: &str) -> Vec<String> {
        set.split(split).map(|p| p.text.clone()).collect()
    }

    #[test]
    fn labels_become_splits_under_their_caps() {
        let drawn = set()
            .drawn(Path::new("x.csv"), &seeded(0, 4, 6, 5))
            .unwrap();
        let sizes = ["harmful", "edge", "benign"].map(|split| drawn.split(split).count());
        assert_eq!(sizes, [4, 6, 5]);
        let all: HashSet<&String> = drawn.prompts.iter().map(|p| &p.text).collect();
        assert_eq!(all.len(), 15, "a prompt was drawn twice");
        for prompt in drawn.split("harmful") {
            let origin: usize = prompt.other[ORIGIN].as_str().unwrap().parse().unwrap();
            assert!(origin.is_multiple_of(3));
        }
        assert_eq!(drawn.prompts[0].id, "h001");
    }

    #[test]
    fn the_seed_decides_and_a_larger_cap_only_adds() {
        let draw = |seed, edge| {
            set()
                .drawn(Path::new("x.csv"), &seeded(seed, 4, edge, 0))
                .unwrap()
        };
        assert_eq!(draw(1, 6).content_hash(), draw(1, 6).content_hash());
        assert_ne!(texts(&draw(1, 6), "edge"), texts(&draw(2, 6), "edge"));
        assert!(texts(&draw(1, 9), "edge").starts_with(&texts(&draw(1, 6), "edge")));
    }

    #[test]
    fn too_large_a_cap_and_another_label_are_told() {
        let message = |set: &PromptSet, draw: &Draw| {
            set.drawn(Path::new("x.csv"), draw).unwrap_err().to_string()
        };
        assert_eq!(
            message(&set(), &seeded(0, 11, 1, 0)),
            "x.csv: 11 harmful prompts are to be drawn, but there are 10"
        );
        assert_eq!(
            message(&set(), &seeded(0, 1, 15, 6)),
            "x.csv: 21 benign and edge prompts are to be drawn, but there are 20"
        );
        let mut other = set();
        other.prompts[7].split = "edge".to_string();
        assert!(message(&other, &seeded(0, 1, 1, 0)).contains("label `edge`"));
    }

    /// The study's own 200 prompts, by `xstest_id`: text for text.
    #[test]
    fn the_published_selection_comes_out() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        let (all, named) = (
            shared.join("xstest_prompts.csv"),
            shared.join("prompts.jsonl"),
        );
        if !all.exists() || !named.exists() {
            eprintln!("skipped: XSTest and the study's prompts are not at ../shared/data");
            return;
        }
        let set = PromptSet::load(&all).unwrap();
        assert_eq!(set.prompts.len(), 450);
        assert_eq!(
            (set.split("safe").count(), set.split("unsafe").count()),
            (250, 200)
        );
        let published = PromptSet::load(&named).unwrap();
        let drawn = set.drawn(&all, &Draw::Selection(named)).unwrap();
        let fields = |set: &PromptSet| -> Vec<[String; 4]> {
            let of = |p: &Prompt| [&p.id, &p.text, &p.split, &p.category].map(String::clone);
            set.prompts.iter().map(of).collect()
        };
        assert_eq!(fields(&drawn), fields(&published));
        assert_eq!(
            (drawn.split("harmful").count(), drawn.split("edge").count()),
            (80, 120)
        );
    }
}
