//! Who may ask.
//!
//! On loopback the Host header must name this host: a web page that had its own name point to 127.0.0.1 (DNS rebinding)
//! is turned away. Where there is a token every request needs it, but the two that say whether the daemon lives.

use std::{fs, net::IpAddr, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use axum::{
    extract::{Request, State as Extracted},
    http::{HeaderMap, StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq as _;

use super::{
    problem::Problem,
    settings::{SettingsError, read},
    state::State,
};

/// Whom limits are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A host.
    Host(IpAddr),
    /// A user of this host.
    User(u32),
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) client: Client,
    /// It came to a TCP port of loopback.
    pub(super) loopback: bool,
}

/// A secret that requests must have.
pub(super) struct Token(Vec<u8>);

impl Token {
    /// A token nobody guesses.
    const SHORTEST: usize = 16;

    /// The token in a file: its first line.
    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let wrong = |why| SettingsError::Token { path: path.to_owned(), why };
        let bytes = read(path)?;
        if is_open_to_others(path)? {
            return Err(wrong("can be read or changed by other users: it must be root's, with mode 0600 (chmod 600)"));
        }
        let token = bytes.trim_ascii();
        if token.len() < Self::SHORTEST {
            return Err(wrong("is shorter than 16 characters: anyone could guess it"));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(wrong("has characters that a header cannot have: letters, digits and punctuation only"));
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether an Authorization header has it: as a bearer token, or as the password of any user, which is what tools
    /// can be given in a URL. Takes the same time whatever is wrong.
    fn is_in(&self, authorization: &[u8]) -> bool {
        let Some(space) = authorization.iter().position(|byte| *byte == b' ') else { return false };
        let (scheme, rest) = authorization.split_at(space);
        let credentials = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return self.is(credentials);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return false;
        }
        let Ok(pair) = BASE64_STANDARD.decode(credentials) else { return false };
        let password = pair.iter().position(|byte| *byte == b':').and_then(|colon| pair.get(colon + 1..));
        password.is_some_and(|password| self.is(password))
    }

    fn is(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

/// True for a file that others than its owner, root or this user, can read or change. Root's group may read it.
fn is_open_to_others(path: &Path) -> Result<bool, SettingsError> {
    let metadata = fs::metadata(path)
        .map_err(|error| SettingsError::Unreadable { path: path.to_owned(), why: error.to_string() })?;
    let own = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    let allowed = if metadata.gid() == 0 { 0o740 } else { 0o700 };
    Ok(!own || metadata.mode() & 0o777 & !allowed != 0)
}

/// Lets a request pass, or says why not.
pub(super) async fn guard(Extracted(state): Extracted<Arc<State>>, request: Request, next: Next) -> Response {
    let refused = request.extensions().get::<Peer>().copied().and_then(|peer| {
        let live = state.live();
        let is_health = matches!(request.uri().path(), "/healthz" | "/readyz");
        let host = if peer.loopback { check_host(&request, &live.allowed_hosts) } else { Ok(()) };
        let token = live.token.as_deref().filter(|_| !is_health);
        host.and_then(|()| token.map_or(Ok(()), |token| check_token(token, request.headers()))).err()
    });
    match refused {
        Some(problem) => {
            state.metrics.rejected(problem.kind());
            problem.into_response()
        }
        None => next.run(request).await,
    }
}

fn check_token(token: &Token, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::AUTHORIZATION).is_some_and(|value| token.is_in(value.as_bytes()));
    if given { Ok(()) } else { Err(Problem::unauthorized()) }
}

fn check_host(request: &Request, allowed: &[String]) -> Result<(), Problem> {
    let mut given = request.headers().get_all(header::HOST).iter();
    let host = match (given.next(), given.next()) {
        // A request whose target is a whole URL names its host there.
        (Some(host), None) => host.to_str().ok(),
        // From before there was such a header; no browser sends that.
        (None, None) if request.version() == Version::HTTP_10 => return Ok(()),
        _ => return Err(Problem::new(StatusCode::BAD_REQUEST, "host", "exactly one Host header is needed")),
    };
    let authorities = [host.and_then(|host| host.parse::<Authority>().ok()), request.uri().authority().cloned()];
    let names_us = |authority: &Authority| is_own_name(authority.host(), allowed);
    if authorities[0].is_some() && authorities.iter().flatten().all(names_us) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "host",
        "the Host header does not name this host: use 127.0.0.1 or localhost, or allow the name with --allow-host",
    ))
}

fn is_own_name(host: &str, allowed: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_headers() {
        let token = Token(b"correct-horse-battery".to_vec());
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        assert!(token.is_in(b"Bearer correct-horse-battery"));
        assert!(token.is_in(b"bearer   correct-horse-battery"));
        assert!(token.is_in(basic("anyone:correct-horse-battery").as_bytes()));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer correct-horse-batterz", "Bearer correct-horse-battery2", "Basic !"]
        {
            assert!(!token.is_in(wrong.as_bytes()), "{wrong}");
        }
        assert!(!token.is_in(basic("correct-horse-battery:").as_bytes()));
        assert!(!token.is_in(basic("correct-horse-battery").as_bytes()));
    }

    #[test]
    fn names_of_this_host() {
        let allowed = ["agent.example".to_owned()];
        for own in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]", "Agent.Example"] {
            assert!(is_own_name(own, &allowed), "{own}");
        }
        for other in ["", "evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil"] {
            assert!(!is_own_name(other, &allowed), "{other}");
        }
    }
}
