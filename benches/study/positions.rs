//! What edits and readouts cost that do not stop at the last token, each against the arithmetic that causality asks for.
//!
//! The study's prompts, steered or ablated in a random direction. A suffix of n positions needs n rows through the blocks from its layer on, of
//! which the last computes keys and values alone where nothing is read; an edit of every token needs what the prompts start with once, and their own
//! tokens each. Readouts that concern the whole vocabulary need their rows of the unembedding, too. What a prefill leaves is there before the clock
//! starts, as it is for all but the first cells of a study's prompts.

use std::sync::Arc;

use comfy_table::Table;
use refusal_dial::inside::model::{
    Cell, Edit, HookPoint, Intervention, ModelConfig, Positions, Readout, Site, Tokens, Vector,
    random_unit_vector,
};
use serde::Serialize;

use super::Result;
use super::arithmetic::{Matrix, Rows, last_blocks_of, prefill_of_shared, shared_tokens};
use super::inside::{Finished, REPETITIONS, seconds};
use super::report::{right_aligned, table};
use super::study::Size;

/// Where the edits are that are not everywhere.
const LAYER: usize = 20;
/// What [`Place::LastFew`] means.
const LAST_FEW: usize = 5;
/// Of the words that a text is asked for, and of the set whose odds are: any tokens do, as their number is all that counts.
const TEXT: [u32; 4] = [1073, 506, 346, 1492];
const WORDS: [u32; 3] = [40, 57, 4436];
/// The least share of the time that the arithmetic of edits should take.
const BAR: f64 = 0.6;

/// Which positions are edited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The last token alone.
    Last,
    LastFew,
    All,
    /// All, at the input of every block and at what attention and MLP add.
    Everywhere,
}

/// Which values are read of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// The study's score.
    Score,
    LogOdds,
    Text,
    ScoreAndLogOdds,
    /// How far the next token's distribution is from the unedited one, over the whole vocabulary.
    Divergence,
    /// The prompt itself as plain text, its first token given.
    OwnTokens,
}

/// A part of the benchmark, which can be run alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Edits and readouts that do not stop at the last token.
    Positions,
    /// What `kind = "cost"` asks for of each α.
    Cost,
}

impl Part {
    /// Its argument, and the name of its files.
    pub fn name(self) -> &'static str {
        match self {
            Part::Positions => "positions",
            Part::Cost => "cost",
        }
    }
}

/// Rows of one kind: every prompt, so many times.
struct Sweep {
    name: &'static str,
    place: Place,
    read: Read,
    /// In how many variants of the edit each prompt is asked.
    variants: usize,
    bar: Option<f64>,
}

/// A sweep and its time.
pub struct Measured {
    name: &'static str,
    /// Numbers of rows: of a prompt with its edits, whatever is read of it.
    count: usize,
    /// Of all of them, the shortest of several.
    seconds: f64,
    /// What all of them need at least.
    rows: Rows,
    bar: Option<f64>,
}

/// What is said of a sweep.
#[derive(Clone, Serialize)]
pub struct Cost {
    /// Which edit and which readout.
    pub name: &'static str,
    /// Number of rows that were timed.
    pub rows: usize,
    /// Wall time of one, milliseconds.
    pub ms: f64,
    /// The least operations of one, in 10⁹.
    pub gflop: f64,
    /// Time of those at the measured rate of matrix products ÷ wall time.
    pub share: f64,
    /// The least that the share should be.
    pub bar: Option<f64>,
}

/// Those of a part; `alphas` is how many α the study has.
fn sweeps(part: Part, alphas: usize) -> Vec<Sweep> {
    let sweep = |name, place, read, variants, bar| Sweep {
        name,
        place,
        read,
        variants,
        bar,
    };
    let few = alphas.div_ceil(3);
    if part == Part::Cost {
        return vec![
            sweep(
                "last token, divergence",
                Place::Last,
                Read::Divergence,
                alphas,
                None,
            ),
            sweep(
                "ablated everywhere, divergence",
                Place::Everywhere,
                Read::Divergence,
                1,
                None,
            ),
            sweep(
                "all tokens, cross-entropy of the text",
                Place::All,
                Read::OwnTokens,
                1,
                None,
            ),
        ];
    }
    vec![
        sweep("last token, score", Place::Last, Read::Score, alphas, None),
        sweep(
            "last 5, score",
            Place::LastFew,
            Read::Score,
            alphas,
            Some(BAR),
        ),
        sweep("all tokens, score", Place::All, Read::Score, few, Some(BAR)),
        // As a study has it: of a direction there is one ablation.
        sweep(
            "ablated everywhere, score",
            Place::Everywhere,
            Read::Score,
            1,
            Some(BAR),
        ),
        sweep(
            "last token, log-odds",
            Place::Last,
            Read::LogOdds,
            alphas,
            None,
        ),
        sweep(
            "last token, score and log-odds",
            Place::Last,
            Read::ScoreAndLogOdds,
            alphas,
            None,
        ),
        sweep("last token, text of 4", Place::Last, Read::Text, few, None),
    ]
}

/// Times them on the prompts of the study.
pub fn measure(finished: &Finished, size: &Size, part: Part) -> Result<Vec<Measured>> {
    let config = finished.config()?;
    let asked = finished.score_cells()?;
    let mut evaluator = finished.evaluator()?;
    let mut measured = Vec::new();
    for sweep in sweeps(part, size.alphas.len()) {
        let mut shortest = f64::INFINITY;
        // The first time also prefills; another sweep may ask for another part of the streams, and drop it.
        for repetition in 0..REPETITIONS {
            let direction = random_unit_vector(repetition as u64, config.d_model)?;
            let cells = sweep.cells(&asked, &Arc::new(direction), config);
            shortest = shortest.min(seconds(&mut evaluator, &cells)?);
        }
        measured.push(Measured {
            name: sweep.name,
            count: sweep.variants * asked.len(),
            seconds: shortest,
            rows: sweep.rows(&asked, config),
            bar: sweep.bar,
        });
    }
    Ok(measured)
}

impl Sweep {
    /// Its cells, those of one row beside each other.
    fn cells(&self, asked: &[Cell], direction: &Arc<Vector>, config: &ModelConfig) -> Vec<Cell> {
        let mut cells = Vec::new();
        for variant in 0..self.variants {
            for of in asked {
                let edits = self.edits(&of.tokens, variant, direction, config);
                for readout in self.readouts(of) {
                    let tokens = match self.read {
                        Read::OwnTokens => Arc::new(Tokens::new(of.tokens.ids()[..1].to_vec())),
                        _ => Arc::clone(&of.tokens),
                    };
                    let edits = edits.clone();
                    cells.push(Cell::new(of.model, tokens, edits, readout, config.n_layers));
                }
            }
        }
        cells
    }

    fn edits(
        &self,
        tokens: &Tokens,
        variant: usize,
        direction: &Arc<Vector>,
        config: &ModelConfig,
    ) -> Vec<Intervention> {
        let (layers, sites, positions): (_, &[Site], _) = match self.place {
            Place::Last => (LAYER..LAYER + 1, &[Site::ResidPre], tokens.len() - 1),
            Place::LastFew => (LAYER..LAYER + 1, &[Site::ResidPre], tokens.len() - LAST_FEW),
            Place::All => (LAYER..LAYER + 1, &[Site::ResidPre], 0),
            Place::Everywhere => (
                0..config.n_layers,
                &[Site::ResidPre, Site::AttnOut, Site::MlpOut],
                0,
            ),
        };
        let edit = || match self.place {
            Place::Everywhere => Edit::Ablate(Arc::clone(direction)),
            _ => Edit::Add {
                vector: Arc::clone(direction),
                scale: (variant + 1) as f64,
            },
        };
        layers
            .flat_map(|layer| sites.iter().map(move |site| HookPoint::block(layer, *site)))
            .map(|hook| Intervention {
                hook,
                positions: Positions::From(positions),
                edit: edit(),
            })
            .collect()
    }

    /// What is read of a prompt; `of` is what the study reads of it.
    fn readouts(&self, of: &Cell) -> Vec<Readout> {
        let score = || of.readout.clone();
        match self.read {
            Read::Score => vec![score()],
            Read::LogOdds => vec![Readout::LogOdds(WORDS.into())],
            Read::ScoreAndLogOdds => vec![score(), Readout::LogOdds(WORDS.into())],
            Read::Text => vec![Readout::Continuation(TEXT.into())],
            Read::Divergence => vec![Readout::Divergence { epsilon: 0.0 }],
            Read::OwnTokens => vec![Readout::Continuation(of.tokens.ids()[1..].into())],
        }
    }

    /// What the rows need at least.
    fn rows(&self, asked: &[Cell], config: &ModelConfig) -> Rows {
        let mut rows = Rows::default();
        let layers = match self.place {
            Place::Everywhere => config.n_layers,
            _ => config.n_layers - LAYER,
        };
        // Of a plain text nothing is shared, and nothing is there before, so that all of it goes through all blocks.
        let shared = match (self.read, self.place) {
            (Read::OwnTokens, _) | (_, Place::Last | Place::LastFew) => 0,
            (_, Place::All | Place::Everywhere) => shared_tokens(asked.iter().map(|of| &of.tokens)),
        };
        if shared > 0 {
            rows += prefill_of_shared(shared, layers).scaled(self.variants as f64);
        }
        for of in asked {
            // The last token of a text is not read by the model. The unedited logits of a prompt are one row, whatever is done to it.
            let (read, unembedded, unedited) = match self.read {
                Read::Score => (1, 0, 0),
                Read::LogOdds | Read::ScoreAndLogOdds => (1, 1, 0),
                Read::Text => (TEXT.len(), TEXT.len(), 0),
                Read::Divergence => (1, 1, 1),
                Read::OwnTokens => (of.tokens.len() - 1, of.tokens.len() - 1, 0),
            };
            rows += Rows::of_unembedding(unedited as f64);
            let (edited, layers) = match (self.read, self.place) {
                (Read::OwnTokens, _) => (1, config.n_layers),
                (_, Place::Last) => (1, layers),
                (_, Place::LastFew) => (LAST_FEW, layers),
                (_, Place::All | Place::Everywhere) => (of.tokens.len() - shared, layers),
            };
            rows += last_blocks_of(edited + read - 1, read, layers).scaled(self.variants as f64);
            rows += Rows::of_unembedding((unembedded * self.variants) as f64);
        }
        rows
    }
}

impl Measured {
    /// Against the rates of matrix products.
    pub fn cost(&self, config: &ModelConfig, rate: impl Fn(Matrix) -> f64) -> Cost {
        let count = self.count as f64;
        Cost {
            name: self.name,
            rows: self.count,
            ms: 1e3 * self.seconds / count,
            gflop: self.rows.operations(config) / 1e9 / count,
            share: self.rows.seconds(config, rate) / self.seconds,
            bar: self.bar,
        }
    }
}

/// The costs of all.
pub fn costs(costs: &[Cost]) -> Table {
    let mut table = table(&[
        "edit and readout",
        "rows",
        "ms a row",
        "GFLOP a row",
        "share",
        "bar",
        "",
    ]);
    for cost in costs {
        let verdict = cost.bar.map(|bar| match cost.share >= bar {
            true => "pass",
            false => "FAIL",
        });
        table.add_row(vec![
            cost.name.to_string(),
            cost.rows.to_string(),
            format!("{:.3}", cost.ms),
            format!("{:.3}", cost.gflop),
            format!("{:.0} %", 100.0 * cost.share),
            cost.bar
                .map_or_else(String::new, |bar| format!("≥ {:.0} %", 100.0 * bar)),
            verdict.unwrap_or_default().to_string(),
        ]);
    }
    right_aligned(table)
}
