//! `dial data fetch` against a server on this machine, and prompt sets drawn out of others.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;

use insta::assert_snapshot;

use crate::workbench::{Said, Workbench};

const PATH: &str =
    "/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv";

/// A server that has one file, at the path that the real host has it; its address.
fn serve(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // The thread ends with the test process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let (status, body) = match request.split(' ').nth(1) == Some(PATH) {
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
    address
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
    let host = serve(content.clone());
    let said = fetch(&bench, &host);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("CC BY 4.0"), "{}", said.stderr);
    let folder = bench.path("data/xstest");
    assert_eq!(
        std::fs::read(folder.join("xstest_prompts.csv")).unwrap(),
        content
    );
    let notice = std::fs::read_to_string(folder.join("LICENCE.txt")).unwrap();
    assert!(notice.contains("Röttger") && notice.contains("creativecommons.org"));
    // Nothing is asked for again.
    let again = fetch(&bench, "http://127.0.0.1:1");
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("is there already"));
}

#[test]
fn another_file_is_not_kept() {
    let bench = Workbench::new(&[]);
    let host = serve(b"id,prompt\n".to_vec());
    let said = fetch(&bench, &host);
    let message = said.message(1).replace(&host, "http://[host]");
    assert_snapshot!(message, @"
    fetching http://[host]/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv
    error: `xstest` was not fetched: it has the checksum 14458507bfbb8dfe127f46a1907297f2db921d45aadc787c9e78ce752f455cca
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
        message.contains("more than the expected 16777216 bytes arrived"),
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
