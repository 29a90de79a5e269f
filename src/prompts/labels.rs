//! A table that says of prompts which group each is in: `id,label`, in the formats of prompt files.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::collect::{Collector, Rows};
use super::error::{Problem, quoted};
use super::{Columns, Prompt, PromptErrors, PromptSet, read_rows, reader_for};

/// The labels of some prompts of a set.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    by_id: HashMap<String, String>,
    /// What a reader should know of how the file was read.
    pub(crate) notes: Vec<String>,
}

impl Labels {
    /// The labels in the content of a file of that name. Prompts that it does not name have none; ids are looked for as in prompt files, the
    /// label in `label`.
    ///
    /// # Errors
    /// All that is wrong with the file at once, as for a file of prompts, and ids that no prompt of the set has.
    pub(crate) fn read(path: &Path, content: &[u8], set: &PromptSet) -> Result<Self, PromptErrors> {
        let collector = Collector::of(Rows::Labels, &Columns::default());
        let found = read_rows(content, reader_for(path)?, collector);
        let (rows, mut problems, notes) = (found.prompts, found.problems, found.notes);
        if rows.is_empty() && problems.is_empty() {
            let message = "no labels in the file; expected rows with an `id` and a `label`";
            return Err(PromptErrors::whole_file(path, message.to_owned()));
        }
        let known: HashSet<&str> = set.prompts.iter().map(|p| p.id.as_str()).collect();
        let unknown = rows.iter().filter(|row| !known.contains(row.id.as_str()));
        let problem = |row: &Prompt| Problem {
            line: Some(row.line),
            column: None,
            message: format!(
                "no prompt of the set has the id {}; take the row out, or correct its id",
                quoted(&row.id)
            ),
        };
        problems.extend(unknown.map(problem));
        problems.sort_by_key(|problem| problem.line);
        match problems.is_empty() {
            true => Ok(Labels {
                by_id: rows.into_iter().map(|row| (row.id, row.text)).collect(),
                notes,
            }),
            false => Err(PromptErrors {
                path: path.to_owned(),
                problems,
            }),
        }
    }

    /// The label of each prompt of the set; none of one that the table does not name.
    pub(crate) fn of(&self, set: &PromptSet) -> Vec<Option<String>> {
        let label = |prompt: &Prompt| self.by_id.get(&prompt.id).cloned();
        set.prompts.iter().map(label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> PromptSet {
        let text = "{\"id\": 1, \"prompt\": \"a\"}\n{\"id\": \"b\", \"prompt\": \"b\"}\n";
        PromptSet::parse_jsonl(Path::new("p.jsonl"), text).unwrap()
    }

    fn read(name: &str, text: &str) -> Result<Vec<Option<String>>, Vec<String>> {
        let labels = Labels::read(Path::new(name), text.as_bytes(), &set());
        labels
            .map(|labels| labels.of(&set()))
            .map_err(|errors| errors.to_string().lines().map(String::from).collect())
    }

    #[test]
    fn labels_are_read_from_both_formats_and_need_not_name_every_prompt() {
        let found = Ok(vec![Some("x y".to_string()), None]);
        assert_eq!(
            read("l.csv", "label,id,note\r\n\"x y\",1,\"a, b\"\r\n"),
            found
        );
        assert_eq!(read("l.jsonl", "{\"id\": 1, \"label\": \"x y\"}"), found);
    }

    #[test]
    fn how_the_file_was_read_is_said_as_of_prompts() {
        let read = |content: &[u8]| Labels::read(Path::new("l.csv"), content, &set()).unwrap();
        assert!(read(b"id,label\n1,x\n").notes.is_empty());
        let wide = "\u{feff}id;label\n1;x\n".encode_utf16();
        let wide: Vec<u8> = wide.flat_map(u16::to_be_bytes).collect();
        let labels = read(&wide);
        assert_eq!(labels.of(&set())[0].as_deref(), Some("x"));
        assert!(labels.notes[0].contains("UTF-16 (big-endian)"));
        assert!(labels.notes[1].contains("semicolons"));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let starts = |name, text: &str, starts: &[&str]| {
            let told = read(name, text).unwrap_err();
            assert_eq!(told.len(), starts.len(), "{told:#?}");
            for (line, start) in told.iter().zip(starts) {
                assert!(line.starts_with(start), "{told:#?}");
            }
        };
        let unknown = "no prompt of the set has the id";
        starts(
            "l.csv",
            "id,label\n1,x\nc,y\nd,y\n",
            &[
                &format!("l.csv:3: {unknown} `c`; "),
                &format!("l.csv:4: {unknown} `d`; "),
            ],
        );
        starts(
            "l.csv",
            "id,label\n1,x\n1,y\nc,y\nb, \n",
            &[
                "l.csv:3: duplicate `id` `1`, first used in line 2; ",
                "l.csv:4: no prompt of the set has the id `c`; ",
                "l.csv:5: empty `label`; ",
            ],
        );
        starts(
            "l.csv",
            "id,group\n1,x\n",
            &["l.csv:1: the header has no column `label`; "],
        );
        starts(
            "l.jsonl",
            "[1]",
            &[
                "l.jsonl:1: found `[1]`; expected a JSON object such as `{\"id\": \"e1\", \"label\": \"…\"}`",
            ],
        );
        starts("l.csv", "id,label\n", &["l.csv: no labels in the file; "]);
    }
}
