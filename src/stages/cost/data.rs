//! What is measured, on which prompts: the parts of a stage's parameters.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::model::ModelHandle;
use crate::prompts::{PromptSet, Question};
use crate::spec::{Decode, Fields, Node, Problems};
use crate::stages::declare::{FieldType, Keyed, Table, Together, declared, parameters};
use crate::stages::field_types::{choices, wrappers};
use crate::stages::parameters::{self, Count, Names, PromptsName, StopAtEnd};
use crate::stages::{Cost, Inputs, Name, Needs, Settings, StageError};

choices! {
    /// Which divergence.
    pub(crate) enum Divergence {
        /// Σ p (ln p − ln q) of the token behind the prompt
        NextToken = "next_token",
        /// the same with 1e-6 in both logarithms (Arditi et al., arXiv:2406.11717)
        RefusalDirection = "refusal_direction",
        /// that of the first token at which the unedited model's own answers to these prompts differ
        Heretic = "heretic",
    }
}

choices! {
    /// How a question is put.
    pub(crate) enum Form {
        /// the choices in lines under the question, `A. …`, then `Answer:`; compared are the letters behind that (MMLU)
        Letters = "letters",
        /// the question alone; compared are the choices as continuations of it, each by the sum of its tokens
        Continuations = "continuations",
    }
}

wrappers! {
    /// A divergence; what answers begin with depends on where they end.
    Variant(Divergence): ByValue, |divergence, needs| needs.ends |= *divergence == Divergence::Heretic;
}

parameters! {
    /// Prompts of a set.
    pub(super) struct Of {
        /// The prompts.
        prompts: PromptsName,
        /// Splits of them that are taken, in this order; all where left out.
        split: Option<Names>,
        /// How many prompts of each split at most.
        limit: Option<Count>,
    }
}

parameters! {
    /// How far the next token's distribution moves.
    pub(super) struct Kl {
        of: Of,
        /// Which divergence.
        variant: Variant = "next_token",
    }
}

parameters! {
    /// Texts that are read as they are.
    pub(super) struct Texts {
        of: Of,
        /// How many tokens of each text are read at most.
        max_tokens: Count = 256,
        /// What is written before each text, such as the token with which a model's texts begin; nothing where left out.
        start: Option<String>,
    }
}

parameters! {
    /// The unedited model's own answers.
    pub(super) struct Answers {
        of: Of,
        /// How many tokens an answer has at most.
        max_new_tokens: Count = 64,
        /// Whether an answer ends where the model ends it.
        stop_at_end: StopAtEnd = true,
    }
}

parameters! {
    /// Questions with choices.
    pub(super) struct Questions {
        of: Of,
        /// The field of the prompt file that holds the list of choices, or the fields that hold one each.
        choices: Names = "choices",
        /// The field that says which is right.
        answer: String = "answer",
        /// How a question is put.
        form: Form = "letters",
        /// Whether it stands in the chat, or is read as plain text.
        in_chat: bool = false,
        /// What is written before each question that is plain text; nothing where left out.
        start: Option<String>,
    }
}

parameters! {
    /// Prompts whose scores are to change.
    pub(super) struct Effect {
        of: Of,
    }
}

parameters! {
    /// What is measured, each on prompts of its own; one at least.
    pub(super) group Measures {
        /// How far the distribution of the next token moves (KL, nats), and on which prompts: a table of `prompts`, `split`, `limit` and `variant`.
        kl: Option<Table<Kl>>,
        /// The cross-entropy of plain texts: a table of `prompts`, `split`, `limit`, `max_tokens` and `start`.
        texts: Option<Table<Texts>>,
        /// The cross-entropy of the unedited model's own greedy answers: a table of `prompts`, `split`, `limit`, `max_new_tokens` and `stop_at_end`.
        answers: Option<Table<Answers>>,
        /// The accuracy on questions with choices: a table of `prompts`, `split`, `limit`, `choices`, `answer`, `form`, `in_chat` and `start`.
        choices: Option<Table<Questions>>,
        /// Prompts whose scores say what the edit does, which is held against what it costs: a table of `prompts`, `split` and `limit`.
        effect: Option<Table<Effect>>,
    }
}

impl Together for Measures {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let names = ["kl", "texts", "answers", "choices", "effect"];
        let is_named = names.map(|name| fields.node(name).is_some());
        if !is_named.contains(&true) {
            let at = fields.at.clone();
            fields
                .problems
                .error_at(&at, "nothing is measured")
                .label(format!("expected one at least of `{}`", names.join("`, `")))
                .help("`kl = { prompts = \"…\" }` measures how far the next token moves");
            return None;
        }
        Some(Measures {
            kl: fields.optional("kl"),
            texts: fields.optional("texts"),
            answers: fields.optional("answers"),
            choices: fields.optional("choices"),
            effect: fields.optional("effect"),
        })
    }
}

impl Measures {
    /// The prompts of each measure.
    pub(super) fn prompts(&self) -> impl Iterator<Item = &Of> {
        let of = [
            self.kl.as_ref().map(|kl| &kl.0.of),
            self.texts.as_ref().map(|texts| &texts.0.of),
            self.answers.as_ref().map(|answers| &answers.0.of),
            self.choices.as_ref().map(|questions| &questions.0.of),
            self.effect.as_ref().map(|effect| &effect.0.of),
        ];
        of.into_iter().flatten()
    }

    /// The prompts that are read as plain text.
    pub(super) fn plain(&self) -> impl Iterator<Item = &Of> {
        let texts = self.texts.as_ref().map(|texts| &texts.0.of);
        let questions = self
            .choices
            .as_ref()
            .filter(|questions| !questions.0.in_chat);
        let questions = questions.map(|questions| &questions.0.of);
        texts.into_iter().chain(questions)
    }
}

impl Of {
    /// The prompts that are taken, by index.
    pub(super) fn chosen(&self, prompts: &PromptSet) -> Vec<usize> {
        let splits: Vec<&str> = match &self.split {
            Some(splits) => splits.values().map(String::as_str).collect(),
            None => prompts.splits(),
        };
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| limit.value);
        parameters::first_indices(prompts, &splits, limit)
    }

    /// How many there are; 0 of a set that could not be read.
    pub(super) fn count(&self, inputs: &Inputs) -> usize {
        let set = inputs.prompts.get(&self.prompts.value);
        set.map_or(0, |set| self.chosen(set).len())
    }

    pub(super) fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        for split in self.split.iter().flat_map(|splits| splits.0.iter()) {
            inputs.check_split(split, &self.prompts, problems);
        }
    }
}

impl Questions {
    /// Checks that every prompt is a question with choices.
    pub(super) fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let Some(set) = inputs.prompts.get(&self.of.prompts.value) else {
            return;
        };
        let chosen = self.of.chosen(set);
        if let Err(wrong) = self.read(set, &chosen)
            && let Some(first) = wrong.first()
        {
            problems
                .error_at(&self.of.prompts.at, first.clone())
                .label(format!(
                    "so it is with {} of {} prompts",
                    wrong.len(),
                    chosen.len()
                ))
                .help("say with `choices` and `answer` which fields of the file hold them");
        }
    }

    /// What they cost in so many runs, each of which computes so many tokens of a prompt.
    pub(super) fn cost(&self, runs: u64, edited: u64, models: &[Name], inputs: &Inputs) -> Cost {
        let Some(set) = inputs.prompts.get(&self.of.prompts.value) else {
            return Cost::default();
        };
        let chosen = self.of.chosen(set);
        let questions = self.read(set, &chosen).unwrap_or_default();
        let models = models
            .iter()
            .filter_map(|name| inputs.models.get(&name.value));
        let models: Vec<&Arc<ModelHandle>> = models.collect();
        // Letters are one token each nearly everywhere, and then one look at the next token says all.
        let is_one = |question: &Question| {
            let texts = self.form.choices(question, self.in_chat);
            let is_token = |text: &String| {
                let of_model = |model: &&Arc<ModelHandle>| {
                    model.text_tokens(text).is_ok_and(|ids| ids.len() == 1)
                };
                models.iter().all(of_model)
            };
            self.form == Form::Letters && texts.iter().all(is_token)
        };
        let cells = questions.iter().map(|question| match is_one(question) {
            true => 1,
            false => question.choices.len(),
        });
        let cells: usize = cells.sum();
        Cost::of_cells(runs.saturating_mul(cells as u64)).over(edited)
    }

    /// The questions of some prompts, by index.
    ///
    /// # Errors
    /// All prompts that are none.
    fn read(&self, set: &PromptSet, chosen: &[usize]) -> Result<Vec<Question>, Vec<String>> {
        let columns: Vec<&str> = self.choices.values().map(String::as_str).collect();
        set.questions(chosen, &columns, &self.answer)
    }

    /// The same where it has been checked.
    ///
    /// # Errors
    /// The first prompt that is none.
    pub(super) fn of_prompts(
        &self,
        set: &PromptSet,
        chosen: &[usize],
    ) -> Result<Vec<Question>, StageError> {
        self.read(set, chosen)
            .map_err(|mut wrong| StageError::Data(wrong.swap_remove(0)))
    }
}
