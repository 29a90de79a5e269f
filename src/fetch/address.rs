//! Where a request goes, and whether two requests go to the same place.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

/// A scheme, a host and a port: what a secret is given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// `https` or `http`.
    scheme: &'static str,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl Origin {
    /// Whether the host is this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether nobody on the way can read what is sent.
    pub(super) fn is_private(&self) -> bool {
        self.scheme == "https" || self.is_loopback()
    }
}

/// An `http` or `https` address. It is shown without its query, which may be a signature, and without a name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) uri: Uri,
    pub(super) origin: Origin,
}

impl Address {
    /// # Errors
    /// It is no such address; the error is a fragment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = || "it is not an address that begins with `https://`".to_string();
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let (scheme, usual_port) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") => ("http", 80),
            _ => return Err(invalid()),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(invalid)?.to_ascii_lowercase();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let (_, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let port = match (uri.port_u16(), place.rsplit_once(':')) {
            (Some(port), _) => port,
            // A number that is no port's; of an IPv6 address the last colon stands in brackets.
            (None, Some((_, port))) if !port.is_empty() && !port.ends_with(']') => {
                return Err(format!("its port `{port}` is none: expected 1 to 65535"));
            }
            (None, _) => usual_port,
        };
        let origin = Origin { scheme, host, port };
        Ok(Self { uri, origin })
    }

    /// Where a `Location` leads that was answered here.
    ///
    /// # Errors
    /// It leads where no request should follow; the error is a fragment.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            let shown = location.split(['?', '#']).next().unwrap_or_default();
            let shown = shown.rsplit('@').next().unwrap_or_default();
            format!("it was redirected to `{}`, {why}", super::printable(shown))
        };
        let Origin { scheme, host, port } = &self.origin;
        let location = location.split('#').next().unwrap_or_default();
        let text = if location.contains("://") {
            location.to_string()
        } else if let Some(rest) = location.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if location.starts_with('/') {
            format!("{scheme}://{host}:{port}{location}")
        } else {
            let path = self.uri.path();
            let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
            format!("{scheme}://{host}:{port}{folder}{location}")
        };
        let next = Self::parse(&text).map_err(|_| refused("which is no address"))?;
        let authority = next.uri.authority();
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(refused("an address with a name and a password"));
        }
        if *scheme == "https" && next.origin.scheme == "http" {
            return Err(refused("from https to plain http"));
        }
        Ok(next)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.origin.scheme, self.origin.host)?;
        if let Some(port) = self.uri.port_u16() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.uri.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| address(a).origin == address(b).origin;
        assert!(same("https://hub.test/a", "HTTPS://Hub.Test:443/b?c"));
        assert!(!same("https://hub.test/a", "http://hub.test/a"));
        assert!(!same("https://hub.test/a", "https://hub.test:8443/a"));
        assert!(!same("https://hub.test/a", "https://hub.test.evil.test/a"));
        assert!(!same("http://127.0.0.1:80/", "http://localhost/"));
        assert!(same("http://[::1]/", "http://[::1]:80/"));
        assert!(same("https://me:secret@hub.test/", "https://hub.test/"));
        for bad in [
            "",
            "https://hub.test:99999/",
            "http://[::1]:99999/",
            "hub.test",
            "/path",
            "ftp://hub.test/",
            "https://",
            "file:///x",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_goes_over_https_or_stays_on_this_machine() {
        for (text, private) in [
            ("https://hub.test", true),
            ("http://hub.test", false),
            ("http://10.0.0.7", false),
            ("http://localhost.evil.test", false),
            ("http://localhost:8080", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:80/", true),
        ] {
            assert_eq!(address(text).origin.is_private(), private, "{text}");
        }
    }

    #[test]
    fn redirects_are_resolved_and_looked_at() {
        let here = address("https://hub.test/a/b?c=d");
        for (location, there) in [
            ("/x?y=z", "https://hub.test:443/x"),
            ("x", "https://hub.test:443/a/x"),
            ("//cdn.test/x", "https://cdn.test/x"),
            ("https://cdn.test/x#y", "https://cdn.test/x"),
        ] {
            assert_eq!(here.redirected(location).unwrap().to_string(), there);
        }
        for (location, why) in [
            ("http://hub.test/x", "from https to plain http"),
            ("https://me:word@cdn.test/x", "a name and a password"),
            ("file:///etc/passwd", "which is no address"),
            ("https://cdn.test/\u{1b}]0;x", "which is no address"),
        ] {
            let text = here.redirected(location).unwrap_err();
            assert!(text.contains(why), "{text}");
            assert!(
                !text.contains("word@") && !text.contains('\u{1b}'),
                "{text}"
            );
        }
        let plain = address("http://hub.test/a");
        assert!(plain.redirected("https://hub.test/a").is_ok());
    }

    #[test]
    fn what_is_shown_holds_no_secret() {
        let text = format!("{:?}", address("https://me:word@cdn.test:99/x?signature=y"));
        assert_eq!(text, "https://cdn.test:99/x");
    }
}
