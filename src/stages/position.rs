//! Which tokens of a prompt a stage acts on or reads: one language for every stage that takes a place.
//!
//! A selection is made of parts: an index from either end, a half-open window of them, `last`, `instruction_end`, `post_instruction`, `all`,
//! `generated`. A list is all of its parts together; what is excluded is taken out whatever includes it. Windows count as indices do: from the
//! start where they are 0 or more, from the end where they are below; `generated` are the tokens behind the prompt. (The words follow Arditi et
//! al., arXiv:2406.11717, who read directions at each token of the template behind the instruction, and Zhao et al., arXiv:2507.11878, who read
//! at the instruction's last token, too.)

mod part;
mod read;

use std::ops::Range;

use crate::model::{BehindInstruction, Chat, ModelHandle, Positions, Tokens};
use crate::prompts::Prompt;
use crate::spec::{Fields, Node, Problems, Spanned};

use super::StageError;
use super::declare::{Declared, Field, FieldType, KeyParts, Parameter};

use part::Part;

/// Which tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selection {
    /// Ascending, each once.
    include: Vec<Part>,
    exclude: Vec<Part>,
}

/// Where a selection is read of a model's prompts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    behind: Option<BehindInstruction>,
}

impl Layout {
    /// Of a model in a chat; what the template writes is worked out only where the selection asks for it.
    ///
    /// # Errors
    /// Those of rendering and cutting into tokens.
    pub(crate) fn of(
        selection: &Selection,
        model: &ModelHandle,
        chat: &Chat,
    ) -> Result<Self, StageError> {
        let behind = match selection.asks_for_the_instruction() {
            true => Some(model.behind_instruction(chat)?),
            false => None,
        };
        Ok(Layout { behind })
    }

    /// Of selections that do not ask for the instruction.
    pub(crate) fn none() -> Self {
        Layout { behind: None }
    }

    /// What a reader should know of the instruction's end on this model, as a fragment that follows its name.
    pub(crate) fn finding(&self) -> Option<String> {
        let merges = self.behind.is_some_and(|behind| behind.can_merge);
        merges.then(|| {
            "the last token of an instruction can become one with the first that the chat template writes behind it, so that \
             `instruction_end` and `post_instruction` may be off by a token in some prompts"
                .to_string()
        })
    }

    fn behind(&self) -> usize {
        self.behind.map_or(0, |behind| behind.tokens)
    }
}

impl Selection {
    /// The last token of the prompt.
    pub(crate) fn last() -> Self {
        Selection {
            include: vec![Part::Index(-1)],
            exclude: Vec::new(),
        }
    }

    /// One token, counted from the end below 0.
    pub(crate) fn index(place: i64) -> Self {
        Selection {
            include: vec![Part::Index(place)],
            exclude: Vec::new(),
        }
    }

    pub(crate) fn all() -> Self {
        Selection {
            include: vec![Part::All],
            exclude: Vec::new(),
        }
    }

    /// Every generated token, with the last of the prompt or without.
    pub(crate) fn generated(with_last: bool) -> Self {
        let last = with_last.then_some(Part::Index(-1));
        Selection {
            include: last.into_iter().chain([Part::Generated]).collect(),
            exclude: Vec::new(),
        }
    }

    pub(crate) fn is_last(&self) -> bool {
        *self == Self::last()
    }

    /// Whether it holds nothing but tokens behind the prompt.
    pub(crate) fn holds_nothing_of_the_prompt(&self) -> bool {
        self.include.iter().all(|part| *part == Part::Generated)
    }

    /// About how many tokens pass through the blocks for one edit there: those from the first selected one to the end of the prompt.
    pub(crate) fn expected_tokens(&self) -> u64 {
        /// Of a prompt.
        const IN_ALL: u64 = 64;
        /// Of what templates write behind an instruction.
        const BEHIND: u64 = 5;
        let back = |part: &Part| match *part {
            Part::Index(from) | Part::Window(from, _) if from < 0 => from.unsigned_abs(),
            Part::Index(_) | Part::Window(..) | Part::All => IN_ALL,
            Part::InstructionEnd => BEHIND + 1,
            Part::PostInstruction => BEHIND,
            Part::Generated => 1,
        };
        self.include.iter().map(back).max().unwrap_or(1)
    }

    /// Whether it has to be known where the instruction ends.
    pub(crate) fn asks_for_the_instruction(&self) -> bool {
        let asks = |part: &Part| matches!(part, Part::InstructionEnd | Part::PostInstruction);
        self.include.iter().chain(&self.exclude).any(asks)
    }

    /// The positions in a prompt of so many tokens; none where it holds none.
    fn positions(&self, layout: &Layout, length: usize) -> Result<Option<Positions>, i64> {
        let ranges = |parts: &[Part]| -> Result<Vec<Range<usize>>, i64> {
            parts
                .iter()
                .map(|part| part.range(layout, length))
                .collect()
        };
        let (mut left, without) = (ranges(&self.include)?, ranges(&self.exclude)?);
        for gap in without.iter().filter(|gap| !gap.is_empty()) {
            let cut = |range: Range<usize>| {
                [
                    range.start..range.end.min(gap.start),
                    range.start.max(gap.end)..range.end,
                ]
            };
            left = left.into_iter().flat_map(cut).collect();
        }
        let left = left.into_iter().map(|range| (range.start, range.end));
        Ok(Positions::of(left))
    }

    /// The positions in a prompt.
    ///
    /// # Errors
    /// A prompt that has no such position, or none of the selection.
    pub(crate) fn of(
        &self,
        layout: &Layout,
        tokens: &Tokens,
        prompt: &Prompt,
    ) -> Result<Positions, StageError> {
        let length = tokens.len();
        let found = self.positions(layout, length).map_err(|index| {
            StageError::Data(format!(
                "prompt `{}` has {length} tokens, so it has no position `{index}`",
                prompt.id
            ))
        })?;
        found.ok_or_else(|| {
            StageError::Data(format!(
                "prompt `{}` has {length} tokens, none of which is selected by `{self}`",
                prompt.id
            ))
        })
    }

    /// The single places that it names, in every prompt the same: ascending, those counted from the start first. None where prompts of different
    /// length have different numbers of them.
    pub(crate) fn places(&self, layout: &Layout) -> Option<Vec<i64>> {
        let behind = layout.behind() as i64;
        let list = |parts: &[Part]| -> Option<Vec<i64>> {
            let mut places = Vec::new();
            for part in parts {
                places.extend(match *part {
                    Part::Index(index) => index..index + 1,
                    Part::InstructionEnd => -behind - 1..-behind,
                    Part::PostInstruction => -behind..0,
                    Part::Window(start, None) if start < 0 => start..0,
                    Part::Window(start, Some(end)) if (start < 0) == (end < 0) => start..end,
                    Part::Window(..) | Part::All | Part::Generated => return None,
                });
            }
            Some(places)
        };
        let (mut places, without) = (list(&self.include)?, list(&self.exclude)?);
        places.retain(|place| !without.contains(place));
        // Below 0 is behind whatever is not.
        places.sort_unstable_by_key(|place| (*place < 0, *place));
        places.dedup();
        Some(places)
    }

    /// The tokens at its places in a prompt, as the vocabulary spells them; empty where they are many, or not the same number in every prompt.
    pub(crate) fn spelled(&self, layout: &Layout, tokens: &Tokens, model: &ModelHandle) -> String {
        /// More are no help.
        const MOST: usize = 8;
        let places = self.places(layout).unwrap_or_default();
        if places.len() > MOST {
            return String::new();
        }
        let ids = tokens.ids();
        let spelled = places.iter().filter_map(|place| {
            let at = match *place < 0 {
                true => ids.len().checked_add_signed(*place as isize)?,
                false => *place as usize,
            };
            Some(model.spelling(*ids.get(at)?))
        });
        spelled.collect::<Vec<String>>().join(" ")
    }

    /// In a table: the number of the place, the range of the places, or as the study says it.
    pub(crate) fn numbered(&self, layout: &Layout) -> String {
        match self.places(layout).as_deref() {
            Some([place]) => place.to_string(),
            Some([first, .., last])
                if (*first < 0) == (*last < 0)
                    && self.places(layout).map(|p| p.len() as i64) == Some(last - first + 1) =>
            {
                match *last {
                    -1 => format!("{first}.."),
                    last => format!("{first}..{}", last + 1),
                }
            }
            _ => self.to_string(),
        }
    }
}

/// As a study says it, in one line.
impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |parts: &[Part]| {
            let parts: Vec<String> = parts.iter().map(Part::to_string).collect();
            parts.join(", ")
        };
        f.write_str(&list(&self.include))?;
        match self.exclude.is_empty() {
            true => Ok(()),
            false => write!(f, " without {}", list(&self.exclude)),
        }
    }
}

/// Which tokens of the prompt; the last where the study does not say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position(pub(crate) Spanned<Selection>);

impl std::ops::Deref for Position {
    type Target = Selection;

    fn deref(&self) -> &Selection {
        &self.0.value
    }
}

impl Position {
    /// Checks that it holds a token of the prompt, for what acts on nothing else.
    pub(super) fn check_of_prompt(&self, problems: &mut Problems) {
        if self.holds_nothing_of_the_prompt() {
            problems
                .error_at(
                    &self.0.at,
                    "`generated` holds no token of the prompt, and nothing is generated here",
                )
                .label("edits nothing")
                .help("add `\"last\"`, or use a `generate` stage");
        }
    }
}

impl Parameter for Position {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, _: &super::Settings) -> Option<Self> {
        let given = fields.node(declared.name).is_some();
        let selection = match given {
            true => fields.required(declared.name)?,
            false => Spanned {
                value: match is_everywhere(fields) {
                    true => Selection::all(),
                    false => Selection::last(),
                },
                at: fields.at.clone(),
            },
        };
        Some(Position(selection))
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        key.insert(name.to_string(), self.0.key());
    }

    fn list(declared: &Declared) -> Vec<Field> {
        <Spanned<Selection> as Parameter>::list(declared)
    }
}

/// The `mode` that acts on every token unless the study says something else.
pub(super) const EVERYWHERE: &str = "ablate_everywhere";

/// Whether what is done is done to every token unless something else is said.
fn is_everywhere(fields: &mut Fields<'_, '_>) -> bool {
    fields.peek("mode").and_then(Node::as_str) == Some(EVERYWHERE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::spec::{Decode, load_text};

    fn decoded(value: &str) -> Result<Selection, String> {
        let text = format!("x = {value}\n");
        let document = load_text(Path::new("s.toml"), &text, &[]).unwrap();
        let mut problems = Problems::default();
        let node = document.root.as_table().unwrap().get("x").unwrap();
        let decoded = Selection::decode(node, &mut problems);
        match problems.finish(&document.sources) {
            Ok(()) => Ok(decoded.unwrap()),
            Err(problems) => Err(problems.to_string()),
        }
    }

    /// Five tokens behind the instruction.
    const LAYOUT: Layout = Layout {
        behind: Some(BehindInstruction {
            tokens: 5,
            can_merge: false,
        }),
    };

    fn ranges(value: &str, length: usize) -> Vec<(usize, usize)> {
        let found = decoded(value).unwrap().positions(&LAYOUT, length).unwrap();
        found.map_or(Vec::new(), |positions| positions.ranges().collect())
    }

    const OPEN: usize = Positions::OPEN;

    #[test]
    fn every_part_names_its_tokens() {
        for (value, expected) in [
            ("-1", vec![(11, 12)]),
            ("\"last\"", vec![(11, 12)]),
            ("0", vec![(0, 1)]),
            ("\"instruction_end\"", vec![(6, 7)]),
            ("\"post_instruction\"", vec![(7, 12)]),
            ("\"-5..\"", vec![(7, 12)]),
            ("\"-5..-1\"", vec![(7, 11)]),
            ("\"2..-2\"", vec![(2, 10)]),
            ("\"..3\"", vec![(0, 3)]),
            ("\"all\"", vec![(0, OPEN)]),
            ("\"generated\"", vec![(12, OPEN)]),
            ("[\"last\", \"generated\"]", vec![(11, OPEN)]),
            (
                "[0, \"instruction_end\", -1]",
                vec![(0, 1), (6, 7), (11, 12)],
            ),
            (
                "{ include = \"all\", exclude = \"generated\" }",
                vec![(0, 12)],
            ),
            (
                "{ include = \"all\", exclude = [0, \"post_instruction\"] }",
                vec![(1, 7), (12, OPEN)],
            ),
            ("{ include = -1, exclude = \"last\" }", vec![]),
            ("\"-40..\"", vec![(0, 12)]),
        ] {
            assert_eq!(ranges(value, 12), expected, "{value}");
        }
        let absent = decoded("-13").unwrap().positions(&LAYOUT, 12);
        assert_eq!(absent, Err(-13));
    }

    #[test]
    fn single_places_are_the_same_in_every_prompt() {
        let places = |value| decoded(value).unwrap().places(&LAYOUT);
        assert_eq!(places("\"post_instruction\""), Some((-5..0).collect()));
        assert_eq!(
            places("[0, -1, \"instruction_end\"]"),
            Some(vec![0, -6, -1])
        );
        let without = "{ include = \"post_instruction\", exclude = -2 }";
        assert_eq!(places(without), Some(vec![-5, -4, -3, -1]));
        assert_eq!((places("\"all\""), places("\"2..-1\"")), (None, None));
        let numbered = |value| decoded(value).unwrap().numbered(&LAYOUT);
        assert_eq!(numbered("\"post_instruction\""), "-5..");
        assert_eq!(numbered("\"-5..-1\""), "-5..-1");
        assert_eq!(numbered("\"instruction_end\""), "-6");
        assert_eq!(numbered(without), "post_instruction without -2");
    }

    #[test]
    fn the_last_token_has_the_key_that_it_always_had() {
        let key = |value| decoded(value).unwrap().key();
        assert_eq!((key("-1"), key("\"last\"")), (json!(-1), json!(-1)));
        assert_eq!(key("-3"), json!("-3"));
        assert_eq!(key("[\"generated\", -1]"), key("[\"last\", \"generated\"]"));
    }

    #[test]
    fn what_selects_nothing_and_what_is_no_selection_is_told() {
        let told = |value: &str| decoded(value).unwrap_err();
        assert!(told("\"-1..-5\"").contains("an empty window"));
        assert!(told("[]").contains("an empty list"));
        assert!(told("\"lst\"").contains("did you mean `last`?"));
        assert!(told("{ exclude = -1 }").contains("no field `include`"));
        assert!(told("1.5").contains("not an index"));
    }
}
