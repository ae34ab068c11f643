//! What came of a move: one value, which the metrics, the log, the session's `lastMove` and whoever ordered it get.

use crate::session::pin::PinReason;
use shunt_proto::cn::CnId;
use shunt_proto::pb;
use std::time::{Duration, SystemTime};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The session goes on elsewhere. Its client may have waited this long.
    Moved(Duration),
    /// It cannot move: one bit for each reason.
    Pinned(u16),
    /// It was tried, or could not be: the session goes on where it was.
    Failed(String),
    /// The session ended before.
    Gone,
}

/// A move that ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) from: CnId,
    /// Absent where none was chosen.
    pub(crate) to: Option<CnId>,
    pub(crate) outcome: Outcome,
    pub(crate) at: SystemTime,
}

impl Outcome {
    /// Its word, in metrics and in the API.
    pub(crate) const fn word(&self) -> &'static str {
        let [moved, pinned, failed, gone] = Self::WORDS;
        match self {
            Self::Moved(_) => moved,
            Self::Pinned(_) => pinned,
            Self::Failed(_) => failed,
            Self::Gone => gone,
        }
    }

    /// Every one of those words.
    pub(crate) const WORDS: [&'static str; 4] = ["moved", "pinned", "failed", "gone"];

    /// Why it did not move, in words.
    pub(crate) fn reasons(&self) -> Vec<String> {
        match self {
            Self::Moved(_) | Self::Gone => Vec::new(),
            Self::Pinned(bits) => PinReason::words_of(*bits).into_iter().map(str::to_owned).collect(),
            Self::Failed(why) => vec![why.clone()],
        }
    }
}

impl Ended {
    /// As a session shows its last one.
    pub(crate) fn to_last_move(&self) -> pb::session::Move {
        pb::session::Move {
            at: Some(self.at.into()),
            from: self.from.to_string(),
            to: self.to.as_ref().map(ToString::to_string).unwrap_or_default(),
            outcome: self.outcome.word().to_owned(),
            reason: self.outcome.reasons().join(", "),
        }
    }

    /// As whoever ordered it is told.
    pub(crate) fn to_pb(&self) -> pb::Moved {
        let pause = match self.outcome {
            Outcome::Moved(pause) => prost_types::Duration::try_from(pause).ok(),
            Outcome::Pinned(_) | Outcome::Failed(_) | Outcome::Gone => None,
        };
        let outcome = match self.outcome {
            Outcome::Moved(_) => pb::moved::Outcome::Moved,
            Outcome::Pinned(_) => pb::moved::Outcome::Pinned,
            Outcome::Failed(_) => pb::moved::Outcome::Failed,
            Outcome::Gone => pb::moved::Outcome::Gone,
        };
        pb::Moved {
            outcome: outcome.into(),
            from: self.from.to_string(),
            to: self.to.as_ref().map(ToString::to_string).unwrap_or_default(),
            pause,
            reasons: self.outcome.reasons(),
        }
    }
}
