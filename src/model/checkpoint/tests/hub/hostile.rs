//! What hubs, mirrors, portals and other people's caches do to a download.

use std::os::unix::fs::symlink;

use super::*;

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

/// The answer to a request for a file by a mirror that lists neither lengths nor digests, with this head.
fn terse(
    source: &Path,
    head: impl Fn(&str) -> String + Send + Sync + 'static,
) -> impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static {
    let files = files_of(source);
    move |request, _| {
        if is_list(request) {
            return listed(&list_of(&files, false));
        }
        let name = request.path.rsplit('/').next().unwrap();
        Some(reply("200 OK", &head(name), files.get(name)?))
    }
}

#[test]
fn headers_that_would_lead_out_of_the_cache_are_refused() {
    let (source, cache) = model_and_cache();
    let victim = source.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let outside = cache.path().join("hub");
    for etag in [
        victim.display().to_string(),
        "../../../victim".to_string(),
        "..".to_string(),
        String::new(),
    ] {
        let head = format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
        let server = FakeHub::serve_but(source.path(), terse(source.path(), move |_| head.clone()));
        let text = message(fetched(&server, &outside));
        assert!(text.contains("`etag`"), "{text}");
        assert_eq!(kept(&outside), Vec::<PathBuf>::new());
    }
    let head = |_: &str| format!("etag: \"{}\"\r\nx-repo-commit: ../../x\r\n", "a".repeat(40));
    let server = FakeHub::serve_but(source.path(), terse(source.path(), head));
    let text = message(fetched(&server, &outside));
    assert!(text.contains("of the commit `../../x`"), "{text}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(kept(&outside), Vec::<PathBuf>::new());
    let places: Vec<_> = std::fs::read_dir(cache.path()).unwrap().collect();
    assert_eq!(places.len(), 1, "only the cache itself: {places:?}");
}

#[test]
fn a_list_that_would_lead_out_of_the_cache_is_refused() {
    let (source, cache) = model_and_cache();
    let good = list_of(&files_of(source.path()), true);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut list = good.clone();
        change(&mut list);
        list
    };
    let named = |name: &str| {
        changed(&|list| {
            let files = list["siblings"].as_array_mut().unwrap();
            files.push(json!({"rfilename": name}));
        })
    };
    let of_first =
        |key: &str, value: Value| changed(&|list| list["siblings"][0][key] = value.clone());
    for (list, what) in [
        (
            changed(&|list| list["sha"] = json!("../../x")),
            "the commit `../../x`",
        ),
        (
            changed(&|list| list["sha"] = json!("main")),
            "the commit `main`",
        ),
        (named("../../x"), "a file named `../../x`"),
        (named("/etc/passwd"), "a file named `/etc/passwd`"),
        (named("a//b"), "a file named `a//b`"),
        (named("a\\..\\b"), "a file named"),
        (named("\u{1b}[2J"), "a file named `\\u{1b}[2J`"),
        (
            of_first("lfs", json!({"sha256": "../../x"})),
            "the digest `../../x`",
        ),
        (
            of_first("lfs", json!({"size": 1_u64 << 62})),
            "4611686018427387904 bytes",
        ),
        (json!({"sha": COMMIT}), "not as expected"),
    ] {
        let server = FakeHub::serve_but(source.path(), move |request, _| {
            is_list(request).then(|| listed(&list)).flatten()
        });
        let text = message(fetched(&server, cache.path()));
        assert!(text.contains(what), "{what}: {text}");
        assert!(kept(cache.path()).is_empty());
    }
}

#[test]
fn links_in_the_cache_lead_nothing_out_of_it() {
    for link in ["blobs", "snapshots", "refs"] {
        let (source, cache) = model_and_cache();
        let outside = tempfile::tempdir().unwrap();
        let place = cache.path().join("models--org--tiny");
        std::fs::create_dir(&place).unwrap();
        symlink(outside.path(), place.join(link)).unwrap();
        let server = FakeHub::serve(source.path());
        let text = message(fetched(&server, cache.path()));
        assert!(text.contains("out of the repository's folder"), "{text}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

#[test]
fn links_and_second_names_in_place_of_files_are_replaced_not_written_through() {
    let (source, cache) = model_and_cache();
    let outside = tempfile::tempdir().unwrap();
    let victims = ["soft", "hard", "blob", "ref"].map(|name| outside.path().join(name));
    for victim in &victims {
        std::fs::write(victim, "precious").unwrap();
    }
    let place = cache.path().join("models--org--tiny");
    let digest_of = |name: &str| digest(name, &std::fs::read(source.path().join(name)).unwrap());
    std::fs::create_dir_all(place.join("blobs")).unwrap();
    std::fs::create_dir_all(place.join("refs")).unwrap();
    let partial = |name: &str| place.join(format!("blobs/{}.incomplete", digest_of(name)));
    symlink(&victims[0], partial("model.safetensors")).unwrap();
    std::fs::hard_link(&victims[1], partial("config.json")).unwrap();
    symlink(
        &victims[2],
        place.join("blobs").join(digest_of("tokenizer.json")),
    )
    .unwrap();
    symlink(&victims[3], place.join("refs/main")).unwrap();
    let folder = fetched(&FakeHub::serve(source.path()), cache.path()).unwrap();
    assert!(Checkpoint::open(&folder).is_ok());
    for victim in &victims {
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
    }
}

#[test]
fn the_token_stays_with_the_hub_that_stores_elsewhere() {
    let (source, cache) = model_and_cache();
    let files = files_of(source.path());
    let storage = Server::start(move |request| {
        let name = request.path.rsplit('/').next().unwrap();
        // What the storage says of a file counts for nothing.
        reply(
            "200 OK",
            "etag: \"../../x\"\r\nx-repo-commit: x\r\n",
            &files[name],
        )
    });
    let port = storage.port;
    let files = files_of(source.path());
    let server = FakeHub::serve_but(source.path(), move |request, _| {
        let name = request.path.rsplit('/').next()?;
        let content = files.get(name).filter(|_| !is_list(request))?;
        let (etag, size) = (digest(name, content), content.len());
        let head = format!(
            "location: http://localhost:{port}/{name}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\nx-repo-commit: {COMMIT}\r\n"
        );
        Some(reply("302 Found", &head, b""))
    });
    let hub = Hub {
        token: Some("secret".to_string()),
        ..server.hub(cache.path())
    };
    assert!(Checkpoint::open(&hub.fetch(&repository("org/tiny")).unwrap()).is_ok());
    let asked = server.0.asked();
    assert!(
        asked
            .iter()
            .all(|request| request.header("authorization") == Some("Bearer secret"))
    );
    let asked = storage.asked();
    assert_eq!(asked.len(), 4);
    assert!(
        asked
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn a_mirror_that_lists_no_digests_is_believed_by_its_headers() {
    let (source, cache) = model_and_cache();
    let files = files_of(source.path());
    let plain = list_of(&files, false);
    let server = FakeHub::serve_but(source.path(), move |request, _| {
        is_list(request).then(|| listed(&plain)).flatten()
    });
    let folder = fetched(&server, cache.path()).unwrap();
    assert!(Checkpoint::open(&folder).is_ok());
    assert_eq!(
        blob_of(cache.path(), "model.safetensors")
            .file_name()
            .unwrap()
            .to_str()
            .unwrap(),
        digest("model.safetensors", &files["model.safetensors"])
    );
}

/// Answers the first request for the weights in another way than the hub would.
fn once(
    reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static {
    move |request, before| {
        (is_file(request, "model.safetensors") && before == 0).then(|| reply(request))
    }
}

#[test]
fn what_arrives_wrong_is_discarded_and_fetched_again() {
    let (source, _) = model_and_cache();
    let whole = weights(source.path());
    let (changed, longer) = {
        let (mut changed, mut longer) = (whole.clone(), whole.clone());
        *changed.last_mut().unwrap() ^= 1;
        longer.push(0);
        (changed, longer)
    };
    let half = whole.len() / 2;
    let page = b"<html>sign in</html>".to_vec();
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", whole.len());
    let cut = [cut.as_bytes(), &whole[..half]].concat();
    let unannounced = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &whole[..half]].concat();
    let range = format!("content-range: bytes 5-{}/{}\r\n", half, whole.len());
    let endless = b"HTTP/1.1 200 OK\r\n\r\nx".to_vec();
    type Make = Box<dyn Fn(&Request) -> Reply + Send + Sync>;
    let wrong: Vec<(&str, Make)> = vec![
        ("a portal's page", {
            let page = page.clone();
            Box::new(move |_| reply("200 OK", "content-type: text/html\r\n", &page))
        }),
        (
            "another file",
            Box::new(move |_| reply("200 OK", "", &page)),
        ),
        (
            "a changed file",
            Box::new(move |_| reply("200 OK", "", &changed)),
        ),
        (
            "a longer file",
            Box::new(move |_| reply("200 OK", "", &longer)),
        ),
        ("a cut file", Box::new(move |_| Reply::Bytes(cut.clone()))),
        (
            "a cut file of unknown length",
            Box::new(move |_| Reply::Bytes(unannounced.clone())),
        ),
        (
            "a wrong range",
            Box::new(move |_| reply("206 Partial Content", &range, &whole[5..=half])),
        ),
        (
            "a body without end",
            Box::new(move |_| Reply::Endless(endless.clone())),
        ),
        (
            "an overloaded hub",
            Box::new(|_| reply("503 Service Unavailable", "", b"")),
        ),
    ];
    for (what, wrong) in wrong {
        let cache = tempfile::tempdir().unwrap();
        let server = FakeHub::serve_but(source.path(), once(wrong));
        let folder =
            fetched(&server, cache.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(weights(&folder), weights(source.path()), "{what}");
        assert_eq!(server.asked_for("model.safetensors"), 2, "{what}");
        assert_eq!(
            kept(cache.path()).len(),
            8,
            "{what}: four contents and four links"
        );
    }
}

#[test]
fn what_stays_wrong_is_an_error_and_is_not_kept() {
    let (source, cache) = model_and_cache();
    let whole = weights(source.path());
    let changed = vec![0; whole.len()];
    let server = FakeHub::serve_but(source.path(), move |request, _| {
        is_file(request, "model.safetensors").then(|| reply("200 OK", "", &changed))
    });
    let text = message(fetched(&server, cache.path()));
    assert!(
        text.contains("`model.safetensors`: what arrived does not have the digest")
            && text.contains("sign in to the network"),
        "{text}"
    );
    assert_eq!(server.asked_for("model.safetensors"), 3);
    let left: Vec<String> = kept(cache.path())
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert!(
        left.iter()
            .all(|path| !path.contains("safetensors") && !path.contains("incomplete")),
        "{left:?}"
    );

    let server = FakeHub::serve_but(source.path(), |request, _| {
        is_list(request).then(|| {
            reply(
                "200 OK",
                "content-type: text/html; charset=x\r\n",
                b"<html>",
            )
        })
    });
    let cache = tempfile::tempdir().unwrap();
    let text = message(fetched(&server, cache.path()));
    assert!(text.contains("a web page arrived in its place"), "{text}");
}

#[test]
fn a_download_that_broke_off_is_gone_on_with() {
    let (source, cache) = model_and_cache();
    let whole = weights(source.path());
    let half = whole.len() / 2;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", whole.len());
    let cut = [head.as_bytes(), &whole[..half]].concat();
    let server = FakeHub::serve_but(source.path(), move |request, before| {
        let is_weights = is_file(request, "model.safetensors");
        match before {
            0 if is_weights => Some(Reply::Bytes(cut.clone())),
            _ if is_weights => Some(reply("500 Internal Server Error", "", b"")),
            _ => None,
        }
    });
    let text = message(fetched(&server, cache.path()));
    assert!(text.contains("`500 Internal Server Error`"), "{text}");
    // The next run asks for the rest alone.
    let server = FakeHub::serve(source.path());
    let folder = fetched(&server, cache.path()).unwrap();
    assert_eq!(weights(&folder), whole);
    let asked = server.0.asked();
    let ranges: Vec<_> = asked
        .iter()
        .filter_map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, [format!("bytes={half}-")]);
}

#[test]
fn a_partial_file_of_something_else_is_not_gone_on_with() {
    let (source, _) = model_and_cache();
    let whole = weights(source.path());
    let length = whole.len();
    for left in [vec![7; length / 2], vec![7; length], vec![7; length + 9]] {
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--org--tiny/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let partial = format!("{}.incomplete", digest("model.safetensors", &whole));
        std::fs::write(blobs.join(partial), left).unwrap();
        let folder = fetched(&FakeHub::serve(source.path()), cache.path()).unwrap();
        assert_eq!(weights(&folder), whole);
        assert_eq!(kept(cache.path()).len(), 8);
    }
    // A server that answers a range with another one.
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = format!("{}.incomplete", digest("model.safetensors", &whole));
    std::fs::write(blobs.join(partial), &whole[..10]).unwrap();
    let server = FakeHub::serve_but(
        source.path(),
        once(move |_| {
            let range = format!("content-range: bytes 20-{}/{length}\r\n", length - 1);
            reply("206 Partial Content", &range, &whole[20..])
        }),
    );
    let folder = fetched(&server, cache.path()).unwrap();
    assert_eq!(weights(&folder), weights(source.path()));
}

#[test]
fn damage_of_earlier_downloads_is_mended() {
    let (source, cache) = model_and_cache();
    let server = FakeHub::serve(source.path());
    let folder = fetched(&server, cache.path()).unwrap();
    let cut = weights(source.path())[..500].to_vec();
    for (name, damage) in [
        ("config.json", b"<html>".to_vec()),
        ("tokenizer_config.json", b"<html>".to_vec()),
        ("model.safetensors", cut),
        ("model.safetensors", Vec::new()),
    ] {
        let asked = server.asked();
        let blob = blob_of(cache.path(), name);
        std::fs::write(&blob, &damage).unwrap();
        let offline = Hub {
            offline: true,
            ..server.hub(cache.path())
        };
        let text = message(offline.fetch(&repository("org/tiny")));
        assert!(
            text.contains(&format!("`{name}` is damaged in the cache")),
            "{text}"
        );
        assert_eq!(fetched(&server, cache.path()).unwrap(), folder);
        let mended = std::fs::read(source.path().join(name)).unwrap();
        assert_eq!(std::fs::read(&blob).unwrap(), mended, "{name}");
        assert_eq!(
            server.asked(),
            asked + 2,
            "the list and the file, at its commit"
        );
        assert_eq!(kept(cache.path()).len(), 8);
    }
    let asked = server.0.asked();
    let last = asked.iter().rfind(|request| is_list(request)).unwrap();
    assert!(last.path.contains(COMMIT), "{}", last.path);
}

#[test]
fn weights_that_are_not_what_they_are_named_by_are_told_when_they_are_hashed() {
    let (source, cache) = model_and_cache();
    let folder = fetched(&FakeHub::serve(source.path()), cache.path()).unwrap();
    let open = || Checkpoint::open(&folder).unwrap().file_hashes(&NoShortcut);
    assert!(open().is_ok());
    let blob = blob_of(cache.path(), "model.safetensors");
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let text = open().unwrap_err().to_string();
    assert!(
        text.contains("it is damaged") && text.contains("delete it"),
        "{text}"
    );
    // As it says: and the commit stays what it was, wherever the branch is now.
    std::fs::remove_file(&blob).unwrap();
    let server = FakeHub::serve(source.path());
    assert_eq!(fetched(&server, cache.path()).unwrap(), folder);
    assert!(open().is_ok());
    assert!(server.0.asked()[0].path.contains(COMMIT));
}

#[test]
fn fetches_at_one_time_share_the_work_and_damage_nothing() {
    let (source, cache) = model_and_cache();
    let server = FakeHub::serve(source.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let folder = fetched(&server, cache.path()).unwrap();
                assert_eq!(weights(&folder), weights(source.path()));
            });
        }
    });
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        assert_eq!(server.asked_for(name), 1, "{name}");
    }
    assert_eq!(kept(cache.path()).len(), 8);
}

/// What is said of a repository with these files.
fn said_of(names: &[&str]) -> String {
    let empty = tempfile::tempdir().unwrap();
    let names = names.iter().map(|name| json!({"rfilename": name}));
    let list = json!({"sha": COMMIT, "siblings": names.collect::<Vec<_>>()});
    let server = FakeHub::serve_but(empty.path(), move |_, _| listed(&list));
    message(fetched(&server, &empty.path().join("cache")))
}

#[test]
fn repositories_of_other_kinds_are_told_apart_before_anything_is_fetched() {
    let settings = ["config.json", "tokenizer.json"];
    for (names, words) in [
        (
            vec!["pytorch_model.bin"],
            vec!["pickled (`pytorch_model.bin`)", "safetensors"],
        ),
        (
            vec![
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
            ],
            vec!["pickled (`pytorch_model-00001-of-00002.bin`, `pytorch"],
        ),
        (
            vec!["x.Q4_0.gguf"],
            vec![
                "a GGUF file, `x.Q4_0.gguf`",
                "hf download org/tiny x.Q4_0.gguf",
            ],
        ),
        (
            vec!["a.gguf", "b.gguf", "c.gguf", "d.gguf"],
            vec![
                "4 GGUF files (`a.gguf`, `b.gguf`, `c.gguf`, …)",
                "choose one",
            ],
        ),
        (
            vec!["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"],
            vec![
                "a GGUF in parts (`x-00001-of-00002.gguf`)",
                "llama-gguf-split --merge",
            ],
        ),
        (
            vec!["adapter_config.json", "adapter_model.safetensors"],
            vec!["an adapter, not a model", "merge"],
        ),
        (vec!["tf_model.h5"], vec!["another format (`tf_model.h5`)"]),
        (vec![], vec!["there is no `model.safetensors`"]),
    ] {
        let text = said_of(&[&settings[..], &names[..]].concat());
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let text = said_of(&["model.safetensors", "config.json"]);
    assert!(text.contains("there is no `tokenizer.json`"), "{text}");
}

#[test]
fn no_weights_are_fetched_for_settings_that_cannot_be_used() {
    let (source, cache) = model_and_cache();
    let mut config = tiny_config("qwen2");
    config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_own.Own"});
    std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(source.path().join("modeling_own.py"), "").unwrap();
    let server = FakeHub::serve(source.path());
    let text = message(fetched(&server, cache.path()));
    assert!(
        text.contains("trust_remote_code") && text.contains("`modeling_own.py`"),
        "{text}"
    );
    assert_eq!(server.asked_for("model.safetensors"), 0);

    let mut config = tiny_config("qwen2");
    config["model_type"] = json!("mamba");
    std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    let server = FakeHub::serve(source.path());
    let text = message(fetched(&server, cache.path()));
    assert!(text.contains("`mamba`"), "{text}");
    assert_eq!(server.asked_for("model.safetensors"), 0);
}

#[test]
fn what_an_index_asks_for_is_fetched_by_its_own_name() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_shards(source.path(), &tiny_config("llama"));
    let index = source
        .path()
        .join(crate::model::checkpoint::hugging_face::INDEX);
    let text = std::fs::read_to_string(&index).unwrap();
    // A name that an address needs encoded.
    std::fs::rename(
        source.path().join("b.safetensors"),
        source.path().join("b #1?.safetensors"),
    )
    .unwrap();
    std::fs::write(&index, text.replace("b.safetensors", "b #1?.safetensors")).unwrap();
    let files = files_of(source.path());
    let server = FakeHub::serve_but(source.path(), move |request, _| {
        let name = "b #1?.safetensors";
        is_file(request, "b%20%231%3F.safetensors").then(|| part(name, &files[name], None))
    });
    assert!(Checkpoint::open(&fetched(&server, cache.path()).unwrap()).is_ok());

    std::fs::write(&index, text.replace("b.safetensors", "../../b.safetensors")).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let text = message(fetched(&FakeHub::serve(source.path()), cache.path()));
    assert!(text.contains("`../../b.safetensors`"), "{text}");
}
