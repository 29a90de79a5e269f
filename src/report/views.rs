//! How what a stage produces is shown: the one table of it. A kind of stage whose product is here is shown without a line elsewhere; what
//! else a kind wants drawn, it says in its own file ([`crate::stages::Kind::figures`]).

use crate::figure::Figure;
use crate::stages::Product;

use super::FinishedStage;
use super::figures::{Context, generate, operating, patch, score, sweep, sweep_types};

/// How a product is shown.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(super) figures: fn(&Context<'_>, &FinishedStage) -> Vec<Figure>,
    /// What its main table says of single prompts, if anything.
    pub(super) by_prompt: Option<ByPrompt>,
    /// The tables that are compared with another run's or published ones; the main one's name is empty.
    pub(super) compared: &'static [&'static str],
    /// The tables that answer a study's question first, in this order.
    pub(crate) main_tables: &'static [MainTable],
    /// What a terminal shows of it when its run has ended.
    pub(crate) at_end: &'static [AtEnd],
    /// Whether what it found is what the study found, and stands at the top.
    pub(crate) concludes: bool,
}

/// What a table says of single prompts.
#[derive(Clone, Copy, Debug)]
pub(super) enum ByPrompt {
    /// A score of each model.
    Scores,
    /// Scores against α.
    Sweep,
    /// What was written.
    Texts,
}

/// A table that answers a study's question.
#[derive(Debug)]
pub(crate) struct MainTable {
    pub(crate) name: &'static str,
    pub(super) title: &'static str,
    pub(super) note: &'static str,
}

/// A part of what a terminal shows when a run has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AtEnd {
    /// These columns of a table, those of them that it has.
    Columns(&'static str, &'static [&'static str]),
    /// The means and rates of the main table along the learned direction, a row for each α.
    Steered,
}

/// What is shown of a product that has no more, or that this dial does not know: its tables, and what its kind draws.
const TABLES_ONLY: View = View {
    figures: |_, _| Vec::new(),
    by_prompt: None,
    compared: &[],
    main_tables: &[],
    at_end: &[],
    concludes: false,
};

const SWEEP: View = View {
    figures: sweep::figures,
    by_prompt: Some(ByPrompt::Sweep),
    compared: &[""],
    ..TABLES_ONLY
};

/// How a product is shown.
pub(crate) fn view(product: Product) -> View {
    match product {
        Product::Scores => View {
            figures: |_, stage| score::figures(stage),
            by_prompt: Some(ByPrompt::Scores),
            compared: &[""],
            main_tables: &[MEANS],
            at_end: &[AtEnd::Columns("means", MEANS_COLUMNS)],
            concludes: false,
        },
        Product::Directions => TABLES_ONLY,
        Product::Sweep | Product::HeldOutSweep | Product::RandomSweep => SWEEP,
        Product::SweepByType => View {
            figures: sweep_types::figures,
            ..SWEEP
        },
        Product::Patches => View {
            figures: |_, stage| patch::figures(stage),
            compared: &["", "mean"],
            ..TABLES_ONLY
        },
        Product::Texts => View {
            figures: |_, stage| generate::figures(stage),
            by_prompt: Some(ByPrompt::Texts),
            ..TABLES_ONLY
        },
        Product::Summary => View {
            figures: |_, stage| operating::figures(stage),
            main_tables: &[VERDICT, LEARNED_VS_RANDOM, OPERATING_POINTS],
            at_end: &[
                AtEnd::Steered,
                AtEnd::Columns("verdict", VERDICT_COLUMNS),
                AtEnd::Columns("operating_points", OPERATING_POINTS_COLUMNS),
                AtEnd::Columns("learned_vs_random", LEARNED_VS_RANDOM_COLUMNS),
            ],
            concludes: true,
            ..TABLES_ONLY
        },
        Product::Check => TABLES_ONLY,
    }
}

impl FinishedStage {
    pub(crate) fn view(&self) -> View {
        self.node.product.map_or(TABLES_ONLY, view)
    }
}

const MEANS: MainTable = MainTable {
    name: "means",
    title: "Scores without steering",
    note: "Mean with bootstrap interval, refusal rate with Wilson interval, both 95 %.",
};
const MEANS_COLUMNS: &[&str] = &[
    "model",
    "split",
    "n",
    "mean",
    "mean_low",
    "mean_high",
    "refusal_rate",
    "rate_low",
    "rate_high",
];
const VERDICT: MainTable = MainTable {
    name: "verdict",
    title: "What was tested",
    note: "Each part of the verdict with what it was tested on: value with its 95 % interval, exact p and the smallest that so many random directions allow, AUROC of the score against the texts.",
};
const VERDICT_COLUMNS: &[&str] = &["model", "layer", "part", "of", "outcome", "why"];
const LEARNED_VS_RANDOM: MainTable = MainTable {
    name: "learned_vs_random",
    title: "The learned direction against random ones",
    note: "Slope of mean score on α for each set, with a 95 % interval, and the largest gap over α and its change from α = 0 (no interval); z and exact empirical p against random directions.",
};
const LEARNED_VS_RANDOM_COLUMNS: &[&str] = &[
    "model",
    "layer",
    "set",
    "statistic",
    "learned",
    "holdout",
    "holdout_low",
    "holdout_high",
    "random_mean",
    "random_std",
    "z",
    "p_one_sided",
    "p_two_sided",
];
const OPERATING_POINTS: MainTable = MainTable {
    name: "operating_points",
    title: "Operating points",
    note: "Smallest |α| that keeps each rate at or below its target (blank: none does), and the α of the largest gap. The rates there are in the summary's table.",
};
const OPERATING_POINTS_COLUMNS: &[&str] = &[
    "source",
    "model",
    "layer",
    "gap_at_zero",
    "alpha_at_edge_target",
    "alpha_at_harmful_target",
    "alpha_at_largest_gap",
    "largest_gap",
];
