//! Whether the hub that the environment describes can be used, asked without fetching a model.

use std::path::PathBuf;
use std::time::Duration;

use super::Hub;
use crate::fetch::{Address, Client, Credential, FetchError, Patience, printable};

/// Nobody wants to wait for long to hear that there is no network.
const SHORT: Patience = Patience {
    connect: Duration::from_secs(3),
    silence: Duration::from_secs(3),
    pause: Duration::ZERO,
};

/// A hub, and the folder before it.
#[derive(Clone, Debug)]
pub(crate) struct HubHealth {
    /// The folder of `models--…` folders.
    pub(crate) folder: PathBuf,
    /// Its address, without name and password.
    pub(crate) endpoint: String,
    pub(crate) answer: HubAnswer,
}

/// What came of asking the hub.
#[derive(Clone, Debug)]
pub(crate) enum HubAnswer {
    /// A variable says that it is not to be asked.
    Offline,
    Answered,
    /// `HF_ENDPOINT` or the token is such that nothing can ever be asked; what is wrong with it.
    Unusable(String),
    /// It does not let this user in: the status.
    Refused(String),
    /// It cannot be reached, or something else answers in its place.
    Silent(String),
}

impl HubHealth {
    /// Asks the hub that the environment describes.
    ///
    /// # Errors
    /// There is no place for its folder; the error is a fragment.
    pub(crate) fn look() -> Result<Self, String> {
        let hub = Hub::from_variables(|name| std::env::var_os(name))?;
        let address = Address::parse(&format!("{}/api/models?limit=1", hub.endpoint));
        let endpoint = Address::parse(&hub.endpoint).map_or("HF_ENDPOINT".into(), |base| {
            base.to_string().trim_end_matches('/').to_string()
        });
        let answer = match (hub.offline, address) {
            (true, _) => HubAnswer::Offline,
            (false, Ok(address)) => ask(&hub, &address),
            (false, Err(problem)) => HubAnswer::Unusable(format!("`HF_ENDPOINT`: {problem}")),
        };
        Ok(Self {
            folder: hub.cache,
            endpoint,
            answer,
        })
    }
}

fn ask(hub: &Hub, address: &Address) -> HubAnswer {
    let token = hub.token.as_ref();
    let credential = token.map_or(Ok(None), |token| Credential::bearer(token, address));
    let credential = match credential {
        Ok(credential) => credential,
        Err(problem) => return HubAnswer::Unusable(format!("the token: {problem}")),
    };
    match Client::new(SHORT, credential).get(address, None) {
        Ok(answer) if answer.is_page() => HubAnswer::Silent(
            "a page for a browser answers in its place, such as the login page of a network".into(),
        ),
        Ok(_) => HubAnswer::Answered,
        Err(FetchError::Status { code, .. }) if matches!(code.as_u16(), 401 | 403) => {
            HubAnswer::Refused(printable(&code.to_string()))
        }
        // A mirror that lists no models.
        Err(FetchError::Status { code, .. }) if code.as_u16() == 404 => HubAnswer::Answered,
        Err(error) => HubAnswer::Silent(error.to_string()),
    }
}
