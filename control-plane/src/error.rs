//! Why a call is refused, in the domain's words. What it becomes on the wire is decided in `grpc/status.rs` alone.

use crate::store::StoreError;
use shunt_proto::wire::Invalid;
use std::fmt;

/// The kinds of resources that calls name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cn,
    Group,
    Tenant,
    Policy,
    Session,
    DataPlane,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cn => "CN",
            Self::Group => "group",
            Self::Tenant => "tenant",
            Self::Policy => "policy",
            Self::Session => "session",
            Self::DataPlane => "data plane",
        })
    }
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} {1} does not exist")]
    NotFound(Kind, String),
    #[error("{0} {1} exists already")]
    AlreadyExists(Kind, String),
    #[error("{0} {1} was changed: the etag is not its own any more")]
    Stale(Kind, String),
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// A CN names a group that is not there.
    #[error("group {group} of CN {cn} does not exist")]
    NoGroup { cn: String, group: String },
    #[error("address {address} of CN {cn} is that of CN {other} already")]
    AddressInUse { cn: String, address: String, other: String },
    #[error("CN {cn} has {sessions} sessions: drain it first, or set force")]
    HasSessions { cn: String, sessions: u64 },
    #[error("group {group} has CNs: {cns}")]
    HasCns { group: String, cns: String },
    /// Apply names a CN that another group has.
    #[error("CN {cn} belongs to group {other}: take it out of there first")]
    OtherGroup { cn: String, other: String },
    /// Apply leaves out CNs of a group that it names.
    #[error("the list of group {group} leaves out {cns}: apply with prune to take them out")]
    Dropped { group: String, cns: String },
    #[error("{changes} objects would change, at most {max} can at once")]
    TooManyChanges { changes: usize, max: usize },
    #[error("data plane {0} is connected: stop it first")]
    Connected(String),
    /// All blocks of session ids are given away.
    #[error("no block of session ids is free: forget data planes that are gone")]
    NoBlock,
    /// A stream of a newer start of the same data plane is, or was, there.
    #[error("data plane {id} is connected with the newer incarnation {newest}, this is {incarnation}")]
    OlderIncarnation { id: String, incarnation: u64, newest: u64 },
    #[error("data plane {0} has a newer stream")]
    Superseded(String),
    /// A data plane sent what the protocol does not allow.
    #[error("{0}")]
    Protocol(String),
    #[error("the store has not been read yet: {0}")]
    NotSynced(String),
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// Others kept changing what was to be changed.
    #[error("others write at the same time: try again")]
    Contended,
    #[error("no answer within {0} s")]
    Late(u64),
    /// A session's data plane does not answer.
    #[error("data plane {0} does not answer")]
    Unanswered(String),
    /// Another replica leads.
    #[error("another replica leads")]
    NotLeading,
    #[error("this process is stopping")]
    Stopping,
}
