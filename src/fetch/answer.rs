//! An answer, and what it says of the file that it brings.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use ureq::http::{HeaderMap, HeaderName, Response, StatusCode};

use super::{FetchError, printable};

/// A body that brings less than this in the time of a silence is as good as silent.
const SLOWEST: u64 = 1024;

/// A successful answer whose body has not been read.
pub(crate) struct Answer {
    /// The headers of every answer from the origin that was asked, the last of each name.
    pub(super) origin_headers: HeaderMap,
    pub(super) response: Response<Body>,
    pub(super) silence: Duration,
}

/// The part of a file that a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) from: u64,
    /// The length of the whole file, where the server told it.
    pub(crate) total: Option<u64>,
}

impl Answer {
    /// What the origin that was asked says under a name; never what it redirected to says.
    pub(crate) fn origin_header(&self, name: &str) -> Option<&str> {
        self.origin_headers.get(name)?.to_str().ok()
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Whether this is a page for a browser, such as the login page of a network.
    pub(crate) fn is_page(&self) -> bool {
        let kind = self.header(CONTENT_TYPE).unwrap_or_default();
        let kind = kind.trim_start().to_ascii_lowercase();
        kind.starts_with("text/html")
    }

    /// Which part of the file the body holds.
    ///
    /// # Errors
    /// The answer is a part, and does not say which.
    pub(crate) fn extent(&self) -> Result<Extent, FetchError> {
        if self.response.status() != StatusCode::PARTIAL_CONTENT {
            let total = self
                .header(CONTENT_LENGTH)
                .and_then(|length| length.trim().parse().ok());
            return Ok(Extent { from: 0, total });
        }
        let range = self.header(CONTENT_RANGE);
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
        loop {
            let length = match body.read(&mut buffer) {
                Ok(0) => return Ok(arrived),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let problem = FetchError::from(ureq::Error::from(error)).to_string();
                    return Err(FetchError::Broken { problem, arrived });
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
                    return Err(FetchError::Broken { problem, arrived });
                }
                (since, lately) = (Instant::now(), 0);
            }
        }
    }
}

/// Reads `bytes first-last/total`, in which the total may be `*`.
pub(super) fn content_range(text: &str) -> Option<Extent> {
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
