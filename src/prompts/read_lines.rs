//! Plain text: a prompt on each line, without white space around it; blank lines are skipped.

use super::collect::Collector;
use super::read_jsonl::{NAMES, bad_utf8_at};

/// Reads every line of a file's content (in UTF-8, without byte order mark).
pub(super) fn read(content: &[u8], collector: &mut Collector) {
    let names = collector.names(NAMES);
    for (index, bytes) in content.split(|&byte| byte == b'\n').enumerate() {
        match std::str::from_utf8(bytes).map(str::trim) {
            Ok("") => {}
            Ok(text) => collector.add_text(index + 1, text, &names),
            Err(_) => collector.report(index + 1, bad_utf8_at("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Columns, PromptErrors, PromptSet};

    fn read(content: &[u8], columns: &Columns) -> Result<PromptSet, PromptErrors> {
        PromptSet::read_as(Path::new("p.txt"), content, columns)
    }

    #[test]
    fn every_line_is_a_prompt_with_an_id_of_its_own() {
        let set = read(
            b"\xEF\xBB\xBFIs it late?\r\n\n \"Why\", he said \nIs it late?",
            &Columns::default(),
        );
        let set = set.unwrap();
        let prompts: Vec<(&str, usize)> = set
            .prompts
            .iter()
            .map(|p| (p.text.as_str(), p.line))
            .collect();
        assert_eq!(
            prompts,
            [
                ("Is it late?", 1),
                ("\"Why\", he said", 3),
                ("Is it late?", 4)
            ]
        );
        assert_eq!(set.prompts[2].id, format!("{}-2", set.prompts[0].id));
    }

    #[test]
    fn what_no_line_has_is_told() {
        let told =
            |content: &[u8], columns: &Columns| read(content, columns).unwrap_err().to_string();
        let usual = Columns::default();
        assert!(told(b" \n\n", &usual).starts_with("p.txt: no prompts in the file"));
        assert!(told(b"a\n\xFF", &usual).starts_with("p.txt:2: bad UTF-8"));
        let split = Columns {
            split: Some("label".to_string()),
            ..usual
        };
        assert!(told(b"a\n", &split).contains("no row has a field `label`"));
    }
}
