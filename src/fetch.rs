//! Files over the network: a client that believes no answer before it has looked at it.
//!
//! Redirects are followed here, one at a time, so that a credential goes to the origin it was given for and to no other; silence, length
//! and the number of attempts are bounded. Whoever asks compares what arrived with a [`Digest`], and shows a [`Progress`].

mod address;
mod digest;
mod progress;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE,
    RETRY_AFTER,
};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode};
use ureq::{Agent, Body};

pub(crate) use address::Address;
use address::Origin;
pub(crate) use digest::Digest;
pub(crate) use progress::Progress;

/// Redirects that are followed before it is taken as a circle.
const REDIRECTS: usize = 8;
/// Attempts that may fail by the network before it is given up.
const ATTEMPTS: usize = 4;
/// Attempts that may bring something else than what was asked for.
const WRONG_ATTEMPTS: usize = 3;
/// An attempt that broke off after this many bytes was no failure: the next one goes on behind it.
const WORTHWHILE: u64 = 1 << 20;
/// A body that brings less than this in the time of a silence is as good as silent.
const SLOWEST: u64 = 1024;
/// The longest wait that a server may ask for before the next attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long is waited, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next byte of an answer.
    pub silence: Duration,
    /// Before another attempt; twice as long after each further failure of the network.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            silence: Duration::from_secs(60),
            pause: Duration::from_millis(300),
        }
    }
}

/// Why nothing came; its text is a fragment that shows nothing secret, and nothing that a server could write to a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// The server answered with a status that is no success.
    Status {
        /// The status.
        code: StatusCode,
        /// How long to wait, where the server said it.
        wait: Option<Duration>,
    },
    /// The network failed, which may pass.
    Broken {
        /// How.
        problem: String,
        /// Bytes that arrived before.
        arrived: u64,
    },
    /// What came is not what was asked for.
    Wrong(String),
    /// It is not to be done, and would not be at another attempt.
    Refused(String),
    /// This machine failed, not the network.
    Local(String),
}

impl FetchError {
    pub(crate) fn broken(problem: impl fmt::Display) -> Self {
        Self::Broken {
            problem: problem.to_string(),
            arrived: 0,
        }
    }

    /// Whether another attempt might go better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status { code, .. } => {
                code.is_server_error() || matches!(code.as_u16(), 408 | 416 | 425 | 429)
            }
            Self::Broken { .. } | Self::Wrong(_) => true,
            Self::Refused(_) | Self::Local(_) => false,
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, .. } => write!(f, "the server answered `{code}`"),
            Self::Broken { problem, .. }
            | Self::Wrong(problem)
            | Self::Refused(problem)
            | Self::Local(problem) => f.write_str(problem),
        }
    }
}

impl From<ureq::Error> for FetchError {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::broken("nothing arrived for too long"),
            ureq::Error::HostNotFound => Self::broken("there is no such host"),
            ureq::Error::Rustls(problem) => {
                Self::Refused(format!("the connection is not trusted: {problem}"))
            }
            other => Self::broken(printable(&other.to_string())),
        }
    }
}

/// A text of a server's as it may be shown: in one line, short, and without anything that moves a cursor.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(200) {
        match character {
            '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// A secret for one origin. Its `Debug` does not show it.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    origin: Origin,
    header: HeaderValue,
}

impl Credential {
    /// The token for the origin of an address, to be sent as `Authorization: Bearer …`. None where it would be readable on the way:
    /// over plain http to another machine.
    ///
    /// # Errors
    /// The token has characters that no token has; the error does not show them.
    pub(crate) fn bearer(token: &str, address: &Address) -> Result<Option<Self>, String> {
        let origin = address.origin().clone();
        if !origin.is_private() {
            return Ok(None);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "it holds characters that no token has".to_string())?;
        header.set_sensitive(true);
        Ok(Some(Self { origin, header }))
    }
}

/// Asks servers for files.
pub(crate) struct Client {
    agent: Agent,
    credential: Option<Credential>,
    patience: Patience,
}

impl Client {
    pub(crate) fn new(patience: Patience, credential: Option<Credential>) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            // Headers that come in drops.
            .timeout_recv_response(Some(patience.silence * 2))
            // Redirects are followed below.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("dial/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            credential,
            patience,
        }
    }

    /// Asks for what is at an address; `range` is the value of a `Range` header.
    ///
    /// # Errors
    /// No successful answer came, or the way to it led where no way should.
    pub(crate) fn get(&self, address: &Address, range: Option<&str>) -> Result<Answer, FetchError> {
        let mut told = HeaderMap::new();
        let mut here = address.clone();
        for _ in 0..=REDIRECTS {
            let response = self.ask(&here, range)?;
            // What the first origin says of a file goes before what its storage says.
            if here.origin() == address.origin() {
                for (name, value) in response.headers() {
                    told.insert(name.clone(), value.clone());
                }
            }
            let code = response.status();
            if code.is_success() {
                return Ok(Answer {
                    told,
                    response,
                    silence: self.patience.silence,
                });
            }
            if !code.is_redirection() {
                let wait = response.headers().get(RETRY_AFTER);
                let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok());
                let wait = wait.map(Duration::from_secs);
                return Err(FetchError::Status { code, wait });
            }
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| {
                FetchError::Refused(format!("the server answered `{code}` without an address"))
            })?;
            here = here.redirected(location).map_err(FetchError::Refused)?;
        }
        Err(FetchError::Refused(format!(
            "it was redirected more than {REDIRECTS} times"
        )))
    }

    /// One request, to one server.
    fn ask(&self, address: &Address, range: Option<&str>) -> Result<Response<Body>, FetchError> {
        let mut request = self.agent.get(address.uri());
        // A length and a digest are those of the bytes as they are.
        request = request.header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let credential = self.credential.as_ref();
        if let Some(credential) = credential.filter(|c| &c.origin == address.origin()) {
            request = request.header(AUTHORIZATION, credential.header.clone());
        }
        if address.origin().is_loopback() {
            // A proxy would see what is meant for this machine alone.
            request = request.config().proxy(None).build();
        }
        Ok(request.call()?)
    }

    /// Attempts something until it succeeds, its error would stay, or it has failed often enough.
    ///
    /// # Errors
    /// That of the last attempt.
    pub(crate) fn patiently<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let (mut failures, mut wrong) = (0_usize, 0_usize);
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match &error {
                FetchError::Broken { arrived, .. } if *arrived >= WORTHWHILE => failures = 1,
                FetchError::Wrong(_) => wrong += 1,
                _ => failures += 1,
            }
            if !error.may_pass() || failures >= ATTEMPTS || wrong >= WRONG_ATTEMPTS {
                return Err(error);
            }
            tracing::info!("trying again: {error}");
            let own = self.patience.pause * (1 << failures);
            let asked = match error {
                FetchError::Status { wait, .. } => wait.unwrap_or_default(),
                _ => Duration::ZERO,
            };
            std::thread::sleep(own.max(asked).min(LONGEST_PAUSE));
        }
    }

    /// All that is at an address.
    ///
    /// # Errors
    /// As [`Client::get`], and for a body of more than `most_bytes`.
    pub(crate) fn bytes(
        &self,
        address: &Address,
        most_bytes: u64,
        progress: &mut Progress,
    ) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        let answer = self.get(address, None)?;
        if let Some(total) = answer.extent()?.total {
            progress.expect(total.min(most_bytes));
        }
        answer.read(most_bytes, |part| {
            bytes.extend_from_slice(part);
            progress.at(bytes.len() as u64);
            Ok(())
        })?;
        Ok(bytes)
    }
}

/// A successful answer whose body has not been read.
pub(crate) struct Answer {
    /// The headers of every answer from the origin that was asked, the last of each name.
    told: HeaderMap,
    response: Response<Body>,
    silence: Duration,
}

/// The part of a file that a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its first byte.
    pub from: u64,
    /// The length of the whole file, where the server told it.
    pub total: Option<u64>,
}

impl Answer {
    /// What the origin that was asked says under a name; never what it redirected to says.
    pub(crate) fn told(&self, name: &str) -> Option<&str> {
        self.told.get(name)?.to_str().ok()
    }

    /// Whether this is a page for a browser, such as the login page of a network.
    pub(crate) fn is_page(&self) -> bool {
        let kind = self.response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|value| value.to_str().ok());
        kind.is_some_and(|kind| {
            kind.trim_start()
                .to_ascii_lowercase()
                .starts_with("text/html")
        })
    }

    /// Which part of the file the body holds.
    ///
    /// # Errors
    /// The answer is a part, and does not say which.
    pub(crate) fn extent(&self) -> Result<Extent, FetchError> {
        let text = |name| {
            let value: Option<&HeaderValue> = self.response.headers().get(name);
            value.and_then(|value| value.to_str().ok())
        };
        if self.response.status() != StatusCode::PARTIAL_CONTENT {
            let total = text(CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
            return Ok(Extent { from: 0, total });
        }
        let range = text(CONTENT_RANGE);
        range.and_then(content_range).ok_or_else(|| {
            FetchError::Wrong(match range {
                Some(range) => format!("the server sent the range `{}`", printable(range)),
                None => "the server sent a part of the file without saying which".to_string(),
            })
        })
    }

    /// Reads the body, and hands it to `sink` in parts. What is longer than `most_bytes` is not read to its end.
    ///
    /// # Errors
    /// The body is longer, breaks off, falls silent; or that of `sink`.
    pub(crate) fn read(
        self,
        most_bytes: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<u64, FetchError> {
        let mut body = self.response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        let mut arrived: u64 = 0;
        let (mut since, mut lately) = (Instant::now(), 0);
        let broken = |problem: String, arrived| FetchError::Broken { problem, arrived };
        loop {
            let length = match body.read(&mut buffer) {
                Ok(0) => return Ok(arrived),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let error = FetchError::from(ureq::Error::from(error));
                    return Err(broken(error.to_string(), arrived));
                }
            };
            if arrived + length as u64 > most_bytes {
                return Err(FetchError::Wrong(format!(
                    "more than the expected {most_bytes} bytes arrived"
                )));
            }
            sink(&buffer[..length])?;
            arrived += length as u64;
            lately += length as u64;
            if since.elapsed() >= self.silence {
                if lately < SLOWEST {
                    let problem = "next to nothing arrived for too long".to_string();
                    return Err(broken(problem, arrived));
                }
                (since, lately) = (Instant::now(), 0);
            }
        }
    }
}

/// Reads `bytes first-last/total`, in which the total may be `*`.
fn content_range(text: &str) -> Option<Extent> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (from, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let sensible = from <= last && total.is_none_or(|total: u64| last < total);
    sensible.then_some(Extent { from, total })
}
