//! What is served where, and within which limits.
//!
//! Refuses what would be unsafe: an address others can reach without a token, a token anyone could guess, TLS without
//! its key.

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::http::Uri;
use tokio_rustls::rustls::ServerConfig;

use super::{guard::Token, tls};
use crate::{governor::Budget, program::Target};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket, for root only.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this host can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => match address.ip() {
                IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(ip.is_loopback(), |ip| ip.is_loopback()),
                IpAddr::V4(ip) => ip.is_loopback(),
            },
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => Err("a Unix socket is given by its whole path: unix:/run/parkranger.sock".to_owned()),
            None => {
                let text = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
                let wrong = |_| "an address is IP:PORT, [IPv6]:PORT, :PORT, or unix:PATH".to_owned();
                text.parse().map(Self::Tcp).map_err(wrong)
            }
        }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those it was signed with.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What may be asked for at once, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; more are turned away.
    pub connections: usize,
    /// Censuses at one time, for all clients.
    pub censuses: usize,
    /// Requests for a census that one client may have under way.
    pub censuses_per_client: usize,
    /// How long a request waits for its turn.
    pub turn: Duration,
    /// How long a census may take.
    pub census: Duration,
    /// How long an answer may take to be read by the client.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            censuses: 2,
            censuses_per_client: 4,
            turn: Duration::from_secs(5),
            census: Duration::from_secs(20),
            answer: Duration::from_secs(60),
        }
    }
}

/// An OpenTelemetry collector that takes OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `HOST:PORT`
    pub authority: String,
    /// The host, where it is to prove by TLS that it is that.
    pub tls: Option<String>,
    /// Where metrics are posted.
    pub path: String,
    /// Time between two exports.
    pub interval: Duration,
}

impl Collector {
    /// The collector at a URL: `http://127.0.0.1:4318`, with the port and path that OTLP has by default unless it has
    /// others.
    ///
    /// # Errors
    ///
    /// What is wrong with the URL.
    pub fn at(url: &str, interval: Duration) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("it begins with http:// or https://".to_owned()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("there is no host in it")?;
        let path = if uri.path() == "/" { "/v1/metrics" } else { uri.path() };
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(4318));
        let tls = secure.then(|| host.trim_matches(['[', ']']).to_owned());
        Ok(Self { authority, tls, path: path.to_owned(), interval })
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// The file with the token that every request must have.
    pub token_file: Option<PathBuf>,
    /// TLS on every TCP port.
    pub tls: Option<TlsFiles>,
    /// Names of this host that a Host header may have, beside those of loopback.
    pub allowed_hosts: Vec<String>,
    /// Time between two snapshots.
    pub interval: Duration,
    /// Time between two censuses of a process that look for leaks; `None` for none.
    pub leaks_interval: Option<Duration>,
    /// Which processes are watched.
    pub target: Target,
    /// What watching may cost a process; `None` for whatever it does.
    pub budget: Option<Budget>,
    /// Most sites of one process with metrics of their own.
    pub site_series: usize,
    /// What may be asked for at once.
    pub limits: Limits,
    /// Whom metrics are sent to.
    pub collector: Option<Collector>,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nowhere to listen.
    #[error("no address to listen on")]
    NoAddress,
    /// Others could ask without a token.
    #[error(
        "{0} can be reached by other hosts, and what is served tells much about the programs of this one: give a file \
         with a token (--token-file), or listen on loopback or a Unix socket"
    )]
    NeedsToken(Address),
    /// A file cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A token that is none.
    #[error("the token in {path} {why}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("TLS with {path}: {why}")]
    Tls {
        /// The certificate or key.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The configuration file.
    #[error("{path}: {why}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
}

/// What was read from the files that the settings name.
pub(super) struct Live {
    pub(super) token: Option<Arc<Token>>,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl Settings {
    /// Reads the token and the certificate.
    pub(super) fn load(&self) -> Result<Live, SettingsError> {
        if self.listen.is_empty() {
            return Err(SettingsError::NoAddress);
        }
        let open = self.listen.iter().find(|address| !address.is_local());
        if let (Some(address), None) = (open, &self.token_file) {
            return Err(SettingsError::NeedsToken(address.clone()));
        }
        let token = self.token_file.as_deref().map(Token::read).transpose()?.map(Arc::new);
        let tls = self.tls.as_ref().map(tls::load).transpose()?;
        if let (Some(address), None) = (open, &tls) {
            tracing::warn!("{address} is without TLS: the token and all answers can be read on the way");
        }
        Ok(Live { token, tls })
    }
}

/// A file as text, with the error that names it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, SettingsError> {
    fs::read(path).map_err(|error| SettingsError::Unreadable { path: path.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let local = |text: &str| text.parse::<Address>().unwrap().is_local();
        assert!(local("127.0.0.1:7117") && local("127.9.9.9:1") && local("[::1]:7117") && local("unix:/run/x.sock"));
        assert!(local("[::ffff:127.0.0.1]:1"));
        assert!(!local("0.0.0.0:7117") && !local(":7117") && !local("[::]:7117") && !local("10.0.0.1:80"));
        assert!("unix:x.sock".parse::<Address>().is_err() && "localhost".parse::<Address>().is_err());
        assert_eq!("unix:/run/x".parse::<Address>().unwrap().to_string(), "unix:/run/x");
    }

    #[test]
    fn collectors() {
        let at =
            |url| Collector::at(url, Duration::from_secs(1)).map(|collector| (collector.authority, collector.path));
        let is = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
        assert_eq!(at("http://localhost"), is("localhost:4318", "/v1/metrics"));
        assert_eq!(at("http://[::1]:9/otlp/v1/metrics"), is("[::1]:9", "/otlp/v1/metrics"));
        assert_eq!(at("https://example.com"), is("example.com:4318", "/v1/metrics"));
        let tls = |url| Collector::at(url, Duration::from_secs(1)).map(|collector| collector.tls);
        assert_eq!(tls("https://[::1]:443"), Ok(Some("::1".to_owned())));
        assert_eq!(tls("http://localhost"), Ok(None));
        assert!(at("ftp://example.com").is_err() && at("localhost:4318").is_err() && at("").is_err());
    }

    #[test]
    fn others_need_a_token() {
        let settings = Settings {
            listen: vec!["127.0.0.1:1".parse().unwrap(), ":1".parse().unwrap()],
            token_file: None,
            tls: None,
            allowed_hosts: Vec::new(),
            interval: Duration::from_secs(1),
            leaks_interval: None,
            target: Target::Pids(Vec::new()),
            budget: None,
            site_series: 1,
            limits: Limits::default(),
            collector: None,
        };
        assert!(matches!(settings.load(), Err(SettingsError::NeedsToken(Address::Tcp(_)))));
        let none = Settings { listen: Vec::new(), ..settings };
        assert!(matches!(none.load(), Err(SettingsError::NoAddress)));
    }
}
