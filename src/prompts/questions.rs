//! Questions with choices: what a file has of them beside a prompt's text.

use serde_json::Value;

use super::error::{quoted, quoted_list};
use super::{Prompt, PromptSet};

/// The letters of choices.
pub(crate) const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// What there is to choose from, and which of it is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) choices: Vec<String>,
    /// By its place among the choices.
    pub(crate) answer: usize,
}

impl PromptSet {
    /// The choices of some prompts, by index: the field `columns` names holds a list of texts (in a CSV as JSON: `["red", "blue"]`), or each of
    /// several fields holds one. The right one is said by its place from 0 where `answer` is a number; where it is a text, by its letter (`A` is the
    /// first), by what it says, or by its place.
    ///
    /// # Errors
    /// Fragments, one for each prompt that is no such question; they name its line.
    pub(crate) fn questions(
        &self,
        prompts: &[usize],
        columns: &[&str],
        answer: &str,
    ) -> Result<Vec<Question>, Vec<String>> {
        let mut problems = Vec::new();
        let mut questions = Vec::with_capacity(prompts.len());
        for &index in prompts {
            let prompt = &self.prompts[index];
            match question(prompt, columns, answer) {
                Ok(question) => questions.push(question),
                Err(problem) => problems.push(format!(
                    "prompt {} (line {}) {problem}",
                    quoted(&prompt.id),
                    prompt.line
                )),
            }
        }
        match problems.is_empty() {
            true => Ok(questions),
            false => Err(problems),
        }
    }
}

fn question(prompt: &Prompt, columns: &[&str], answer: &str) -> Result<Question, String> {
    let choices = match columns {
        [list] => listed(list, prompt.other.get(*list))?,
        several => several
            .iter()
            .map(|name| one(name, prompt.other.get(*name)))
            .collect::<Result<_, _>>()?,
    };
    if !(2..=LETTERS.len()).contains(&choices.len()) {
        return Err(format!(
            "has {} choices; expected 2 to {}",
            choices.len(),
            LETTERS.len()
        ));
    }
    let found = prompt.other.get(answer).unwrap_or(&Value::Null);
    let place = match found {
        Value::Null => return Err(format!("has no field {}", quoted(answer))),
        Value::String(text) => place_of(text.trim(), &choices),
        number => number.as_u64().map(|place| place as usize),
    };
    match place.filter(|place| *place < choices.len()) {
        Some(answer) => Ok(Question { choices, answer }),
        None => Err(format!(
            "has {} under {}; expected a place from 0, a letter from `A`, or one of {}",
            quoted(&found.to_string()),
            quoted(answer),
            quoted_list(&choices)
        )),
    }
}

/// The texts of a list.
fn listed(name: &str, value: Option<&Value>) -> Result<Vec<String>, String> {
    let wrong = |found: &str| {
        Err(format!(
            "has {found} under {}; expected a list of texts",
            quoted(name)
        ))
    };
    match value {
        None | Some(Value::Null) => Err(format!("has no field {}", quoted(name))),
        Some(Value::Array(items)) => items.iter().map(|item| one(name, Some(item))).collect(),
        Some(Value::String(text)) => match crate::json::read::<Vec<String>>(text) {
            Ok(items) => Ok(items),
            Err(_) => wrong(&quoted(text)),
        },
        Some(other) => wrong(&quoted(&other.to_string())),
    }
}

/// A single choice: a text, or a number as it is written.
fn one(name: &str, value: Option<&Value>) -> Result<String, String> {
    match value {
        None | Some(Value::Null) => Err(format!("has no field {}", quoted(name))),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => Err(format!(
            "has {} as a choice under {}; expected a text",
            quoted(&other.to_string()),
            quoted(name)
        )),
    }
}

/// Which choice a text says is right.
fn place_of(text: &str, choices: &[String]) -> Option<usize> {
    let mut letters = text.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    let of_letter = letter.and_then(|letter| LETTERS.find(letter));
    let said = || choices.iter().position(|choice| choice.trim() == text);
    of_letter.or_else(said).or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn set(name: &str, content: &str) -> PromptSet {
        PromptSet::read(Path::new(name), content.as_bytes()).unwrap()
    }

    fn of(set: &PromptSet, columns: &[&str]) -> Result<Vec<Question>, Vec<String>> {
        let all: Vec<usize> = (0..set.prompts.len()).collect();
        set.questions(&all, columns, "answer")
    }

    /// The same questions in every way that files have them.
    #[test]
    fn lists_and_columns_say_the_same() {
        let expected: Vec<Question> = [0, 2]
            .map(|answer| Question {
                choices: ["red", "blue", "2"].map(str::to_string).to_vec(),
                answer,
            })
            .to_vec();
        let jsonl = r#"{"id": 1, "prompt": "Which?", "choices": ["red", "blue", 2], "answer": 0}
{"id": 2, "prompt": "Which?", "choices": ["red", "blue", "2"], "answer": "C"}"#;
        assert_eq!(
            of(&set("q.jsonl", jsonl), &["choices"]),
            Ok(expected.clone())
        );
        let json = r#"[{"id": 1, "prompt": "Which?", "choices": ["red", "blue", "2"], "answer": "red"},
            {"id": 2, "prompt": "Which?", "choices": ["red", "blue", "2"], "answer": "2"}]"#;
        assert_eq!(of(&set("q.json", json), &["choices"]), Ok(expected.clone()));
        let csv = "id,prompt,choices,answer\n1,Which?,\"[\"\"red\"\", \"\"blue\"\", \"\"2\"\"]\",A\n2,Which?,\"[\"\"red\"\", \"\"blue\"\", \"\"2\"\"]\",C\n";
        assert_eq!(of(&set("q.csv", csv), &["choices"]), Ok(expected.clone()));
        let columns = "id,prompt,A,B,C,answer\n1,Which?,red,blue,2,0\n2,Which?,red,blue,2,C\n";
        assert_eq!(of(&set("q.csv", columns), &["A", "B", "C"]), Ok(expected));
    }

    #[test]
    fn what_is_no_question_is_told_with_all_others() {
        let jsonl = r#"{"id": 1, "prompt": "Which?", "choices": ["red"], "answer": 0}
{"id": 2, "prompt": "Which?", "choices": ["red", "blue"], "answer": "green"}
{"id": 3, "prompt": "Which?", "answer": 0}
{"id": 4, "prompt": "Which?", "choices": "red or blue", "answer": 0}
{"id": 5, "prompt": "Which?", "choices": ["red", "blue"]}
{"id": 6, "prompt": "Which?", "choices": ["red", "blue"], "answer": 2}"#;
        let told = of(&set("q.jsonl", jsonl), &["choices"]).unwrap_err();
        assert_eq!(told.len(), 6, "{told:#?}");
        assert_eq!(
            told[0],
            "prompt `1` (line 1) has 1 choices; expected 2 to 26"
        );
        assert!(
            told[1].ends_with("a place from 0, a letter from `A`, or one of `red`, `blue`"),
            "{told:#?}"
        );
        assert!(told[2].ends_with("has no field `choices`"), "{told:#?}");
        assert!(
            told[3].ends_with("has `red or blue` under `choices`; expected a list of texts"),
            "{told:#?}"
        );
        assert!(told[4].ends_with("has no field `answer`"), "{told:#?}");
    }
}
