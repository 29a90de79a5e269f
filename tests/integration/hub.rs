//! Models of a hub: one on this machine, which may be honest or not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use sha1::Digest;

use crate::checkpoint::planted_models;
use crate::prompts::main_set;
use crate::workbench::{Said, Workbench};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const STUDY: &str = r#"
[models.inst]
source = "hf:org/tiny"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
"#;

/// A hub that has the planted model. `etag` says what it calls a content, given its name and its true digest.
struct FakeHub {
    port: u16,
    /// The `Authorization` of each request.
    sent: Arc<Mutex<Vec<Option<String>>>>,
}

impl FakeHub {
    fn serve(etag: impl Fn(&str, String) -> String + Send + 'static) -> Self {
        Self::serve_at(COMMIT, etag)
    }

    /// The same where `main` is another commit.
    fn serve_at(
        main: &'static str,
        etag: impl Fn(&str, String) -> String + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        let files: HashMap<String, Vec<u8>> = std::fs::read_dir(planted_models().join("inst"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (name.to_string(), std::fs::read(&path).unwrap())
            })
            .collect();
        let names: Vec<_> = files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        let list = move |path: &str| {
            let revision = path.split("/revision/").nth(1).unwrap_or_default();
            let revision = revision.split('?').next().unwrap_or_default();
            let sha = if revision.len() == 40 { revision } else { main };
            json!({"sha": sha, "siblings": names})
                .to_string()
                .into_bytes()
        };
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                let headers = lines.map_while(|line| line.ok().filter(|line| !line.is_empty()));
                let token = headers
                    .filter_map(|line| {
                        Some(line.split_once(": ")?.1.to_string())
                            .filter(|_| line.to_lowercase().starts_with("authorization:"))
                    })
                    .last();
                log.lock().unwrap().push(token);
                let path = request.split(' ').nth(1).unwrap();
                let name = path.rsplit('/').next().unwrap();
                let list = list(path);
                let (headers, body) = match files.get(name) {
                    Some(body) => {
                        let head = format!("blob {}\0", body.len());
                        let hash = sha1::Sha1::digest([head.as_bytes(), body].concat());
                        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                        (format!("etag: \"{}\"\r\n", etag(name, hex)), body)
                    }
                    None => (String::new(), &list),
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
                    body.len()
                );
                stream.write_all(&[head.as_bytes(), body].concat()).ok();
            }
        });
        Self { port, sent }
    }

    /// Runs a study on a model of this hub, asked under this host name.
    fn run(&self, bench: &Workbench, host: &str) -> Said {
        bench.write("study.toml", STUDY);
        self.dial(bench, host, &["run", "study.toml"])
    }

    fn dial(&self, bench: &Workbench, host: &str, arguments: &[&str]) -> Said {
        let mut command = bench.command(arguments);
        command
            .env("HF_ENDPOINT", format!("http://{host}:{}", self.port))
            .env("HF_HUB_CACHE", bench.path("hub"))
            .env("HF_HOME", bench.path("home"))
            .env("HF_TOKEN", "hf_SECRET");
        for name in [
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        Said::of(command.output().unwrap(), &bench.path(""))
    }
}

#[test]
fn a_model_is_fetched_into_the_cache_that_python_would_use() {
    let bench = Workbench::new(&main_set(4, 4));
    let hub = FakeHub::serve(|_, digest| digest);
    let said = hub.run(&bench, "127.0.0.1");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.contains("fetching `org/tiny@main`, weights"),
        "{}",
        said.stderr
    );
    let place = bench.path("hub/models--org--tiny");
    assert_eq!(
        std::fs::read_to_string(place.join("refs/main")).unwrap(),
        COMMIT
    );
    assert!(
        place
            .join("snapshots")
            .join(COMMIT)
            .join("config.json")
            .exists()
    );
    assert!(!bench.path("home").exists());
    let sent = hub.sent.lock().unwrap().clone();
    assert!(
        sent.iter()
            .all(|token| token.as_deref() == Some("Bearer hf_SECRET")),
        "{sent:?}"
    );
    // The second run needs no hub.
    let again = FakeHub { port: 1, ..hub };
    assert_eq!(again.run(&bench, "127.0.0.1").code, 0);
}

#[test]
fn a_path_for_a_name_overwrites_nothing() {
    let bench = Workbench::new(&main_set(4, 4));
    bench.write("victim", "precious");
    let victim = bench.path("victim").display().to_string();
    let hub = FakeHub::serve(move |name, digest| match name {
        "config.json" => victim.clone(),
        _ => digest,
    });
    let said = hub.run(&bench, "127.0.0.1");
    let message = said.message(2);
    assert!(
        message.contains("expected a digest of 40 or 64"),
        "{message}"
    );
    assert_eq!(
        std::fs::read_to_string(bench.path("victim")).unwrap(),
        "precious"
    );
    let blobs = std::fs::read_dir(bench.path("hub/models--org--tiny/blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
}

#[test]
fn the_token_does_not_go_over_plain_http_to_another_machine() {
    let bench = Workbench::new(&main_set(4, 4));
    let hub = FakeHub::serve(|_, digest| digest);
    // Which leads here, but is no name of this machine alone.
    let said = hub.run(&bench, "0.0.0.0");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr
            .contains("the token is not sent to `http://0.0.0.0"),
        "{}",
        said.stderr
    );
    let sent = hub.sent.lock().unwrap().clone();
    assert!(
        !sent.is_empty() && sent.iter().all(Option::is_none),
        "{sent:?}"
    );
    let everything = bench.path("");
    assert!(!said.stderr.contains("hf_SECRET"));
    for path in crate::workbench::files_below(Path::new(&everything)) {
        let content = std::fs::read(&path).unwrap_or_default();
        let found = content.windows(9).any(|window| window == b"hf_SECRET");
        assert!(!found, "{} holds the token", path.display());
    }
}

#[test]
fn a_source_without_a_revision_is_pinned_by_its_lock() {
    const MOVED: &str = "fedcba9876543210fedcba9876543210fedcba98";
    let bench = Workbench::new(&main_set(4, 4));
    bench.write("study.toml", STUDY);
    let hub = FakeHub::serve(|_, digest| digest);
    let said = hub.dial(&bench, "127.0.0.1", &["lock", "study.toml"]);
    assert_eq!(said.code, 0, "{said:?}");
    let lock = std::fs::read_to_string(bench.path("study.lock")).unwrap();
    assert!(lock.contains(&format!("commit = \"{COMMIT}\"")), "{lock}");

    // On another machine, after the branch has moved.
    let other = Workbench::new(&main_set(4, 4));
    other.write("study.lock", &lock);
    let moved = FakeHub::serve_at(MOVED, |_, digest| digest);
    let snapshots = other.path("hub/models--org--tiny/snapshots");
    let said = moved.run(&other, "127.0.0.1");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(snapshots.join(COMMIT).exists());
    assert!(!snapshots.join(MOVED).exists());
    let check = ["lock", "study.toml", "--check=strict"];
    assert_eq!(moved.dial(&other, "127.0.0.1", &check).code, 0);

    // Written anew, it follows the branch and says so.
    let said = moved.dial(&other, "127.0.0.1", &["lock", "study.toml"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(
        said.stdout,
        "  model `inst`, commit: `01234567` → `fedcba98`\n"
    );
}

#[test]
fn a_starter_asks_for_settings_and_no_weights() {
    let hub = FakeHub::serve(|_, digest| digest);
    let bench = Workbench::new(&main_set(2, 2));
    let said = hub.dial(
        &bench,
        "127.0.0.1",
        &["init", "mine.toml", "--model", "hf:org/tiny"],
    );
    assert_eq!(said.code, 0, "{said:?}");
    let study = std::fs::read_to_string(bench.path("mine.toml")).unwrap();
    assert!(study.contains("source = \"hf:org/tiny\""), "{study}");
    assert_eq!(study.matches("layer = 3").count(), 3, "{study}");
    let fetched = crate::workbench::files_below(&bench.path("hub"));
    let has = |end: &str| {
        fetched
            .iter()
            .any(|path| path.to_string_lossy().ends_with(end))
    };
    assert!(has("config.json"), "{fetched:?}");
    assert!(!has(".safetensors"), "{fetched:?}");
    // What is fetched later is whole.
    let said = hub.run(&bench, "127.0.0.1");
    assert_eq!(said.code, 0, "{said:?}");
}
