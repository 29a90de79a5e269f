//! A hub on this machine that answers as the input says.
//!
//! An input is a list of answers. Each begins with a line `=> <part of a path>`: the first whose part is in the path that was asked for is
//! sent, and where there is none a 404. What follows the line is sent as it stands, status line, headers and body, with these words replaced:
//! `@RANGE@` by the status that fits the range that was asked for, of which the body is then cut out, `@LENGTH@` by the length of
//! what is sent, `@SIZE@` and `@SHA256@` by those of the whole body, `@ENDPOINT@` by the hub's address, `@ENDLESS@` in a body by more bytes than anybody should read.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Mutex, OnceLock};

use refusal_dial::inside::model::{locate, locate_without_fetching};
use sha2::{Digest, Sha256};

use super::models;
use super::target::{Case, Seed, Target};

pub const TARGETS: &[Target] = &[Target {
    name: "hub",
    cases: 100,
    workers: 8,
    made: seeds,
    words: &[
        "../../x",
        "..",
        "/",
        "@OUTSIDE@",
        "@ENDLESS@",
        "\r\n",
        "\r\n\r\n",
        "etag: ",
        "x-linked-etag: ",
        "x-linked-size: ",
        "x-repo-commit: ",
        "location: ",
        "content-range: bytes 0-1/2",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
        "content-encoding: gzip\r\n",
        "\"rfilename\":",
        "\"sha\":",
        "=> /",
        "HTTP/1.1 302 Found",
        "HTTP/1.1 416 Range",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 206 Partial",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "\u{1b}]0;x\u{7}",
        "%2e%2e%2f",
    ],
    read,
    ..Target::TEXT
}];

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Bytes of a body without an end, unless the reader goes away before.
const ENDLESS_BYTES: usize = 1 << 30;

/// What is answered now.
static ANSWERS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Asks for a model of the hub, which answers as the input says, and then for what is there by now.
fn read(case: &Case) -> bool {
    start();
    *ANSWERS.lock().unwrap() = case.input.to_vec();
    let located = locate("hf:org/tiny", case.folder);
    let is_located = located.map_err(|error| error.to_string()).is_ok();
    let there = locate_without_fetching("hf:org/tiny@main", case.folder);
    drop(there.map_err(|error| error.to_string()));
    is_located
}

/// Starts the hub of this process, and says in the environment where it is.
fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        // SAFETY: nothing else in this process reads or writes the environment meanwhile; it has fuzzed nothing yet.
        unsafe { std::env::set_var("HF_ENDPOINT", &endpoint) };
        // The thread ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let endpoint = endpoint.clone();
                // A reader may go away, and then the answer ends.
                std::thread::spawn(move || drop(answer(stream, &endpoint)));
            }
        });
    });
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, endpoint: &str) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    let (mut line, mut range) = (String::new(), None);
    while reader.read_line(&mut line)? > 2 {
        let lower = line.to_ascii_lowercase();
        range = lower
            .trim()
            .strip_prefix("range: bytes=")
            .map(String::from)
            .or(range);
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let answers = ANSWERS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .clone();
    let answer = chosen(&answers, path.as_bytes());
    let (head, body) = match find(answer, b"\n\n") {
        Some(at) => (&answer[..at], &answer[at + 2..]),
        None => (answer, &[][..]),
    };
    let sha256: String = Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let head = String::from_utf8_lossy(head).replace("@SIZE@", &body.len().to_string());
    let (status, body) = match range.filter(|_| head.contains("@RANGE@")) {
        Some(range) => part(body, &range),
        None => ("200 OK".to_string(), body),
    };
    let head = head
        .replace("@RANGE@", &status)
        .replace("@LENGTH@", &body.len().to_string())
        .replace("@SHA256@", &sha256)
        .replace("@ENDPOINT@", endpoint)
        .replace("\r\n", "\n")
        .replace('\n', "\r\n");
    write!(stream, "{head}\r\nconnection: close\r\n\r\n")?;
    match find(body, b"@ENDLESS@") {
        None => stream.write_all(body)?,
        Some(at) => {
            stream.write_all(&body[..at])?;
            let piece = vec![b' '; 1 << 20];
            for _ in 0..ENDLESS_BYTES / piece.len() {
                stream.write_all(&piece)?;
            }
        }
    }
    stream.shutdown(Shutdown::Write)
}

/// The status of an answer with a part of a body, and that part; `range` is `first-last`, or `first-`.
fn part<'a>(body: &'a [u8], range: &str) -> (String, &'a [u8]) {
    let (first, last) = range.split_once('-').unwrap_or_default();
    let end = last
        .parse()
        .map_or(body.len(), |last: usize| last.saturating_add(1));
    let (start, end) = (first.parse().unwrap_or(0), end.min(body.len()));
    match body.get(start..end).filter(|part| !part.is_empty()) {
        Some(part) => {
            let total = body.len();
            let status = format!(
                "206 Partial Content\ncontent-range: bytes {start}-{}/{total}",
                end - 1
            );
            (status, part)
        }
        None => ("416 Range Not Satisfiable".to_string(), &[]),
    }
}

/// The answer to a path.
fn chosen<'a>(answers: &'a [u8], path: &[u8]) -> &'a [u8] {
    let mut rest = answers;
    while let Some(at) = find(rest, b"=> ") {
        rest = &rest[at + 3..];
        let end = find(rest, b"\n").unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let after = after.get(1..).unwrap_or_default();
        let length = find(after, b"\n=> ").unwrap_or(after.len());
        if part.is_empty() || find(path, part).is_some() {
            return &after[..length];
        }
        rest = after;
    }
    b"HTTP/1.1 404 Not Found\ncontent-length: 0"
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// A hub with these files, each with these headers beside the usual ones.
fn hub(names: &[&str], headers: &str, body: &str) -> String {
    let siblings: Vec<String> = names
        .iter()
        .map(|name| format!("{{\"rfilename\": \"{name}\"}}"))
        .collect();
    let info = format!(
        "{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}",
        siblings.join(", ")
    );
    let file = |path: &str, body: &str| {
        format!("=> {path}\nHTTP/1.1 @RANGE@\ncontent-length: @LENGTH@\n{headers}\n\n{body}")
    };
    format!(
        "=> /api/models/\nHTTP/1.1 200 OK\ncontent-length: @LENGTH@\n\n{info}\n{}\n{}\n{}\n{}",
        file(".index.json", body),
        file("/config.json", &models::config().to_string()),
        // A header without a tensor, and its length.
        file(".safetensors", "\u{2}\0\0\0\0\0\0\0{}"),
        file("/resolve/", body),
    )
}

fn seeds() -> Vec<Seed> {
    let names = ["config.json", "tokenizer.json", "model.safetensors"];
    let usual = format!("etag: \"@SHA256@\"\nx-repo-commit: {COMMIT}");
    let with = |headers: &str| hub(&names, headers, "{}");
    let etag = |etag: &str| with(&usual.replace("@SHA256@", etag));
    let commit = |commit: &str| with(&usual.replace(COMMIT, commit));
    let range = |range: &str| {
        let head = format!("206 Partial Content\ncontent-range: bytes {range}");
        with(&usual).replace("@RANGE@", &head)
    };
    let sha = |sha: &str| with(&usual).replacen(COMMIT, sha, 1);
    let file = |name: &str| {
        hub(
            &[name, "config.json", "tokenizer.json", "model.safetensors"],
            &usual,
            "{}",
        )
    };
    let index = |shard: &str| {
        hub(
            &[
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
            ],
            &usual,
            &format!("{{\"weight_map\": {{\"a\": \"{shard}\"}}}}"),
        )
    };
    let moved =
        |to: &str| with(&format!("{usual}\nlocation: {to}")).replace("@RANGE@", "302 Found");
    let plain = with(&usual);
    let made = [
        ("plain", plain.clone()),
        ("plain-linked", with(&format!("x-linked-etag: \"@SHA256@\"\nx-linked-size: @SIZE@\n{}", usual.replace("@SHA256@", "abc")))),
        ("etag-absolute", etag("@OUTSIDE@")),
        ("etag-up", etag("../../x")),
        ("etag-far-up", etag("../../../../../x")),
        ("etag-empty", etag("")),
        ("etag-dot", etag(".")),
        ("etag-long", etag(&"a".repeat(5000))),
        ("plain-weak-etag", with(&usual.replace("etag: ", "etag: W/"))),
        ("etag-missing", with(&format!("x-repo-commit: {COMMIT}"))),
        ("etag-not-ascii", etag("é\u{7f}")),
        ("linked-etag-absolute", with(&format!("x-linked-etag: \"@OUTSIDE@\"\nx-linked-size: 2\n{usual}"))),
        ("linked-size-2-63", with(&format!("x-linked-etag: \"@SHA256@\"\nx-linked-size: 9223372036854775808\n{usual}"))),
        ("commit-up", commit("../../x")),
        ("commit-far-up", commit("../../../../../../../x")),
        ("commit-absolute", commit("@OUTSIDE@")),
        ("commit-empty", commit("")),
        ("sha-up", sha("../../x")),
        ("sha-absolute", sha("@OUTSIDE@")),
        ("sha-empty", sha("")),
        ("file-up", file("../../../../../x")),
        ("file-absolute", file("@OUTSIDE@")),
        ("shard-up", index("../../../../../x.safetensors")),
        ("shard-absolute", index("@OUTSIDE@")),
        ("shard-of-another-kind", index("x.bin")),
        ("range-wrong", range("5-6/7")),
        ("range-of-2-63", range("0-1/9223372036854775808")),
        ("range-of-2-64", range("0-1/18446744073709551616")),
        ("range-without-a-total", range("0-1/*")),
        ("range-turned-round", range("9-1/2")),
        ("range-of-nothing", range("0-0/0")),
        ("cut", plain.replace("content-length: @LENGTH@\netag", "content-length: 1000\netag")),
        ("longer-than-said", plain.replace("content-length: @LENGTH@\netag", "content-length: 1\netag")),
        ("length-not-said", plain.replace("content-length: @LENGTH@\n", "")),
        ("length-negative", plain.replace("@LENGTH@", "-1")),
        ("length-2-64", plain.replace("@LENGTH@", "18446744073709551616")),
        ("portal", "=> \nHTTP/1.1 200 OK\ncontent-type: text/html\ncontent-length: @LENGTH@\n\n<html>sign in</html>".to_string()),
        ("redirect-to-itself", moved("@ENDPOINT@/org/tiny/resolve/main/config.json")),
        ("redirect-nowhere", moved("http://[::1")),
        ("redirect-to-a-file", moved("file:///etc/hostname")),
        ("redirect-relative", moved("../../../../x")),
        ("api-endless", "=> /api/\nHTTP/1.1 200 OK\n\n{\"sha\": @ENDLESS@".to_string()),
        ("file-endless", plain.replace("\n\n{}", "\n\n{}@ENDLESS@").replace("content-length: @LENGTH@\netag", "etag")),
        ("api-deep", format!("=> /api/\nHTTP/1.1 200 OK\ncontent-length: @LENGTH@\n\n{}", "[".repeat(200_000))),
        ("chunks-of-2-63", plain.replace("content-length: @LENGTH@\netag", "transfer-encoding: chunked\netag").replace("\n\n{}", "\n\n7fffffffffffffff\r\n{}")),
        ("zipped", with(&format!("content-encoding: gzip\n{usual}"))),
        ("status-unknown", plain.replace("HTTP/1.1 @RANGE@", "HTTP/1.1 999 ?")),
        ("no-status", plain.replace("HTTP/1.1 @RANGE@\n", "")),
        ("too-many-requests", "=> \nHTTP/1.1 429 Too Many\nretry-after: 99999999999999999999\ncontent-length: 0".to_string()),
        ("nothing", "=> \n".to_string()),
        ("many-headers", with(&format!("{usual}{}", "\nx-a: b".repeat(5000)))),
        ("long-header", with(&format!("{usual}\nx-a: {}", "b".repeat(1 << 20)))),
    ];
    made.into_iter()
        .map(|(name, text)| Seed::new(name, text))
        .collect()
}
