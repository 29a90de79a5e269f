//! How what a stage produces is shown: the one table of it. A kind of stage whose product is here is shown without a line elsewhere; what
//! else a kind wants drawn, it says in its own file ([`crate::stages::Kind::figures`]).

use std::borrow::Cow;

use crate::figure::Figure;
use crate::stages::Product;

use super::figures::{Context, generate, operating, patch, score, sweep, sweep_types};
use super::{FinishedStage, Table};

/// How a product is shown.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(super) figures: fn(&Context<'_>, &FinishedStage) -> Vec<Figure>,
    /// What its main table says of single prompts, if anything.
    pub(super) by_prompt: Option<ByPrompt>,
    /// The tables that are compared with another run's or published ones; the main one's name is empty.
    pub(super) compared: &'static [&'static str],
    /// Further ones, each of which is compared with that of the same name alone.
    pub(super) compared_apart: &'static [&'static str],
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
    /// A column and the text in it of the rows that count; all rows where none is given.
    only: Option<(&'static str, &'static str)>,
}

impl MainTable {
    const fn named(name: &'static str) -> Self {
        MainTable {
            name,
            title: "",
            note: "",
            only: None,
        }
    }

    /// Whether a table of that name is shown so: it, or the same of a further score rule, which has the rule's name before.
    pub(super) fn is(&self, name: &str) -> bool {
        let of_rule = name
            .strip_suffix(self.name)
            .is_some_and(|rule| rule.ends_with('_'));
        name == self.name || (!self.name.is_empty() && of_rule)
    }

    /// The rows of a table that it shows.
    pub(super) fn of<'a>(&self, table: &'a Table) -> Cow<'a, Table> {
        match self.only {
            None => Cow::Borrowed(table),
            Some((column, text)) => Cow::Owned(table.only(column, text)),
        }
    }
}

/// A part of what a terminal shows when a run has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AtEnd {
    /// These columns of a table, those of them that it has.
    Columns(&'static str, &'static [&'static str]),
    /// These columns of the main table, those of them that it has, random directions left out.
    Learned(&'static [&'static str]),
    /// The means and rates of the main table along the learned direction, a row for each α.
    Steered,
}

/// What is shown of a product that has no more, or that this dial does not know: its tables, and what its kind draws.
const TABLES_ONLY: View = View {
    figures: |_, _| Vec::new(),
    by_prompt: None,
    compared: &[],
    compared_apart: &[],
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
            ..TABLES_ONLY
        },
        Product::Directions | Product::Choice => View {
            compared: &[""],
            compared_apart: &["checks", "detection", "geometry"],
            ..TABLES_ONLY
        },
        Product::Condition => View {
            compared: &[""],
            compared_apart: &["likeness"],
            ..TABLES_ONLY
        },
        Product::Activations | Product::Independence => TABLES_ONLY,
        Product::Sweep | Product::HeldOutSweep | Product::RandomSweep => SWEEP,
        Product::SweepByType => View {
            figures: sweep_types::figures,
            ..SWEEP
        },
        Product::Costs => View {
            compared: &[""],
            at_end: &[AtEnd::Learned(COSTS_COLUMNS)],
            ..TABLES_ONLY
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
            main_tables: &[
                VERDICT,
                TEXTS,
                STEERED,
                PROMPTED,
                LEARNED_VS_RANDOM,
                OPERATING_POINTS,
                OPERATING_HALVES,
            ],
            at_end: &[
                AtEnd::Steered,
                AtEnd::Columns("prompted", PROMPTED_COLUMNS),
                AtEnd::Columns("verdict", VERDICT_COLUMNS),
                AtEnd::Columns("texts", TEXTS_COLUMNS),
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
    title: "Scores without steering",
    note: "Mean with bootstrap interval, refusal rate with Wilson interval, both 95 %.",
    ..MainTable::named("means")
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
const COSTS_COLUMNS: &[&str] = &[
    "model",
    "direction",
    "layer",
    "alpha",
    "kl",
    "same_token",
    "texts_change",
    "answers_change",
    "accuracy",
    "mcnemar_p",
    "change",
];
const VERDICT: MainTable = MainTable {
    title: "What was tested",
    note: "Each part of the verdict with what it was tested on: value with its 95 % interval, exact p and the smallest that so many random directions allow, AUROC of the score against the texts.",
    ..MainTable::named("verdict")
};
const VERDICT_COLUMNS: &[&str] = &["model", "layer", "part", "of", "outcome", "why"];
const TEXTS: MainTable = MainTable {
    title: "The score against the texts",
    note: "How much score and texts refuse, with Wilson intervals that take each prompt for one trial, at α = 0 and over all α; Cohen's κ with its interval over prompts; AUROC of the score against the texts.",
    ..MainTable::named("texts")
};
const TEXTS_COLUMNS: &[&str] = &[
    "model",
    "layer",
    "classifier",
    "over",
    "n",
    "prompts",
    "score_rate",
    "text_rate",
    "agreement",
    "kappa",
    "kappa_low",
    "kappa_high",
    "auroc",
];
const STEERED: MainTable = MainTable {
    title: "What α does to the score",
    note: "Along the learned direction: mean score, its change from the same prompts at α = 0 (paired, with an interval of its own), and refusal rate; 95 % intervals over prompts.",
    only: Some(("source", "steer")),
    ..MainTable::named("")
};
const PROMPTED: MainTable = MainTable {
    title: "What another system prompt does to the score",
    note: "Mean score, its change from the same prompts at α = 0 (paired, with an interval of its own), and refusal rate under the other system prompt, without steering; 95 % intervals over prompts.",
    ..MainTable::named("prompted")
};
const PROMPTED_COLUMNS: &[&str] = &[
    "model",
    "set",
    "n",
    "mean",
    "change",
    "change_low",
    "change_high",
    "refusal_rate",
    "rate_low",
    "rate_high",
];
const LEARNED_VS_RANDOM: MainTable = MainTable {
    title: "The learned direction against random ones",
    note: "Slope of mean score on α for each set, with a 95 % interval, and the largest gap over α and its change from α = 0 (no interval); z and exact empirical p against random directions.",
    ..MainTable::named("learned_vs_random")
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
    title: "Operating points",
    note: "Smallest |α| that keeps each rate at or below its target (blank: none does), and the α of the largest gap. The rates there are in the summary's table.",
    ..MainTable::named("operating_points")
};
const OPERATING_HALVES: MainTable = MainTable {
    title: "Operating points, chosen on one half of the prompts",
    note: "α chosen on one half (`chosen_…`), and the rates of the other half there, which had no say in it; 95 % intervals over prompts.",
    ..MainTable::named("operating_halves")
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
