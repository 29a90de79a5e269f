//! Files of the hub's data sets. They are not kept in its cache: whoever asks for one says where it goes.

use super::Hub;
use crate::fetch::{Address, Client, Credential};

/// A data set of the hub that the environment describes, at a commit: the address that those of its files begin with, and who asks for them.
///
/// # Errors
/// The hub is not to be asked, or can never be; the error is a fragment.
pub(crate) fn hub_data_set(repository: &str, commit: &str) -> Result<(String, Client), String> {
    let hub = Hub::from_variables(|name| std::env::var_os(name))?;
    if hub.offline {
        return Err("`HF_HUB_OFFLINE` forbids it: unset it once".to_string());
    }
    // It may hold a password, and is not shown.
    let endpoint = Address::parse(&hub.endpoint);
    let endpoint = endpoint.map_err(|problem| format!("`HF_ENDPOINT`: {problem}"))?;
    let token = hub.token.as_ref();
    let credential = token.map_or(Ok(None), |token| Credential::bearer(token, &endpoint));
    let credential =
        credential.map_err(|problem| format!("the token cannot be sent: {problem}"))?;
    let base = format!("{}/datasets/{repository}/resolve/{commit}", hub.endpoint);
    Ok((base, Client::new(hub.patience, credential)))
}
