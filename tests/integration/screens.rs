//! What a person sees: help, a plan before and after, a run, and the starter file.

use insta::assert_snapshot;
use regex::Regex;

use crate::prompts::main_set;
use crate::workbench::Workbench;

pub const STUDY: &str = r#"
[models.inst]
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
n = 7
allow_overlap = true
layer = [2]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-2, 0, 2]
[stages.random]
model = "inst"
prompts = "main"
seed = "0..3"
layer = 2
alpha = [-2, 0, 2]
[stages.summary]
steer = "steer"
random = "random"
"#;

/// Text without times and run folders.
pub fn redacted(text: &str) -> String {
    let mut text = text.to_string();
    for (pattern, name) in [
        (r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{8}", "[time]-[key]"),
        (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d\.\d+Z| UTC)?", "[when]"),
        (r"\d+\.\d s\b", "[time]"),
        (r"\d+ (h|min) \d+ (min|s)\b", "[time]"),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, name)
            .into_owned();
    }
    text
}

/// A folder with that study, not run yet.
pub fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(12, 8));
    bench.write("study.toml", STUDY);
    bench
}

#[test]
fn help() {
    let bench = bench();
    let without_trailing_space = |text: String| {
        text.lines()
            .map(|line| line.trim_end().to_string() + "\n")
            .collect::<String>()
    };
    let help = |arguments: &[&str]| without_trailing_space(bench.dial(arguments).stdout);
    assert_snapshot!(help(&["--help"]), @r"
    Run activation-steering studies of language models, described in one TOML file

    Usage: dial <COMMAND>

    Commands:
      run          Run a study; only what changed since the last run is computed
      plan         Show what a run would do, and why, without doing it
      lock         Write down what a study names, as it is found now, into a lock beside it; or compare it with that
      explain      Say of each stage whether it is cached, and if not, exactly what has changed since when
      status       List the runs there are, how far each got, and the command that resumes it
      cache        Check the cache, show what it holds, delete from it
      report       Draw a run again: its page `report.html` and its figures
      show         Show a run's numbers as tables, with small charts
      diff         Compare two runs, or a run with published tables; exit code 1 where they differ
      dag          Print a study's pipeline for Mermaid or Graphviz
      export       Write a finished run into one file, for others to check and to go on from
      verify       Check such a file: whether it is whole, whether everything follows from its values, and whether the models give these
      unpack       Make a folder of such a file, in which its study is cached and goes on
      vector       Write a direction of a run for other programs
      model        Write a model without a direction of a run
      data         List public prompt sets, and fetch them from their homes
      doctor       Look at libtorch, devices, disks, the hub and the cache: what would keep a run from working
      init         Write a commented study file to start from, prompts to begin with, and the schema by which editors complete and check it
      schema       Print the JSON Schema of study files, by which editors complete and check them
      completions  Print a script that completes commands and options in a shell
      help         Explain a command, a kind of stage (`dial help stage steer`), or all keys of a study file (`dial help study`)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Exit codes:
        0  done
        1  a stage failed, or a file could not be read or written; of `diff`: the two differ
        2  the command line or the study is wrong; nothing was run
        3  `cache verify` found damage, and moved it aside
        4  `run --force` gave other bits than are cached; the cached ones are kept
        5  `cache gc` deleted nothing, because a run is alive on the cache
        6  `doctor` found a problem, which a run would fail on
        7  `run --locked` or `lock --check` found another study, or strictly another environment, than its lock has; nothing was computed
        8  `verify` found something in a shared file that is not as it should be
        9  `verify` could not check all that was asked; what it checked agrees
      130  interrupted; what was computed is kept, the same command resumes
    ");
    assert_snapshot!(help(&["run", "--help"]), @r"
    Run a study; only what changed since the last run is computed

    Usage: dial run [OPTIONS] <FILE>

    Arguments:
      <FILE>
              The study: a .toml or .yaml file

    Options:
          --set <PATH=VALUE>
              Set a value of the study, e.g. `stages.steer.alpha=[0,4]`; may be repeated

          --cache <DIR>
              The folder of computed cells and artifacts

              [default: cache]

          --threads <N>
              Threads of the CPU work [default: the physical cores]

          --device <DEVICE>
              Where models run: `cpu` or `cuda:N`

              [default: cpu]

          --format <FORMAT>
              How the result is written to stdout

              Possible values:
              - text: Tables for people
              - json: One JSON object

              [default: text]

          --only <STAGE>
              Run one stage and what it needs

          --from <STAGE>
              Run one stage, everything that builds on it, and what those need

          --force <STAGE>
              Compute this stage again although it is cached, and check that it gives the same bits; may be repeated

          --locked[=<HOW>]
              Refuse to run, with exit code 7, where models, prompts, files or versions are not those of the study's lock; `strict` also where only the environment (dial, libtorch, device, processor) is another, which is a warning otherwise

              Possible values:
              - study:  Models, prompts, files and versions must be the same; another dial, libtorch, device or processor is a warning
              - strict: The environment must be the same, too

          --keep-going
              After a failure go on with the stages that do not build on what failed

          --memory <SIZE>
              Memory for prefilled prompts, e.g. `4GB` or `512MiB`; what does not fit is computed again [default: half of what is free]

          --runs <DIR>
              The folder that gets a folder per study and run

              [default: runs]

      -h, --help
              Print help (see a summary with '-h')
    ");
    assert_snapshot!(help(&["plan", "--help"]), @r"
    Show what a run would do, and why, without doing it

    Usage: dial plan [OPTIONS] <FILE>

    Arguments:
      <FILE>
              The study: a .toml or .yaml file

    Options:
          --set <PATH=VALUE>
              Set a value of the study, e.g. `stages.steer.alpha=[0,4]`; may be repeated

          --cache <DIR>
              The folder of computed cells and artifacts

              [default: cache]

          --threads <N>
              Threads of the CPU work [default: the physical cores]

          --device <DEVICE>
              Where models run: `cpu` or `cuda:N`

              [default: cpu]

          --format <FORMAT>
              How the result is written to stdout

              Possible values:
              - text: Tables for people
              - json: One JSON object

              [default: text]

      -h, --help
              Print help (see a summary with '-h')
    ");
}

#[test]
fn a_plan_before_and_after_a_run() {
    let bench = bench();
    let plan = |arguments: &[&str]| {
        let said = bench.dial(&[&["plan", "study.toml", "--threads", "1"], arguments].concat());
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        redacted(&said.stdout)
    };
    assert_snapshot!(plan(&[]), @r"
    stage      kind       after          would                                      cells at most  forward passes of a script
    score      score                     run, 20 cells missing; no earlier output              20                          20
    direction  direction  score          waits for score (at most 12 cells)                    12                          12
    steer      steer      direction      waits for direction (at most 60 cells)                60                          60
    random     random                    run, 140 cells missing; no earlier output            140                         180
    summary    summary    steer, random  waits for steer, random                                0                           0

    equivalent forward passes: 272
    about [time] on this machine, roughly
    ");
    assert!(!bench.path("runs").exists(), "a plan runs nothing");
    bench.run(STUDY).ok();
    assert_snapshot!(plan(&[]), @r"
    stage      kind       after          would   cells at most  forward passes of a script
    score      score                     cached              0                          20
    direction  direction  score          cached              0                          12
    steer      steer      direction      cached              0                          60
    random     random                    cached              0                         180
    summary    summary    steer, random  cached              0                           0

    equivalent forward passes: 272
    nothing to compute
    ");
    assert_snapshot!(plan(&["--set", "stages.random.seed=\"0..4\""]), @r"
    stage      kind       after          would                                                     cells at most  forward passes of a script
    score      score                     cached                                                                0                          20
    direction  direction  score          cached                                                                0                          12
    steer      steer      direction      cached                                                                0                          60
    random     random                    run, 40 cells missing; changed: seed [0,1,2] → [0,1,2,3]             40                         240
    summary    summary    steer, random  waits for random                                                      0                           0

    equivalent forward passes: 332
    about [time] on this machine, roughly
    ");
}

#[test]
fn a_plan_for_programs() {
    let bench = bench();
    let said = bench.dial(&["plan", "study.toml", "--format", "json"]);
    let mut plan: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(plan["estimated_seconds"].as_f64().unwrap() > 0.0);
    plan["estimated_seconds"] = "[time]".into();
    assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap(), @r#"
    {
      "equivalent_forward_passes": 272,
      "estimated_seconds": "[time]",
      "findings": [],
      "score": {
        "inst": {
          "comply": [
            {
              "spelling": "Sure",
              "token": 16,
              "words": [
                "Sure"
              ]
            },
            {
              "spelling": "Yes",
              "token": 17,
              "words": [
                "Yes"
              ]
            },
            {
              "spelling": "Here",
              "token": 18,
              "words": [
                "Here"
              ]
            },
            {
              "spelling": "Of",
              "token": 19,
              "words": [
                "Of"
              ]
            }
          ],
          "refuse": [
            {
              "spelling": "I'm",
              "token": 12,
              "words": [
                "I'm"
              ]
            },
            {
              "spelling": "I",
              "token": 13,
              "words": [
                "I"
              ]
            },
            {
              "spelling": "Sorry",
              "token": 14,
              "words": [
                "Sorry"
              ]
            },
            {
              "spelling": "I’m",
              "token": 15,
              "words": [
                "I’m"
              ]
            }
          ]
        }
      },
      "stages": [
        {
          "after": [],
          "cells_at_most": 20,
          "computes_at_most": 20,
          "equivalent_forward_passes": 20,
          "kind": "score",
          "name": "score",
          "reason": "run, 20 cells missing; no earlier output",
          "status": "run"
        },
        {
          "after": [
            "score"
          ],
          "cells_at_most": 12,
          "computes_at_most": 12,
          "equivalent_forward_passes": 12,
          "kind": "direction",
          "name": "direction",
          "reason": "waits for score (at most 12 cells)",
          "status": "waits"
        },
        {
          "after": [
            "direction"
          ],
          "cells_at_most": 60,
          "computes_at_most": 60,
          "equivalent_forward_passes": 60,
          "kind": "steer",
          "name": "steer",
          "reason": "waits for direction (at most 60 cells)",
          "status": "waits"
        },
        {
          "after": [],
          "cells_at_most": 180,
          "computes_at_most": 140,
          "equivalent_forward_passes": 180,
          "kind": "random",
          "name": "random",
          "reason": "run, 140 cells missing; no earlier output",
          "status": "run"
        },
        {
          "after": [
            "steer",
            "random"
          ],
          "cells_at_most": 0,
          "computes_at_most": 0,
          "equivalent_forward_passes": 0,
          "kind": "summary",
          "name": "summary",
          "reason": "waits for steer, random",
          "status": "waits"
        }
      ]
    }
    "#);
}

#[test]
fn a_run_away_from_a_terminal() {
    let bench = bench();
    let run = || bench.dial(&["run", "study.toml", "--threads", "1"]);
    let first = run();
    assert_eq!(first.code, 0);
    assert_snapshot!(redacted(&first.stderr), @r"
    run folder runs/study/[time]-[key]
    score      loading model `inst`
    score      computed          20 computed        0 from cache  [time]
    direction  computed          12 computed        0 from cache  [time]
               note: the direction: 2 prompts are both among the highest and the lowest scores: `edge-06`, `edge-02`
    steer      computed          40 computed       20 shared with score  [time]
    random     computed         120 computed       20 shared with score  [time]
    summary    computed           0 computed        0 from cache  [time]
               note: model `inst`, layer 2: not tested: effect, specific, selective, valid, stable
               note: model `inst`: at α = 0 the score refuses 100.0 % of `harmful` (8 of 8), so that its rate can hardly rise
    done in [time]: 192 cells computed, standing for 272 forward passes of a script
    report in runs/study/[time]-[key]/report.html
    ");
    let means = first.stdout.lines().take(4).collect::<Vec<_>>().join("\n");
    assert!(means.starts_with("score.means\nmodel  split"), "{means}");
    let again = run();
    assert_snapshot!(redacted(&again.stderr), @r"
    run folder runs/study/[time]-[key]
    score      cached             0 computed       20 from cache  [time]
    direction  cached             0 computed       12 from cache  [time]
               note: the direction: 2 prompts are both among the highest and the lowest scores: `edge-06`, `edge-02`
    steer      cached             0 computed       60 from cache  [time]
    random     cached             0 computed      140 from cache  [time]
    summary    cached             0 computed        0 from cache  [time]
               note: model `inst`, layer 2: not tested: effect, specific, selective, valid, stable
               note: model `inst`: at α = 0 the score refuses 100.0 % of `harmful` (8 of 8), so that its rate can hardly rise
    done in [time]: 0 cells computed, standing for 272 forward passes of a script
    report in runs/study/[time]-[key]/report.html
    ");
    assert_eq!(
        again.stdout, first.stdout,
        "a run from the cache shows the same tables"
    );
}

#[test]
fn a_run_for_programs_says_only_json_on_stdout() {
    let bench = bench();
    let run = bench.run(STUDY).ok();
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&run.json),
        [
            "equivalent_forward_passes",
            "failures",
            "findings",
            "run_dir",
            "score",
            "seconds",
            "stages"
        ]
    );
    let stage = [
        "cells_cached",
        "cells_computed",
        "cells_shared",
        "kind",
        "name",
        "seconds",
        "status",
    ];
    assert_eq!(keys(&run.json["stages"][0]), stage);
    // 20 scores, activations of all 12 edge prompts, 3 α of one direction and of three random ones on 20 prompts.
    assert_eq!(
        run.json["equivalent_forward_passes"],
        20 + 12 + 3 * 20 * (1 + 3)
    );
}

#[test]
fn one_stage_and_what_it_needs() {
    let bench = bench();
    let run = bench.run_with(STUDY, &["--only", "direction"]).ok();
    let names: Vec<&str> = run.json["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["score", "direction"]);
}

#[test]
fn a_schema_that_is_there_is_not_overwritten() {
    let bench = bench();
    assert_eq!(bench.dial(&["init", "one.toml"]).code, 0);
    let said = bench.dial(&["init", "two.toml"]);
    assert_eq!(said.code, 0);
    assert_snapshot!(said.stderr, @r"
    wrote two.toml; dial.schema.json, which editors read, was there
    next: dial plan two.toml
    ");
    bench.write("dial.schema.json", "{}");
    let said = bench.dial(&["init", "three.toml"]);
    assert_eq!(said.code, 0);
    assert_snapshot!(said.stderr, @r"
    wrote three.toml; dial.schema.json was there, is not the schema of this `dial`, and is left as it is (`dial schema > dial.schema.json` replaces it)
    next: dial plan three.toml
    ");
    let kept = std::fs::read_to_string(bench.path("dial.schema.json")).unwrap();
    assert_eq!(kept, "{}");
    // Where the study is refused, no schema is written either.
    std::fs::remove_file(bench.path("dial.schema.json")).unwrap();
    assert_eq!(bench.dial(&["init", "three.toml"]).code, 2);
    assert!(!bench.path("dial.schema.json").exists());
}

#[test]
fn a_starter_file_is_written_once_and_can_be_planned_but_for_its_inputs() {
    let bench = bench();
    let said = bench.dial(&["init", "mine.toml"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert_snapshot!(said.stderr, @r"
    wrote mine.toml, prompts.jsonl with prompts to begin with, and, for editors, dial.schema.json
    next: dial plan mine.toml
    ");
    let text = std::fs::read_to_string(bench.path("mine.toml")).unwrap();
    assert_snapshot!(bench.dial(&["init", "mine.toml"]).message(2), @"error: `mine.toml` exists already; name another file, or remove it");
    assert_snapshot!(bench.dial(&["init", "mine.yaml"]).message(2), @"error: `mine.yaml` does not end in `.toml`, as what is written does; name such a file");
    assert!(!bench.path("mine.yaml").exists());
    assert_eq!(
        std::fs::read_to_string(bench.path("mine.toml")).unwrap(),
        text
    );
    let here = [
        "--set",
        "models.inst.source=models/inst",
        "--set",
        "prompts.main.path=main.jsonl",
    ];
    let planned = bench.dial(&[&["plan", "mine.toml"], &here[..]].concat());
    assert_snapshot!(planned.stderr, @r#"
    error: `n = 30` asks for 30 prompts at the top and 30 at the bottom, but split `edge` has 12 prompts
      --> mine.toml:38:5
       |
    38 | n = 30
       |     ^^ at most 6

    error: layer `20` is out of range for model `inst`
      --> mine.toml:39:9
       |
    39 | layer = 20                                # or a list, "18..24", "all"
       |         ^^ the model has 4 layers, 0 to 3

    error: layer `20` is out of range for model `inst`
      --> mine.toml:53:9
       |
    53 | layer = 20
       |         ^^ the model has 4 layers, 0 to 3

    error: `n = 30` asks for 30 prompts at the top and 30 at the bottom, but seed 1 leaves 3 training prompts
      --> mine.toml:64:5
       |
    64 | n = 30
       |     ^^ at most 1

    error: layer `20` is out of range for model `inst`
      --> mine.toml:65:9
       |
    65 | layer = 20
       |         ^^ the model has 4 layers, 0 to 3
    "#);
}
