//! `parkranger serve`: flags and a TOML file with the same names; a flag comes before the file.

use std::{fs, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use serde::Deserialize;

use super::{
    bounds::Bounds,
    budget::Choice,
    exit::Failure,
    rules::{RuleOptions, list},
    target::Symbols,
};
use crate::{
    governor::Fidelity,
    program::Target,
    serve::{self, Address, Collector, Limits, ServeError, Settings, SettingsError, TlsFiles},
    watch::Config,
};

const EXAMPLES: &str = "\
Examples:
  parkranger serve                                      on http://127.0.0.1:7117
  parkranger serve --listen unix:/run/parkranger.sock   for root only
  parkranger serve --listen :7117 --token-file token --tls-cert cert.pem --tls-key key.pem
  go tool pprof http://127.0.0.1:7117/pids/4242/debug/pprof/goroutine
  curl http://127.0.0.1:7117/metrics

SIGHUP reads the configuration, the token and the certificate again. SIGTERM takes the probes off and ends.";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// A TOML file with any of these options, named as here without the dashes: listen = ["127.0.0.1:7117"].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// What a flag or the file may say.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Flags {
    /// Where to listen: IP:PORT, [IPv6]:PORT, :PORT for all addresses, or unix:PATH; may be given more than once.
    /// Anything but loopback and Unix sockets needs a token. [default: 127.0.0.1:7117]
    #[arg(short, long, value_name = "ADDRESS", value_parser = address)]
    listen: Vec<String>,
    /// A file with the token that every request must have: "Authorization: Bearer TOKEN", or as the password in a URL.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A certificate in PEM: TLS on every TCP port.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Another name of this host that a Host header may have on loopback, for a proxy before it; may be given more than
    /// once.
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    rules: RuleOptions,
    #[command(flatten)]
    #[serde(flatten)]
    bounds: Bounds,
    /// Time between two readings of the counters. [default: 5s]
    #[arg(short, long, value_name = "TIME")]
    interval: Option<Span>,
    /// Time between two audits of a process: a census that must find what the ledger says. [default: 1m]
    #[arg(long, value_name = "TIME")]
    audit_every: Option<Span>,
    /// What watching may cost a process, in per cent of the CPU time it uses by itself, or off. Where everything would
    /// cost more, parks are counted in short windows, then not at all, then births and exits neither. [default: 1]
    #[arg(long, value_name = "PERCENT")]
    budget: Option<Choice>,
    /// Record no more than this. A story tells how long goroutines wait and live, whatever it costs: twice as much as
    /// counting. [default: full]
    #[arg(long, value_enum, value_name = "FIDELITY")]
    fidelity: Option<Fidelity>,
    /// Tell apart who called the function with the `go` statement: births, exits and live goroutines by caller in the JSON and
    /// the profile of births. A birth and an exit cost 1.7 times as much.
    #[arg(long)]
    callers: bool,
    /// Time between two censuses of a process that look for leaks, or off. [default: 30s]
    #[arg(long, value_name = "TIME")]
    leaks_interval: Option<Leaks>,
    /// How long the last counts of a process that ended are shown. [default: 1m]
    #[arg(long, value_name = "TIME")]
    keep_ended: Option<Span>,
    /// Most creation sites of one process that have metrics of their own; the others are summed. [default: 60]
    #[arg(long, value_name = "N")]
    site_series: Option<usize>,
    /// Most connections at one time. [default: 256]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Most readings of all goroutines of a process at one time. [default: 2]
    #[arg(long, value_name = "N")]
    max_censuses: Option<usize>,
    /// Also send the metrics to an OpenTelemetry collector: http://127.0.0.1:4318.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Time between two of these. [default: 1m]
    #[arg(long, value_name = "TIME", requires = "otlp_endpoint")]
    otlp_interval: Option<Span>,
    /// Where names of functions and lines come from. [default: auto]
    #[arg(long, value_enum, value_name = "SOURCE")]
    symbols: Option<Symbols>,
}

/// A time, or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
struct Leaks(Option<Duration>);

impl FromStr for Leaks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            text => match humantime::parse_duration(text) {
                Ok(time) if time >= Duration::from_secs(1) => Ok(Self(Some(time))),
                _ => Err("a time of a second or more, or off".to_owned()),
            },
        }
    }
}

impl TryFrom<String> for Leaks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A time: 500ms, 5s, 1m.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

impl Span {
    const SHORTEST: Duration = Duration::from_millis(100);
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        if duration < Self::SHORTEST { Err("at least 100ms".to_owned()) } else { Ok(Self(duration)) }
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

fn address(text: &str) -> Result<String, String> {
    text.parse::<Address>().map(|_| text.to_owned())
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let flags = options.flags().map_err(ServeError::from)?;
    let settings = flags.settings(&options).map_err(ServeError::from)?;
    // Requests with a token may ask for stories.
    let stories = settings.token_file.is_some() || flags.fidelity == Some(Fidelity::Story);
    let sizes = flags.bounds.sizes(stories, &[]);
    let config = Config {
        target: settings.target.clone(),
        go_binaries: flags.symbols.unwrap_or_default().go_binaries(),
        sizes: if flags.callers { sizes.with_callers() } else { sizes },
        audit_every: flags.audit_every.map_or(Duration::from_secs(60), |span| span.0),
        attach: None,
        budget: settings.budget,
        fidelity: flags.fidelity.unwrap_or(Fidelity::Full),
        keep_ended: flags.keep_ended.map_or(Duration::from_secs(60), |span| span.0),
        patient: true,
    };
    let reload = move || options.flags()?.settings(&options);
    Ok(serve::run(config, settings, reload)?)
}

impl Options {
    /// The flags, and what the file says beside them.
    fn flags(&self) -> Result<Flags, SettingsError> {
        let Some(path) = &self.config else { return Ok(self.flags.clone()) };
        let unreadable =
            |error: std::io::Error| SettingsError::Unreadable { path: path.clone(), why: error.to_string() };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let file: Flags = toml::from_str(&text).map_err(|error| self.wrong(error.to_string()))?;
        Ok(self.flags.clone().or(file))
    }

    fn wrong(&self, why: impl Into<String>) -> SettingsError {
        SettingsError::Config { path: self.config.clone().unwrap_or_else(|| "options".into()), why: why.into() }
    }
}

impl Flags {
    fn or(self, file: Self) -> Self {
        Self {
            listen: list(self.listen, file.listen),
            token_file: self.token_file.or(file.token_file),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            allow_host: list(self.allow_host, file.allow_host),
            rules: self.rules.or(file.rules),
            bounds: self.bounds.or(file.bounds),
            interval: self.interval.or(file.interval),
            audit_every: self.audit_every.or(file.audit_every),
            budget: self.budget.or(file.budget),
            fidelity: self.fidelity.or(file.fidelity),
            callers: self.callers || file.callers,
            leaks_interval: self.leaks_interval.or(file.leaks_interval),
            keep_ended: self.keep_ended.or(file.keep_ended),
            site_series: self.site_series.or(file.site_series),
            max_connections: self.max_connections.or(file.max_connections),
            max_censuses: self.max_censuses.or(file.max_censuses),
            otlp_endpoint: self.otlp_endpoint.or(file.otlp_endpoint),
            otlp_interval: self.otlp_interval.or(file.otlp_interval),
            symbols: self.symbols.or(file.symbols),
        }
    }

    fn settings(&self, options: &Options) -> Result<Settings, SettingsError> {
        const DEFAULT: &str = "127.0.0.1:7117";
        let listen = if self.listen.is_empty() { vec![DEFAULT.to_owned()] } else { self.listen.clone() };
        let listen = listen.iter().map(|text| text.parse().map_err(|why| options.wrong(format!("{text}: {why}"))));
        let tls = match (self.tls_cert.clone(), self.tls_key.clone()) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err(options.wrong("tls-cert and tls-key go together")),
        };
        let every = self.otlp_interval.map_or(Duration::from_secs(60), |span| span.0);
        let wrong = |why| options.wrong(format!("otlp-endpoint: {why}"));
        let collector = self.otlp_endpoint.as_deref().map(|url| Collector::at(url, every).map_err(wrong));
        let limits = Limits::default();
        Ok(Settings {
            listen: listen.collect::<Result<_, _>>()?,
            token_file: self.token_file.clone(),
            tls,
            allowed_hosts: self.allow_host.clone(),
            interval: self.interval.map_or(Duration::from_secs(5), |span| span.0),
            leaks_interval: self.leaks_interval.map_or(Some(Duration::from_secs(30)), |leaks| leaks.0),
            target: Target::Host(self.rules.rules()),
            budget: self.budget.unwrap_or_default().0,
            site_series: self.site_series.unwrap_or(60),
            limits: Limits {
                connections: self.max_connections.unwrap_or(limits.connections),
                censuses: self.max_censuses.unwrap_or(limits.censuses),
                ..limits
            },
            collector: collector.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_comes_before_the_file() {
        let file: Flags = toml::from_str(
            "listen = ['unix:/run/x.sock']\ninterval = '2s'\nsite-series = 7\nsymbols = 'gopclntab'\nallow-host = ['a']\nuser = '0'",
        )
        .unwrap();
        let flags = Flags { interval: "3s".parse().ok(), ..Flags::default() }.or(file);
        let options = Options { config: None, flags: flags.clone() };
        let settings = flags.settings(&options).unwrap();
        assert_eq!(settings.listen, [Address::Unix("/run/x.sock".into())]);
        assert_eq!((settings.interval, settings.site_series), (Duration::from_secs(3), 7));
        assert_eq!(flags.symbols, Some(Symbols::Gopclntab));
        assert_eq!(settings.target.describe(), "that fits --user 0");
    }

    #[test]
    fn nonsense_in_the_file_is_refused() {
        for wrong in [
            "listne = []",
            "interval = '1ms'",
            "interval = 5",
            "site-series = -1",
            "symbols = 'x'",
            "exe = 'a[b'",
            "max-sites = 0",
        ] {
            assert!(toml::from_str::<Flags>(wrong).is_err(), "{wrong}");
        }
    }
}
