//! The client against a server on this machine that need not be well-behaved.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::answer::content_range;
use super::*;

/// What a server was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// By names in lower case.
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What it answers.
pub(crate) enum Reply {
    /// These bytes, and then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes, and then the last of them without end.
    Endless(Vec<u8>),
    /// These bytes, and then nothing.
    Silence(Vec<u8>),
}

/// An answer with a length.
pub(crate) fn reply(status: &str, headers: &str, body: &[u8]) -> Reply {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    Reply::Bytes([head.as_bytes(), body].concat())
}

/// A server that lives as long as the test process.
pub(crate) struct Server {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { port, asked }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Request> {
        let asked = self.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let header = |line: String| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_string()))
    };
    let request = Request {
        path: first.split(' ').nth(1).unwrap().to_string(),
        headers: lines
            .map_while(|line| line.ok().filter(|line| !line.is_empty()))
            .filter_map(header)
            .collect(),
    };
    log.lock().unwrap().push(request.clone());
    match answer(&request) {
        Reply::Bytes(bytes) => drop(stream.write_all(&bytes)),
        Reply::Endless(bytes) => {
            let more = vec![*bytes.last().unwrap(); 1 << 16];
            let mut sent = stream.write_all(&bytes);
            while sent.is_ok() {
                sent = stream.write_all(&more);
            }
        }
        Reply::Silence(bytes) => {
            stream.write_all(&bytes).ok();
            std::mem::forget(stream);
        }
    }
}

/// No waiting between attempts; as long as ever for answers.
pub(crate) fn hasty() -> Patience {
    Patience {
        pause: Duration::ZERO,
        ..Patience::default()
    }
}

fn get(server: &Server, credential: Option<Credential>) -> Result<Vec<u8>, FetchError> {
    let address = Address::parse(&format!("{}/file", server.endpoint())).unwrap();
    let client = Client::new(hasty(), credential);
    client.bytes(&address, 100, &mut Progress::new("a file", None))
}

fn redirect(location: &str) -> Reply {
    reply("302 Found", &format!("location: {location}\r\n"), b"")
}

fn token_for(server: &Server) -> Option<Credential> {
    let address = Address::parse(&server.endpoint()).unwrap();
    Credential::bearer("hf_SECRET", &address).unwrap()
}

#[test]
fn a_credential_goes_to_its_own_origin_alone() {
    let other = Server::start(|_| reply("200 OK", "", b"there"));
    let elsewhere = [
        format!("http://localhost:{}/x", other.port),
        // The same host, another port.
        format!("{}/x", other.endpoint()),
    ];
    for location in elsewhere {
        let server = Server::start(move |request| match request.path.as_str() {
            // First to itself, where it is still wanted.
            "/file" => redirect("/again"),
            _ => redirect(&location),
        });
        assert_eq!(get(&server, token_for(&server)).unwrap(), b"there");
        let sent: Vec<Option<String>> = server
            .asked()
            .iter()
            .map(|request| request.header("authorization").map(str::to_string))
            .collect();
        assert_eq!(sent, vec![Some("Bearer hf_SECRET".to_string()); 2]);
    }
    let asked = other.asked();
    assert_eq!(asked.len(), 2);
    for request in asked {
        let all = format!("{request:?}");
        assert!(!all.contains("hf_SECRET"), "{all}");
    }
}

#[test]
fn no_credential_is_made_for_plain_http_to_another_machine() {
    let bearer = |endpoint: &str| {
        let address = Address::parse(endpoint).unwrap();
        Credential::bearer("hf_SECRET", &address).unwrap()
    };
    assert!(bearer("http://hub.test/").is_none());
    assert!(bearer("http://127.0.0.1.hub.test:80/").is_none());
    assert!(bearer("http://127.0.0.1:80/").is_some());
    let made = bearer("https://hub.test/");
    assert!(made.is_some());
    assert!(!format!("{made:?}").contains("SECRET"), "{made:?}");
    let address = Address::parse("https://hub.test/").unwrap();
    let error = Credential::bearer("hf_SEC\nRET", &address).unwrap_err();
    assert!(!error.contains("RET"), "{error}");
}

#[test]
fn redirects_come_to_an_end() {
    let server = Server::start(|_| redirect("/file"));
    let error = get(&server, None).unwrap_err();
    assert_eq!(
        error,
        FetchError::Refused("it was redirected more than 8 times".into())
    );
    assert_eq!(server.asked().len(), 9);
    let server = Server::start(|_| redirect("file:///etc/passwd"));
    assert!(matches!(get(&server, None), Err(FetchError::Refused(_))));
}

#[test]
fn an_endless_body_is_not_read_to_its_end() {
    let heads = ["", "transfer-encoding: identity\r\n"];
    for head in heads {
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\nx");
        let server = Server::start(move |_| Reply::Endless(head.clone().into_bytes()));
        let error = get(&server, None).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}

#[test]
fn silence_is_not_waited_for_without_end() {
    let partly = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf".to_vec();
    for sent in [Vec::new(), b"HTTP/1.1 200 OK\r\n".to_vec(), partly] {
        let server = Server::start(move |_| Reply::Silence(sent.clone()));
        let address = Address::parse(&server.endpoint()).unwrap();
        let patience = Patience {
            silence: Duration::from_millis(50),
            ..hasty()
        };
        let client = Client::new(patience, None);
        let result = client
            .get(&address, None)
            .and_then(|answer| answer.read(100, |_| Ok(())));
        let error = result.unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
        assert!(error.may_pass());
    }
}

#[test]
fn what_may_pass_is_tried_again_and_no_more_often_than_said() {
    let attempts = |error: FetchError| {
        let client = Client::new(hasty(), None);
        let mut count = 0;
        let result: Result<(), _> = client.patiently(|| {
            count += 1;
            Err(error.clone())
        });
        assert_eq!(result.unwrap_err(), error);
        count
    };
    let status = |code: u16| FetchError::Status {
        code: StatusCode::from_u16(code).unwrap(),
        wait: None,
    };
    assert_eq!(attempts(status(503)), ATTEMPTS);
    assert_eq!(attempts(FetchError::broken("x")), ATTEMPTS);
    assert_eq!(attempts(FetchError::Wrong("x".into())), WRONG_ATTEMPTS);
    for error in [status(404), status(401), FetchError::Refused("x".into())] {
        assert_eq!(attempts(error), 1);
    }

    // An attempt that brought much was no failure, however many there are.
    let client = Client::new(hasty(), None);
    let mut count = 0;
    let result = client.patiently(|| {
        count += 1;
        match count {
            20 => Ok(count),
            _ => Err(FetchError::Broken {
                problem: "x".into(),
                arrived: WORTHWHILE,
            }),
        }
    });
    assert_eq!(result, Ok(20));
}

#[test]
fn the_part_that_a_body_holds_is_told_exactly() {
    let extent = |from, total| Some(Extent { from, total });
    assert_eq!(content_range("bytes 5-9/10"), extent(5, Some(10)));
    assert_eq!(content_range("bytes 5-9/*"), extent(5, None));
    for bad in [
        "5-9/10",
        "bytes */10",
        "bytes 9-5/10",
        "bytes 5-10/10",
        "bytes 5-9",
        "bytes -5-9/10",
        "bytes 5-99999999999999999999999/*",
    ] {
        assert_eq!(content_range(bad), None, "{bad}");
    }
}

#[test]
fn what_a_server_says_cannot_move_the_cursor() {
    let shown = printable("a\u{1b}]0;title\u{7}\r\n\u{202e}b");
    assert!(
        !shown.contains(|c: char| c.is_control() || c == '\u{202e}'),
        "{shown}"
    );
    assert!(printable(&"x".repeat(5000)).len() < 300);
}
