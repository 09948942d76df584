//! How an experiment ends.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Three, not two: what could not be tried is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "reason", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Holds,
    /// What was expected and what happened instead.
    DoesNotHold(String),
    /// What is missing: a privilege, a kernel, a resource.
    NotTested(String),
}

impl Verdict {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold(_) => "does-not-hold",
            Self::NotTested(_) => "not-tested",
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Holds => "",
            Self::DoesNotHold(why) | Self::NotTested(why) => why,
        }
    }
}

/// What an experiment's function returns: it came to its end, or why it did not.
pub(crate) type Outcome<T = ()> = Result<T, Stop>;

/// Why an experiment ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The kernel did otherwise.
    Broken(String),
    /// The scene could not be set.
    Untested(String),
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(()) => Self::Holds,
            Err(Stop::Broken(why)) => Self::DoesNotHold(why),
            Err(Stop::Untested(why)) => Self::NotTested(why),
        }
    }
}

/// Errors that are not looked at come from setting the scene: sockets, limits, files.
impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Untested(format!("the scene could not be set: {error}"))
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Untested(format!("the scene could not be set: {errno}"))
    }
}
