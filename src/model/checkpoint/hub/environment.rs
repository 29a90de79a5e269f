//! The hub that environment variables describe, with the precedence of Python's `huggingface_hub`
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Hub;
use crate::fetch::Patience;
use crate::files;

const TOKEN_BYTES: u64 = 4096;

impl Hub {
    /// The error, where there is no place for a cache, is a fragment.
    pub(in crate::model::checkpoint) fn from_variables(
        get: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let text = |names: &[&str]| first(names)?.into_string().ok();
        let is_set = |names: &[&str]| {
            let value = text(names).unwrap_or_default();
            ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
        };
        let home = match (get("HF_HOME"), get("XDG_CACHE_HOME")) {
            (Some(home), _) => Some(expanded(home)),
            (None, Some(caches)) => Some(expanded(caches).join("huggingface")),
            (None, None) => {
                std::env::home_dir().map(|home| home.join(".cache").join("huggingface"))
            }
        };
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).map(expanded);
        let cache = cache.or_else(|| home.as_deref().map(|home| home.join("hub")));
        let cache =
            cache.ok_or("there is no home folder for the hub's cache; set `HF_HUB_CACHE`")?;
        let token = match is_set(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            true => None,
            false => text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(|| {
                let path = get("HF_TOKEN_PATH").map(expanded);
                token_in(&path.or_else(|| home.as_deref().map(|home| home.join("token")))?)
            }),
        };
        let endpoint = text(&["HF_ENDPOINT"]);
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_string());
        let token = token.map(|token| token.trim().to_string());
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_string(),
            token: token.filter(|token| !token.is_empty()),
            cache,
            offline: is_set(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            patience: Patience::default(),
        })
    }
}

fn token_in(path: &Path) -> Option<String> {
    files::read_text(path, TOKEN_BYTES).ok()
}

/// The path, with a leading `~/` as the home folder.
fn expanded(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}
