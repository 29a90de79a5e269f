//! Hubs, and links in a cache, that would have files written or a token sent elsewhere.

use std::os::unix::fs::symlink;

use super::*;

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
    assert!(Checkpoint::open(&folder, &NoMemory).is_ok());
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
    assert!(Checkpoint::open(&hub.fetch(&repository("org/tiny")).unwrap(), &NoMemory).is_ok());
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
    assert!(Checkpoint::open(&folder, &NoMemory).is_ok());
    assert_eq!(
        blob_of(cache.path(), "model.safetensors")
            .file_name()
            .unwrap()
            .to_str()
            .unwrap(),
        digest("model.safetensors", &files["model.safetensors"])
    );
}
