//! How to reach the store: flannel's `-etcd-*` flags, and what they mean.

use std::{fmt, fs, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::Error;

/// Port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// A connection is asked for a sign of life after this much silence. etcd closes connections that ask more often than
/// every 5 s (its `--grpc-keepalive-min-time`).
const KEEPALIVE: Duration = Duration::from_millis(5500);
/// And given up after this long without one: a silently dead connection is noticed within 8 s.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How to reach the store, as typed; empty texts mean "not given".
#[derive(Clone, Default)]
pub struct Options {
    /// `http://host:port`, `https://host:port` or `host:port`; the first one's scheme decides for all. Empty items are
    /// skipped.
    pub endpoints: Vec<String>,
    /// What every key starts with.
    pub prefix: String,
    /// File of the client's private key, PEM.
    pub key_file: String,
    /// File of the client's certificate, PEM.
    pub cert_file: String,
    /// File of the certificates to trust, PEM; the system's if empty.
    pub ca_file: String,
    /// User, if the store wants one; counts only together with the password.
    pub username: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field(
                "endpoints",
                &self.endpoints.iter().map(|endpoint| without_credentials(endpoint)).collect::<Vec<_>>(),
            )
            .field("prefix", &self.prefix)
            .field("key_file", &self.key_file)
            .field("cert_file", &self.cert_file)
            .field("ca_file", &self.ca_file)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The endpoints as URLs, each once.
    pub(super) fn endpoints(&self) -> Result<Vec<String>, Error> {
        let scheme = if self.uses_tls()? { "https" } else { "http" };
        let mut urls = Vec::new();
        for endpoint in self.given() {
            let (_, authority) = split(endpoint)?;
            let url = format!("{scheme}://{}", with_port(endpoint, authority)?);
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        Ok(urls)
    }

    /// Everything else that the client needs to know.
    pub(super) fn connect_options(&self) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEPALIVE, KEEPALIVE_TIMEOUT)
            // etcd also closes connections that ask without an open stream.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if self.uses_tls()? {
            options = options.with_tls(self.tls()?);
        }
        Ok(options)
    }

    /// Name and password, if both are given.
    pub(super) fn user(&self) -> Option<(String, String)> {
        let given = !self.username.is_empty() && !self.password.is_empty();
        given.then(|| (self.username.clone(), self.password.clone()))
    }

    /// The key of `name`, joined to the prefix as flannel does: slashes collapse, dots are resolved, no slash is added in front.
    pub(super) fn key(&self, name: &str) -> String {
        let path = if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        clean(&path)
    }

    fn given(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| endpoint.trim()).filter(|endpoint| !endpoint.is_empty())
    }

    /// With a scheme in the first endpoint, as that says; otherwise if there is a client certificate.
    fn uses_tls(&self) -> Result<bool, Error> {
        let first = self.given().next().ok_or(Error::NoEndpoints)?;
        Ok(match split(first)?.0 {
            Some(Scheme::Https) => true,
            Some(Scheme::Http) => false,
            None => self.has_identity(),
        })
    }

    fn has_identity(&self) -> bool {
        !self.cert_file.is_empty() && !self.key_file.is_empty()
    }

    fn tls(&self) -> Result<TlsOptions, Error> {
        let mut tls = TlsOptions::new();
        if self.ca_file.is_empty() {
            tls = tls.with_native_roots();
        } else {
            tls = tls.ca_certificate(Certificate::from_pem(pem("-etcd-cafile", &self.ca_file, "CERTIFICATE")?));
        }
        if self.has_identity() {
            let cert = pem("-etcd-certfile", &self.cert_file, "CERTIFICATE")?;
            let key = pem("-etcd-keyfile", &self.key_file, "PRIVATE KEY")?;
            tls = tls.identity(Identity::from_pem(cert, key));
        } else if self.cert_file != self.key_file {
            tracing::warn!(
                "only one of -etcd-certfile and -etcd-keyfile is given: connecting without a client certificate"
            );
        }
        Ok(tls)
    }
}

enum Scheme {
    Http,
    Https,
}

/// An endpoint's scheme, if it has one, and its host and port.
fn split(endpoint: &str) -> Result<(Option<Scheme>, &str), Error> {
    let bad = |why| Error::BadEndpoint { endpoint: without_credentials(endpoint), why };
    let (scheme, rest) = match endpoint.split_once("://") {
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        Some(_) => return Err(bad("only http:// and https:// are supported")),
        None => (None, endpoint),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(bad("credentials do not belong here; use -etcd-username and -etcd-password"));
    }
    Ok((scheme, authority))
}

fn with_port(endpoint: &str, authority: &str) -> Result<String, Error> {
    let bad = |why| Error::BadEndpoint { endpoint: endpoint.to_owned(), why };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)),
        _ => (authority, Some(DEFAULT_PORT)),
    };
    let port: u16 = port.ok_or_else(|| bad("the port is not a number from 1 to 65535"))?;
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !v6.map_or_else(|| named(host), |v6| v6.parse::<std::net::Ipv6Addr>().is_ok()) {
        return Err(bad("no host name or address; an IPv6 address needs brackets"));
    }
    Ok(format!("{host}:{port}"))
}

fn without_credentials(endpoint: &str) -> String {
    match endpoint.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
            format!("{scheme}…@{host}")
        }
        None => endpoint.to_owned(),
    }
}

/// Reads a PEM file and makes sure that it holds what is wanted, so that a mistake is named here and not by a handshake.
fn pem(flag: &'static str, path: &str, wanted: &'static str) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::File { flag, path: path.to_owned(), source })?;
    if blocks(&text).any(|(label, body)| label.contains(wanted) && is_base64(body)) {
        Ok(text)
    } else {
        Err(Error::NotPem { flag, path: path.to_owned(), wanted })
    }
}

/// Labels and bodies of the blocks of a PEM text.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("-----BEGIN ").skip(1).filter_map(|block| {
        let (label, rest) = block.split_once("-----")?;
        let (body, _) = rest.split_once("-----END ")?;
        Some((label, body))
    })
}

/// Whether this can be the body of a block; headers are those of an encrypted key, which nobody could use here.
fn is_base64(body: &str) -> bool {
    let mut bytes = body.bytes().filter(|b| !b.is_ascii_whitespace()).peekable();
    bytes.peek().is_some() && bytes.all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
}

/// A path without empty parts, `.` and `..`, as Go's `path.Clean` has it.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    if rooted { format!("/{}", parts.join("/")) } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn options(endpoints: &[&str]) -> Options {
        Options { endpoints: endpoints.iter().map(|&e| e.to_owned()).collect(), ..Options::default() }
    }

    #[test]
    fn endpoints_take_the_first_ones_scheme() {
        let check = |given: &[&str], cert: &str, expected: &[&str]| {
            let options = Options { cert_file: cert.to_owned(), key_file: cert.to_owned(), ..options(given) };
            assert_eq!(options.endpoints().unwrap(), expected, "{given:?} {cert:?}");
        };
        check(&["http://a:1", "http://b:2"], "", &["http://a:1", "http://b:2"]);
        check(&["http://a:1", "https://b:2"], "c.pem", &["http://a:1", "http://b:2"]);
        check(&["https://a:1", "http://b:2", "c"], "", &["https://a:1", "https://b:2", "https://c:2379"]);
        check(&["a:1"], "", &["http://a:1"]);
        check(&["a:1"], "c.pem", &["https://a:1"]);
        check(&["", " http://a:1/ ", "a:1", ""], "", &["http://a:1"]);
        check(&["http://[fd00::1]:7", "[::1]"], "", &["http://[fd00::1]:7", "http://[::1]:2379"]);
    }

    #[test]
    fn bad_endpoints_are_named() {
        for (given, part) in [
            ("unix:///run/etcd", "only http"),
            ("http://", "no host"),
            ("a:x", "port"),
            ("a:0", "port"),
            ("a:65536", "port"),
            ("fd00::1:2379", "brackets"),
            ("a b", "no host"),
        ] {
            let error = options(&[given]).endpoints().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(given), "{given}: {error}");
        }
        assert!(matches!(options(&["", " "]).endpoints(), Err(Error::NoEndpoints)));
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = Options { username: "u".into(), password: "geheim".into(), ..options(&["http://u:geheim@a:1"]) };
        let error = options.endpoints().unwrap_err();
        for text in [format!("{options:?}"), format!("{error}"), format!("{error:?}")] {
            assert!(!text.contains("geheim") && text.contains("http://…@a:1"), "{text}");
        }
    }

    #[test]
    fn keys_are_joined_as_flannel_does() {
        for (prefix, expected) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/flannel/network/", "/flannel/network/config"),
            ("//a//b//", "/a/b/config"),
            ("a/b", "a/b/config"),
            ("", "config"),
            ("/", "/config"),
            (".", "config"),
            ("..", "../config"),
            ("/..", "/config"),
            ("/a/./b/../c", "/a/c/config"),
            ("a/../../b", "../b/config"),
            ("[", "[/config"),
        ] {
            assert_eq!(Options { prefix: prefix.into(), ..Options::default() }.key("config"), expected, "{prefix}");
        }
    }

    #[test]
    fn bad_files_are_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let mut options = Options { ca_file: "/no/such".into(), ..options(&["https://a"]) };
        assert!(options.connect_options().unwrap_err().to_string().contains("-etcd-cafile /no/such"));
        options.ca_file.clone_from(&path);
        assert!(options.connect_options().is_ok());
        (options.cert_file, options.key_file) = (path.clone(), path.clone());
        let error = options.connect_options().unwrap_err().to_string();
        assert!(error.contains("-etcd-keyfile") && error.contains("PRIVATE KEY"), "{error}");
        writeln!(file, "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END EC PRIVATE KEY-----")
            .unwrap();
        assert!(options.connect_options().is_err(), "an encrypted key");
        options.endpoints = vec!["http://a".into()];
        assert!(options.connect_options().is_ok(), "plain means that no file is read");
    }
}
