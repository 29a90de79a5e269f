//! The page in headless Chromium: driven by a script that is put into a copy of it, read back from the page that results.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{HOSTILE, file};

/// Clicks through the page as a person would, and leaves what was found in `<pre id="driven">`.
const DRIVER: &str = include_str!("driver.js");

/// Chromium, or what to do about it.
fn chromium() -> PathBuf {
    if let Some(path) = std::env::var_os("DIAL_CHROMIUM") {
        return path.into();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join("chromium"))
        .find(|path| path.is_file());
    found.expect(
        "`chromium` is missing, and without it the page is not tested: run `scripts/setup-browser.sh` (or `make test-all`), or name one with DIAL_CHROMIUM=/path/to/chromium",
    )
}

/// How long Chromium may take for a page before it is taken to hang: it takes seconds, a minute on a busy machine.
const HANGS_AFTER: Duration = Duration::from_secs(240);

/// Runs Chromium on a page; what it wrote to stdout and stderr.
///
/// Headless Chromium does not always end: seldom, with a budget of virtual time, it waits for ever. Then it is killed and asked again.
pub fn browse(page: &Path, arguments: &[&str]) -> (String, String) {
    (0..3)
        .find_map(|_| browse_once(page, arguments))
        .unwrap_or_else(|| panic!("Chromium hung three times on `{}`", page.display()))
}

/// What Chromium wrote; `None` where it hung. Its output goes into files, which no process that outlives it can hold open.
fn browse_once(page: &Path, arguments: &[&str]) -> Option<(String, String)> {
    let profile = tempfile::tempdir().unwrap();
    let (stdout, stderr) = (profile.path().join("stdout"), profile.path().join("stderr"));
    let mut browser = Command::new(chromium())
        .args([
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--enable-logging=stderr",
        ])
        // Nothing but the page: no updates of its parts, no services of its maker.
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--disable-sync",
            "--no-default-browser-check",
        ])
        // Tests run as root in containers, where Chromium's own sandbox cannot.
        .args([
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--virtual-time-budget=20000",
        ])
        .arg(format!(
            "--user-data-dir={}",
            profile.path().join("profile").display()
        ))
        .args(arguments)
        .arg(format!("file://{}", page.canonicalize().unwrap().display()))
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).unwrap())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while browser.try_wait().unwrap().is_none() {
        if started.elapsed() > HANGS_AFTER {
            browser.kill().unwrap();
            browser.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    Some((text(&stdout), text(&stderr)))
}

/// Everything that the page or the browser complained of.
pub fn complaints(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect()
}

/// The folder of the test's outputs.
pub fn outputs() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("report");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// What the driver found.
fn driven() -> Value {
    let html = std::fs::read_to_string(file("report.html")).unwrap();
    let nonce = html
        .split("<script nonce=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let driver = format!("<script nonce=\"{nonce}\">{DRIVER}</script></body>");
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("driven.html");
    // The library holds the text `</body>`, too; the page's own is the last.
    let (body, end) = html.rsplit_once("</body>").unwrap();
    std::fs::write(&page, format!("{body}{driver}{end}")).unwrap();
    let (dom, stderr) = browse(&page, &["--window-size=1280,900", "--dump-dom"]);
    assert_eq!(complaints(&stderr), Vec::<&str>::new());
    let found = dom
        .split("<pre id=\"driven\">")
        .nth(1)
        .unwrap_or_else(|| panic!("the driver did not end: {stderr}"));
    let found = found.split("</pre>").next().unwrap();
    let text = found
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", "\u{a0}")
        .replace("&amp;", "&");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_page_works_in_a_browser() {
    let found = driven();
    assert_eq!(found["error"], Value::Null, "{found}");
    let names: Vec<&str> = found["series"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        names.contains(&"random directions") && names.contains(&"steer (top_bottom_10)"),
        "{names:?}"
    );
    assert!(
        found["drawn"].as_u64().unwrap() > 8,
        "shapes in the chart: {}",
        found["drawn"]
    );
    assert_eq!(found["charts_without_shapes"], 0);
    assert_eq!(found["hidden_by_legend"], true);
    assert!(
        found["tooltip"]
            .as_str()
            .unwrap()
            .contains("steer (top_bottom_10): "),
        "{}",
        found["tooltip"]
    );
    let numbers = |key: &str| -> Vec<f64> {
        found[key]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_f64)
            .collect()
    };
    let (up, down) = (numbers("ascending"), numbers("descending"));
    assert!(up.len() > 2 && up.is_sorted(), "{up:?}");
    assert!(down.is_sorted_by(|a, b| a >= b), "{down:?}");
    assert_eq!(
        found["filtered"], 2,
        "one row of the score table for each model"
    );
}

#[test]
fn text_of_a_study_never_runs() {
    let found = driven();
    assert_eq!(
        found["prompt_text"],
        HOSTILE.replace('\u{2028}', "\\u{2028}"),
        "the picker shows the prompt as it is"
    );
    assert_eq!(found["prompt_children"], 0, "and makes no element of it");
    assert_eq!(found["pwned"], Value::Null);
    assert_eq!(found["images"], 0);
    assert_eq!(
        found["hostile_tooltips"], 1,
        "the scatter's tooltip says the id"
    );
    assert_eq!(found["scripts"], 4, "data, library, page and this driver");
    assert_eq!(found["question"], "Does <b>markup</b> stay text?");
    let answers = found["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 6, "two layers, three α");
    assert!(answers.iter().all(|a| {
        a.as_str()
            .is_some_and(|a| a.contains("refused") || a.contains("answered"))
    }));
    assert_eq!(found["prompt_charts"], 2, "a panel for each layer");
}

#[test]
fn screenshots_are_kept() {
    let (page, folder) = (file("report.html"), outputs());
    let desktop = folder.join("desktop.png");
    let (_, stderr) = browse(
        &page,
        &[
            "--window-size=1280,5200",
            &format!("--screenshot={}", desktop.display()),
        ],
    );
    assert_eq!(complaints(&stderr), Vec::<&str>::new());
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    assert!(
        size(&desktop) > 50_000,
        "an empty page? {}",
        desktop.display()
    );
    let printed = folder.join("print.pdf");
    browse(
        &page,
        &[
            "--no-pdf-header-footer",
            &format!("--print-to-pdf={}", printed.display()),
        ],
    );
    assert!(
        size(&printed) > 50_000,
        "an empty print? {}",
        printed.display()
    );
    // Pictures of the pages, for those who look; the PDF is the print.
    let _ = Command::new("pdftoppm")
        .args(["-r", "60", "-png"])
        .arg(&printed)
        .arg(folder.join("print"))
        .status();
    println!("screenshots in {}", folder.display());
}
