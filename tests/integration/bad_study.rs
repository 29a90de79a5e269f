//! Studies that cannot be done as written: every problem is told, with its place and what to do, before a model is touched.

mod command_line;
mod parts;
mod rules;
mod sizes;

use std::sync::OnceLock;

use insta::assert_snapshot;

use crate::prompts::main_set;
use crate::workbench::Workbench;

const STUDY: &str = r#"[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 4
layer = [2]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-2, 0, 2]
"#;

fn bench() -> &'static Workbench {
    static BENCH: OnceLock<Workbench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let bench = Workbench::new(&main_set(12, 8));
        bench.write("sound.toml", STUDY);
        bench
    })
}

/// What the program says to a study; nothing may be computed or left in `runs`.
#[track_caller]
fn refusal_of(name: &str, study: &str, arguments: &[&str]) -> String {
    // Of a file that several tests read none writes again.
    if !std::fs::read_to_string(bench().path(name)).is_ok_and(|there| there == study) {
        bench().write(name, study);
    }
    let mut all = vec!["run", name, "--threads", "1", "--runs", "never"];
    all.extend(arguments);
    let said = bench().dial(&all);
    assert!(!bench().path("never").exists(), "a run was begun");
    said.message(2).to_string()
}

/// What the program says to the study after a change.
#[track_caller]
fn refusal(from: &str, to: &str) -> String {
    assert!(STUDY.contains(from), "`{from}` is not in the study");
    // Tests run side by side.
    let name = format!("{}.toml", blake3::hash(to.as_bytes()).to_hex());
    refusal_of(&name, &STUDY.replacen(from, to, 1), &[]).replace(&name, "study.toml")
}

/// What the program says to the study with an override.
#[track_caller]
fn refusal_of_set(text: &str) -> String {
    refusal_of("sound.toml", STUDY, &["--set", text]).replace("sound.toml", "study.toml")
}

#[test]
fn a_cycle() {
    let message = refusal("scores = \"score\"", "scores = \"direction\"");
    assert_snapshot!(message, @r#"
    error: stage `direction` wants scores, but `direction` gives directions
      --> study.toml:11:10
       |
    11 | scores = "direction"
       |          ^^^^^^^^^^^ expected a stage that gives scores
       |
       = help: these do: `score`

    error: stage `direction` waits for itself
      --> study.toml:11:10
       |
    11 | scores = "direction"
       |          ^^^^^^^^^^^ this reference closes the circle
    "#);
    let two = "[stages.a]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"b\"\nalpha = 1\n\
               [stages.b]\nkind = \"holdout\"\nmodel = \"inst\"\ndirection_model = \"inst\"\nprompts = \"main\"\nscores = \"a\"\n\
               split = \"edge\"\ncompare = \"harmful\"\nseed = 0\nn = 2\nlayer = 2\nalpha = 1\n[stages.score]";
    assert_snapshot!(refusal("[stages.score]", two), @r#"
    error: stages `a` and `b` wait for each other
     --> study.toml:9:13
      |
    9 | direction = "b"
      |             ^^^ this reference closes the circle

    error: stage `b` wants scores, but `a` gives a sweep of steered scores
      --> study.toml:16:10
       |
    16 | scores = "a"
       |          ^^^ expected a stage that gives scores
       |
       = help: these do: `score`
    "#);
}

#[test]
fn unknown_names() {
    assert_snapshot!(refusal("model = \"inst\"", "model = \"isnt\""), @r#"
    error: there is no model `isnt`
     --> study.toml:6:9
      |
    6 | model = "isnt"
      |         ^^^^^^ did you mean `inst`?
    "#);
    assert_snapshot!(refusal("prompts = \"main\"", "prompts = \"other\""), @r#"
    error: there is no prompt set `other`
     --> study.toml:7:11
      |
    7 | prompts = "other"
      |           ^^^^^^^ the study has `main`
    "#);
    assert_snapshot!(refusal("scores = \"score\"", "scores = \"scores\""), @r#"
    error: there is no stage `scores`
      --> study.toml:11:10
       |
    11 | scores = "scores"
       |          ^^^^^^^^ did you mean `score`?
    "#);
    assert_snapshot!(refusal("source = \"models/inst\"", "source = \"models/inst\"\ntemplate_from = \"base\""), @r#"
    error: there is no model `base`
     --> study.toml:3:17
      |
    3 | template_from = "base"
      |                 ^^^^^^ the study has `inst`
    "#);
}

#[test]
fn a_stage_that_is_given_the_wrong_thing() {
    assert_snapshot!(refusal("direction = \"direction\"", "direction = \"score\""), @r#"
    error: stage `steer` wants directions, but `score` gives scores
      --> study.toml:18:13
       |
    18 | direction = "score"
       |             ^^^^^^^ expected a stage that gives directions
       |
       = help: these do: `direction`
    "#);
}

#[test]
fn a_layer_that_the_model_has_not() {
    assert_snapshot!(refusal("layer = [2]", "layer = [2, 4]"), @r"
    error: layer `4` is out of range for model `inst`
      --> study.toml:14:13
       |
    14 | layer = [2, 4]
       |             ^ the model has 4 layers, 0 to 3
    ");
    assert_snapshot!(refusal("layer = [2]", "layer = \"0..9\""), @r#"
    error: layer `4` is out of range for model `inst`
      --> study.toml:14:9
       |
    14 | layer = "0..9"
       |         ^^^^^^ the model has 4 layers, 0 to 3
    "#);
}

#[test]
fn unknown_fields_kinds_and_sections() {
    assert_snapshot!(refusal("alpha = [-2, 0, 2]", "alfa = [-2, 0, 2]"), @r"
    error: `stages.steer` has no field `alpha`
      --> study.toml:15:1
       |
    15 | [stages.steer]
       | ^^^^^^^^^^^^^^ `alpha` is missing
       |
       = help: give it a number or a list

    error: `stages.steer` has an unknown field `alfa`
      --> study.toml:19:1
       |
    19 | alfa = [-2, 0, 2]
       | ^^^^ unknown field
       |
       = help: known fields: `kind`, `model`, `prompts`, `direction`, `layer`, `together`, `site`, `mode`, `alpha`, `alpha_unit`, `plane`, `with`, `when`, `position`, `read`, `chat`
    ");
    assert_snapshot!(refusal("[stages.steer]", "[stages.stear]"), @r"
    error: stage `stear` has no field `kind`
      --> study.toml:15:1
       |
    15 | [stages.stear]
       | ^^^^^^^^^^^^^^ did you mean the stage `steer`?
       |
       = help: a stage that is not named after its kind needs `kind`, one of `score`, `generate`, `patch`, `activations`, `direction`, `vector`, `combine`, `select`, `condition`, `independence`, `steer`, `holdout`, `random`, `xstest`, `cost`, `summary`, `import`
    ");
    assert_snapshot!(refusal("[stages.steer]", "[stages.steer]\nkind = \"push\""), @r#"
    error: `stages.steer.kind` cannot be `push`
      --> study.toml:16:8
       |
    16 | kind = "push"
       |        ^^^^^^ not a known name
       |
       = help: it is one of `score`, `generate`, `patch`, `activations`, `direction`, `vector`, `combine`, `select`, `condition`, `independence`, `steer`, `holdout`, `random`, `xstest`, `cost`, `summary`, `import`
    "#);
    assert_snapshot!(refusal("[stages.steer]", "[stage.steer]"), @r"
    error: the study has an unknown field `stage`
      --> study.toml:15:2
       |
    15 | [stage.steer]
       |  ^^^^^ did you mean `stages`?
       |
       = help: known fields: `study`, `models`, `prompts`, `chat`, `score`, `import`, `stages`
    ");
}

#[test]
fn wrong_types_and_values() {
    assert_snapshot!(refusal("n = 4", "n = \"four\""), @r#"
    error: `stages.direction.n` is the string `four`, not an integer of 0 or more
      --> study.toml:13:5
       |
    13 | n = "four"
       |     ^^^^^^ expected an integer of 0 or more
    "#);
    assert_snapshot!(refusal("n = 4", "n = -4"), @r"
    error: `stages.direction.n` is the integer `-4`, not an integer of 0 or more
      --> study.toml:13:5
       |
    13 | n = -4
       |     ^^ expected an integer of 0 or more
    ");
    assert_snapshot!(refusal("alpha = [-2, 0, 2]", "alpha = [-2, 0, 0]"), @r"
    error: `stages.steer.alpha` holds the integer `0` twice
      --> study.toml:19:17
       |
    19 | alpha = [-2, 0, 0]
       |              -  ^ again here
       |              |
       |              first here
    ");
    assert_snapshot!(refusal("alpha = [-2, 0, 2]", "alpha = []"), @r"
    error: `stages.steer.alpha` is an empty list
      --> study.toml:19:9
       |
    19 | alpha = []
       |         ^^ expected at least one value
    ");
    assert_snapshot!(refusal("n = 4", "n = 4\nsite = \"resid_pro\""), @r#"
    error: `stages.direction.site` cannot be `resid_pro`
      --> study.toml:14:8
       |
    14 | site = "resid_pro"
       |        ^^^^^^^^^^^ did you mean `resid_pre`?
       |
       = help: it is one of `resid_pre`, `attn_out`, `resid_mid`, `mlp_out`, `resid_post`, `hook_resid_pre`, `hook_attn_out`, `hook_resid_mid`, `hook_mlp_out`, `hook_resid_post`
    "#);
    assert_snapshot!(refusal("n = 4", "n = 4\nposition = \"lst\""), @r#"
    error: `stages.direction.position` cannot be `lst`
      --> study.toml:14:12
       |
    14 | position = "lst"
       |            ^^^^^ did you mean `last`?
       |
       = help: it is one of `last`, `instruction_end`, `post_instruction`, `all`, `generated`
    "#);
    assert_snapshot!(refusal("source = \"models/inst\"", "source = \"models/inst\"\ndtype = \"float23\""), @r#"
    error: `models.inst.dtype` cannot be `float23`
     --> study.toml:3:9
      |
    3 | dtype = "float23"
      |         ^^^^^^^^^ did you mean `float32`?
      |
      = help: it is one of `float32`, `bfloat16`, `float16`
    "#);
}

#[test]
fn an_unknown_split() {
    assert_snapshot!(refusal("split = \"edge\"", "split = \"edges\""), @r#"
    error: prompt set `main` has no split `edges`
      --> study.toml:12:9
       |
    12 | split = "edges"
       |         ^^^^^^^ did you mean `edge`?
    "#);
}

#[test]
fn several_problems_at_once() {
    let study = STUDY.replace(
        "model = \"inst\"\nprompts = \"main\"\n[",
        "model = \"insd\"\nprompts = \"mane\"\n[",
    );
    let study = study
        .replace("n = 4", "n = true")
        .replace("[-2, 0, 2]", "\"all\"\nmod = \"ablate\"");
    assert_snapshot!(refusal_of("several.toml", &study, &[]), @r#"
    error: there is no model `insd`
     --> several.toml:6:9
      |
    6 | model = "insd"
      |         ^^^^^^ did you mean `inst`?

    error: there is no prompt set `mane`
     --> several.toml:7:11
      |
    7 | prompts = "mane"
      |           ^^^^^^ the study has `main`

    error: `stages.direction.n` is the boolean `true`, not an integer of 0 or more
      --> several.toml:13:5
       |
    13 | n = true
       |     ^^^^ expected an integer of 0 or more

    error: `stages.steer.alpha` is the string `all`, not a number
      --> several.toml:19:9
       |
    19 | alpha = "all"
       |         ^^^^^ expected a number

    error: `stages.steer` has an unknown field `mod`
      --> several.toml:20:1
       |
    20 | mod = "ablate"
       | ^^^ did you mean `mode`?
       |
       = help: known fields: `kind`, `model`, `prompts`, `direction`, `layer`, `together`, `site`, `mode`, `alpha`, `alpha_unit`, `plane`, `with`, `when`, `position`, `read`, `chat`
    "#);
}

/// What can only be seen in the files is told together too.
#[test]
fn several_problems_of_files_at_once() {
    let study = STUDY
        .replace("models/inst", "models/none")
        .replace("main.jsonl", "none.jsonl");
    assert_snapshot!(refusal_of("files.toml", &study, &[]), @r#"
    error: model `inst` cannot be used: model source `models/none`: `models/none` does not exist; expected a Hugging Face folder, a `.gguf` file, or `hf:org/name@revision`
     --> files.toml:2:10
      |
    2 | source = "models/none"
      |          ^^^^^^^^^^^^^ this source

    error: prompt set `main` cannot be used
     --> files.toml:4:8
      |
    4 | path = "none.jsonl"
      |        ^^^^^^^^^^^^
      |
      = note: none.jsonl: cannot read the prompts: No such file or directory (os error 2); check the `path` of the prompt set
    "#);
    let study = STUDY
        .replace("layer = [2]", "layer = [7]")
        .replace("split = \"edge\"", "split = \"none\"");
    assert_snapshot!(refusal_of("places.toml", &study, &[]), @r#"
    error: prompt set `main` has no split `none`
      --> places.toml:12:9
       |
    12 | split = "none"
       |         ^^^^^^ its splits are `edge`, `harmful`

    error: layer `7` is out of range for model `inst`
      --> places.toml:14:10
       |
    14 | layer = [7]
       |          ^ the model has 4 layers, 0 to 3
    "#);
}

#[test]
fn what_is_not_toml_or_not_there() {
    assert_snapshot!(refusal("n = 4", "n = = 4"), @r"
    error: the file is not valid TOML
      --> study.toml:13:5
       |
    13 | n = = 4
       |     ^ extra `=`, expected nothing
    ");
    assert_snapshot!(refusal("n = 4", "n = 4\nn = 5"), @r"
    error: the key `n` is given twice
      --> study.toml:14:1
       |
    14 | n = 5
       | ^ already given above
    ");
    assert_snapshot!(refusal_of("empty.toml", "", &[]), @r"
    error: the study has no stages
     |
     = help: add at least one, e.g. `[stages.score]` with `model` and `prompts`
    ");
    assert_snapshot!(bench().dial(&["run", "nowhere.toml"]).message(2), @"error: cannot read `nowhere.toml`: there is no such file");
    assert_snapshot!(bench().dial(&["run", "main.jsonl"]).message(2), @"error: cannot read `main.jsonl`: a study file ends in `.toml`, `.yaml` or `.yml`");
}

/// A pairing of models of different shapes, and one without a pair.
#[test]
fn a_patch_that_cannot_be() {
    let patch = "[stages.patch]\npairing = \"prompts\"\nmodel = \"inst\"\ndonors = \"edge\"\nrecipients = \"harmful\"\nprompts = \"main\"\n\
                 layer = 2\nsite = \"resid_pre\"\n";
    let with = |change: &str| refusal("[stages.steer]", &format!("{patch}{change}[stages.steer]"));
    assert_snapshot!(with("pair_by = \"topic\"\n"), @r#"
    error: no prompts can be paired by `topic`
      --> study.toml:23:11
       |
    23 | pair_by = "topic"
       |           ^^^^^^^ no `edge` prompt has the same value of it as a `harmful` prompt
       |
       = help: name a field of the prompt file, or leave `pair_by` out to pair by order
    "#);
    assert_snapshot!(with("cumulative = \"last_k\"\n"), @r#"
    error: `layer` cannot stand beside `cumulative`
      --> study.toml:21:9
       |
    21 | layer = 2
       |         ^ `last_k` goes through every number of layers
    22 | site = "resid_pre"
    23 | cumulative = "last_k"
       |              -------- given here
    "#);
    assert_snapshot!(with("floor = 0\n"), @r"
    error: floor `0` is not above 0
      --> study.toml:23:9
       |
    23 | floor = 0
       |         ^ where donor and recipient score the same there is nothing to recover
    ");
}

#[test]
fn a_summary_of_nothing() {
    assert_snapshot!(refusal("[stages.steer]", "[stages.summary]\n[stages.steer]"), @r"
    error: a summary needs at least one sweep
      --> study.toml:15:1
       |
    15 | [stages.summary]
       | ^^^^^^^^^^^^^^^^ expected `steer`, `holdout`, `random` or `xstest`, with the name of a stage
    ");
    assert_snapshot!(refusal("[stages.steer]", "[stages.summary]\nsteer = \"score\"\n[stages.steer]"), @r#"
    error: stage `summary` wants a sweep of steered scores, but `score` gives scores
      --> study.toml:16:9
       |
    16 | steer = "score"
       |         ^^^^^^^ expected a stage that gives a sweep of steered scores
       |
       = help: these do: `steer`
    "#);
}
