//! The name of a repository, and errors about it.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::fetch::FetchError;
use crate::model::error::ModelError;

/// What is encoded in one part of a path.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A model on the hub, at a revision.
#[derive(Clone)]
pub(in crate::model::checkpoint) struct Repository {
    /// `org/name`
    pub(super) name: String,
    pub(super) revision: String,
}

impl Repository {
    /// Reads `org/name` or `org/name@revision`; the error is a fragment.
    pub(in crate::model::checkpoint) fn parse(text: &str) -> Result<Self, String> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && part.chars().all(known) && part != "." && !part.contains("..")
        };
        if name.split('/').count() != 2 || !name.split('/').all(plain) {
            return Err(format!("`{name}` is not a repository, expected `org/name`"));
        }
        if !revision.split('/').all(plain) {
            return Err(format!(
                "`{revision}` is not a revision, expected a branch, a tag or a commit"
            ));
        }
        Ok(Self {
            name: name.to_string(),
            revision: revision.to_string(),
        })
    }

    pub(super) fn list_address(&self, endpoint: &str) -> String {
        let revision = utf8_percent_encode(&self.revision, SPECIAL);
        format!(
            "{endpoint}/api/models/{}/revision/{revision}?blobs=true",
            self.name
        )
    }

    pub(super) fn file_address(&self, endpoint: &str, commit: &str, file: &str) -> String {
        let file = utf8_percent_encode(file, SPECIAL);
        format!("{endpoint}/{}/resolve/{commit}/{file}", self.name)
    }

    pub(super) fn error(&self, problem: impl Display, advice: impl Display) -> ModelError {
        let Self { name, revision } = self;
        ModelError::Unusable(format!(
            "hub repository `{name}@{revision}`: {problem}; {advice}"
        ))
    }

    /// The client's error about `what`, with what to do about it.
    pub(super) fn explain(&self, what: &str, error: &FetchError) -> ModelError {
        let code = match error {
            FetchError::Status { code, .. } => code.as_u16(),
            _ => 0,
        };
        let advice = match (error, code) {
            (_, 401 | 403) => {
                "it is private, gated or misspelt: set `HF_TOKEN` to a token that may read it, or correct the name"
            }
            (_, 404) => "check the name and the revision",
            (_, 429) => "the hub asks for patience: set `HF_TOKEN`, or try again later",
            (FetchError::Wrong(_), _) => {
                "nothing of it was kept; something between here and the hub may be changing what it sends: sign in to the network, or check the proxy and `HF_ENDPOINT`"
            }
            (FetchError::Refused(_), _) => "check `HF_ENDPOINT`",
            (FetchError::Local(_), _) => {
                "make room, or point `HF_HUB_CACHE` at another disk; what arrived is kept"
            }
            _ => {
                "check the network and `HF_ENDPOINT`; what is in the cache already is used without them"
            }
        };
        self.error(format!("{what}: {error}"), advice)
    }
}
