//! The same properties for the tiny models of `tests/families`: windows, soft caps, parallel blocks, experts and learned positions are no
//! reason for another number.

use super::generation::{LENGTH, continuations, generation, naive_greedy};
use super::*;

/// Prompts are drawn up to this length; longer than every window.
const LONGEST: usize = 40;

/// The folders of the models.
fn folders() -> Vec<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families");
    let entries = std::fs::read_dir(root).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = paths
        .filter(|path| path.join("config.json").exists())
        .collect();
    folders.sort();
    assert!(folders.len() >= 20, "{folders:?}");
    folders
}

/// A model, and where its vectors can be read and edited.
struct Tiny {
    subject: Subject,
    config: ModelConfig,
    hooks: Vec<HookPoint>,
    draws: Draws,
}

impl Tiny {
    fn open(folder: &Path, budget_bytes: usize) -> Self {
        let (handle, subject) = Subject::open(folder, Dtype::Float32, budget_bytes);
        let config = handle.config().clone();
        let blocks = (0..config.n_layers).flat_map(|l| Site::ALL.map(|s| HookPoint::block(l, s)));
        let all = blocks.chain([HookPoint::Embed, HookPoint::FinalNormalized]);
        Tiny {
            hooks: all.filter(|hook| hook.is_in(&config)).collect(),
            draws: Draws::new(7),
            subject,
            config,
        }
    }

    /// Room for a prompt and what is generated behind it.
    fn longest(&self) -> usize {
        LONGEST.min(self.config.context_length - LENGTH)
    }

    fn prompt(&mut self) -> Arc<Tokens> {
        let length = 1 + self.draws.below(self.longest());
        let template = [0, 0, 5, 33][self.draws.below(4)].min(length - 1);
        let d_vocab = self.config.d_vocab;
        let ids = (0..length).map(|at| match at < template {
            true => (7 * at + 3) % d_vocab,
            false => self.draws.below(d_vocab),
        });
        let ids = ids.map(|id| id as u32).collect();
        Arc::new(Tokens::with_template(ids, template))
    }

    /// An edit at a position below `end`, half of the time at `last`.
    fn edit(&mut self, last: usize, end: usize) -> Intervention {
        let editable: Vec<HookPoint> = self
            .hooks
            .iter()
            .copied()
            .filter(|h| h.is_editable())
            .collect();
        let hook = editable[self.draws.below(editable.len())];
        let first = match self.draws.below(2) {
            0 => last,
            _ => self.draws.below(end),
        };
        let seed = self.draws.below(1 << 20) as u64;
        let vector = Arc::new(random_unit_vector(seed, self.config.d_model).unwrap());
        let change = match self.draws.below(4) {
            0 => Edit::Ablate(vector),
            1 => Edit::Replace(vector),
            _ => Edit::Add {
                vector,
                scale: self.draws.below(80) as f64 / 10.0 - 4.0,
            },
        };
        let positions = match self.draws.below(2) {
            0 => Positions::At(first),
            _ => Positions::From(first),
        };
        edit(hook, positions, change)
    }

    fn case(&mut self) -> Case {
        let tokens = self.prompt();
        let length = tokens.len();
        let count = self.draws.below(4);
        let edits = (0..count).map(|_| self.edit(length - 1, length)).collect();
        let readout = match self.draws.below(6) {
            0 => all_logits(self.config.d_vocab),
            1 => score_readout(ScoreDtype::Float32),
            2 => Readout::Divergence { epsilon: 0.0 },
            3 => Readout::Mean {
                hook: self.hooks[self.draws.below(self.hooks.len())],
            },
            _ => Readout::Activation {
                hook: self.hooks[self.draws.below(self.hooks.len())],
                position: self.draws.below(length),
            },
        };
        Case {
            tokens,
            edits,
            readout,
        }
    }

    /// Cells of every kind, continuations among them.
    fn cells(&mut self, count: usize) -> Vec<Cell> {
        let mut cells = Vec::new();
        for number in 0..count {
            let case = self.case();
            cells.push(case.cell(&self.subject));
            if number % 6 == 0 {
                let readout = generation(Sampling::Greedy, true);
                cells.push(self.subject.cell(&case.tokens, case.edits, readout));
            }
        }
        cells
    }
}

#[test]
fn the_suffix_path_is_the_naive_path_in_every_family() {
    for folder in folders() {
        let mut tiny = Tiny::open(&folder, 1 << 30);
        let cases: Vec<Case> = (0..60).map(|_| tiny.case()).collect();
        let cells: Vec<Cell> = cases.iter().map(|case| case.cell(&tiny.subject)).collect();
        let values = tiny.subject.values(&cells);
        let mut overall = 0f64;
        for (case, value) in cases.iter().zip(values) {
            let worst = case.compare(&tiny.subject, &value);
            let error = worst.relative.max(worst.absolute);
            let (folder, edits) = (folder.display(), &case.edits);
            assert!(
                error < TOLERANCE,
                "{folder}: {error:e}: {edits:?}, {:?}",
                case.readout
            );
            overall = overall.max(error);
        }
        eprintln!("{}: {overall:e}", folder.display());
    }
}

#[test]
fn greedy_text_is_that_of_recomputation_in_every_family() {
    for folder in folders() {
        let mut tiny = Tiny::open(&folder, 1 << 30);
        let prompts: Vec<(Arc<Tokens>, Vec<Intervention>)> = (0..12)
            .map(|_| {
                let tokens = tiny.prompt();
                let (length, count) = (tokens.len(), tiny.draws.below(3));
                let edits = (0..count)
                    .map(|_| tiny.edit(length - 1, length + LENGTH))
                    .collect();
                (tokens, edits)
            })
            .collect();
        let cell = |(tokens, edits): &(Arc<Tokens>, Vec<Intervention>)| {
            let readout = generation(Sampling::Greedy, false);
            tiny.subject.cell(tokens, edits.clone(), readout)
        };
        let cells: Vec<Cell> = prompts.iter().map(cell).collect();
        let found = continuations(&mut tiny.subject, &cells);
        for ((tokens, edits), found) in prompts.iter().zip(found) {
            let expected = naive_greedy(&tiny.subject, tokens.ids(), edits, LENGTH);
            assert_eq!(found, expected, "{}: {edits:?}", folder.display());
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_company_in_any_family() {
    for folder in folders() {
        let mut tiny = Tiny::open(&folder, 1 << 30);
        let cells = tiny.cells(90);
        let bits = |values: &[Value]| values.iter().map(Value::to_bytes).collect::<Vec<_>>();
        let expected = bits(&tiny.subject.values(&cells));
        let mut narrow = Tiny::open(&folder, 1).subject;
        let backwards: Vec<Cell> = cells.iter().rev().cloned().collect();
        let mut found = bits(&narrow.values(&backwards));
        found.reverse();
        let shown = folder.display();
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{shown}: cell {i} backwards and in rounds");
        }
        for i in (0..cells.len()).step_by(7) {
            let alone = bits(&narrow.values(&cells[i..=i]));
            assert_eq!(alone[0], expected[i], "{shown}: cell {i} alone");
        }
    }
}
