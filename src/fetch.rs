//! Files over the network: a client that believes no answer before it has looked at it.
//!
//! Redirects are followed here, one at a time, so that a credential goes to the origin it was given for and to no other; silence, length
//! and the number of attempts are bounded. Whoever asks compares what arrived with a [`Digest`], and shows a [`Progress`].

mod address;
mod answer;
mod digest;
mod progress;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::time::Duration;

use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode};
use ureq::{Agent, Body};

pub(crate) use address::Address;
use address::Origin;
pub(crate) use answer::{Answer, Extent};
pub(crate) use digest::{Digest, sha256, sha256_of};
pub(crate) use progress::Progress;

/// Redirects that are followed before it is taken as a circle.
const REDIRECTS: usize = 8;
/// Attempts that may fail by the network before it is given up.
const ATTEMPTS: usize = 4;
/// Attempts that may bring something else than what was asked for.
const WRONG_ATTEMPTS: usize = 3;
/// An attempt that broke off after this many bytes was no failure: the next one goes on behind it.
const WORTHWHILE: u64 = 1 << 20;
/// The longest wait that a server may ask for before the next attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long is waited, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a connection.
    pub(crate) connect: Duration,
    /// For the next byte of an answer.
    pub(crate) silence: Duration,
    /// Before another attempt; twice as long after each further failure of the network.
    pub(crate) pause: Duration,
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
        code: StatusCode,
        /// How long to wait, where the server said it.
        wait: Option<Duration>,
    },
    /// The network failed, which may pass.
    Broken {
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
        let origin = address.origin.clone();
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
        let mut origin_headers = HeaderMap::new();
        let mut current = address.clone();
        for _ in 0..=REDIRECTS {
            let response = self.ask(&current, range)?;
            // What the first origin says of a file goes before what its storage says.
            if current.origin == address.origin {
                for (name, value) in response.headers() {
                    origin_headers.insert(name.clone(), value.clone());
                }
            }
            let header = |name| response.headers().get(name)?.to_str().ok();
            let code = response.status();
            if code.is_success() {
                return Ok(Answer {
                    origin_headers,
                    response,
                    silence: self.patience.silence,
                });
            }
            if !code.is_redirection() {
                let wait = header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
                let wait = wait.map(Duration::from_secs);
                return Err(FetchError::Status { code, wait });
            }
            let location = header(LOCATION).ok_or_else(|| {
                FetchError::Refused(format!("the server answered `{code}` without an address"))
            })?;
            current = current.redirected(location).map_err(FetchError::Refused)?;
        }
        Err(FetchError::Refused(format!(
            "it was redirected more than {REDIRECTS} times"
        )))
    }

    /// One request, to one server.
    fn ask(&self, address: &Address, range: Option<&str>) -> Result<Response<Body>, FetchError> {
        let mut request = self.agent.get(&address.uri);
        // A length and a digest are those of the bytes as they are.
        request = request.header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let credential = self.credential.as_ref();
        if let Some(credential) = credential.filter(|c| c.origin == address.origin) {
            request = request.header(AUTHORIZATION, credential.header.clone());
        }
        if address.origin.is_loopback() {
            // A proxy would see what is meant for this machine alone.
            request = request.config().proxy(None).build();
        }
        Ok(request.call()?)
    }

    /// Attempts something until it succeeds, its error would stay, or it has failed often enough.
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
    /// Also for a body of more than `most_bytes`.
    pub(crate) fn bytes(
        &self,
        address: &Address,
        most_bytes: u64,
        progress: &mut Progress,
    ) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        let answer = self.get(address, None)?;
        if answer.is_page() {
            let message = "a web page arrived in its place".to_string();
            return Err(FetchError::Wrong(message));
        }
        match answer.extent()?.total {
            Some(total) if total > most_bytes => {
                return Err(FetchError::Wrong(format!(
                    "the server sends {total} bytes, expected {most_bytes} at most"
                )));
            }
            Some(total) => progress.expect(total),
            None => {}
        }
        answer.read(most_bytes, |part| {
            bytes.extend_from_slice(part);
            progress.at(bytes.len() as u64);
            Ok(())
        })?;
        Ok(bytes)
    }
}
