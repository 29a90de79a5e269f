//! What networks, portals and disks do to a download, and how it is mended.

use super::*;

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
    let open = || {
        Checkpoint::open(&folder, &NoMemory)
            .unwrap()
            .file_hashes(&NoMemory)
    };
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
