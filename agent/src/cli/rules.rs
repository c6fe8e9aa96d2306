//! `--exe`, `--comm`, `--cgroup`, `--user`, and the same with `--exclude-`: the same words in a file.

use clap::Args;
use serde::{Deserialize, Deserializer};

use crate::program::{Pattern, Patterns, Rules, User};

/// Which of the host's processes. Each option may be given more than once: one of each kind must match, and no exclusion.
#[derive(Clone, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RuleOptions {
    /// Processes whose executable matches: a path pattern, or a file name pattern if it has no slash. This option and the
    /// next seven may be given more than once: a process must match one of each kind given, and no exclusion.
    #[arg(short, long, value_name = "GLOB")]
    #[serde(deserialize_with = "one_or_more")]
    exe: Vec<Pattern>,
    /// Processes whose name, as ps shows it, matches.
    #[arg(long, value_name = "GLOB")]
    #[serde(deserialize_with = "one_or_more")]
    comm: Vec<Pattern>,
    /// Processes in a control group that matches: a path pattern, or a pattern for one name on the path if it has no slash
    /// (api.service, docker-*).
    #[arg(long, value_name = "GLOB")]
    #[serde(deserialize_with = "one_or_more")]
    cgroup: Vec<Pattern>,
    /// Processes that run as this user.
    #[arg(long, value_name = "NAME|UID")]
    #[serde(deserialize_with = "one_or_more")]
    user: Vec<User>,
    /// No processes whose executable matches.
    #[arg(long, value_name = "GLOB")]
    #[serde(deserialize_with = "one_or_more")]
    exclude_exe: Vec<Pattern>,
    /// No processes whose name matches.
    #[arg(long, value_name = "GLOB")]
    #[serde(deserialize_with = "one_or_more")]
    exclude_comm: Vec<Pattern>,
    /// No processes in a control group that matches.
    #[arg(long, value_name = "GLOB")]
    #[serde(deserialize_with = "one_or_more")]
    exclude_cgroup: Vec<Pattern>,
    /// No processes of this user.
    #[arg(long, value_name = "NAME|UID")]
    #[serde(deserialize_with = "one_or_more")]
    exclude_user: Vec<User>,
}

impl RuleOptions {
    pub(super) fn rules(&self) -> Rules {
        let Self { exe, comm, cgroup, user, exclude_exe, exclude_comm, exclude_cgroup, exclude_user } = self.clone();
        Rules {
            include: Patterns { exe, comm, cgroup, user },
            exclude: Patterns { exe: exclude_exe, comm: exclude_comm, cgroup: exclude_cgroup, user: exclude_user },
        }
    }

    /// These, and of the other's the kinds that these have none of.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            exe: list(self.exe, other.exe),
            comm: list(self.comm, other.comm),
            cgroup: list(self.cgroup, other.cgroup),
            user: list(self.user, other.user),
            exclude_exe: list(self.exclude_exe, other.exclude_exe),
            exclude_comm: list(self.exclude_comm, other.exclude_comm),
            exclude_cgroup: list(self.exclude_cgroup, other.exclude_cgroup),
            exclude_user: list(self.exclude_user, other.exclude_user),
        }
    }
}

/// The list of a flag, or the file's where there is none.
pub(super) fn list<T>(own: Vec<T>, other: Vec<T>) -> Vec<T> {
    if own.is_empty() { other } else { own }
}

/// A string, or a list of them.
fn one_or_more<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string, or a list of strings")]
    enum Given {
        One(String),
        More(Vec<String>),
    }
    let given = match Given::deserialize(from)? {
        Given::One(text) => vec![text],
        Given::More(texts) => texts,
    };
    given.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_or_a_list() {
        let options: RuleOptions = toml::from_str("exe = 'api-*'\nexclude-user = ['0', '7']").unwrap();
        let flags = options.rules();
        let flags: Vec<String> = flags.flags().into_iter().map(|(flag, text)| format!("{flag} {text}")).collect();
        assert_eq!(flags, ["exe api-*", "exclude-user 0", "exclude-user 7"]);
        for wrong in ["exe = 7", "exe = 'a[b'", "exclude-user = ['no such user']", "exclude = []"] {
            assert!(toml::from_str::<RuleOptions>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_kind_that_is_given_replaces_the_files() {
        let file: RuleOptions = toml::from_str("exe = ['a', 'b']\nexclude-comm = 'c'").unwrap();
        let flags: RuleOptions = toml::from_str("exe = 'x'").unwrap();
        let both: RuleOptions = toml::from_str("exe = 'x'\nexclude-comm = 'c'").unwrap();
        assert_eq!(flags.or(file), both);
    }
}
