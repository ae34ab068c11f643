//! Tenants, and the one definition of a match: which CNs a session may use now.
//!
//! Login, explain, rebalance and drain all ask [`route`] (or [`tier`] for a single CN). It is pure: it sees a
//! snapshot, a request, and a closure that says which CNs are down.
//!
//! Must not know: sockets, counts, which of the match is picked.

use crate::cn::{CnState, RoutedCn};
use crate::label::{Labels, glob};
use crate::snapshot::RoutingSnapshot;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The tenant of a login that names none.
pub const DEFAULT_TENANT: &str = "sys";

/// What to do when no CN of the tenant, and none with the labels, is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNoMatch {
    /// Go to CNs without labels.
    #[default]
    Unlabelled,
    /// Refuse.
    Reject,
}

/// What a tenant's sessions may do, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// As written in the user name, case kept.
    pub name: String,
    /// Asked for where the client asked for no value of that key.
    pub default_labels: Labels,
    /// Where its clients may come from; empty: anywhere.
    pub allow: Vec<IpNet>,
    /// Sessions at once; 0: no limit.
    pub max_sessions: u32,
    /// What to do without a match.
    pub on_no_match: OnNoMatch,
    /// No new sessions, and live ones are closed.
    pub suspended: bool,
}

impl Tenant {
    /// A tenant that was never declared: no limits, no defaults.
    #[must_use]
    pub fn undeclared(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Whether a client at `address` may log in. An IPv4 address in IPv6 clothes counts as IPv4.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|net| net.contains(&address.to_canonical()))
    }
}

/// Which rule lets a CN serve a request. The first tier with a usable CN is the match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// A CN of this tenant with the labels.
    Tenant = 1,
    /// A CN with the labels, of no tenant.
    Labels = 2,
    /// A CN with no labels at all, of no tenant.
    Unlabelled = 3,
}

impl Tier {
    /// As it is said.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "a CN of the tenant with the labels",
            Self::Labels => "a CN with the labels and no tenant",
            Self::Unlabelled => "a CN without labels",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a CN is in no tier of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It serves another tenant.
    #[error("is of tenant {0}")]
    OtherTenant(String),
    /// It has no such label.
    #[error("lacks the label {0}")]
    Lacks(String),
    /// It has the label with other values.
    #[error("carries {0}={1}")]
    OtherValue(String, String),
    /// It has a label that was not asked for.
    #[error("has the further label {0}")]
    Further(String),
    /// It has no labels, and the tenant does without such CNs.
    #[error("has no labels, and tenant {0} says on_no_match: reject")]
    Rejected(String),
}

/// The tier in which `cn` serves `tenant` asking for `asked`; or why in none.
///
/// # Errors
/// [`Mismatch`], the first thing that does not fit.
pub fn tier(cn: &RoutedCn, tenant: &Tenant, asked: &Labels) -> Result<Tier, Mismatch> {
    let unlabelled = cn.labels.is_empty() && cn.tenant.is_none();
    match carries(cn, &tenant.name, asked) {
        Ok(()) if cn.tenant.is_some() => Ok(Tier::Tenant),
        Ok(()) => Ok(Tier::Labels),
        Err(_) if unlabelled && tenant.on_no_match == OnNoMatch::Unlabelled => Ok(Tier::Unlabelled),
        Err(_) if unlabelled => Err(Mismatch::Rejected(tenant.name.clone())),
        Err(mismatch) => Err(mismatch),
    }
}

fn carries(cn: &RoutedCn, tenant: &str, asked: &Labels) -> Result<(), Mismatch> {
    if let Some(own) = &cn.tenant
        && !glob(own, tenant)
    {
        return Err(Mismatch::OtherTenant(own.clone()));
    }
    for (key, wanted) in asked.iter() {
        let Some(values) = cn.labels.values(key) else {
            return Err(Mismatch::Lacks(key.to_owned()));
        };
        if !values.iter().any(|value| wanted.iter().any(|wanted| glob(value, wanted))) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            return Err(Mismatch::OtherValue(key.to_owned(), values.join("|")));
        }
    }
    match cn.labels.keys().find(|key| asked.values(key).is_none()) {
        Some(further) => Err(Mismatch::Further(further.to_owned())),
        None => Ok(()),
    }
}

/// Why a CN that is in a tier cannot be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unusable {
    /// Its labels are not confirmed.
    Pending,
    /// It is draining, or drained.
    Draining,
    /// It does not answer, or cannot serve.
    Down,
}

impl Unusable {
    /// As it is said.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether `cn` takes sessions; `down` is what was found out about it.
#[must_use]
pub fn unusable(cn: &RoutedCn, down: bool) -> Option<Unusable> {
    match cn.cn.state {
        CnState::Pending => Some(Unusable::Pending),
        CnState::Draining | CnState::Drained => Some(Unusable::Draining),
        CnState::Working if down => Some(Unusable::Down),
        CnState::Working => None,
    }
}

/// What a login asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The tenant's name.
    pub tenant: String,
    /// Labels that the client asked for, without the tenant's defaults.
    pub labels: Labels,
}

/// The CNs that a session may use now, all of one tier.
#[derive(Clone, Debug)]
pub struct Match {
    /// Which rule let them in.
    pub tier: Tier,
    /// At least one, in the order of their names.
    pub cns: Vec<Arc<RoutedCn>>,
}

/// Why a login is refused, as its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No CN is in any tier.
    NoCn {
        /// The tenant.
        tenant: String,
        /// The labels that count.
        labels: Labels,
    },
    /// CNs are there, but none is usable.
    NoneUsable {
        /// The labels that count.
        labels: Labels,
        /// In which ways they are not.
        causes: Vec<Unusable>,
    },
    /// The tenant is suspended.
    Suspended {
        /// The tenant.
        tenant: String,
    },
    /// The client's address is not allowed.
    Address {
        /// The tenant.
        tenant: String,
        /// Where the client is.
        address: IpAddr,
    },
    /// The tenant has as many sessions as it may.
    Limit {
        /// The tenant.
        tenant: String,
        /// The limit.
        max: u32,
    },
}

impl Refusal {
    /// The error number of the ERR packet.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::NoCn { .. } | Self::NoneUsable { .. } => 1105,
            Self::Suspended { .. } => 4151,
            Self::Address { .. } => 1130,
            Self::Limit { .. } => 1040,
        }
    }

    /// The SQLSTATE of the ERR packet.
    #[must_use]
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Self::NoCn { .. } | Self::NoneUsable { .. } | Self::Limit { .. } => "08004",
            Self::Suspended { .. } | Self::Address { .. } => "HY000",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCn { tenant, labels } => {
                write!(f, "no CN carries the labels {labels} (tenant {tenant})")
            }
            Self::NoneUsable { labels, causes } => {
                let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
                write!(f, "every CN that carries the labels {labels} is {}", causes.join(" or "))
            }
            Self::Suspended { tenant } => write!(f, "tenant {tenant} is suspended"),
            Self::Address { tenant, address } => {
                write!(f, "address {address} is not on the allow list of tenant {tenant}")
            }
            Self::Limit { tenant, max } => {
                write!(f, "tenant {tenant} has reached its limit of {max} sessions")
            }
        }
    }
}

/// The match of `request` in `snapshot`. `down` says of a CN whether it is to be avoided.
///
/// The tenant's address list, limit and suspension are not looked at here: they concern the login, not the CNs.
///
/// # Errors
/// [`Refusal::NoCn`] or [`Refusal::NoneUsable`].
pub fn route(
    snapshot: &RoutingSnapshot,
    request: &Request,
    down: impl Fn(&RoutedCn) -> bool,
) -> Result<Match, Refusal> {
    let tenant = snapshot.tenant(&request.tenant);
    let asked = request.labels.with_defaults(&tenant.default_labels);
    let mut best: Option<Match> = None;
    let mut causes = Vec::new();
    for cn in snapshot.cns() {
        let Ok(tier) = tier(cn, &tenant, &asked) else { continue };
        if let Some(cause) = unusable(cn, down(cn)) {
            causes.push(cause);
            continue;
        }
        match &mut best {
            Some(found) if found.tier < tier => {}
            Some(found) if found.tier == tier => found.cns.push(Arc::clone(cn)),
            better => *better = Some(Match { tier, cns: vec![Arc::clone(cn)] }),
        }
    }
    if let Some(found) = best {
        return Ok(found);
    }
    if causes.is_empty() {
        return Err(Refusal::NoCn { tenant: tenant.name.clone(), labels: asked });
    }
    causes.sort_unstable();
    causes.dedup();
    Err(Refusal::NoneUsable { labels: asked, causes })
}

#[cfg(test)]
mod tests;
