//! Groups that a study names: splits, values of a column, or labels of a table. No score is needed to make a direction of them.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::prompts::{Labels, PromptSet};
use crate::spec::{Choice, Fields, Problems, Spanned};
use crate::stages::declare::{Field, FieldType};
use crate::stages::parameters::{GroupSize, Names};
use crate::stages::settings::Settings;
use crate::stages::{Inputs, Name, Needs};

use super::Groups;

/// Values that a message lists; the others are counted.
const LISTED: usize = 10;

/// What the groups go by.
#[derive(Clone, Debug)]
pub(in crate::stages) enum Naming {
    Splits,
    Column(Name),
    Labels(Spanned<PathBuf>),
}

/// Which of the three, before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stages) enum Way {
    Splits,
    Column,
    Labels,
}

/// Two groups of prompts that have names.
#[derive(Clone, Debug)]
pub(in crate::stages) struct Named {
    by: Naming,
    a: Names,
    b: Names,
    /// How many of each count at most.
    n: Option<GroupSize>,
}

impl Named {
    pub(in crate::stages) fn read(
        fields: &mut Fields<'_, '_>,
        way: Way,
        study: &Settings,
    ) -> Option<Self> {
        let by = match way {
            Way::Splits => Some(Naming::Splits),
            Way::Column => fields.required("column").map(Naming::Column),
            Way::Labels => fields.required::<Name>("labels").map(|file| {
                Naming::Labels(Spanned {
                    value: study.import.folder.join(file.value),
                    at: file.at,
                })
            }),
        };
        let (a, b) = (fields.required("a"), fields.required("b"));
        Some(Named {
            n: fields.optional("n"),
            by: by?,
            a: a?,
            b: b?,
        })
    }

    /// The fields that go with them, but for `n`.
    pub(in crate::stages) fn list() -> [Field; 4] {
        [
            Field::optional::<Names>(
                "a",
                "The splits, values of `column` or labels whose prompts are in A, where groups are named.",
            ),
            Field::optional::<Names>("b", "The same of B."),
            Field::optional::<Name>(
                "column",
                "The column of the prompt file that tells the groups apart; with `select = \"column\"`. Numbers are written as text.",
            ),
            Field {
                keyed: crate::stages::declare::Keyed::ByContent,
                ..Field::optional::<Name>(
                    "labels",
                    "A file that says which group a prompt is in, with the columns `id` and `label`, CSV or JSON Lines, in the folder \
                     `import.folder` (that of the study's file where left out); with `select = \"labels\"`. It need not name every prompt.",
                )
            },
        ]
    }

    /// What they are, but for the content of a file.
    pub(in crate::stages) fn key(&self) -> Json {
        let by = match &self.by {
            Naming::Splits => json!("splits"),
            Naming::Column(name) => json!({ "column": name.value }),
            Naming::Labels(_) => json!("labels"),
        };
        let n = self.n.as_ref().map(|n| n.value);
        json!({ "by": by, "a": self.a.key(), "b": self.b.key(), "n": n })
    }

    pub(in crate::stages) fn add_needs(&self, needs: &mut Needs) {
        if let Naming::Labels(file) = &self.by {
            needs.files.push(file.clone());
        }
    }

    /// The names of A and of B.
    pub(in crate::stages) fn names(&self) -> [String; 2] {
        [&self.a, &self.b].map(|names| names.values().cloned().collect::<Vec<_>>().join("+"))
    }

    /// What a direction of them is called.
    pub(in crate::stages) fn label(&self) -> String {
        self.names().join("_minus_")
    }

    /// The groups that a direction is made of, of those whose prompts are these: the first `n` of each.
    pub(in crate::stages) fn bounded(&self, mut groups: Groups) -> Groups {
        let most = self.n.as_ref().map_or(usize::MAX, |n| n.value);
        groups.top.truncate(most);
        groups.bottom.truncate(most);
        groups
    }

    /// All prompts of A and of B in file order, and what to say of prompts that are in both and of how a table of labels was read; none,
    /// with the problems told, where a group cannot be made out.
    pub(in crate::stages) fn groups(
        &self,
        set: &Name,
        allow_overlap: bool,
        inputs: &Inputs,
        problems: &mut Problems,
    ) -> Option<(Groups, Option<String>)> {
        let prompts = inputs.prompts.get(&set.value)?;
        let (values, notes) = self.values(set, prompts, inputs, problems)?;
        let [a, b] = [&self.a, &self.b].map(|names| {
            let is_all_there = self.check_names(names, (set, prompts), &values, problems);
            let is_in = |value: &Option<String>| {
                let value = value.as_ref();
                value.is_some_and(|value| names.values().any(|name| name == value))
            };
            let members = (0..values.len()).filter(|&i| is_in(&values[i]));
            is_all_there.then(|| members.collect::<Vec<usize>>())
        });
        let groups = Groups {
            top: a?,
            bottom: b?,
        };
        let shared = self.a.0.iter().filter(|name| {
            let mut others = self.b.values();
            others.any(|other| *other == name.value)
        });
        let overlap = self.overlap(&groups, prompts);
        for name in shared.filter(|_| !allow_overlap) {
            problems
                .error_at(&name.at, format!("`{name}` is in `a` and in `b`"))
                .label("its prompts would be in both groups")
                .help("take it out of one of them, or set `allow_overlap = true` to record this and go on");
        }
        let is_good = overlap.is_none() || allow_overlap;
        let told: Vec<String> = notes.into_iter().chain(overlap).collect();
        let finding = (!told.is_empty()).then(|| told.join("; "));
        is_good.then_some((groups, finding))
    }

    /// What to say of prompts that are in both groups.
    fn overlap(&self, groups: &Groups, prompts: &PromptSet) -> Option<String> {
        let bottom: HashSet<&usize> = groups.bottom.iter().collect();
        let both = groups.top.iter().filter(|i| bottom.contains(i));
        let ids: Vec<&str> = both.map(|&i| prompts.prompts[i].id.as_str()).collect();
        (!ids.is_empty()).then(|| {
            let [a, b] = self.names();
            format!(
                "{} prompts are both in A (`{a}`) and in B (`{b}`): `{}`",
                ids.len(),
                ids.join("`, `")
            )
        })
    }

    /// What each prompt has of what the groups go by, and what to say of the file that says it; none, which is told, where nothing does.
    fn values(
        &self,
        set: &Name,
        prompts: &PromptSet,
        inputs: &Inputs,
        problems: &mut Problems,
    ) -> Option<(Vec<Option<String>>, Vec<String>)> {
        match &self.by {
            Naming::Splits => Some((prompts.column("split"), Vec::new())),
            Naming::Column(name) => {
                let values = prompts.column(&name.value);
                if values.iter().any(Option::is_some) {
                    return Some((values, Vec::new()));
                }
                let (columns, message) = (
                    prompts.columns(),
                    format!("no prompt of `{set}` has anything in a column `{name}`"),
                );
                let there = format!("its columns are {}", listed(&columns));
                problems
                    .error_at(&name.at, message)
                    .suggest(&name.value, columns, &there);
                None
            }
            Naming::Labels(file) => {
                let content = inputs.files.get(&file.value)?;
                match Labels::read(&file.value, &content.bytes, prompts) {
                    Ok(labels) => {
                        let notes = labels.notes.iter();
                        let notes = notes.map(|note| format!("the table of labels: {note}"));
                        Some((labels.of(prompts), notes.collect()))
                    }
                    Err(errors) => {
                        let message = format!("labels of `{set}` cannot be used");
                        problems
                            .error_at(&file.at, message)
                            .note(errors.to_string());
                        None
                    }
                }
            }
        }
    }

    /// Whether there is a prompt for each of these names; one that has none is told.
    fn check_names(
        &self,
        names: &Names,
        (set, prompts): (&Name, &PromptSet),
        values: &[Option<String>],
        problems: &mut Problems,
    ) -> bool {
        let mut known: Vec<&str> = Vec::new();
        for value in values.iter().flatten() {
            if !known.contains(&value.as_str()) {
                known.push(value);
            }
        }
        let unknown = names
            .0
            .iter()
            .filter(|name| !known.contains(&name.value.as_str()));
        let unknown: Vec<&Name> = unknown.collect();
        for name in &unknown {
            let message = match &self.by {
                Naming::Splits => format!("prompt set `{set}` has no split `{name}`"),
                Naming::Column(column) => {
                    format!("no prompt of `{set}` has `{name}` in its column `{column}`")
                }
                Naming::Labels(_) => format!("no prompt of `{set}` has the label `{name}`"),
            };
            let there = format!(
                "there are {} among {} prompts",
                listed(&known),
                prompts.prompts.len()
            );
            let known = known.iter().copied();
            problems
                .error_at(&name.at, message)
                .suggest(&name.value, known, &there);
        }
        unknown.is_empty()
    }
}

/// The first of some names, and the number of the others.
fn listed(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED).copied().collect();
    let first = format!("`{}`", first.join("`, `"));
    match names.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Tells every field that has no meaning with the `select` of the table; `ways` says with which it has one.
pub(in crate::stages) fn tell_misplaced<B: Choice + PartialEq>(
    fields: &mut Fields<'_, '_>,
    by: Option<B>,
    ways: &[(&'static str, &[B])],
) {
    for (name, ways) in ways {
        let node = fields.node(name);
        let Some(node) = node.filter(|_| by.is_some_and(|by| !ways.contains(&by))) else {
            continue;
        };
        let ways: Vec<String> = ways
            .iter()
            .map(|way| format!("\"{}\"`", way.name()))
            .collect();
        let ways = match ways.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or `{last}", others.join(", `"))
            }
            _ => ways.concat(),
        };
        let message = format!("`{name}` belongs to `select = {ways}");
        fields.problems.error_at(&node.at, message);
    }
}
