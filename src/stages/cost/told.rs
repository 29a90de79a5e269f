//! What people are told of costs: what is computed, and every column.

use crate::stages::columns::ColumnTold;
use crate::stages::told::{TableTold, Told};

const NATS: &str = "nats";
const PER_TOKEN: &str = "nats a token";
const RATE: &str = "0 to 1";
const COUNT: &str = "count";

const OWN: &[ColumnTold] = &[
    ColumnTold::of("kl_n", "prompts behind the divergence", COUNT),
    ColumnTold::of(
        "kl",
        "divergence of the unedited to the edited distribution of the next token; in the main table its mean over prompts",
        NATS,
    ),
    ColumnTold::of(
        "kl_low",
        "lower end of its 95 % interval: bootstrap over prompts",
        NATS,
    ),
    ColumnTold::of("kl_high", "upper end", NATS),
    ColumnTold::of("kl_median", "its median over prompts", NATS),
    ColumnTold::of("kl_p95", "its 95th percentile over prompts", NATS),
    ColumnTold::of(
        "same_token",
        "whether the most probable token is the unedited one; in the main table the share of prompts",
        "true or false, or 0 to 1",
    ),
    ColumnTold::of("texts_n", "texts", COUNT),
    ColumnTold::of("texts_tokens", "their tokens that are predicted", COUNT),
    ColumnTold::of(
        "texts_ce",
        "cross-entropy: −Σ ln p / Σ tokens, over all texts",
        PER_TOKEN,
    ),
    ColumnTold::of(
        "texts_ce_low",
        "lower end of its 95 % interval: bootstrap over texts, each with its tokens",
        PER_TOKEN,
    ),
    ColumnTold::of("texts_ce_high", "upper end", PER_TOKEN),
    ColumnTold::of("texts_ppl", "perplexity: its exponential", ""),
    ColumnTold::of("texts_ppl_low", "lower end", ""),
    ColumnTold::of("texts_ppl_high", "upper end", ""),
    ColumnTold::of(
        "texts_change",
        "cross-entropy less that of the unedited run",
        PER_TOKEN,
    ),
    ColumnTold::of(
        "texts_change_low",
        "lower end of its interval, over the same texts in pairs",
        PER_TOKEN,
    ),
    ColumnTold::of("texts_change_high", "upper end", PER_TOKEN),
    ColumnTold::of("answers_n", "the unedited model's own answers", COUNT),
    ColumnTold::of("answers_tokens", "their tokens", COUNT),
    ColumnTold::of("answers_ce", "their cross-entropy", PER_TOKEN),
    ColumnTold::of(
        "answers_ce_low",
        "lower end of its 95 % interval, as that of texts",
        PER_TOKEN,
    ),
    ColumnTold::of("answers_ce_high", "upper end", PER_TOKEN),
    ColumnTold::of("answers_ppl", "perplexity: its exponential", ""),
    ColumnTold::of("answers_ppl_low", "lower end", ""),
    ColumnTold::of("answers_ppl_high", "upper end", ""),
    ColumnTold::of(
        "answers_change",
        "cross-entropy less that of the unedited run",
        PER_TOKEN,
    ),
    ColumnTold::of(
        "answers_change_low",
        "lower end of its interval, over the same answers in pairs",
        PER_TOKEN,
    ),
    ColumnTold::of("answers_change_high", "upper end", PER_TOKEN),
    ColumnTold::of("choices_n", "questions", COUNT),
    ColumnTold::of(
        "accuracy",
        "share of the questions whose right choice is the most probable, of equal ones the first",
        RATE,
    ),
    ColumnTold::of(
        "accuracy_low",
        "lower end of its 95 % interval: Wilson",
        RATE,
    ),
    ColumnTold::of("accuracy_high", "upper end", RATE),
    ColumnTold::of(
        "p_correct",
        "probability of the right choice among the choices; in the main table its mean",
        RATE,
    ),
    ColumnTold::of(
        "same_choice",
        "share of the questions of which the unedited model chooses the same",
        RATE,
    ),
    ColumnTold::of(
        "accuracy_change",
        "accuracy less that of the unedited run",
        "−1 to 1",
    ),
    ColumnTold::of(
        "lost",
        "questions that only the unedited model answers right",
        COUNT,
    ),
    ColumnTold::of(
        "won",
        "questions that only the edited model answers right",
        COUNT,
    ),
    ColumnTold::of(
        "mcnemar_p",
        "two-sided p of McNemar's exact test of these two",
        RATE,
    ),
    ColumnTold::of("n", "prompts behind the scores", COUNT),
    ColumnTold::of(
        "change",
        "mean score less that of the same prompts unedited",
        "logits",
    ),
    ColumnTold::of(
        "change_low",
        "lower end of its 95 % interval: bootstrap over prompts",
        "logits",
    ),
    ColumnTold::of("tokens", "tokens of the text that are predicted", COUNT),
    ColumnTold::of("nll", "−ln p of all of them together", NATS),
    ColumnTold::of(
        "chosen",
        "the choice of the highest probability, by its letter",
        "",
    ),
    ColumnTold::of("answer", "the right choice, by its letter", ""),
    ColumnTold::of("right", "whether they are the same", "true or false"),
];

/// What the tables of single prompts begin with.
macro_rules! by_prompt {
    ($own:literal) => {
        concat!(
            "model direction seed layer site layers? position? alpha alpha_<n>? threshold? id split category ",
            $own
        )
    };
}

pub(super) static TOLD: Told = Told {
    computes: "The runs of `generate`, `h ← h + α·v` or whatever `mode` says, at the last prompt token and at every token behind it unless `positions` says \
        otherwise; in each what is asked for of: `kl`, the divergence Σ p (ln p − ln q) of the unedited to the edited distribution of the next token, over the \
        whole vocabulary in float64. `texts`, the cross-entropy of plain texts, no chat around them: every token after the first, which stands for a prompt, \
        the others for what is generated. `answers`, that of the unedited model's own greedy answers. Both are read teacher-forced and weighted by \
        tokens: −Σ ln p / Σ tokens, and its exponential, the perplexity. `choices`, the share of questions whose right choice is the most probable one (of \
        equal ones the first), and McNemar's exact test against the unedited run. `effect`, the scores of prompts where the edit is to do something, by the rule \
        that `read` names. The first row of a model is that without an edit, and α = 0 of a direction that is added is the same: there all of this changes by exactly 0. `random` \
        directions act in the place of the learned one, as long as it.",
    tables: &[
        TableTold::of(
            "",
            "a row for each model, direction, place and α, before them one without an edit; columns of what is measured",
            "model direction seed layer site layers? position? alpha alpha_<n>? threshold? kl_n? kl? kl_low? kl_high? kl_median? kl_p95? same_token? texts_n? \
             texts_tokens? texts_ce? texts_ce_low? texts_ce_high? texts_ppl? texts_ppl_low? texts_ppl_high? texts_change? texts_change_low? texts_change_high? \
             answers_n? answers_tokens? answers_ce? answers_ce_low? answers_ce_high? answers_ppl? answers_ppl_low? answers_ppl_high? answers_change? \
             answers_change_low? answers_change_high? choices_n? accuracy? accuracy_low? accuracy_high? p_correct? same_choice? accuracy_change? lost? won? \
             mcnemar_p? n? mean? mean_low? mean_high? change? change_low? change_high? refusal_rate? <rule>_rate? rate_low? rate_high?",
        )
        .but(OWN),
        TableTold::of("kl", "with `kl`, a row for each prompt in each run", by_prompt!("kl same_token")).but(OWN),
        TableTold::of("texts", "with `texts`, a row for each text in each run", by_prompt!("tokens nll")).but(OWN),
        TableTold::of("answers", "with `answers`, a row for each answer in each run", by_prompt!("tokens nll")).but(OWN),
        TableTold::of(
            "choices",
            "with `choices`, a row for each question in each run",
            by_prompt!("chosen answer right p_correct"),
        )
        .but(OWN),
        TableTold::of("effect", "with `effect`, a row for each prompt in each run", by_prompt!("score refused? <rule>?")),
    ],
    example: r#"
[stages.cost]
model = "inst"
direction = "direction"
alpha = [-20, 0, 20]
random = 2
kl = { prompts = "main", split = "edge", limit = 8 }
answers = { prompts = "main", split = "edge", limit = 4, max_new_tokens = 8 }
effect = { prompts = "main", split = "harmful", limit = 8 }
"#,
};
