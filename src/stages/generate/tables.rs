//! From rows and answers to tables: the texts, and how far each text classifier agrees with the logit score.

use std::sync::Arc;

use polars::prelude::{Column, DataFrame};

use crate::model::{Edit, HookPoint, Intervention, Positions};
use crate::prompts::Prompt;
use crate::stats;

use super::super::sweep::Line;
use super::super::{StageError, table};

/// What stands for a direction and its site where there is none.
const NONE: &str = "none";

/// One row of the table, before its answer.
#[derive(Clone, Copy)]
pub(in crate::stages) struct Row<'a> {
    /// Name of the model.
    pub(crate) model: &'a str,
    /// The direction and its place; none where nothing is steered.
    pub(crate) line: Option<&'a Line>,
    /// α, in the line's units; 0 without one.
    pub(crate) alpha: f64,
    /// The prompt continued.
    pub(crate) prompt: &'a Prompt,
}

impl Row<'_> {
    /// The edit of the row's run, at these positions; none without a direction.
    pub(in crate::stages) fn intervention(&self, positions: Positions) -> Vec<Intervention> {
        let of_line = |line: &Line| Intervention {
            hook: HookPoint::block(line.layer, line.site),
            positions,
            edit: Edit::Add {
                vector: Arc::clone(&line.vector),
                scale: self.alpha * line.unit_length,
            },
        };
        self.line.map(of_line).into_iter().collect()
    }

    fn direction(&self) -> &str {
        self.line.map_or(NONE, |line| &line.direction)
    }

    fn site(&self) -> &str {
        self.line.map_or(NONE, |line| line.site.short_name())
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
    /// Whether the score is above the threshold.
    pub(crate) refused: bool,
    /// The continuation, special tokens left out.
    pub(crate) text: String,
    /// Whether the patterns find a refusal.
    pub(crate) regex: bool,
    /// Whether the text opens with a refusal.
    pub(crate) xstest_prefix: bool,
}

/// One row per model, direction, place, α and prompt.
pub(in crate::stages) fn main_table(
    rows: &[Row<'_>],
    answers: &[Answer],
) -> Result<DataFrame, StageError> {
    let prompts = || rows.iter().map(|row| row.prompt);
    let mut columns = place_columns(rows);
    columns.extend([
        table::text("id", prompts().map(|prompt| &prompt.id)),
        table::text("split", prompts().map(|prompt| &prompt.split)),
        table::text("category", prompts().map(|prompt| &prompt.category)),
        table::numbers("score", answers.iter().map(|answer| answer.score).collect()),
        table::flags(
            "refused",
            answers.iter().map(|answer| answer.refused).collect(),
        ),
        table::text("text", answers.iter().map(|answer| &answer.text)),
        table::flags("regex", answers.iter().map(|answer| answer.regex).collect()),
        table::flags(
            "xstest_prefix",
            answers.iter().map(|answer| answer.xstest_prefix).collect(),
        ),
    ]);
    table::frame(columns)
}

/// What the rows of both tables begin with.
fn place_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        table::text("model", rows.iter().map(|row| row.model)),
        table::text("direction", rows.iter().map(Row::direction)),
        table::optional_integers(
            "seed",
            rows.iter().map(|row| row.line.and_then(|line| line.seed)),
        ),
        table::optional_integers(
            "layer",
            rows.iter()
                .map(|row| row.line.map(|line| line.layer as u64)),
        ),
        table::text("site", rows.iter().map(Row::site)),
        table::numbers("alpha", rows.iter().map(|row| row.alpha).collect()),
    ]
}

/// Whether a classifier calls an answer a refusal.
type Refuses = fn(&Answer) -> bool;

/// The text classifiers, by the name of their column.
const CLASSIFIERS: [(&str, Refuses); 2] = [
    ("regex", |answer| answer.regex),
    ("xstest_prefix", |answer| answer.xstest_prefix),
];

/// Each text classifier against the logit score. κ is null where both gave every text one and the same label.
pub(in crate::stages) fn agreement(
    rows: &[Row<'_>],
    answers: &[Answer],
) -> Result<DataFrame, StageError> {
    let mut groups: Vec<Row<'_>> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut counts: Vec<[[u64; 2]; 2]> = Vec::new();
    let mut rest = answers;
    for group in rows.chunk_by(|a, b| a.is_with(b)) {
        let (now, later) = rest.split_at(group.len().min(rest.len()));
        for (name, refuses) in CLASSIFIERS {
            groups.push(group[0]);
            names.push(name);
            counts.push(count(now, refuses));
        }
        rest = later;
    }
    let column =
        |score: usize, text: usize| counts.iter().map(move |table| table[score][text] as usize);
    let mut columns = place_columns(&groups);
    columns.extend([
        table::text("classifier", names),
        table::integers(
            "n",
            counts
                .iter()
                .map(|table| table.iter().flatten().sum::<u64>() as usize),
        ),
        table::integers("both", column(0, 0)),
        table::integers("score_only", column(0, 1)),
        table::integers("text_only", column(1, 0)),
        table::integers("neither", column(1, 1)),
        table::optional_numbers(
            "kappa",
            counts
                .iter()
                .map(|&table| stats::cohens_kappa(table))
                .collect(),
        ),
    ]);
    table::frame(columns)
}

/// How many texts of each split every classifier calls refusals, with Wilson's interval; `score` is the logit score's own verdict.
pub(in crate::stages) fn rates(
    rows: &[Row<'_>],
    answers: &[Answer],
) -> Result<DataFrame, StageError> {
    let verdicts: [(&str, Refuses); 3] = [
        ("score", |answer| answer.refused),
        CLASSIFIERS[0],
        CLASSIFIERS[1],
    ];
    let mut groups: Vec<(Row<'_>, &str, u64, [u64; 3])> = Vec::new();
    for (row, answer) in rows.iter().zip(answers) {
        let split = row.prompt.split.as_str();
        let at = groups
            .iter()
            .position(|(group, of, ..)| group.is_with(row) && *of == split);
        let at = at.unwrap_or_else(|| {
            groups.push((*row, split, 0, [0; 3]));
            groups.len() - 1
        });
        groups[at].2 += 1;
        for (count, (_, refuses)) in groups[at].3.iter_mut().zip(verdicts) {
            *count += u64::from(refuses(answer));
        }
    }
    let mut places = Vec::new();
    let (mut splits, mut names, mut sizes, mut counts) = (vec![], vec![], vec![], vec![]);
    let mut intervals = Vec::new();
    for (row, split, n, refused) in groups {
        for ((name, _), count) in verdicts.iter().zip(refused) {
            places.push(row);
            splits.push(split);
            names.push(*name);
            sizes.push(n as usize);
            counts.push(count as usize);
            let interval = stats::wilson(count, n);
            intervals.push(interval.map_err(|error| StageError::Internal(error.to_string()))?);
        }
    }
    let rate = counts
        .iter()
        .zip(&sizes)
        .map(|(&c, &n)| c as f64 / n as f64);
    let rate: Vec<f64> = rate.collect();
    let mut columns = place_columns(&places);
    columns.extend([
        table::text("split", splits),
        table::text("classifier", names),
        table::integers("n", sizes),
        table::integers("refused", counts),
        table::numbers("refusal_rate", rate),
        table::optional_numbers(
            "rate_low",
            intervals.iter().map(|i| i.map(|i| i.low)).collect(),
        ),
        table::optional_numbers(
            "rate_high",
            intervals.iter().map(|i| i.map(|i| i.high)).collect(),
        ),
    ]);
    table::frame(columns)
}

/// Counts of `[score][text]`, index 0 a refusal and 1 none.
fn count(answers: &[Answer], refuses: Refuses) -> [[u64; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for answer in answers {
        counts[usize::from(!answer.refused)][usize::from(!refuses(answer))] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use crate::model::{Site, Vector};
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
        Line {
            direction: "top_bottom_2".to_string(),
            seed: Some(4),
            layer: 3,
            site: Site::ResidMid,
            vector: Arc::new(Vector::new(vec![1.0])),
            unit_length: 2.0,
            sets: Arc::from([]),
            builders: Arc::default(),
        }
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
            alpha: -3.0,
            prompt: &prompt,
        };
        let edits = row.intervention(Positions::From(6));
        assert_eq!(edits.len(), 1);
        assert_eq!(edits[0].hook, HookPoint::block(3, Site::ResidMid));
        assert_eq!(edits[0].positions, Positions::From(6));
        assert!(matches!(&edits[0].edit, Edit::Add { scale, .. } if *scale == -6.0));
        assert!(
            Row { line: None, ..row }
                .intervention(Positions::From(6))
                .is_empty()
        );
    }

    #[test]
    fn agreement_counts_each_classifier_per_place_and_alpha() {
        let (prompt, line) = (prompt(), line());
        let row = |alpha| Row {
            model: "inst",
            line: Some(&line),
            alpha,
            prompt: &prompt,
        };
        let rows = [row(0.0), row(0.0), row(0.0), row(0.0), row(8.0)];
        let answers = [
            answer(true, true, false),
            answer(true, false, false),
            answer(false, true, true),
            answer(true, true, false),
            answer(false, false, false),
        ];
        let table = agreement(&rows, &answers).expect("finite numbers");
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
            alpha,
            prompt: &prompt,
        };
        let rows = [row(Some(&line), 8.0), row(None, 0.0)];
        let answers = [answer(true, false, true), answer(false, false, false)];
        let table = main_table(&rows, &answers).expect("finite numbers");
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
