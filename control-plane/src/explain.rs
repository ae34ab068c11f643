//! What a login would get, with every CN, its tier, and why not. Pure: the same definition of a match that the data
//! planes use, over the same snapshot.
//!
//! Must not know: tonic, where counts and health come from.

use crate::intent::some;
use shunt_proto::cn::{CnId, CnState, Health, RoutedCn};
use shunt_proto::label::Labels;
use shunt_proto::snapshot::RoutingSnapshot;
use shunt_proto::tenant::{Match, Refusal, Request, Tenant, Tier, Unusable, route, tier, unusable};
use std::net::IpAddr;

/// A made-up login.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) tenant: String,
    pub(crate) labels: Labels,
    /// None: not considered.
    pub(crate) client: Option<IpAddr>,
}

/// What is known now of a CN.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) sessions: u32,
    pub(crate) health: Health,
}

/// A CN, and what speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) cn: CnId,
    pub(crate) tier: Option<Tier>,
    pub(crate) chosen: bool,
    /// Why it is not chosen.
    pub(crate) reason: String,
    pub(crate) sessions: u32,
    pub(crate) health: Health,
    pub(crate) state: CnState,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// The labels that count, the tenant's default labels included.
    pub(crate) labels: Labels,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) matched: Vec<CnId>,
    pub(crate) pick: Option<CnId>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) summary: String,
}

/// What `login` would get. `known` tells of each CN what was found out, `tenant_sessions` is how many sessions the
/// tenant has.
pub(crate) fn explain(
    snapshot: &RoutingSnapshot,
    login: &Login,
    tenant_sessions: u32,
    known: impl Fn(&RoutedCn) -> Known,
) -> Explanation {
    let tenant = snapshot.tenant(&login.tenant);
    let labels = login.labels.with_defaults(&tenant.default_labels);
    let request = Request { tenant: login.tenant.clone(), labels: login.labels.clone() };
    let routed = route(snapshot, &request, |cn| known(cn).health == Health::Down);
    let found = routed.as_ref().ok();
    let candidates: Vec<Candidate> =
        snapshot.cns().map(|cn| candidate(cn, &tenant, &labels, found, known(cn))).collect();
    let matched: Vec<CnId> = candidates.iter().filter(|c| c.chosen).map(|c| c.cn.clone()).collect();
    let refusal = refused(&tenant, login, tenant_sessions).or_else(|| routed.as_ref().err().cloned());
    let pick = match (&refusal, found) {
        (None, Some(found)) => pick(found, &known),
        _ => None,
    };
    let summary = summary(&tenant, &labels, found, &matched, pick.as_ref(), refusal.as_ref());
    Explanation { labels, candidates, matched, pick, refusal, summary }
}

/// What speaks against the login before CNs are looked at, in the order in which a data plane finds out.
fn refused(tenant: &Tenant, login: &Login, sessions: u32) -> Option<Refusal> {
    if let Some(address) = login.client
        && !tenant.allows(address)
    {
        return Some(Refusal::Address { tenant: tenant.name.clone(), address });
    }
    if tenant.max_sessions > 0 && sessions >= tenant.max_sessions {
        return Some(Refusal::Limit { tenant: tenant.name.clone(), max: tenant.max_sessions });
    }
    tenant.suspended.then(|| Refusal::Suspended { tenant: tenant.name.clone() })
}

fn candidate(
    cn: &RoutedCn,
    tenant: &Tenant,
    labels: &Labels,
    found: Option<&Match>,
    known: Known,
) -> Candidate {
    let in_tier = tier(cn, tenant, labels);
    let cause = unusable(cn, known.health == Health::Down);
    let (chosen, reason) = match (&in_tier, cause, found) {
        (Err(mismatch), _, _) => (false, mismatch.to_string()),
        (Ok(_), Some(Unusable::Draining), _) => (false, format!("is {}", cn.cn.state)),
        (Ok(_), Some(cause), _) => (false, format!("is {cause}")),
        (Ok(tier), None, Some(found)) if *tier > found.tier => {
            (false, format!("is {tier}, and {} is usable", found.tier))
        }
        (Ok(_), None, _) => (true, String::new()),
    };
    Candidate {
        cn: cn.name().clone(),
        tier: in_tier.ok(),
        chosen,
        reason,
        sessions: known.sessions,
        health: known.health,
        state: cn.cn.state,
    }
}

/// The one with the least sessions for its weight; of several the first by name.
fn pick(found: &Match, known: &impl Fn(&RoutedCn) -> Known) -> Option<CnId> {
    let least = found.cns.iter().min_by(|one, other| {
        let (sessions, others) = (u64::from(known(one).sessions), u64::from(known(other).sessions));
        let (weight, others_weight) = (u64::from(one.cn.weight.max(1)), u64::from(other.cn.weight.max(1)));
        (sessions * others_weight).cmp(&(others * weight))
    });
    least.map(|cn| cn.name().clone())
}

fn summary(
    tenant: &Tenant,
    labels: &Labels,
    found: Option<&Match>,
    matched: &[CnId],
    pick: Option<&CnId>,
    refusal: Option<&Refusal>,
) -> String {
    let asks = if labels.is_empty() { "no labels".to_owned() } else { labels.to_string() };
    let who = format!("tenant {} asking for {asks}", tenant.name);
    match (refusal, found, pick) {
        (Some(refusal), ..) => format!("{who} is refused: {refusal}"),
        (None, Some(found), Some(pick)) => {
            let names: Vec<&str> = matched.iter().map(CnId::as_str).collect();
            let of = if names.len() == 1 { "the only one usable" } else { "the least loaded of" };
            let others = if names.len() == 1 { String::new() } else { format!(" {}", some(&names)) };
            format!("{who} gets {}: {pick}, {of}{others}", found.tier)
        }
        // Without a match there is a refusal, and with one a pick.
        _ => who,
    }
}

#[cfg(test)]
mod tests;
