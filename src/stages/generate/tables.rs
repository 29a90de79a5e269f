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
    pub(crate) model: &'a str,
    /// The direction and its place; none where nothing is steered.
    pub(crate) line: Option<&'a Line>,
    /// α, in the line's units; 0 without one.
    pub(crate) alpha: f64,
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
    pub(crate) regex: bool,
    pub(crate) xstest_prefix: bool,
}

/// One row per model, direction, place, α and prompt.
pub(in crate::stages) fn main_table(
    rows: &[Row<'_>],
    answers: &[Answer],
) -> Result<DataFrame, StageError> {
    let prompts = || rows.iter().map(|row| row.prompt);
    let flags = |name: &str, of: Refuses| table::flags(name, answers.iter().map(of).collect());
    let mut columns = place_columns(rows);
    columns.extend([
        table::text("id", prompts().map(|prompt| &prompt.id)),
        table::text("split", prompts().map(|prompt| &prompt.split)),
        table::text("category", prompts().map(|prompt| &prompt.category)),
        table::numbers("score", answers.iter().map(|answer| answer.score).collect()),
        flags("refused", |answer| answer.refused),
        table::text("text", answers.iter().map(|answer| &answer.text)),
    ]);
    columns.extend(CLASSIFIERS.map(|(name, refuses)| flags(name, refuses)));
    table::frame(columns)
}

/// What the rows of both tables begin with.
fn place_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let lines = || rows.iter().map(|row| row.line);
    let layers = lines().map(|line| Some(line?.layer as u64));
    vec![
        table::text("model", rows.iter().map(|row| row.model)),
        table::text("direction", rows.iter().map(Row::direction)),
        table::optional_integers("seed", lines().map(|line| line?.seed)),
        table::optional_integers("layer", layers),
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
    let mut later = answers;
    for group in rows.chunk_by(|a, b| a.is_with(b)) {
        let of_group;
        (of_group, later) = later.split_at(group.len().min(later.len()));
        for (name, refuses) in CLASSIFIERS {
            groups.push(group[0]);
            names.push(name);
            counts.push(count(of_group, refuses));
        }
    }
    let counts = || counts.iter();
    let column = |score: usize, text: usize| counts().map(move |n| n[score][text] as usize);
    let sizes = counts().map(|n| n.iter().flatten().sum::<u64>() as usize);
    let mut columns = place_columns(&groups);
    columns.extend([
        table::text("classifier", names),
        table::integers("n", sizes),
        table::integers("both", column(0, 0)),
        table::integers("score_only", column(0, 1)),
        table::integers("text_only", column(1, 0)),
        table::integers("neither", column(1, 1)),
        table::optional_numbers("kappa", counts().map(|&n| stats::cohens_kappa(n)).collect()),
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
    struct Group<'a> {
        row: Row<'a>,
        split: &'a str,
        n: u64,
        refused: [u64; 3],
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (row, answer) in rows.iter().zip(answers) {
        let split = row.prompt.split.as_str();
        let is_its = |group: &Group<'_>| group.row.is_with(row) && group.split == split;
        let at = groups.iter().position(is_its).unwrap_or_else(|| {
            groups.push(Group {
                row: *row,
                split,
                n: 0,
                refused: [0; 3],
            });
            groups.len() - 1
        });
        groups[at].n += 1;
        for (count, (_, refuses)) in groups[at].refused.iter_mut().zip(verdicts) {
            *count += u64::from(refuses(answer));
        }
    }
    let each = || {
        let counts = |group| (0..verdicts.len()).map(move |verdict| (group, verdict));
        groups.iter().flat_map(counts)
    };
    let of = |(group, verdict): (&Group<'_>, usize)| (group.refused[verdict], group.n);
    let intervals = each().map(|at| {
        let (refused, n) = of(at);
        stats::wilson(refused, n).map_err(|error| StageError::Internal(error.to_string()))
    });
    let intervals = intervals.collect::<Result<Vec<_>, _>>()?;
    let end = |name: &str, end: fn(stats::Interval) -> f64| {
        table::optional_numbers(name, intervals.iter().map(|i| i.map(end)).collect())
    };
    let rate = |(refused, n): (u64, u64)| refused as f64 / n as f64;
    let places: Vec<Row<'_>> = each().map(|(group, _)| group.row).collect();
    let mut columns = place_columns(&places);
    columns.extend([
        table::text("split", each().map(|(group, _)| group.split)),
        table::text("classifier", each().map(|(_, verdict)| verdicts[verdict].0)),
        table::integers("n", each().map(|at| of(at).1 as usize)),
        table::integers("refused", each().map(|at| of(at).0 as usize)),
        table::numbers("refusal_rate", each().map(|at| rate(of(at))).collect()),
        end("rate_low", |interval| interval.low),
        end("rate_high", |interval| interval.high),
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
