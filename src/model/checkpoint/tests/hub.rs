use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::super::hub::{Hub, Repository};
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub on this machine that has the files of one folder as `org/tiny`; `org/gated` asks for the token `secret`.
struct FakeHub {
    endpoint: String,
    /// The paths that were asked for.
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeHub {
    fn serve(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let files: HashMap<String, Vec<u8>> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    std::fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        let log = Arc::clone(&requests);
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &files, &log);
            }
        });
        Self { endpoint, requests }
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub {
            endpoint: self.endpoint.clone(),
            cache: cache.to_path_buf(),
            token: None,
            offline: false,
        }
    }
}

/// Reads one request and answers it as the hub does.
fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let path = request.split(' ').nth(1).unwrap().to_string();
    let header = |line: String| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_string()))
    };
    let headers: HashMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(header)
        .collect();
    log.lock().unwrap().push(path.clone());
    let token = headers.get("authorization").map(String::as_str);
    let info = path.starts_with("/api/models/org/") && path.ends_with("/revision/main");
    let file = path.split_once(&format!("/resolve/{COMMIT}/"));
    let file = file.and_then(|(_, name)| Some((name, files.get(name)?)));
    let response = if path.contains("org/gated") && token != Some("Bearer secret") {
        response("401 Unauthorized", "", b"")
    } else if info && !path.contains("absent") {
        let siblings: Vec<Value> = files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
        response("200 OK", "", body.as_bytes())
    } else if let Some((name, bytes)) = file {
        partial(name, bytes, &headers["range"])
    } else {
        response("404 Not Found", "", b"")
    };
    stream.write_all(&response).ok();
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The bytes of a file that `range` asks for (`bytes=first-last`, or `bytes=first-`).
fn partial(name: &str, bytes: &[u8], range: &str) -> Vec<u8> {
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let start: usize = first.parse().unwrap();
    let last: usize = last.parse().unwrap_or(bytes.len()).min(bytes.len() - 1);
    let etag = blake3::hash(name.as_bytes()).to_hex();
    let headers = format!(
        "content-range: bytes {start}-{last}/{}\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n",
        bytes.len()
    );
    response("206 Partial Content", &headers, &bytes[start..=last])
}

fn repository(name: &str) -> Repository {
    Repository::parse(name).unwrap()
}

fn message(result: Result<PathBuf, ModelError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_hub() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_model(source.path(), &tiny_config("qwen2"), Dtype::Float32);
    std::fs::write(source.path().join("README.md"), "not wanted").unwrap();
    let server = FakeHub::serve(source.path());
    let hub = server.hub(cache.path());
    let folder = hub.fetch(&repository("org/tiny")).unwrap();
    let place = cache.path().join("models--org--tiny");
    assert_eq!(folder, place.join("snapshots").join(COMMIT));
    assert!(!folder.join("README.md").exists());
    assert_eq!(
        std::fs::read_to_string(place.join("refs/main")).unwrap(),
        COMMIT
    );
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights(&folder), weights(source.path()));
    assert!(Checkpoint::open(&folder).is_ok());

    let asked = server.asked();
    let by_commit = format!("org/tiny@{COMMIT}");
    for name in ["org/tiny", &by_commit] {
        assert_eq!(hub.fetch(&repository(name)).unwrap(), folder);
    }
    assert_eq!(
        server.asked(),
        asked,
        "a complete snapshot is used without asking"
    );
    let offline = Hub {
        offline: true,
        ..hub
    };
    assert_eq!(offline.fetch(&repository("org/tiny")).unwrap(), folder);
}

#[test]
fn shards_are_fetched_and_a_broken_off_fetch_is_completed() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_shards(source.path(), &tiny_config("llama"));
    let server = FakeHub::serve(source.path());
    let folder = server
        .hub(cache.path())
        .fetch(&repository("org/tiny"))
        .unwrap();
    assert_eq!(Checkpoint::open(&folder).unwrap().files.len(), 2);

    std::fs::remove_file(folder.join("b.safetensors")).unwrap();
    let offline = Hub {
        offline: true,
        ..server.hub(cache.path())
    };
    let text = message(offline.fetch(&repository("org/tiny")));
    assert!(
        text.contains("`org/tiny@main`: `b.safetensors` is not in the cache"),
        "{text}"
    );
    assert!(text.contains("HF_HUB_OFFLINE"), "{text}");
    server
        .hub(cache.path())
        .fetch(&repository("org/tiny"))
        .unwrap();
    assert!(Checkpoint::open(&folder).is_ok());
}

#[test]
fn the_token_opens_gated_models() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_model(source.path(), &tiny_config("qwen2"), Dtype::Float32);
    let server = FakeHub::serve(source.path());
    let text = message(server.hub(cache.path()).fetch(&repository("org/gated")));
    assert!(
        text.contains("`org/gated@main`") && text.contains("set `HF_TOKEN`"),
        "{text}"
    );
    let hub = Hub {
        token: Some("secret".to_string()),
        ..server.hub(cache.path())
    };
    assert!(hub.fetch(&repository("org/gated")).is_ok());
}

#[test]
fn what_the_hub_does_not_have_is_explained() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_folder(source.path(), &tiny_config("qwen2"));
    let server = FakeHub::serve(source.path());
    let text = message(server.hub(cache.path()).fetch(&repository("org/absent")));
    assert!(
        text.contains("`org/absent@main`") && text.contains("check the name and the revision"),
        "{text}"
    );
    let text = message(server.hub(cache.path()).fetch(&repository("org/tiny")));
    assert!(text.contains("there is no `model.safetensors`"), "{text}");
}

#[test]
fn an_unreachable_hub_is_an_error_only_when_files_are_missing() {
    let cache = tempfile::tempdir().unwrap();
    // Nothing listens on this port: it was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let hub = Hub {
        endpoint: format!("http://127.0.0.1:{port}"),
        cache: cache.path().to_path_buf(),
        token: None,
        offline: false,
    };
    let text = message(hub.fetch(&repository("org/tiny@v1")));
    assert!(
        text.contains("`org/tiny@v1`") && text.contains("`HF_ENDPOINT`"),
        "{text}"
    );
    let text = message(
        Hub {
            offline: true,
            ..hub
        }
        .fetch(&repository("org/tiny@v1")),
    );
    assert!(text.contains("it is not in the cache"), "{text}");

    // Without `tokenizer_config.json` the hub is asked, and its silence is not fatal.
    let folder = cache.path().join("models--org--tiny/snapshots/v1");
    std::fs::create_dir_all(&folder).unwrap();
    write_tiny_model(&folder, &tiny_config("llama"), Dtype::Float32);
    std::fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    let hub = Hub {
        endpoint: format!("http://127.0.0.1:{port}"),
        cache: cache.path().to_path_buf(),
        token: None,
        offline: false,
    };
    assert_eq!(hub.fetch(&repository("org/tiny@v1")).unwrap(), folder);
}

#[test]
fn the_environment_is_honoured() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), "from-file\n").unwrap();
    let home_text = home.path().display().to_string();
    let hub = |set: &[(&str, &str)]| {
        let mut variables: HashMap<String, String> = set
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        variables.insert("HF_HOME".to_string(), home_text.clone());
        Hub::from_variables(|name| variables.get(name).cloned()).unwrap()
    };
    let plain = hub(&[("HF_ENDPOINT", "")]);
    assert_eq!(plain.cache, home.path().join("hub"));
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(
        (plain.token.as_deref(), plain.offline),
        (Some("from-file"), false)
    );
    let set = hub(&[
        ("HF_ENDPOINT", "http://mirror/"),
        ("HF_TOKEN", "own"),
        ("HF_HUB_OFFLINE", "yes"),
    ]);
    assert_eq!(
        (set.endpoint.as_str(), set.token.as_deref(), set.offline),
        ("http://mirror", Some("own"), true)
    );
    for (value, offline) in [
        ("1", true),
        ("ON", true),
        ("TRUE", true),
        ("0", false),
        ("off", false),
    ] {
        assert_eq!(
            hub(&[("HF_HUB_OFFLINE", value)]).offline,
            offline,
            "{value}"
        );
    }
}

#[test]
fn sources_are_paths_or_repositories() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("m.gguf"), "").unwrap();
    assert_eq!(
        locate("m.gguf", base.path()).unwrap(),
        base.path().join("m.gguf")
    );
    let text = message(locate("n.gguf", base.path()));
    assert!(
        text.starts_with("model source `n.gguf`: ") && text.contains("`hf:org/name@revision`"),
        "{text}"
    );
    for bad in [
        "hf:tiny",
        "hf:a/b/c",
        "hf:../x",
        "hf:a/b@",
        "hf:a/b@../x",
        "hf:a b/c",
    ] {
        assert!(
            message(locate(bad, base.path())).contains("expected"),
            "{bad}"
        );
    }
}
