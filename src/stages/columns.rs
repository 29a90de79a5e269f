//! What the columns of tables hold. A name means the same in every table, unless the table says otherwise.

/// The columns of tables that hold what a prompt or a model says, word by word.
pub(crate) const TEXTS: [&str; 5] = ["text", "token_id", "token", "token_a", "token_b"];

/// A column as people are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnTold {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// What its numbers are counted in; empty for text.
    pub(crate) unit: &'static str,
}

/// A column of that name, as every table has it that does not say otherwise.
pub(crate) fn column(name: &str) -> Option<&'static ColumnTold> {
    COLUMNS.iter().find(|column| column.name == name)
}

impl ColumnTold {
    pub(crate) const fn of(name: &'static str, about: &'static str, unit: &'static str) -> Self {
        ColumnTold { name, about, unit }
    }
}

const LOGITS: &str = "logits";
const RATE: &str = "0 to 1";
const COUNT: &str = "count";
const INDEX: &str = "index";
const FLAG: &str = "true or false";
const ALPHA: &str = "`alpha_unit`";
const COSINE: &str = "−1 to 1";
const NORM: &str = "as activations";
const PER_ALPHA: &str = "logits per α, or 0 to 1";

static COLUMNS: &[ColumnTold] = &[
    // Where a row is.
    ColumnTold::of("model", "the model, as the study names it", ""),
    ColumnTold::of("id", "the prompt", ""),
    ColumnTold::of("split", "its split", ""),
    ColumnTold::of("category", "its category", ""),
    ColumnTold::of(
        "set",
        "the prompts of the row: a split, or a half of one (`edge_train`, `edge_holdout`), or of a group that the study names",
        "",
    ),
    ColumnTold::of(
        "direction",
        "what the direction is, e.g. `top_bottom_30` or `threshold_0`; an ablation says that it is one; `none` where nothing is edited",
        "",
    ),
    ColumnTold::of(
        "seed",
        "the seed behind the direction; blank where there is none",
        INDEX,
    ),
    ColumnTold::of(
        "layer",
        "the layer of the edit or activation, from 0",
        INDEX,
    ),
    ColumnTold::of(
        "site",
        "its site, by its short name (`resid_pre` is `blocks.L.hook_resid_pre`)",
        "",
    ),
    ColumnTold::of(
        "alpha",
        "α; blank for an ablation, 0 where nothing is edited; of a rotation in degrees",
        ALPHA,
    ),
    ColumnTold::of(
        "layers",
        "all layers at which the edit is made at once, with `+` between; where `together` is true",
        "",
    ),
    ColumnTold::of(
        "position",
        "where the edit or activation is: a number, counted from the end of the prompt below 0, or as the study says it; where that is not the last token",
        "",
    ),
    ColumnTold::of(
        "token",
        "the tokens there, as the vocabulary spells them, with spaces between; blank where prompts differ in their number or there are more than eight",
        "",
    ),
    ColumnTold::of(
        "alpha_<n>",
        "α of the second edit of the run, the third, and so on; where `with` names such",
        ALPHA,
    ),
    ColumnTold::of("position_a", "position of the first direction", INDEX),
    ColumnTold::of("token_a", "the token there", ""),
    ColumnTold::of("position_b", "position of the second", INDEX),
    ColumnTold::of("token_b", "the token there", ""),
    ColumnTold::of(
        "over",
        "what of a prompt is held against the direction: `mean` of all its tokens, or its `last` token",
        "",
    ),
    ColumnTold::of("similarity", "how: `cosine`, or CAST's", ""),
    ColumnTold::of(
        "when",
        "on which side of the threshold the edit is made: `above` or `below`",
        "",
    ),
    ColumnTold::of(
        "margin",
        "how far the nearest prompt of the training half is from the threshold",
        COSINE,
    ),
    ColumnTold::of(
        "precision_train",
        "on the training half, of the prompts that meet the condition the share that is to be acted on",
        RATE,
    ),
    ColumnTold::of(
        "recall_train",
        "on the training half, of the prompts to be acted on the share that meets the condition",
        RATE,
    ),
    ColumnTold::of("f1_train", "the harmonic mean of both", RATE),
    ColumnTold::of("precision", "the same of the held-out half", RATE),
    ColumnTold::of("precision_low", "lower end of Wilson's 95 % interval", RATE),
    ColumnTold::of("precision_high", "upper end", RATE),
    ColumnTold::of("recall", "the same of the held-out half", RATE),
    ColumnTold::of("recall_low", "lower end of Wilson's 95 % interval", RATE),
    ColumnTold::of("recall_high", "upper end", RATE),
    ColumnTold::of("f1", "the same of the held-out half", RATE),
    ColumnTold::of(
        "f1_low",
        "lower end of its 95 % bootstrap interval over prompts",
        RATE,
    ),
    ColumnTold::of("f1_high", "upper end", RATE),
    ColumnTold::of(
        "f1_of_all",
        "F1 on the held-out half for acting on every prompt",
        RATE,
    ),
    ColumnTold::of(
        "threshold",
        "the threshold of the condition under which the edit is made",
        COSINE,
    ),
    ColumnTold::of(
        "likeness",
        "how like the direction of the condition the unedited prompt is",
        COSINE,
    ),
    ColumnTold::of(
        "edited",
        "whether the prompt meets the condition; where it does not, the row is that of the unedited run",
        FLAG,
    ),
    ColumnTold::of(
        "source",
        "which sweep of the summary the row is about: `steer`, `holdout`, `random` or `xstest`",
        "",
    ),
    // Scores.
    ColumnTold::of(
        "score",
        "s = logsumexp(refusing logits) − logsumexp(complying logits) of the first token of the answer; of another score rule what that says",
        LOGITS,
    ),
    ColumnTold::of(
        "refused",
        "whether the score is above the threshold; called as the score rule where another is read",
        FLAG,
    ),
    ColumnTold::of("<rule>", "the same by the rule of that name", FLAG),
    ColumnTold::of("s_<model>", "the score in each of the two models", LOGITS),
    ColumnTold::of(
        "s_gap",
        "score in the second model − score in the first",
        LOGITS,
    ),
    ColumnTold::of(
        "built_direction",
        "whether the prompt's text helped to build the direction of its row",
        FLAG,
    ),
    ColumnTold::of("n", "rows behind the number", COUNT),
    ColumnTold::of("prompts", "distinct prompts behind the number", COUNT),
    ColumnTold::of("mean", "mean score", LOGITS),
    ColumnTold::of(
        "mean_low",
        "lower end of its 95 % interval: bootstrap over prompts",
        LOGITS,
    ),
    ColumnTold::of("mean_high", "upper end", LOGITS),
    ColumnTold::of("std", "standard deviation of the scores over rows", LOGITS),
    ColumnTold::of(
        "ddof",
        "degrees of freedom that `std` takes off: 0, or 1",
        COUNT,
    ),
    ColumnTold::of(
        "refusal_rate",
        "share of refusals; `<rule>_rate` where another score rule is read",
        RATE,
    ),
    ColumnTold::of(
        "<rule>_rate",
        "share of prompts that count by the rule of that name",
        RATE,
    ),
    ColumnTold::of("<rule>_rate_without", "the rate without them", RATE),
    ColumnTold::of(
        "rate_low",
        "lower end of its 95 % interval: Wilson, with as many trials as there are prompts",
        RATE,
    ),
    ColumnTold::of("rate_high", "upper end", RATE),
    // Directions.
    ColumnTold::of("n_top", "prompts in A, the high-scoring group", COUNT),
    ColumnTold::of("n_bottom", "prompts in B, the low-scoring group", COUNT),
    ColumnTold::of(
        "top_score_low",
        "lowest score in A; blank where no score chose it",
        LOGITS,
    ),
    ColumnTold::of("top_score_high", "highest score in A; so too", LOGITS),
    ColumnTold::of("bottom_score_low", "lowest score in B; so too", LOGITS),
    ColumnTold::of("bottom_score_high", "highest score in B; so too", LOGITS),
    ColumnTold::of(
        "pre_norm",
        "norm of the difference of means, before it was made 1",
        NORM,
    ),
    ColumnTold::of(
        "resid_norm",
        "mean norm of the activations of A and B",
        NORM,
    ),
    ColumnTold::of(
        "pre_norm_over_resid_norm",
        "the one over the other",
        "ratio",
    ),
    ColumnTold::of("group", "`top` (A) or `bottom` (B)", ""),
    ColumnTold::of("rank", "the prompt's place in its group, from 0", INDEX),
    ColumnTold::of("seed_a", "seed behind the first direction", INDEX),
    ColumnTold::of("layer_a", "layer of the first direction", INDEX),
    ColumnTold::of("seed_b", "seed behind the second", INDEX),
    ColumnTold::of("layer_b", "layer of the second", INDEX),
    ColumnTold::of("cosine", "cosine between two directions", COSINE),
    ColumnTold::of(
        "shuffle",
        "number of the shuffle of the labels of A and B, from 0",
        INDEX,
    ),
    // Patches.
    ColumnTold::of("donor_model", "the model that gives", ""),
    ColumnTold::of("recipient_model", "the model that receives", ""),
    ColumnTold::of("donor", "the prompt that gives", ""),
    ColumnTold::of(
        "recipient",
        "the prompt that receives; split and category are its",
        "",
    ),
    ColumnTold::of(
        "k",
        "how many of the last layers are patched at once; instead of `layer`, with `cumulative`",
        COUNT,
    ),
    ColumnTold::of("score_donor", "score of the donor's own run", LOGITS),
    ColumnTold::of(
        "score_recipient",
        "score of the recipient's own run",
        LOGITS,
    ),
    ColumnTold::of(
        "score_patched",
        "score of the recipient's run with the donor's vector",
        LOGITS,
    ),
    ColumnTold::of("delta", "Δ = patched − recipient", LOGITS),
    ColumnTold::of("mean_delta", "mean Δ over pairs", LOGITS),
    ColumnTold::of(
        "delta_low",
        "lower end of its 95 % interval: bootstrap over pairs",
        LOGITS,
    ),
    ColumnTold::of("delta_high", "upper end", LOGITS),
    ColumnTold::of(
        "mean_recovery",
        "mean of Δ / (donor − recipient) over pairs at least `floor` apart",
        "ratio",
    ),
    ColumnTold::of("n_recovery", "pairs that are", COUNT),
    ColumnTold::of(
        "n_left_out",
        "pairs that are not, and so have no recovery",
        COUNT,
    ),
    // Texts.
    ColumnTold::of("text", "the continuation, special tokens left out", ""),
    ColumnTold::of(
        "regex",
        "whether the study's patterns call it a refusal",
        FLAG,
    ),
    ColumnTold::of(
        "xstest_prefix",
        "whether it opens as XSTest's string match calls a refusal",
        FLAG,
    ),
    ColumnTold::of(
        "classifier",
        "what calls a text a refusal: `regex`, `xstest_prefix`, or `score` itself",
        "",
    ),
    ColumnTold::of(
        "both",
        "texts that score and classifier call a refusal",
        COUNT,
    ),
    ColumnTold::of("score_only", "texts that the score alone calls one", COUNT),
    ColumnTold::of(
        "text_only",
        "texts that the classifier alone calls one",
        COUNT,
    ),
    ColumnTold::of("neither", "texts that neither calls one", COUNT),
    ColumnTold::of(
        "kappa",
        "Cohen's κ; blank where both gave every text one and the same label",
        COSINE,
    ),
    // Summaries.
    ColumnTold::of(
        "change",
        "mean over rows of the score less that of the same prompt at α = 0",
        LOGITS,
    ),
    ColumnTold::of(
        "change_low",
        "lower end of its 95 % interval: bootstrap over prompts; blank where all changed alike",
        LOGITS,
    ),
    ColumnTold::of("change_high", "upper end", LOGITS),
    ColumnTold::of("seeds", "seeds that the row is over", COUNT),
    ColumnTold::of(
        "edge_mean",
        "refusal rate on edge prompts, mean over seeds",
        RATE,
    ),
    ColumnTold::of(
        "edge_std",
        "its standard deviation over seeds, ddof 1; blank for one",
        RATE,
    ),
    ColumnTold::of(
        "harmful_mean",
        "refusal rate on harmful prompts, mean over seeds",
        RATE,
    ),
    ColumnTold::of("harmful_std", "its standard deviation over seeds", RATE),
    ColumnTold::of(
        "gap_mean",
        "gap = harmful rate − edge rate, mean over seeds",
        COSINE,
    ),
    ColumnTold::of("gap_std", "its standard deviation over seeds", COSINE),
    ColumnTold::of("gap", "harmful rate − edge rate", COSINE),
    ColumnTold::of("gap_at_zero", "the gap at α = 0", COSINE),
    ColumnTold::of("largest_gap", "the largest gap over α", COSINE),
    ColumnTold::of(
        "point",
        "`edge_target` or `harmful_target`, the smallest |α| at which that rate meets its target, or `largest_gap`",
        "",
    ),
    ColumnTold::of("target", "the target of the rate, where there is one", RATE),
    ColumnTold::of(
        "chosen_edge_rate",
        "edge refusal rate of the half that α was chosen on",
        RATE,
    ),
    ColumnTold::of("chosen_harmful_rate", "harmful refusal rate there", RATE),
    ColumnTold::of("chosen_gap", "gap there", COSINE),
    ColumnTold::of("chosen_edge_n", "edge prompts there", COUNT),
    ColumnTold::of("chosen_harmful_n", "harmful prompts there", COUNT),
    ColumnTold::of("edge_n", "edge prompts of the other half", COUNT),
    ColumnTold::of("harmful_n", "harmful prompts of the other half", COUNT),
    ColumnTold::of(
        "edge_rate",
        "refusal rate on edge prompts, mean over seeds",
        RATE,
    ),
    ColumnTold::of(
        "edge_rate_low",
        "lower end of its 95 % interval: Wilson",
        RATE,
    ),
    ColumnTold::of("edge_rate_high", "upper end", RATE),
    ColumnTold::of(
        "harmful_rate",
        "refusal rate on harmful prompts, mean over seeds",
        RATE,
    ),
    ColumnTold::of(
        "harmful_rate_low",
        "lower end of its 95 % interval: Wilson",
        RATE,
    ),
    ColumnTold::of("harmful_rate_high", "upper end", RATE),
    ColumnTold::of("edge_target", "the edge rate to stay at or below", RATE),
    ColumnTold::of(
        "harmful_target",
        "the harmful rate to stay at or below",
        RATE,
    ),
    ColumnTold::of(
        "alpha_at_<point>",
        "α there: the smallest |α| that meets the target; blank where none does",
        ALPHA,
    ),
    ColumnTold::of(
        "edge_rate_at_<point>",
        "edge rate there, with the ends of its interval in `…_low` and `…_high`",
        RATE,
    ),
    ColumnTold::of(
        "harmful_rate_at_<point>",
        "harmful rate there, with the ends of its interval",
        RATE,
    ),
    ColumnTold::of(
        "learned_from",
        "the sweep of the learned direction: `steer`, or `holdout` where that is not given",
        "",
    ),
    ColumnTold::of(
        "statistic",
        "`slope` of the mean score on α, `max_gap`: the largest gap over α, or `max_gap_change`: the same less the gap at α = 0",
        "",
    ),
    ColumnTold::of("n_alpha", "α that all sweeps share", COUNT),
    ColumnTold::of(
        "learned",
        "the statistic of the learned direction",
        PER_ALPHA,
    ),
    ColumnTold::of(
        "learned_low",
        "lower end of its 95 % interval: bootstrap over prompts",
        PER_ALPHA,
    ),
    ColumnTold::of("learned_high", "upper end", PER_ALPHA),
    ColumnTold::of(
        "holdout",
        "the same of the holdout directions, on prompts that built none of them; mean over seeds",
        PER_ALPHA,
    ),
    ColumnTold::of("holdout_low", "lower end of its 95 % interval", PER_ALPHA),
    ColumnTold::of("holdout_high", "upper end", PER_ALPHA),
    ColumnTold::of("random_mean", "mean over random directions", PER_ALPHA),
    ColumnTold::of(
        "random_std",
        "standard deviation over random directions, ddof 1",
        PER_ALPHA,
    ),
    ColumnTold::of("n_random", "random directions", COUNT),
    ColumnTold::of(
        "z",
        "(learned − random mean) / random deviation",
        "deviations",
    ),
    ColumnTold::of(
        "p_one_sided",
        "share of all directions, the learned one counted, whose statistic is at least the learned one's: (1 + k) / (1 + n)",
        RATE,
    ),
    ColumnTold::of("p_two_sided", "the same of its absolute value", RATE),
    ColumnTold::of(
        "part",
        "`effect`, `specific`, `selective`, `valid` or `stable`",
        "",
    ),
    ColumnTold::of(
        "of",
        "what it was tested on: a set, the gap, or a classifier of texts",
        "",
    ),
    ColumnTold::of("outcome", "`passed`, `failed` or `not tested`", ""),
    ColumnTold::of(
        "value",
        "slope (effect, specific), change of the gap (selective), κ (valid), least cosine between seeds (stable)",
        "as what it is",
    ),
    ColumnTold::of("low", "lower end of its 95 % interval", "as the value"),
    ColumnTold::of("high", "upper end", "as the value"),
    ColumnTold::of("p", "exact p against random directions", RATE),
    ColumnTold::of(
        "smallest_p",
        "the smallest p that so many random directions allow: 1 / (1 + n)",
        RATE,
    ),
    ColumnTold::of(
        "auroc",
        "how often a text called a refusal has the higher score of a pair; high with a low κ means a wrong threshold",
        RATE,
    ),
    ColumnTold::of("why", "what was found, in words", ""),
    ColumnTold::of(
        "over",
        "which texts count: those of `α = 0`, or of `all α`",
        "",
    ),
    ColumnTold::of(
        "score_rate",
        "share of these texts that the score calls refusals",
        RATE,
    ),
    ColumnTold::of(
        "score_rate_low",
        "lower end of its 95 % interval: Wilson, with as many trials as there are prompts",
        RATE,
    ),
    ColumnTold::of("score_rate_high", "upper end", RATE),
    ColumnTold::of(
        "text_rate",
        "share that the classifier calls refusals",
        RATE,
    ),
    ColumnTold::of("text_rate_low", "lower end of its 95 % interval", RATE),
    ColumnTold::of("text_rate_high", "upper end", RATE),
    ColumnTold::of("agreement", "share of which both say the same", RATE),
    ColumnTold::of(
        "kappa_low",
        "lower end of its 95 % interval: bootstrap over prompts",
        COSINE,
    ),
    ColumnTold::of("kappa_high", "upper end", COSINE),
    ColumnTold::of("label", "XSTest's label: `safe` or `unsafe`", ""),
    ColumnTold::of("type", "XSTest's type; `all` for the whole label", ""),
    ColumnTold::of(
        "n_without",
        "the same without prompts that built the direction of their row",
        COUNT,
    ),
    ColumnTold::of("prompts_without", "the same of distinct prompts", COUNT),
    ColumnTold::of("refusal_rate_without", "the rate without them", RATE),
    ColumnTold::of("rate_low_without", "lower end of its interval", RATE),
    ColumnTold::of("rate_high_without", "upper end", RATE),
    ColumnTold::of("pairs", "pairs of directions", COUNT),
    ColumnTold::of("cosine_mean", "mean cosine", COSINE),
    ColumnTold::of("cosine_low", "the smallest", COSINE),
    ColumnTold::of("cosine_high", "the largest", COSINE),
    // Imports.
    ColumnTold::of("overlap", "prompts that are in both groups", COUNT),
    ColumnTold::of("train", "prompts of the training half", COUNT),
    ColumnTold::of(
        "follows_from_scores",
        "whether the scores give this selection: `yes`, `no`; blank without scores",
        "",
    ),
    ColumnTold::of("file", "the published file", ""),
    ColumnTold::of("quantity", "the number's name in the summary", ""),
    ColumnTold::of("published", "the number as published", "as the quantity"),
    ColumnTold::of(
        "<summary>",
        "the same number in each of the study's `summaries`",
        "as the quantity",
    ),
];
