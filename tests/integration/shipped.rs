//! The project's own studies on their own model, with few prompts.

use crate::workbench::Workbench;

/// A study's name, what is set in it, and of some of its stages the rows of their tables.
type Shipped<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, usize)]);

/// The studies that the project ships, on a real model with a few of its prompts.
#[test]
fn the_studies_run_on_smollm2() {
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let models = project.join("third_party/models");
    assert!(
        models.exists(),
        "the studies' model is not here: run `make setup`"
    );
    let bench = Workbench::new(&[]);
    let all = std::fs::read_to_string(project.join("data/prompts.jsonl")).unwrap();
    let of_split = |split: &str, count: usize| {
        let is_of_split = |line: &&str| line.contains(&format!("\"split\": \"{split}\""));
        let lines: Vec<&str> = all.lines().filter(is_of_split).take(count).collect();
        assert_eq!(lines.len(), count, "{split}");
        lines.join("\n") + "\n"
    };
    bench.write("few.jsonl", of_split("edge", 12) + &of_split("harmful", 4));
    let path = format!("prompts.main.path={}", bench.path("few.jsonl").display());
    // Rows of a stage's table: models, directions, layers, α and prompts.
    let studies: [Shipped<'_>; 9] = [
        (
            "positions",
            &[
                "stages.grid.n=4",
                "stages.direction.n=4",
                "stages.random.seed=0",
            ],
            &[
                ("grid", 7 * 3),
                ("post_instruction", 3 * 16),
                ("everywhere", 3 * 16),
            ],
        ),
        (
            "ablate_everywhere",
            &[
                "stages.direction.n=4",
                "stages.random.seed=0",
                "stages.texts.limit=1",
            ],
            &[
                ("ablated", 16),
                ("random", 16),
                ("texts", 2),
                ("ace", 2 * 16),
                ("leace", 16),
            ],
        ),
        (
            "several",
            &["stages.direction.n=4", "stages.other.n=3"],
            &[
                ("together", 3 * 16),
                ("two", 3 * 2 * 3 * 16),
                ("span", 16),
                ("turned", 6 * 16),
            ],
        ),
        (
            "conditional",
            &[
                "stages.direction.n=4",
                "stages.random.seed=0",
                "stages.texts.limit=1",
                "stages.texts.max_new_tokens=4",
            ],
            &[
                ("condition", 5),
                ("condition.likeness", 16),
                ("component", 5),
                ("cast", 5),
                ("steer", 3 * 16),
                ("thresholds", 5 * 16),
                ("random", 3 * 16),
                ("texts", 2 * 2),
            ],
        ),
        (
            "heretic",
            &[
                "stages.random.seed=0",
                "stages.texts.limit=1",
                "stages.texts.max_new_tokens=4",
            ],
            &[
                ("means.detection", 4),
                ("projected", 4),
                ("steer", 4 * 16),
                ("random", 16),
                ("texts", 4 * 2),
            ],
        ),
        (
            "select",
            &[
                "stages.grid.layer=12",
                "stages.grid.position=[-5, -1]",
                "stages.select.max_kl=100",
                "stages.cosmic.max_kl=100",
                "stages.select.random=1",
                "stages.cosmic.random=0",
            ],
            &[
                ("grid", 2),
                ("select", 2),
                ("select.checks", 5),
                ("cosmic.checks", 4),
                ("steer", 16),
            ],
        ),
        (
            "cost",
            &[
                "stages.direction.n=4",
                "stages.cost.alpha=[0, 20]",
                "stages.cost.random=1",
                "stages.cost.texts.limit=2",
                "stages.cost.answers.limit=1",
                "stages.cost.answers.max_new_tokens=4",
                "stages.cost.choices.limit=2",
                "stages.ablated.random=0",
                "stages.ablated.choices.limit=2",
            ],
            &[
                ("cost", 1 + 2 * 2),
                ("cost.kl", 5 * 12),
                ("cost.texts", 5 * 2),
                ("cost.answers", 5),
                ("cost.choices", 5 * 2),
                ("cost.effect", 5 * 4),
                ("ablated", 2),
            ],
        ),
        (
            "directions",
            &[
                "stages.means.n=4",
                "stages.means.layer=20",
                "stages.component.n=4",
                "stages.component.layer=20",
                "stages.regression.n=4",
                "stages.regression.layer=20",
                "stages.discriminant.n=4",
                "stages.discriminant.layer=20",
                "stages.harmless.n=4",
                "stages.harmless.layer=20",
                "stages.refusal.n=4",
                "stages.independence.layer=20",
                "stages.independence.limit=1",
            ],
            &[
                ("means.detection", 1),
                ("means.geometry", 1),
                ("component", 1),
                ("regression", 1),
                ("discriminant.detection", 1),
                ("projected", 1),
                ("steer", 3 * 16),
                ("independence", 2),
            ],
        ),
        (
            "angular",
            &[
                "stages.texts.limit=1",
                "stages.texts.max_new_tokens=4",
                "stages.texts.alpha=[0, 180]",
            ],
            &[("steer", 6 * 16), ("random", 6 * 16), ("texts", 2 * 2)],
        ),
    ];
    for (study, settings, tables) in studies {
        let settings = [path.as_str()].into_iter().chain(settings.iter().copied());
        let settings: Vec<&str> = settings.flat_map(|setting| ["--set", setting]).collect();
        let file = project.join(format!("pipelines/{study}.toml"));
        let run = bench.run_file(&file, &settings).ok();
        for (name, rows) in tables {
            let table = run.table(&bench, name);
            assert_eq!(table.0.len(), *rows, "{study}: {name}");
        }
        let again = bench.run_file(&file, &settings).ok();
        assert_eq!(again.all_computed(), [], "{study}");
    }
}
