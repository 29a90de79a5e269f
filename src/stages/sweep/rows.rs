//! The rows of a sweep's table.

use super::super::action::Line;

/// One row of the table, before its score.
pub(super) struct Row<'a> {
    pub(super) model: usize,
    pub(super) line: &'a Line,
    pub(super) alpha: f64,
    pub(super) set: &'a str,
    pub(super) prompt: usize,
}

/// The rows of a sweep: models × lines × α × sets × prompts, in that order, found by their number rather than listed.
#[derive(Debug)]
pub(super) struct Rows {
    models: usize,
    lines: Vec<Line>,
    alphas: Vec<f64>,
    /// By line, the number of its first row on the first model; and behind them, how many rows a model has.
    starts: Vec<usize>,
}

impl Rows {
    pub(super) fn new(models: usize, lines: Vec<Line>, alphas: Vec<f64>) -> Self {
        let mut starts = vec![0];
        for line in &lines {
            let before = starts.last().copied().unwrap_or(0);
            starts.push(before + alphas.len() * prompts_of(line));
        }
        Rows {
            models,
            lines,
            alphas,
            starts,
        }
    }

    /// How many rows a model has.
    pub(super) fn of_model(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub(super) fn count(&self) -> usize {
        self.of_model() * self.models
    }

    /// The row of that number, which is below [`Rows::count`].
    pub(super) fn row(&self, number: usize) -> Row<'_> {
        let (model, number) = (number / self.of_model(), number % self.of_model());
        let at = self.starts.partition_point(|start| *start <= number) - 1;
        let line = &self.lines[at];
        let number = number - self.starts[at];
        let (alpha, mut rest) = (number / prompts_of(line), number % prompts_of(line));
        let mut sets = line.sets.iter();
        let (set, prompt) = loop {
            match sets.next() {
                Some((_, prompts)) if rest >= prompts.len() => rest -= prompts.len(),
                Some((name, prompts)) => break (name.as_str(), prompts[rest]),
                None => unreachable!("a line has as many rows as its sets have prompts"),
            }
        };
        Row {
            model,
            line,
            alpha: self.alphas[alpha],
            set,
            prompt,
        }
    }
}

/// How many rows a line has for each α.
fn prompts_of(line: &Line) -> usize {
    line.sets.iter().map(|(_, prompts)| prompts.len()).sum()
}
