//! From the domain's error to a status: the one place where statuses of calls are made.

use crate::error::{Error, Kind};
use crate::store::StoreError;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// When to come again while the store is out of reach.
const RETRY: Duration = Duration::from_secs(1);

/// The status of `error`, with exactly one `ErrorInfo`.
pub(super) fn status(error: &Error) -> Status {
    let Told { code, reason, about } = told(error);
    let about: HashMap<String, String> =
        about.into_iter().map(|(key, value)| (key.to_owned(), short(value))).collect();
    let message = short(&error.to_string());
    let mut details = ErrorDetails::with_error_info(reason, "shunt", about);
    match error {
        Error::Invalid(invalid) => {
            details.add_bad_request_violation(&invalid.field, short(&invalid.problem));
        }
        Error::NoGroup { .. } => {
            details.add_bad_request_violation("cn.group", &message);
        }
        _ => {}
    }
    if code == Code::Unavailable {
        details.set_retry_info(Some(RETRY));
    }
    Status::with_error_details(code, message, details)
}

/// A status travels in headers, which are small, and what it says may come from a caller.
fn short(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What is told of an error: its code, its reason, and what it is about.
struct Told<'a> {
    code: Code,
    reason: &'static str,
    about: Vec<(&'static str, &'a str)>,
}

fn told(error: &Error) -> Told<'_> {
    use Error as E;
    let (code, reason, about) = match error {
        E::NotFound(kind, name) => (Code::NotFound, not_found(*kind), vec![("name", name.as_str())]),
        E::AlreadyExists(kind, name) => (Code::AlreadyExists, exists(*kind), vec![("name", name.as_str())]),
        E::Stale(_, name) => (Code::Aborted, "ETAG_MISMATCH", vec![("name", name.as_str())]),
        E::Invalid(invalid) => (Code::InvalidArgument, "INVALID", vec![("field", invalid.field.as_str())]),
        E::NoGroup { cn, group } => {
            (Code::InvalidArgument, "GROUP_NOT_FOUND", vec![("cn", cn.as_str()), ("group", group)])
        }
        E::AddressInUse { cn, address, other } => (
            Code::AlreadyExists,
            "ADDRESS_IN_USE",
            vec![("cn", cn.as_str()), ("address", address), ("other", other)],
        ),
        E::HasSessions { cn, .. } => (Code::FailedPrecondition, "CN_HAS_SESSIONS", vec![("cn", cn.as_str())]),
        E::HasCns { group, cns } => {
            (Code::FailedPrecondition, "GROUP_HAS_CNS", vec![("group", group.as_str()), ("cns", cns)])
        }
        E::OtherGroup { cn, other } => {
            (Code::FailedPrecondition, "CN_IN_OTHER_GROUP", vec![("cn", cn.as_str()), ("group", other)])
        }
        E::Dropped { group, cns } => {
            (Code::FailedPrecondition, "CNS_LEFT_OUT", vec![("group", group.as_str()), ("cns", cns)])
        }
        E::TooManyChanges { .. } => (Code::InvalidArgument, "TOO_MANY_CHANGES", vec![]),
        E::Connected(id) => {
            (Code::FailedPrecondition, "DATA_PLANE_CONNECTED", vec![("dataPlane", id.as_str())])
        }
        E::NoBlock => (Code::ResourceExhausted, "SESSION_IDS_EXHAUSTED", vec![]),
        E::OlderIncarnation { id, .. } | E::Superseded(id) => {
            (Code::AlreadyExists, "DATA_PLANE_SUPERSEDED", vec![("dataPlane", id.as_str())])
        }
        E::Protocol(_) => (Code::InvalidArgument, "PROTOCOL", vec![]),
        E::NotSynced(_) => (Code::Unavailable, "STORE_NOT_SYNCED", vec![]),
        E::Store(StoreError::TooLarge(_)) => (Code::InvalidArgument, "TOO_LARGE", vec![]),
        E::Store(StoreError::Unknown(_)) => (Code::Unavailable, "STORE_OUTCOME_UNKNOWN", vec![]),
        E::Store(_) => (Code::Unavailable, "STORE_UNAVAILABLE", vec![]),
        E::Contended => (Code::Unavailable, "STORE_CONTENDED", vec![]),
        E::Late(_) => (Code::Unavailable, "TIMEOUT", vec![]),
        E::Unanswered(id) => (Code::Unavailable, "DATA_PLANE_UNANSWERED", vec![("dataPlane", id.as_str())]),
        E::NotLeading => (Code::Unavailable, "NOT_LEADING", vec![]),
        E::Stopping => (Code::Unavailable, "STOPPING", vec![]),
    };
    Told { code, reason, about }
}

const fn not_found(kind: Kind) -> &'static str {
    match kind {
        Kind::Cn => "CN_NOT_FOUND",
        Kind::Group => "GROUP_NOT_FOUND",
        Kind::Tenant => "TENANT_NOT_FOUND",
        Kind::Policy => "POLICY_NOT_FOUND",
        Kind::Session => "SESSION_NOT_FOUND",
        Kind::DataPlane => "DATA_PLANE_NOT_FOUND",
    }
}

const fn exists(kind: Kind) -> &'static str {
    match kind {
        Kind::Cn => "CN_EXISTS",
        Kind::Group => "GROUP_EXISTS",
        Kind::Tenant => "TENANT_EXISTS",
        Kind::Policy => "POLICY_EXISTS",
        Kind::Session => "SESSION_EXISTS",
        Kind::DataPlane => "DATA_PLANE_EXISTS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_proto::wire::Invalid;

    #[test]
    fn each_status_has_one_error_info() {
        for (error, code, reason) in [
            (Error::NotFound(Kind::Cn, "x".into()), Code::NotFound, "CN_NOT_FOUND"),
            (Error::Stale(Kind::Cn, "x".into()), Code::Aborted, "ETAG_MISMATCH"),
            (Error::Invalid(Invalid::new("cn.name", "bad")), Code::InvalidArgument, "INVALID"),
            (Error::NotSynced(String::new()), Code::Unavailable, "STORE_NOT_SYNCED"),
            (Error::NoBlock, Code::ResourceExhausted, "SESSION_IDS_EXHAUSTED"),
        ] {
            let status = status(&error);
            let details = status.get_error_details_vec();
            let infos: Vec<_> = details
                .iter()
                .filter_map(|detail| match detail {
                    tonic_types::ErrorDetail::ErrorInfo(info) => Some(info),
                    _ => None,
                })
                .collect();
            assert_eq!((status.code(), infos.len()), (code, 1));
            assert_eq!((infos[0].reason.as_str(), infos[0].domain.as_str()), (reason, "shunt"));
        }
    }
}
