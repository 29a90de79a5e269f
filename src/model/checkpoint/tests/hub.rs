use std::collections::HashMap;
use std::ffi::OsString;
use std::net::TcpListener;

use sha1::Sha1;
use sha2::Sha256;

use super::super::hub::{Hub, Repository};
use super::*;
use crate::fetch::tests::{Reply, Request, Server, hasty, reply};

mod damage;
mod hostile;
mod kinds;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub on this machine that has the files of one folder as `org/tiny`; `org/gated` asks for the token `secret`.
struct FakeHub(Server);

impl FakeHub {
    fn serve(folder: &Path) -> Self {
        Self::serve_but(folder, |_, _| None)
    }

    /// As [`FakeHub::serve`], but what `twist` answers, where it does, comes instead. It is told how often the path was asked for before.
    fn serve_but(
        folder: &Path,
        twist: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let files = files_of(folder);
        let counts = std::sync::Mutex::new(HashMap::new());
        Self(Server::start(move |request| {
            let before = {
                let mut counts = counts.lock().unwrap();
                let count: &mut usize = counts.entry(request.path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            twist(request, before).unwrap_or_else(|| honest(request, &files))
        }))
    }

    fn asked(&self) -> usize {
        self.0.asked().len()
    }

    /// How often a file was asked for.
    fn asked_for(&self, name: &str) -> usize {
        let asked = self.0.asked();
        asked
            .iter()
            .filter(|request| is_file(request, name))
            .count()
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub {
            endpoint: self.0.endpoint(),
            cache: cache.to_path_buf(),
            token: None,
            offline: false,
            patience: hasty(),
        }
    }
}

type Files = HashMap<String, Vec<u8>>;

fn files_of(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn is_list(request: &Request) -> bool {
    request.path.starts_with("/api/models/")
}

fn is_file(request: &Request, name: &str) -> bool {
    request.path.ends_with(&format!("/resolve/{COMMIT}/{name}"))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the hub names a content by: large files are those of weights.
fn digest(name: &str, bytes: &[u8]) -> String {
    if name.ends_with(".safetensors") {
        return hex(&<Sha256 as sha2::Digest>::digest(bytes));
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(&<Sha1 as sha1::Digest>::digest(blob))
}

/// The hub's description of a repository with these files; `detailed` with lengths and digests.
fn list_of(files: &Files, detailed: bool) -> Value {
    let file = |(name, bytes): (&String, &Vec<u8>)| {
        let (size, digest) = (bytes.len(), digest(name, bytes));
        match (detailed, name.ends_with(".safetensors")) {
            (false, _) => json!({"rfilename": name}),
            (true, false) => json!({"rfilename": name, "size": size, "blobId": digest}),
            (true, true) => json!({
                "rfilename": name, "size": size, "blobId": "00".repeat(20),
                "lfs": {"sha256": digest, "size": size, "pointerSize": 134},
            }),
        }
    };
    json!({"sha": COMMIT, "siblings": files.iter().map(file).collect::<Vec<_>>()})
}

fn listed(list: &Value) -> Option<Reply> {
    Some(reply("200 OK", "", list.to_string().as_bytes()))
}

/// Answers as the hub does.
fn honest(request: &Request, files: &Files) -> Reply {
    let path = request.path.as_str();
    let token = request.header("authorization");
    let is_info = path.starts_with("/api/models/org/")
        && (path.ends_with("/revision/main?blobs=true")
            || path.ends_with(&format!("/revision/{COMMIT}?blobs=true")));
    let file = path.split_once(&format!("/resolve/{COMMIT}/"));
    let file = file.and_then(|(_, name)| Some((name, files.get(name)?)));
    if path.contains("org/gated") && token != Some("Bearer secret") {
        reply("401 Unauthorized", "", b"")
    } else if is_info && !path.contains("absent") {
        reply("200 OK", "", list_of(files, true).to_string().as_bytes())
    } else if let Some((name, bytes)) = file {
        part(name, bytes, request.header("range"))
    } else {
        reply("404 Not Found", "", b"")
    }
}

/// The bytes of a file that `range` asks for (`bytes=first-last`, or `bytes=first-`).
fn part(name: &str, bytes: &[u8], range: Option<&str>) -> Reply {
    let etag = digest(name, bytes);
    let headers = format!("etag: W/\"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
    let Some(range) = range else {
        return reply("200 OK", &headers, bytes);
    };
    let (first, last) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .unwrap();
    let start: usize = first.parse().unwrap();
    if start >= bytes.len() {
        return reply("416 Range Not Satisfiable", &headers, b"");
    }
    let last: usize = last.parse().unwrap_or(bytes.len()).min(bytes.len() - 1);
    let range = format!("content-range: bytes {start}-{last}/{}\r\n", bytes.len());
    reply(
        "206 Partial Content",
        &(range + &headers),
        &bytes[start..=last],
    )
}

fn repository(name: &str) -> Repository {
    Repository::parse(name).unwrap()
}

fn message(result: Result<PathBuf, ModelError>) -> String {
    result.unwrap_err().to_string()
}

/// A tiny model on disk, and an empty cache.
fn model_and_cache() -> (tempfile::TempDir, tempfile::TempDir) {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_model(source.path(), &tiny_config("qwen2"), Dtype::Float32);
    (source, cache)
}

/// What is fetched of the server's `org/tiny` with an empty cache.
fn fetched(server: &FakeHub, cache: &Path) -> Result<PathBuf, ModelError> {
    server.hub(cache).fetch(&repository("org/tiny"))
}

/// The files under `blobs` and `snapshots` of the cache.
fn kept(cache: &Path) -> Vec<PathBuf> {
    let place = cache.join("models--org--tiny");
    let mut folders = vec![place.join("blobs"), place.join("snapshots")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files
}

fn blob_of(cache: &Path, name: &str) -> PathBuf {
    let place = cache.join("models--org--tiny/snapshots").join(COMMIT);
    place.join(name).canonicalize().unwrap()
}

fn weights(source: &Path) -> Vec<u8> {
    std::fs::read(source.join("model.safetensors")).unwrap()
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
    assert!(Checkpoint::open(&folder, &NoMemory).is_ok());

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
    assert_eq!(Checkpoint::open(&folder, &NoMemory).unwrap().files.len(), 2);

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
    assert!(Checkpoint::open(&folder, &NoMemory).is_ok());
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
        patience: hasty(),
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
        patience: hasty(),
    };
    assert_eq!(hub.fetch(&repository("org/tiny@v1")).unwrap(), folder);
}

/// The hub that these variables describe.
fn described(set: &[(&str, &str)]) -> Hub {
    let find = |name: &str| set.iter().find(|(known, _)| *known == name);
    Hub::from_variables(|name| find(name).map(|(_, value)| OsString::from(value))).unwrap()
}

#[test]
fn the_environment_is_honoured() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), "from-file\n").unwrap();
    let home_text = home.path().display().to_string();
    let hub = |set: &[(&str, &str)]| described(&[set, &[("HF_HOME", &home_text)]].concat());
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
fn the_cache_is_where_pythons_is() {
    let cache = |set: &[(&str, &str)]| described(set).cache;
    let all = [
        ("HF_HUB_CACHE", "/c/own"),
        ("HUGGINGFACE_HUB_CACHE", "/c/old"),
        ("HF_HOME", "/c/home"),
        ("XDG_CACHE_HOME", "/c/xdg"),
    ];
    for (from, expected) in ["/c/own", "/c/old", "/c/home/hub", "/c/xdg/huggingface/hub"]
        .iter()
        .enumerate()
    {
        assert_eq!(cache(&all[from..]), Path::new(expected));
    }
    let home = std::env::home_dir().unwrap();
    assert_eq!(cache(&[]), home.join(".cache/huggingface/hub"));
    assert_eq!(cache(&[("HF_HUB_CACHE", "~/models")]), home.join("models"));
}

#[test]
fn the_token_is_where_pythons_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("elsewhere");
    std::fs::write(&path, " from-path\n").unwrap();
    std::fs::write(folder.path().join("token"), "from-home").unwrap();
    let (path, home) = (
        path.display().to_string(),
        folder.path().display().to_string(),
    );
    let all = [
        ("HF_TOKEN", "own"),
        ("HF_TOKEN_PATH", path.as_str()),
        ("HF_HOME", home.as_str()),
    ];
    for (from, expected) in ["own", "from-path", "from-home"].into_iter().enumerate() {
        assert_eq!(described(&all[from..]).token.as_deref(), Some(expected));
    }
    let without = [&all[..], &[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]].concat();
    assert_eq!(described(&without).token, None);
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
