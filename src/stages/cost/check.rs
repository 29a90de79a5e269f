//! What can be known of a stage before it runs: what is wrong with it, and how many cells it asks for.

use crate::spec::Problems;
use crate::stages::declare::Table;
use crate::stages::position::Selection;
use crate::stages::{Cost, Inputs, product};

use super::data::{Divergence, Measures};
use super::{Costs, items};

impl Costs {
    /// Checks that no edit is at a place that plain texts do not have.
    pub(super) fn check_plain(&self, problems: &mut Problems) {
        let mut selections = self.steering.selections().into_iter();
        let Some(selection) = selections.find(|s| s.asks_for_the_instruction()) else {
            return;
        };
        for of in self.measures.plain() {
            problems
                .error_at(
                    &of.prompts.at,
                    format!("`positions = \"{selection}\"` asks where the instruction ends, which a plain text does not have"),
                )
                .label("read without the chat")
                .help("leave these prompts out, or take `\"last\"`, `\"generated\"`, `\"both\"` or `\"all\"`");
        }
    }

    /// Checks that an edit can reach the token whose distribution is compared.
    pub(super) fn check_kl(&self, problems: &mut Problems) {
        let Some(Table(kl)) = &self.measures.kl else {
            return;
        };
        let selections = self.steering.selections().into_iter();
        let is_behind = selections
            .clone()
            .all(Selection::holds_nothing_of_the_prompt);
        if is_behind && *kl.variant != Divergence::Heretic {
            problems
                .error_at(
                    &kl.of.prompts.at,
                    "the token behind the prompt is what it is, where the prompt is not edited",
                )
                .label("`positions` holds no token of it")
                .help("take `positions = \"both\"`, or leave `kl` out");
        }
    }

    /// Checks that answers leave room for a prompt.
    pub(super) fn check_context(&self, inputs: &Inputs, problems: &mut Problems) {
        let Some(Table(answers)) = &self.measures.answers else {
            return;
        };
        let asked = &answers.max_new_tokens;
        for name in self.model.iter() {
            let model = inputs.models.get(&name.value);
            let most = model.map_or(usize::MAX, |model| model.config().context_length);
            if asked.value >= most {
                let asked_for = asked.value;
                problems
                    .error_at(
                        &asked.at,
                        format!("`max_new_tokens = {asked_for}` leaves no room for a prompt"),
                    )
                    .label(format!("model `{name}` reads at most {most} tokens"));
            }
        }
    }

    /// What is read in so many runs, all models together.
    pub(super) fn cost_of_reading(&self, runs: u64, inputs: &Inputs) -> Cost {
        /// Of a text whose length only a tokenizer knows.
        const CHARACTERS_A_TOKEN: usize = 4;
        let edited = self.steering.selections().into_iter();
        let edited = edited.map(Selection::expected_tokens).max().unwrap_or(1);
        let of = |count: usize, tokens: usize| {
            let cells = runs.saturating_mul(count as u64);
            Cost::of_cells(cells).over(edited.saturating_add(tokens as u64))
        };
        let Measures {
            kl,
            texts,
            answers,
            choices,
            effect,
        } = &self.measures;
        let mut cost = Cost::default();
        if let Some(Table(kl)) = kl {
            cost = cost.and(of(kl.of.count(inputs), 0));
        }
        if let Some(Table(texts)) = texts
            && let Some(set) = inputs.prompts.get(&texts.of.prompts.value)
        {
            for index in texts.of.chosen(set) {
                let tokens = set.prompts[index].text.len() / CHARACTERS_A_TOKEN;
                cost = cost.and(of(1, tokens.min(texts.max_tokens.value)));
            }
        }
        if let Some(Table(answers)) = answers {
            cost = cost.and(of(answers.of.count(inputs), answers.max_new_tokens.value));
        }
        if let Some(Table(questions)) = choices {
            cost = cost.and(questions.cost(runs, edited, &self.model, inputs));
        }
        if let Some(Table(effect)) = effect {
            let rows = runs.saturating_mul(effect.of.count(inputs) as u64);
            cost = cost.and(self.settings.cost(rows, &self.model, inputs).over(edited));
        }
        cost
    }

    /// What the unedited models write themselves.
    pub(super) fn cost_of_answers(&self, inputs: &Inputs) -> Cost {
        let of = |count: usize, tokens: usize| {
            let cells = product(&[count, self.model.len()]);
            let passes = cells.saturating_mul(tokens as u64);
            Cost {
                cells_at_most: cells,
                equivalent_forward_passes: passes,
                token_passes: passes,
            }
        };
        let mut cost = Cost::default();
        if let Some(Table(kl)) = &self.measures.kl
            && *kl.variant == Divergence::Heretic
        {
            cost = cost.and(of(kl.of.count(inputs), items::BEGINNING));
        }
        if let Some(Table(answers)) = &self.measures.answers {
            cost = cost.and(of(answers.of.count(inputs), answers.max_new_tokens.value));
        }
        cost
    }
}
