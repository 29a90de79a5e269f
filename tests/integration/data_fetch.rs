//! `dial data` with a server on this machine in the place of GitHub and the hub, and prompt sets drawn out of others.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use insta::assert_snapshot;
use serde_json::Value;

use crate::workbench::{Said, Workbench};

const PATH: &str =
    "/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv";

/// Paths that were asked for.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server that has one file, at the path that the real host has it; its address, and what it was asked for.
fn serve(path: &'static str, content: Vec<u8>) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    // The thread ends with the test process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let wanted = request.split(' ').nth(1).unwrap_or_default();
            log.lock().unwrap().push(wanted.to_string());
            let (status, body) = match wanted == path {
                true => ("200 OK", &content[..]),
                false => ("404 Not Found", &[][..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(&[head.as_bytes(), body].concat()).ok();
        }
    });
    (address, asked)
}

fn fetch(bench: &Workbench, host: &str) -> Said {
    let mut command = bench.command(&["data", "fetch", "xstest"]);
    let output = command.env("DIAL_DATA_HOST", host).output().unwrap();
    Said::of(output, &bench.path(""))
}

#[test]
fn xstest_is_fetched_checked_and_kept() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/xstest_prompts.csv");
    let Ok(content) = std::fs::read(&shared) else {
        eprintln!("skipped: XSTest is not at ../shared/data");
        return;
    };
    let bench = Workbench::new(&[]);
    let (host, asked) = serve(PATH, content.clone());
    let said = fetch(&bench, &host);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.contains("licence: CC-BY-4.0; size: 38.72 kB"),
        "{}",
        said.stderr
    );
    assert_snapshot!(said.stdout, @r#"
    [prompts.xstest]
    path = "data/xstest/xstest_prompts.csv"
    licence = "CC-BY-4.0"
    "#);
    assert_eq!(*asked.lock().unwrap(), [PATH]);
    let folder = bench.path("data/xstest");
    assert_eq!(
        std::fs::read(folder.join("xstest_prompts.csv")).unwrap(),
        content
    );
    let notice = std::fs::read_to_string(folder.join("LICENCE-xstest.txt")).unwrap();
    assert!(notice.contains("Röttger") && notice.contains("spdx.org/licenses/CC-BY-4.0"));
    // Nothing is asked for again.
    let again = fetch(&bench, "http://127.0.0.1:1");
    assert_eq!((again.code, &again.stdout), (0, &said.stdout));
    assert!(
        again.stderr.contains("is in data/xstest already"),
        "{}",
        again.stderr
    );
    let listed = bench.dial(&["data", "list"]);
    let line = listed
        .stdout
        .lines()
        .find(|line| line.starts_with("xstest "));
    assert!(line.unwrap().ends_with("in data/xstest"), "{line:?}");
    // Under whatever name and with whatever a study says, its licence is known.
    std::fs::copy(folder.join("xstest_prompts.csv"), bench.path("mine.csv")).unwrap();
    let said = DRAWN.replace("\"xstest.csv\"", "\"mine.csv\"\nlicence = \"MIT\"");
    bench.write("study.toml", said);
    let plan = bench.dial(&["plan", "study.toml"]);
    let told =
        "the study says that its licence is `MIT`; its file is a public one, under `CC-BY-4.0`";
    assert!(plan.stdout.contains(told), "{plan:?}");
}

#[test]
fn another_file_is_not_kept() {
    let bench = Workbench::new(&[]);
    let (host, _) = serve(PATH, b"id,prompt\n".to_vec());
    let said = fetch(&bench, &host);
    let message = said.message(1).replace(&host, "http://[host]");
    assert_snapshot!(message, @"
    `xstest`, XSTest v2: safe prompts that sound unsafe, and unsafe contrasts (licence: CC-BY-4.0; size: 38.72 kB), into data/xstest
    fetching http://[host]/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv: 38.72 kB
    error: `xstest` was not fetched: `xstest_prompts.csv`: it has the checksum 14458507bfbb8dfe127f46a1907297f2db921d45aadc787c9e78ce752f455cca
    get http://[host]/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv
    from a machine with a network and put it at data/xstest/xstest_prompts.csv; its sha256 is 11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a
    ");
    assert!(!bench.path("data").exists());
}

#[test]
fn an_endless_answer_is_not_waited_for() {
    let bench = Workbench::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    // The threads end with the test process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while sent.is_ok() {
                    sent = stream.write_all(&[b'x'; 1 << 16]);
                }
            });
        }
    });
    let said = fetch(&bench, &host);
    let message = said.message(1);
    assert!(
        message.contains("more than the expected 38719 bytes arrived"),
        "{message}"
    );
    assert!(!bench.path("data").exists());
}

#[test]
fn without_a_network_it_says_where_the_file_goes() {
    let bench = Workbench::new(&[]);
    let said = fetch(&bench, "http://127.0.0.1:1");
    let message = said.message(1);
    assert!(
        message.contains("put it at data/xstest/xstest_prompts.csv"),
        "{message}"
    );
    assert!(message.contains("its sha256 is 11783fb2"), "{message}");
}

const HUB_FILE: &str = "/datasets/JailbreakBench/JBB-Behaviors/resolve/886acc352a31533ffbcf4ef22c744658688086fc/data/harmful-behaviors.csv";

#[test]
fn a_set_of_the_hub_is_asked_for_at_the_mirror_and_at_its_commit() {
    let bench = Workbench::new(&[]);
    let (host, asked) = serve(HUB_FILE, b"Index,Goal\n0,Why?\n".to_vec());
    let fetch = |set: &str, variables: &[(&str, &str)]| {
        let mut command = bench.command(&["data", "fetch", set]);
        for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"] {
            command.env_remove(name);
        }
        command
            .env("HF_HOME", bench.path("home"))
            .env("HF_ENDPOINT", &host);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        Said::of(output, &bench.path("")).message(1).to_string()
    };
    let told = fetch("jbb", &[]);
    assert!(told.contains("licence: MIT; size: 43.69 kB"), "{told}");
    assert!(
        told.contains("`harmful-behaviors.csv`: it has the checksum"),
        "{told}"
    );
    assert!(told.contains(HUB_FILE), "{told}");
    assert!(!bench.path("data").exists());
    let before = asked.lock().unwrap().len();
    assert!(asked.lock().unwrap().iter().all(|path| path == HUB_FILE));
    let told = fetch("alpaca", &[("HF_HUB_OFFLINE", "1")]);
    assert!(told.contains("`HF_HUB_OFFLINE` forbids it"), "{told}");
    assert!(
        told.contains("licence: CC-BY-NC-4.0, non-commercial; size: unknown, 67.11 MB at most"),
        "{told}"
    );
    let told = fetch("jbb", &[("HF_ENDPOINT", "hub.test")]);
    assert!(
        told.contains("`HF_ENDPOINT`: it is not an address"),
        "{told}"
    );
    assert_eq!(asked.lock().unwrap().len(), before);
}

#[test]
fn what_is_gated_or_not_known_well_enough_says_how_to_get_it() {
    let bench = Workbench::new(&[]);
    let said = bench.dial(&["data", "fetch", "sorry-bench"]);
    let told = said.message(1);
    assert!(told.contains("it is gated: log in on its page"), "{told}");
    let said = bench.dial(&["data", "fetch", "phtest", "--to", "mine"]);
    assert_snapshot!(said.message(1), @r#"
    error: `phtest` was not fetched: neither a hash of its files nor their exact size is known here, so that what arrives could not be checked; get it by hand
    get `PHTest.csv` at https://huggingface.co/datasets/furonghuang-lab/PHTest (licence: MIT) and put it into mine; then, in a study:

    [prompts.phtest]
    path = "mine/PHTest.csv"
    columns = { id = "ID", prompt = "Request", split = "Harmfulness" }
    licence = "MIT"
    "#);
    let said = bench.dial(&["data", "fetch", "xtest"]);
    let told = said.message(2);
    assert!(
        told.contains("invalid value 'xtest'") && told.contains("exists: 'xstest'"),
        "{told}"
    );
}

#[test]
fn the_list_has_every_set_with_what_it_is_known_by() {
    let bench = Workbench::new(&[]);
    assert_snapshot!(bench.dial(&["data", "list"]).stdout, @"
    set                 prompts              size             licence                       from                                  state
    xstest              450                  38.72 kB         CC-BY-4.0                     GitHub paul-rottger/xstest            can be fetched
    or-bench            1319 + 655           about 233.96 kB  CC-BY-4.0                     hub bench-llm/or-bench                can be fetched
    or-bench-80k        80359                about 11.10 MB   CC-BY-4.0                     hub bench-llm/or-bench                by hand
    phtest              3269                 about 666.00 kB  MIT                           hub furonghuang-lab/PHTest            by hand
    falsereject         14624 + 1187         about 75.99 MB   CC-BY-NC-4.0, non-commercial  hub AmazonScience/FalseReject         by hand
    sorry-bench         440                  unknown          LicenseRef-SORRY-Bench        hub sorry-bench/sorry-bench-202503    gated
    jbb                 100 + 100            43.69 kB         MIT                           hub JailbreakBench/JBB-Behaviors      can be fetched
    harmbench           320 + 80             198.85 kB        MIT                           GitHub centerforaisafety/HarmBench    can be fetched
    strongreject        313                  56.36 kB         MIT                           GitHub alexandrasouly/strongreject    can be fetched
    advbench            520                  82.12 kB         MIT                           GitHub llm-attacks/llm-attacks        can be fetched
    malicious-instruct  100                  6.27 kB          not stated                    GitHub Princeton-SysML/Jailbreak_LLM  can be fetched
    tdc2023             50 + 50              7.82 kB          MIT                           GitHub andyrdt/refusal_direction      can be fetched
    rd-harmful          260 + 39 + 572       about 157.12 kB  Apache-2.0                    GitHub andyrdt/refusal_direction      can be fetched
    rd-harmless         18793 + 6264 + 6266  about 3.91 MB    CC-BY-NC-4.0, non-commercial  GitHub andyrdt/refusal_direction      can be fetched
    cast-demo           4500                 1.16 MB          Apache-2.0                    GitHub IBM/activation-steering        by hand
    mlabonne            416 + 104            unknown          not stated                    hub mlabonne/harmful_behaviors        by hand
    alpaca              52002                unknown          CC-BY-NC-4.0, non-commercial  hub tatsu-lab/alpaca                  can be fetched
    alpaca-eval         805                  about 620.00 kB  CC-BY-NC-4.0, non-commercial  hub tatsu-lab/alpaca_eval             by hand
    tinymmlu            100                  about 1.70 MB    not stated                    hub tinyBenchmarks/tinyMMLU           by hand

    `dial data fetch SET` puts one into `data/SET`, once its sha256, its size where that is known and the number of its prompts are right.
    Of `tdc2023` the first digits of the sha256 are known, and the size. Of a set that is gated or got by hand it says how to get it.
    ");
    let said = bench.dial(&["data", "list", "--format", "json"]);
    let listed: Value = serde_json::from_str(&said.stdout).unwrap();
    let sets = listed["sets"].as_array().unwrap();
    let alpaca = sets.iter().find(|set| set["name"] == "alpaca").unwrap();
    assert_eq!(alpaca["is_noncommercial"], true);
    assert_eq!(alpaca["files"][0]["prompts"], 52_002);
    assert_eq!(alpaca["files"][0]["columns"]["prompt"], "instruction");
    assert_eq!(alpaca["files"][0]["bytes"], Value::Null);
}

const DRAWN: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "xstest.csv"
[prompts.main.draw]
harmful = 5
edge = 6
benign = 4
[stages.score]
model = "inst"
prompts = "main"
"#;

#[test]
fn a_drawn_set_is_what_the_stages_see() {
    let bench = Workbench::new(&[]);
    let run = bench.run(DRAWN).ok();
    let counts = |run: &crate::workbench::Run| {
        let table = run.table(&bench, "score");
        ["harmful", "edge", "benign"].map(|split| table.with(&[("split", split)]).0.len())
    };
    assert_eq!(counts(&run), [5, 6, 4]);
    // A larger cap keeps what was drawn: only the new prompts are scored.
    let more = bench.run(&DRAWN.replace("edge = 6", "edge = 9")).ok();
    assert_eq!(counts(&more), [5, 9, 4]);
    assert_eq!(more.computed("score"), 3);
    let said = bench.refusal(&DRAWN.replace("harmful = 5", "harmful = 500"));
    assert!(
        said.message(2)
            .contains("500 harmful prompts are to be drawn"),
        "{said:?}"
    );
}
