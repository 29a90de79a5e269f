//! A study with odd names: every script, very long ones, the same ones in two places, text that turns others around, and sets of one prompt.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::browser::outputs;
use crate::prompts::{Prompt, main_set};
use crate::workbench::Workbench;

const LONG: &str = "an uncommonly long name of a category, such as a questionnaire's sentences make, which goes on and on and ends with ";

/// Categories as people may call them.
const CATEGORIES: [&str; 10] = [
    "kind-0",
    "拒否すべき質問の分類",
    "أسئلة يجب رفضها",
    "שאלות שיש לסרב להן",
    "अस्वीकार करने योग्य",
    "👩‍🔬 👍🏽",
    "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW",
    "abc\u{202e}fed\u{1b}[31m\u{2066}",
    "long 1",
    "long 2",
];

const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[models."נموذج מודל 模型 whose name is far too long for the legend of a figure, and for its title, and for every row of its tables, so that it has to be cut"]
source = "models/base"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = ["inst", "נموذج מודל 模型 whose name is far too long for the legend of a figure, and for its title, and for every row of its tables, so that it has to be cut"]
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 10
layer = [2, 3]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-6, 0, 6]
[stages.random]
model = "inst"
prompts = "main"
seed = [0]
layer = [2, 3]
alpha = [-6, 0, 6]
[stages.summary]
steer = "steer"
random = "random"
"#;

/// The study, run once for all tests.
fn studied() -> &'static Workbench {
    static STUDIED: OnceLock<Workbench> = OnceLock::new();
    STUDIED.get_or_init(|| {
        let mut prompts: Vec<Prompt> = main_set(30, 30);
        for (number, prompt) in prompts.iter_mut().enumerate() {
            prompt.category = match CATEGORIES.get(number % 30) {
                Some(long) if long.starts_with("long") => format!("{LONG}{long}"),
                Some(name) => (*name).to_string(),
                None => format!("{} {number}", prompt.category),
            };
        }
        prompts.push(Prompt {
            id: "alone\u{1b}]0;title\u{7}".to_string(),
            text: "harm1 calm2 שלום \u{202e}calm3".to_string(),
            split: "בודד".to_string(),
            category: "kind-0".to_string(),
        });
        let bench = Workbench::new(&prompts);
        bench.run(STUDY).ok();
        bench
    })
}

fn file(name: &str) -> PathBuf {
    studied().path("runs/study/latest").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn figures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(file("figures")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "svg"));
    paths.sort();
    paths
}

#[test]
fn texts_of_every_script_are_in_the_svg_and_turn_nothing_around() {
    let svg = text("figures/steer.categories.svg");
    assert!(svg.contains("拒否すべき質問の分類"));
    assert!(svg.contains("abc\\u{202e}fed\\u{1b}[31m"));
    assert!(!svg.contains('\u{202e}') && !svg.contains('\u{1b}'));
    // To be looked at.
    for name in ["steer.categories", "score.histogram", "score.scatter"] {
        let picture = outputs().join(format!("odd.{name}.png"));
        std::fs::copy(file(&format!("figures/{name}.png")), picture).unwrap();
    }
}

#[test]
fn a_category_of_two_splits_is_told_apart_and_a_tall_figure_is_cut() {
    let svg = text("figures/steer.categories.svg");
    for title in ["kind-0, edge", "kind-0, harmful"] {
        let count = svg.matches(&format!(">{title}</text>")).count();
        assert_eq!(count, 1, "{title}");
    }
    assert!(svg.contains("Drawn: the first 48 of "), "no sentence");
    let height = svg.split("height=\"").nth(1).unwrap();
    let height: f64 = height.split('"').next().unwrap().parse().unwrap();
    assert!(height < 2600.0, "{height}");
    // Two that are cut to the same are still two, and the whole text is told.
    assert!(svg.contains(&format!("<title>{LONG}long 1, edge</title>")));
    assert!(svg.contains("… (2)</text>"), "which of the two is which?");
}

#[test]
fn one_prompt_has_no_interval_and_one_direction_no_range() {
    let means = text("tables/score.means.csv");
    let alone = means
        .lines()
        .find(|line| line.starts_with("inst,בודד,1,"))
        .unwrap();
    let cells: Vec<&str> = alone.split(',').collect();
    assert_eq!((cells[4], cells[5]), ("", ""), "{alone}");
    let summary = text("tables/summary.csv");
    assert!(
        summary.lines().any(|line| line.contains("בודד,1,1,")),
        "{summary}"
    );
    let svg = text("figures/steer.score.svg");
    assert!(svg.contains("one random direction of the same length"));
    for path in figures() {
        let svg = std::fs::read_to_string(&path).unwrap();
        let has_band = svg.contains("fill=\"#8A8A8A\" fill-opacity");
        // The region of a Pareto figure is over α, too.
        assert!(!has_band || path.ends_with("steer.pareto.svg"), "{path:?}");
    }
    let said = studied().dial(&["show", "runs/study/latest"]);
    assert_eq!(said.code, 0);
    assert!(!said.stdout.contains("[, ]"), "{}", said.stdout);
}

/// What Chromium makes of them.
mod browser {
    use std::path::Path;

    use serde_json::Value;

    use super::super::browser::{browse, complaints, outputs};
    use super::{figures, file, text};

    /// A page with a script in it that leaves what it found in `<pre id="found">`.
    fn found(body: &str, script: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.html");
        let html = format!(
            "<!DOCTYPE html><meta charset=utf-8><body style=\"margin:0;font-family:'Noto Sans',sans-serif\">{body}<script>{script}</script>"
        );
        std::fs::write(&page, html).unwrap();
        let (found, told) = found_in(&page);
        assert_eq!(told, Vec::<String>::new());
        found
    }

    /// What the script left, and what the browser complained of.
    fn found_in(page: &Path) -> (Value, Vec<String>) {
        let (dom, stderr) = browse(page, &["--window-size=1280,900", "--dump-dom"]);
        let told = complaints(&stderr).into_iter().map(str::to_string);
        let found = dom.split("<pre id=\"found\">").nth(1);
        let found = found.unwrap_or_else(|| panic!("the script did not end: {stderr}"));
        let found = found.split("</pre>").next().unwrap();
        let found = found.replace("&lt;", "<").replace("&gt;", ">");
        let found = serde_json::from_str(&found.replace("&amp;", "&")).unwrap();
        (found, told.collect())
    }

    /// Finds texts that stand on others, or beyond their picture.
    const MEETING: &str = r#"
const meeting = svg => {
      const edge = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
      const boxes = texts.map(t => [t.getBoundingClientRect(), t.textContent]);
      const bad = boxes.filter(([b]) => b.left < edge.left - 1 || b.right > edge.right + 1).map(([, t]) => `beyond: ${t}`);
      boxes.forEach(([a, s], i) => boxes.slice(i + 1).forEach(([b, t]) => {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1.5 && down > 4.5) bad.push(`${s} × ${t}`);
      }));
      return bad;
    };
const leave = found => { const out = document.createElement("pre"); out.id = "found"; out.textContent = JSON.stringify(found); document.body.append(out); };
    "#;

    #[test]
    fn no_text_of_a_figure_stands_on_another() {
        let svgs: String = figures()
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        let script = format!(
            "{MEETING} leave([...document.querySelectorAll('svg')].flatMap(svg => meeting(svg).map(t => svg.querySelector('title').textContent + ': ' + t)))"
        );
        let met = found(&svgs, &script);
        assert_eq!(met, serde_json::json!([]), "{met:#}");
    }

    #[test]
    fn no_text_of_the_page_stands_on_another_or_turns_it_around() {
        let html = text("report.html");
        let nonce = html.split("<script nonce=\"").nth(1).unwrap();
        let nonce = nonce.split('"').next().unwrap();
        let script = format!(
            "{MEETING} setTimeout(() => leave({{
                met: [...document.querySelectorAll('[data-figure] svg')].flatMap(meeting),
                metas: document.querySelectorAll('meta').length,
                cells: [...document.querySelectorAll('#stage-score td')].filter(c => c.dir !== 'auto' || getComputedStyle(c).unicodeBidi !== 'isolate').length,
                turning: /[\\u202a-\\u202e\\u2066\\u2067\\u001b]/.test(document.body.innerText),
                markup: (() => {{ try {{ document.body.insertAdjacentHTML('beforeend', '<i id=made>'); }} catch {{}} return !!document.getElementById('made'); }})(),
            }}), 300)"
        );
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.html");
        let (body, end) = html.rsplit_once("</body>").unwrap();
        let driven = format!("{body}<script nonce=\"{nonce}\">{script}</script></body>{end}");
        std::fs::write(&page, driven).unwrap();
        let (found, told) = found_in(&page);
        assert!(
            told.iter().all(|line| line.contains("TrustedHTML")),
            "{told:?}"
        );
        assert_eq!(told.len(), 1, "of the markup that was tried");
        assert_eq!(found["met"], serde_json::json!([]), "{found:#}");
        assert_eq!(found["metas"], 3, "charset, viewport, policy");
        assert_eq!(found["cells"], 0, "each cell is laid out by itself");
        assert_eq!(found["turning"], false);
        assert_eq!(found["markup"], false, "text becomes no markup");
        // To be looked at.
        let picture = outputs().join("odd.png");
        browse(
            &file("report.html"),
            &[
                "--window-size=1280,9000",
                &format!("--screenshot={}", picture.display()),
            ],
        );
    }
}
