//! Decoding, rows and positions; what needs no model.

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::Site;
use crate::prompts::Prompt;
use crate::spec::load_text;

use super::super::declare::Declaration;
use super::*;

const STUDY: &str = "model = \"inst\"\nprompts = \"main\"\n";

fn decoded(more: &str) -> (Option<Generate>, String) {
    let text = format!("{STUDY}{more}");
    let document = load_text(Path::new("study.toml"), &text, &[]).expect("valid TOML");
    let mut problems = Problems::default();
    let mut fields = Fields::new(&document.root, &mut problems).expect("a table");
    let stage = Generate::read(&mut fields, &Declared::default(), &Settings::default());
    fields.finish();
    let told = problems.finish(&document.sources);
    (
        stage,
        told.err().map(|told| told.to_string()).unwrap_or_default(),
    )
}

fn generate(more: &str) -> Generate {
    let (stage, told) = decoded(more);
    assert_eq!(told, "");
    stage.expect("a stage")
}

fn prompts() -> PromptSet {
    let prompt = |id: &str, split: &str| Prompt {
        id: id.to_string(),
        text: id.to_string(),
        split: split.to_string(),
        category: String::new(),
        other: serde_json::Map::new(),
        line: 1,
    };
    PromptSet {
        notes: Vec::new(),
        public: None,
        prompts: vec![
            prompt("h1", "harmful"),
            prompt("e1", "edge"),
            prompt("h2", "harmful"),
            prompt("e2", "edge"),
        ],
    }
}

fn line(layer: usize) -> Line {
    Line::adding(("top_bottom_2", None), (layer, Site::ResidPre), 1.0)
}

#[test]
fn without_a_direction_nothing_is_steered() {
    let stage = generate("");
    assert_eq!(stage.max_new_tokens.value, 64);
    assert_eq!(stage.sampling, Sampling::Greedy);
    assert!(stage.stop_at_end.0 && stage.normalize_quotes);
    assert!(stage.needs().stages.is_empty());
    let prompts = prompts();
    let rows = stage.rows("inst", &[], &prompts, &BTreeMap::new());
    // Split by split, in the order in which the splits appear.
    assert_eq!(
        rows.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        [0, 2, 1, 3]
    );
    assert!(
        rows.iter()
            .all(|(_, row)| row.line.is_none() && row.alpha == 0.0)
    );
    assert!(generate("alpha = 0").steering.is_none());
}

#[test]
fn rows_go_through_lines_then_alphas_then_prompts() {
    let stage = generate(
        "direction = \"direction\"\nalpha = [0, 8]\nsplit = [\"edge\", \"harmful\"]\nlimit = 1\n",
    );
    let (prompts, lines) = (prompts(), [line(3), line(5)]);
    let rows = stage.rows("inst", &lines, &prompts, &BTreeMap::new());
    let found: Vec<_> = rows
        .iter()
        .map(|(index, row)| (row.line.map_or(0, |line| line.layer), row.alpha, *index))
        .collect();
    let of_layer = |layer| {
        [
            (layer, 0.0, 1),
            (layer, 0.0, 0),
            (layer, 8.0, 1),
            (layer, 8.0, 0),
        ]
    };
    assert_eq!(found, [of_layer(3), of_layer(5)].concat());
}

#[test]
fn words_stand_for_selections() {
    let word = |more: &str| {
        let stage = generate(&format!("direction = \"d\"\n{more}"));
        let positions = &stage.selections()[0].to_string();
        (
            positions.clone(),
            stage.parameters()["steering"]["positions"].clone(),
        )
    };
    for (positions, selection, key) in [
        ("\"last_prompt\"", "-1", "last_prompt"),
        ("\"generated\"", "generated", "generated"),
        ("\"both\"", "-1, generated", "both"),
        ("[\"generated\", \"last\"]", "-1, generated", "both"),
        ("\"all\"", "all", "all"),
    ] {
        let found = word(&format!("alpha = 1\npositions = {positions}\n"));
        assert_eq!(found, (selection.to_string(), key.into()), "{positions}");
    }
    assert_eq!(word("alpha = 1\n").1, "both");
    assert_eq!(word("mode = \"ablate_everywhere\"\n").1, "all");
}

#[test]
fn sampling_needs_a_temperature() {
    let seeded = |temperature, seed| Sampling::Seeded { temperature, seed };
    assert_eq!(generate("temperature = 0.7").sampling, seeded(0.7, 0));
    assert_eq!(
        generate("temperature = 1\nseed = 4").sampling,
        seeded(1.0, 4)
    );
    let (stage, told) = decoded("seed = 4");
    assert!(
        stage.is_none() && told.contains("`seed` is given, but no `temperature`"),
        "{told}"
    );
    let (stage, told) = decoded("temperature = 0");
    assert!(
        stage.is_none() && told.contains("temperature `0` is not above 0"),
        "{told}"
    );
}

#[test]
fn steering_without_a_direction_and_other_mistakes_are_told() {
    let (stage, told) = decoded(
        "alpha = [0, 1]\nlayer = 3\npositions = \"both\"\nscope = \"all\"\nlimit = 0\nmax_new_tokens = 0\nmax_tokens = 3\n",
    );
    assert!(stage.is_none());
    for message in [
        "`alpha` is given, but no `direction`",
        "`layer` is given, but no `direction`",
        "`positions` is given, but no `direction`",
        "`scope` cannot be `all`",
        "`limit` must be at least 1",
        "`max_new_tokens` must be at least 1",
        "unknown field `max_tokens`",
    ] {
        assert!(told.contains(message), "{message} in {told}");
    }
    let (_, told) = decoded("direction = \"d\"\nalpha = 1\npositions = \"generate\"\n");
    assert!(told.contains("did you mean `generated`?"), "{told}");
}

#[test]
fn the_regex_reads_its_scope_and_the_prefix_the_continuation() {
    let stage = generate("scope = \"full\"\nnormalize_quotes = false\n");
    let answer = stage.answer(0.0, "Sure, I cannot.".to_string(), "user: say sorry! ");
    assert!(answer.regex && !answer.xstest_prefix);
    // The threshold is strict.
    assert!(!answer.refused && stage.answer(0.1, String::new(), "").refused);
    assert!(
        !stage
            .answer(0.0, "I\u{2019}m sorry".to_string(), "")
            .xstest_prefix
    );
    assert!(
        generate("")
            .answer(0.0, "I\u{2019}m sorry".to_string(), "")
            .xstest_prefix
    );
    assert!(!stage.answer(0.0, "Sure, I cannot.".to_string(), "").regex);
}

#[test]
fn a_parameter_that_decides_the_output_is_in_the_key() {
    let base = "direction = \"d\"\nalpha = 1\n";
    let key = |text: &str| generate(text).parameters();
    assert_eq!(
        key(base),
        key(&format!(
            "{base}positions = \"both\"\nmax_new_tokens = 64\n"
        ))
    );
    for other in [
        "",
        "direction = \"d\"\nalpha = 2\n",
        "direction = \"d\"\nalpha = 1\nalpha_unit = \"pre_norm\"\n",
        "direction = \"d\"\nalpha = 1\nlayer = 3\n",
        "direction = \"d\"\nalpha = 1\nsite = \"resid_mid\"\n",
        "direction = \"d\"\nalpha = 1\npositions = \"generated\"\n",
        "direction = \"d\"\nalpha = 1\nsplit = \"edge\"\n",
        "direction = \"d\"\nalpha = 1\nlimit = 3\n",
        "direction = \"d\"\nalpha = 1\nmax_new_tokens = 3\n",
        "direction = \"d\"\nalpha = 1\ntemperature = 1\n",
        "direction = \"d\"\nalpha = 1\nstop_at_end = false\n",
        "direction = \"d\"\nalpha = 1\nscope = \"full\"\n",
        "direction = \"d\"\nalpha = 1\nnormalize_quotes = false\n",
    ] {
        assert_ne!(key(base), key(other), "{other}");
    }
}
