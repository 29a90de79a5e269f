//! Text that a template writes of its own accord: a default system message, a date, an instruction.

use regex::Regex;

/// Names of roles, which are part of how a conversation is written and not text of its own.
const ROLES: [&str; 8] = [
    "system",
    "developer",
    "user",
    "human",
    "assistant",
    "model",
    "instruction",
    "response",
];
/// So many words between control tokens are text; fewer are names of roles and channels (`### Instruction:`, `assistant`, `think`).
const WORDS_OF_TEXT: usize = 3;
/// What is written like a control token without being one of the tokenizer's.
const LOOKS_LIKE_CONTROL: &str = r"<[^<>\s]{1,40}>|\[/?[A-Z_]{1,20}\]";

/// The stretches of a rendered conversation that nobody gave: between control tokens and the `given` texts, what has three words or more. Where
/// the conversation has no system message, `with_system` is the same one with it: what then goes away was a default, however short.
pub(in crate::model) fn inserted(
    rendered: &str,
    with_system: Option<&str>,
    given: &[&str],
    control: Option<&Regex>,
) -> Vec<String> {
    let found = stretches(rendered, given, control);
    let replaced_by = with_system.map(|text| stretches(text, given, control));
    let mut inserted: Vec<String> = Vec::new();
    for stretch in found {
        let count = words(&stretch).count();
        let is_default = replaced_by
            .as_ref()
            .is_some_and(|others| count > 0 && !others.contains(&stretch));
        if (count >= WORDS_OF_TEXT || is_default) && !inserted.contains(&stretch) {
            inserted.push(stretch);
        }
    }
    inserted
}

/// What stands between control tokens and given texts, without the name of the role that it may begin with.
fn stretches(rendered: &str, given: &[&str], control: Option<&Regex>) -> Vec<String> {
    // No text holds this: it is what is cut at.
    const CUT: &str = "\0";
    let mut text = rendered.to_string();
    for given in given {
        text = text.replace(given, CUT);
    }
    if let Some(control) = control {
        text = control.replace_all(&text, CUT).into_owned();
    }
    if let Ok(control) = Regex::new(LOOKS_LIKE_CONTROL) {
        text = control.replace_all(&text, CUT).into_owned();
    }
    let parts = text.split(CUT).map(without_role);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_string)
        .collect()
}

fn without_role(stretch: &str) -> &str {
    let stretch = stretch.trim();
    match stretch.split_once(['\n', ':']) {
        Some((first, rest)) if is_role(first.trim().trim_start_matches('#').trim()) => rest.trim(),
        _ => stretch,
    }
}

fn is_role(word: &str) -> bool {
    ROLES.iter().any(|role| word.eq_ignore_ascii_case(role))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
    words.filter(|word| word.contains(char::is_alphabetic) && !is_role(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: [&str; 2] = ["the-prompt", "the-system"];

    fn found(rendered: &str, with_system: Option<&str>) -> Vec<String> {
        let control = Regex::new(r"<\|im_start\|>|<\|im_end\|>|<\|eot_id\|>").unwrap();
        inserted(rendered, with_system, &GIVEN, Some(&control))
    }

    #[test]
    fn scaffolding_is_no_text() {
        for rendered in [
            "<|im_start|>system\nthe-system<|im_end|>\n<|im_start|>user\nthe-prompt<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\nthe-prompt<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<s>[INST] <<SYS>>\nthe-system\n<</SYS>>\n\nthe-prompt [/INST]",
            "### Human: the-prompt\n### Assistant:",
            "<start_of_turn>user\nthe-prompt<end_of_turn>\n<start_of_turn>model\n",
            "<|start|>user<|message|>the-prompt<|end|><|start|>assistant<|channel|>final<|message|>",
        ] {
            assert_eq!(found(rendered, None), [""; 0], "{rendered}");
        }
    }

    #[test]
    fn a_default_system_message_is_text_however_short() {
        let with = "<|im_start|>system\nthe-system<|im_end|>\n<|im_start|>user\nthe-prompt<|im_end|>\n<|im_start|>assistant\n";
        let without = "<|im_start|>user\nthe-prompt<|im_end|>\n<|im_start|>assistant\n".to_string();
        assert_eq!(found(&without, Some(with)), [""; 0]);
        for default in ["You are Qwen, created by Alibaba Cloud.", "Be brief."] {
            let rendered = format!("<|im_start|>system\n{default}<|im_end|>\n{without}");
            assert_eq!(found(&rendered, Some(with)), [default]);
        }
    }

    #[test]
    fn a_date_before_the_given_system_message_is_text() {
        let rendered = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nthe-system<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nthe-prompt<|eot_id|>";
        assert_eq!(
            found(rendered, None),
            ["Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024"]
        );
    }
}
