//! From rows and answers to tables: the texts, and how far each text classifier agrees with the logit score.

use polars::prelude::DataFrame;

use crate::model::{Intervention, ModelConfig, Positions};
use crate::prompts::Prompt;
use crate::stats;

use super::super::StageError;
use super::super::action::Line;
use super::super::place::{self, Place};
use super::super::position::Selection;
use super::super::rules::Rule;
use super::super::sweep::OnRow;
use super::super::table::Rows;

/// One row of the table, before its answer.
#[derive(Clone, Copy)]
pub(in crate::stages) struct Row<'a> {
    pub(crate) model: &'a str,
    /// The direction and its place; none where nothing is steered.
    pub(crate) line: Option<&'a Line>,
    /// Where it acts, unless a word says it that needs no telling.
    pub(crate) position: Option<&'a Selection>,
    /// α, in the line's units; 0 without one.
    pub(crate) alpha: f64,
    /// Whether the prompt is one of those that are edited, where not all are.
    pub(crate) condition: Option<OnRow>,
    pub(crate) prompt: &'a Prompt,
}

impl<'a> Row<'a> {
    fn place(&self) -> Place<'a> {
        Place {
            model: self.model,
            line: self.line,
            position: self.position,
            alpha: self.alpha,
        }
    }

    /// The edits of the row's run, each at its positions; none without a direction, and none where the prompt does not meet the condition.
    pub(in crate::stages) fn edits(
        &self,
        positions: &[Positions],
        config: &ModelConfig,
    ) -> Vec<Intervention> {
        let is_edited = self.condition.is_none_or(|condition| condition.is_open);
        let line = self.line.iter().filter(|_| is_edited);
        let edits = line.flat_map(|line| line.edits(self.alpha, positions, config));
        edits.collect()
    }

    /// The same if the prompt met the condition where it does not, or did not where it does; none without a condition.
    pub(in crate::stages) fn otherwise(&self) -> Option<Self> {
        let condition = self.condition?;
        let is_open = !condition.is_open;
        Some(Row {
            condition: Some(OnRow {
                is_open,
                ..condition
            }),
            ..*self
        })
    }

    /// Whether both stand in the same rows of `agreement`.
    fn is_with(&self, other: &Row<'_>) -> bool {
        let line = |row: &Row<'_>| row.line.map(std::ptr::from_ref);
        self.model == other.model && line(self) == line(other) && self.alpha == other.alpha
    }
}

/// What was found for a row.
pub(in crate::stages) struct Answer {
    /// The logit score at the last prompt token.
    pub(crate) score: f64,
    /// Whether the score counts by its rule.
    pub(crate) refused: bool,
    /// The continuation, special tokens left out.
    pub(crate) text: String,
    pub(crate) regex: bool,
    pub(crate) xstest_prefix: bool,
}

/// A row and what was found for it.
pub(in crate::stages) type Answered<'a> = (Row<'a>, Answer);

pub(in crate::stages) fn tables(
    all: &[Answered<'_>],
    rule: &Rule,
) -> Result<Vec<(String, DataFrame)>, StageError> {
    let mut tables = vec![(String::new(), main_table(all, &rule.name)?)];
    // The classifiers know refusals, which other rules are not about.
    if rule.is_default() {
        tables.push(("agreement".to_string(), agreement(all)?));
    }
    tables.push(("rates".to_string(), rates(all)?));
    Ok(tables)
}

/// One row per model, direction, place, α and prompt.
fn main_table(all: &[Answered<'_>], rule: &str) -> Result<DataFrame, StageError> {
    let mut rows = with_place(Rows::of(all), all.first(), |(row, _)| row);
    if all.first().is_some_and(|(row, _)| row.condition.is_some()) {
        rows = rows
            .number("likeness", |(row, _)| Some(row.condition?.likeness))
            .flag("edited", |(row, _)| Some(row.condition?.is_open));
    }
    rows.text("id", |(row, _)| &row.prompt.id)
        .text("split", |(row, _)| &row.prompt.split)
        .text("category", |(row, _)| &row.prompt.category)
        .number("score", |(_, answer)| answer.score)
        .flag(rule, |(_, answer)| answer.refused)
        .text("text", |(_, answer)| &answer.text)
        .flag("regex", |(_, answer)| answer.regex)
        .flag("xstest_prefix", |(_, answer)| answer.xstest_prefix)
        .frame()
}

/// What the rows of all tables begin with.
fn with_place<'a, R>(
    rows: Rows<'a, R>,
    first: Option<&'a R>,
    of: impl Fn(&'a R) -> &'a Row<'a> + Copy,
) -> Rows<'a, R> {
    let first = first.map(|row| of(row).place());
    place::columns(rows, first, move |row| of(row).place())
}

/// Whether a classifier calls an answer a refusal.
type Refuses = fn(&Answer) -> bool;

/// The text classifiers, by the name of their column.
const CLASSIFIERS: [(&str, Refuses); 2] = [
    ("regex", |answer| answer.regex),
    ("xstest_prefix", |answer| answer.xstest_prefix),
];

/// Each text classifier against the logit score. κ is null where both gave every text one and the same label.
fn agreement(all: &[Answered<'_>]) -> Result<DataFrame, StageError> {
    let mut groups = Vec::new();
    for group in all.chunk_by(|(a, _), (b, _)| a.is_with(b)) {
        for (name, refuses) in CLASSIFIERS {
            groups.push((&group[0].0, name, count(group, refuses)));
        }
    }
    with_place(Rows::of(&groups), groups.first(), |(row, ..)| row)
        .text("classifier", |(_, name, _)| name)
        .integer("n", |(.., n)| n.iter().flatten().sum::<u64>() as i64)
        .integer("both", |(.., n)| n[0][0] as i64)
        .integer("score_only", |(.., n)| n[0][1] as i64)
        .integer("text_only", |(.., n)| n[1][0] as i64)
        .integer("neither", |(.., n)| n[1][1] as i64)
        .number("kappa", |(.., n)| stats::cohens_kappa(*n))
        .frame()
}

/// How many texts of each split every classifier calls refusals, with Wilson's interval; `score` is the logit score's own verdict.
fn rates(all: &[Answered<'_>]) -> Result<DataFrame, StageError> {
    let verdicts: [(&str, Refuses); 3] = [
        ("score", |answer| answer.refused),
        CLASSIFIERS[0],
        CLASSIFIERS[1],
    ];
    let mut groups: Vec<(&Row<'_>, Vec<&Answer>)> = Vec::new();
    for (row, answer) in all {
        let is_with = |(of, _): &&mut (&Row<'_>, Vec<&Answer>)| {
            of.is_with(row) && of.prompt.split == row.prompt.split
        };
        match groups.iter_mut().find(is_with) {
            Some((_, answers)) => answers.push(answer),
            None => groups.push((row, vec![answer])),
        }
    }
    let mut rates = Vec::new();
    for (row, answers) in &groups {
        for (classifier, refuses) in verdicts {
            let n = answers.len() as u64;
            let refused = answers.iter().filter(|answer| refuses(answer)).count() as u64;
            rates.push((*row, classifier, [refused, n], stats::wilson(refused, n)?));
        }
    }
    with_place(Rows::of(&rates), rates.first(), |(row, ..)| row)
        .text("split", |(row, ..)| &row.prompt.split)
        .text("classifier", |(_, classifier, ..)| classifier)
        .integer("n", |(.., [_, n], _)| *n as i64)
        .integer("refused", |(.., [refused, _], _)| *refused as i64)
        .number("refusal_rate", |(.., [refused, n], _)| {
            *refused as f64 / *n as f64
        })
        .ends(["rate_low", "rate_high"], |(.., interval)| *interval)
        .frame()
}

/// Counts of `[score][text]`, index 0 a refusal and 1 none.
fn count(all: &[Answered<'_>], refuses: Refuses) -> [[u64; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for (_, answer) in all {
        counts[usize::from(!answer.refused)][usize::from(!refuses(answer))] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use crate::model::{Edit, HookPoint, Site};
    use crate::stages::place::NONE;
    use crate::stages::table::{read_integers, read_numbers, read_text};

    use super::*;

    fn prompt() -> Prompt {
        Prompt {
            id: "h1".to_string(),
            text: "text".to_string(),
            split: "harmful".to_string(),
            category: "violence".to_string(),
            other: serde_json::Map::new(),
            line: 1,
        }
    }

    fn line() -> Line {
        Line::adding(("top_bottom_2", Some(4)), (3, Site::ResidMid), 2.0)
    }

    fn answer(refused: bool, regex: bool, xstest_prefix: bool) -> Answer {
        Answer {
            score: if refused { 1.0 } else { -1.0 },
            refused,
            text: "text".to_string(),
            regex,
            xstest_prefix,
        }
    }

    #[test]
    fn the_edit_is_alpha_units_at_the_lines_place() {
        let (prompt, line) = (prompt(), line());
        let row = Row {
            model: "inst",
            line: Some(&line),
            position: None,
            alpha: -3.0,
            condition: None,
            prompt: &prompt,
        };
        let config = ModelConfig::small();
        let positions = [Positions::From(6)];
        let edits = row.edits(&positions, &config);
        assert_eq!(edits.len(), 1);
        assert_eq!(edits[0].hook, HookPoint::block(3, Site::ResidMid));
        assert_eq!(edits[0].positions, Positions::From(6));
        assert!(matches!(&edits[0].edit, Edit::Add { scale, .. } if *scale == -6.0));
        let without = Row { line: None, ..row };
        assert!(without.edits(&positions, &config).is_empty());
    }

    #[test]
    fn agreement_counts_each_classifier_per_place_and_alpha() {
        let (prompt, line) = (prompt(), line());
        let row = |alpha| Row {
            model: "inst",
            line: Some(&line),
            position: None,
            alpha,
            condition: None,
            prompt: &prompt,
        };
        let all = [
            (row(0.0), answer(true, true, false)),
            (row(0.0), answer(true, false, false)),
            (row(0.0), answer(false, true, true)),
            (row(0.0), answer(true, true, false)),
            (row(8.0), answer(false, false, false)),
        ];
        let table = agreement(&all).expect("finite numbers");
        let names = ["regex", "xstest_prefix", "regex", "xstest_prefix"]
            .map(str::to_string)
            .to_vec();
        assert_eq!(read_text(&table, "classifier").ok(), Some(names));
        assert_eq!(
            read_numbers(&table, "alpha").ok(),
            Some(vec![0.0, 0.0, 8.0, 8.0])
        );
        let integers = |name| read_integers(&table, name).unwrap_or_default();
        assert_eq!(integers("n"), [4, 4, 1, 1].map(Some));
        assert_eq!(integers("both"), [2, 0, 0, 0].map(Some));
        assert_eq!(integers("score_only"), [1, 3, 0, 0].map(Some));
        assert_eq!(integers("text_only"), [1, 1, 0, 0].map(Some));
        assert_eq!(integers("neither"), [0, 0, 1, 1].map(Some));
        let kappa = table
            .column("kappa")
            .and_then(|column| Ok(column.f64()?.to_vec()))
            .ok();
        // Observed 2/4, by chance (3·3 + 1·1)/16: (1/2 − 5/8)/(3/8) = −1/3. Observed 0, by chance (3·1 + 1·3)/16: (−3/8)/(5/8) = −3/5.
        let kappa = kappa.unwrap_or_default();
        assert!(
            kappa[0].is_some_and(|k| (k + 1.0 / 3.0).abs() < 1e-15),
            "{kappa:?}"
        );
        assert!(
            kappa[1].is_some_and(|k| (k + 0.6).abs() < 1e-15),
            "{kappa:?}"
        );
        assert_eq!(kappa[2..], [None, None]);
    }

    #[test]
    fn the_main_table_says_where_each_text_is_from() {
        let (prompt, line) = (prompt(), line());
        let row = |line, alpha| Row {
            model: "inst",
            line,
            position: None,
            alpha,
            condition: None,
            prompt: &prompt,
        };
        let all = [
            (row(Some(&line), 8.0), answer(true, false, true)),
            (row(None, 0.0), answer(false, false, false)),
        ];
        let table = main_table(&all, "refused").expect("finite numbers");
        let text = |name| read_text(&table, name).unwrap_or_default();
        assert_eq!(text("direction"), ["top_bottom_2", NONE]);
        assert_eq!(text("site"), ["resid_mid", NONE]);
        assert_eq!(text("category"), ["violence", "violence"]);
        assert_eq!(
            read_integers(&table, "layer").ok(),
            Some(vec![Some(3), None])
        );
        assert_eq!(
            read_integers(&table, "seed").ok(),
            Some(vec![Some(4), None])
        );
        assert_eq!(read_numbers(&table, "score").ok(), Some(vec![1.0, -1.0]));
        let names: Vec<&str> = table
            .columns()
            .iter()
            .map(|column| column.name().as_str())
            .collect();
        let expected = "model direction seed layer site alpha id split category score refused text regex xstest_prefix";
        assert_eq!(names, expected.split(' ').collect::<Vec<_>>());
    }
}
