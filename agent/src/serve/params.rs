//! What a request asks for in its path and query. Nonsense is refused, never guessed at.

use std::{fmt::Display, str::FromStr};

use axum::http::Uri;
use globset::{Glob, GlobMatcher};

use super::problem::Problem;

/// More than any sensible request has.
const MAX_PARAMETERS: usize = 64;

/// The parameters of a query.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Those of a request; with `known`, no others.
    pub(super) fn of(uri: &Uri, known: Option<&[&str]>) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        let all: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        if all.len() > MAX_PARAMETERS {
            return Err(Problem::bad(format!("more than {MAX_PARAMETERS} parameters")));
        }
        if let Some(known) = known
            && let Some((name, _)) = all.iter().find(|(name, _)| !known.contains(&name.as_str()))
        {
            return Err(Problem::bad(format!("there is no parameter {name:?}; there are {}", known.join(", "))));
        }
        Ok(Self(all))
    }

    /// A parameter that may be given once.
    pub(super) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Problem::bad(format!("{name} is given more than once"))),
        }
    }

    /// A parameter that may be given more than once.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A number, a boolean.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        let wrong = |error: T::Err| Problem::bad(format!("{name}: {error}"));
        self.one(name)?.map(|text| text.parse().map_err(wrong)).transpose()
    }

    /// How many of a list: at most `most`.
    pub(super) fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let limit = self.parsed("limit")?.unwrap_or(default);
        if (1..=most).contains(&limit) { Ok(limit) } else { Err(Problem::bad(format!("limit: 1 to {most}"))) }
    }

    /// A pattern.
    pub(super) fn glob(&self, name: &str) -> Result<Option<GlobMatcher>, Problem> {
        let wrong = |error: globset::Error| Problem::bad(format!("{name}: {error}"));
        self.one(name)?.map(|text| Glob::new(text).map(|glob| glob.compile_matcher()).map_err(wrong)).transpose()
    }
}

/// A pid in a path.
pub(super) fn pid(text: &str) -> Result<u32, Problem> {
    let pid = text.parse().ok().filter(|pid| *pid > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
    pid.ok_or_else(|| Problem::bad("a pid is a number from 1 on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap(), None).ok().unwrap()
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(params("limit=5&x=a%20b").limit(1, 9).ok(), Some(5));
        assert_eq!(params("x=a%20b+c").one("x").ok().flatten(), Some("a b c"));
        assert!(params("x=1&x=2").one("x").is_err());
        assert_eq!(params("label=a&label=b").all("label").collect::<Vec<_>>(), ["a", "b"]);
        for limit in ["0", "10", "-1", "x", ""] {
            assert!(params(&format!("limit={limit}")).limit(1, 9).is_err(), "{limit}");
        }
        assert!(Params::of(&"/x?y=1".parse().unwrap(), Some(&["x"])).is_err());
        assert!(params("site=%5B").glob("site").is_err());
    }

    #[test]
    fn pids() {
        assert_eq!(pid("42").ok(), Some(42));
        for wrong in ["0", "-1", "+1", "x", "", "99999999999"] {
            assert!(pid(wrong).is_err(), "{wrong}");
        }
    }
}
