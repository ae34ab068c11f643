//! Which sessions are to leave their CN and why, and which fill another up to its share: pure.
//!
//! Must not know: when, how fast, what was tried before.

use shunt_proto::cn::{CnId, RoutedCn};
use shunt_proto::snapshot::RoutingSnapshot;
use shunt_proto::tenant::{Request, route, tier, unusable};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A session, as far as this must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: u32,
    pub(crate) request: Request,
    pub(crate) cn: String,
    /// It rests, as far as can be told from outside.
    pub(crate) is_idle: bool,
    /// Something of it cannot be moved now.
    pub(crate) is_pinned: bool,
    /// A move of it is under way.
    pub(crate) is_moving: bool,
    /// It was told to go to this CN.
    pub(crate) going_to: Option<CnId>,
}

/// Where a session is to go: anywhere in its match, or to this CN.
pub(crate) type To = Option<CnId>;

/// Why a session is to go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Why {
    /// Its CN takes no sessions.
    Unusable(&'static str),
    /// Its CN is no CN any more.
    Gone,
    /// Its CN is in no tier of what the session asks for.
    Mismatch(String),
    /// Its CN was a fallback, and there is one of a better tier.
    Fallback(&'static str),
    /// The CN that it goes to has fewer sessions than its share.
    Share { has: i64, share: i64 },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(state) => write!(f, "the CN is {state}"),
            Self::Gone => f.write_str("the CN is not known any more"),
            Self::Mismatch(mismatch) => write!(f, "the CN {mismatch}"),
            Self::Fallback(better) => write!(f, "the CN was a fallback, and {better} is up"),
            Self::Share { has, share } => {
                write!(f, "the other CN has {has} sessions, and its share is {share}")
            }
        }
    }
}

/// The sessions that may not stay where they are and why, those first that rest.
pub(crate) fn leaving(
    snapshot: &RoutingSnapshot,
    is_down: impl Fn(&CnId) -> bool,
    sessions: &[Seen],
) -> Vec<(u32, Why)> {
    // There are few kinds of sessions, and many of each.
    let mut known: HashMap<(&str, String, &str), Option<Why>> = HashMap::new();
    let mut leave: Vec<(&Seen, Why)> = sessions
        .iter()
        .filter_map(|seen| {
            let Seen { request, cn, .. } = seen;
            let kind = (request.tenant.as_str(), request.labels.to_string(), cn.as_str());
            let why = known.entry(kind).or_insert_with(|| why_leave(snapshot, &is_down, request, cn));
            why.clone().map(|why| (seen, why))
        })
        .collect();
    leave.sort_by_key(|(seen, _)| !seen.is_idle);
    leave.into_iter().map(|(seen, why)| (seen.id, why)).collect()
}

/// Why a session of `request` may not stay on `cn`. `None` where it may, or has nowhere to go.
fn why_leave(
    snapshot: &RoutingSnapshot,
    is_down: &impl Fn(&CnId) -> bool,
    request: &Request,
    cn: &str,
) -> Option<Why> {
    let matched = route(snapshot, request, |cn| is_down(cn.name())).ok()?;
    let Some(own) = CnId::new(cn).ok().and_then(|name| snapshot.cn(&name).cloned()) else {
        return Some(Why::Gone);
    };
    // That its CN is down as others see it is no reason: its own connection is there.
    if let Some(unusable) = unusable(&own, false) {
        return Some(Why::Unusable(unusable.as_str()));
    }
    let tenant = snapshot.tenant(&request.tenant);
    let asked = request.labels.with_defaults(&tenant.default_labels);
    match tier(&own, &tenant, &asked) {
        Ok(tier) if tier <= matched.tier => None,
        Ok(_) => Some(Why::Fallback(matched.tier.as_str())),
        Err(mismatch) => Some(Why::Mismatch(mismatch.to_string())),
    }
}

/// How many sessions each CN has, those that are on their way counted where they go.
pub(super) fn count(sessions: &[Seen]) -> HashMap<CnId, i64> {
    let mut counts = HashMap::new();
    for seen in sessions {
        let on = || CnId::new(&seen.cn).ok();
        if let Some(cn) = seen.going_to.clone().or_else(on) {
            *counts.entry(cn).or_default() += 1;
        }
    }
    counts
}

/// Which CNs are filled up to their share.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill<'a> {
    /// Those that joined.
    These(&'a BTreeSet<CnId>),
    /// All that have fewer.
    All,
}

impl Fill<'_> {
    fn has(&self, cn: &CnId) -> bool {
        match self {
            Self::These(these) => these.contains(cn),
            Self::All => true,
        }
    }
}

/// The sessions that fill CNs up to their share, each with the CN that it goes to. Those in `leaving` go their own way.
pub(crate) fn filling(
    snapshot: &RoutingSnapshot,
    is_down: impl Fn(&CnId) -> bool,
    sessions: &[Seen],
    fill: Fill<'_>,
    leaving: &BTreeSet<u32>,
) -> Vec<(u32, CnId, Why)> {
    let mut counts = count(sessions);
    let mut by_request: BTreeMap<(&str, String), Vec<&Seen>> = BTreeMap::new();
    for seen in sessions.iter().filter(|seen| !seen.is_moving && !leaving.contains(&seen.id)) {
        by_request.entry((&seen.request.tenant, seen.request.labels.to_string())).or_default().push(seen);
    }
    let mut moves = Vec::new();
    for all in by_request.values_mut() {
        let Some(first) = all.first() else { continue };
        let Ok(matched) = route(snapshot, &first.request, |cn| is_down(cn.name())) else { continue };
        // From the end: those that rest come last, and are taken first.
        all.sort_by_key(|seen| seen.is_idle);
        let shares = shares(&matched.cns, &counts);
        for to in matched.cns.iter().filter(|cn| fill.has(cn.name())) {
            fill_one(to.name(), &shares, all, &mut counts, &mut moves);
        }
    }
    moves
}

/// How many of the sessions of these CNs each is to have, by weight. What is left over by rounding goes to those that have
/// more already: nothing moves for its sake.
fn shares(cns: &[Arc<RoutedCn>], counts: &HashMap<CnId, i64>) -> HashMap<CnId, i64> {
    let has = |cn: &RoutedCn| counts.get(cn.name()).copied().unwrap_or(0);
    let weight = |cn: &RoutedCn| i64::from(cn.cn.weight.max(1));
    let total: i64 = cns.iter().map(|cn| has(cn)).sum();
    let weights: i64 = cns.iter().map(|cn| weight(cn)).sum();
    let mut shares: Vec<(&RoutedCn, i64)> =
        cns.iter().map(|cn| (&**cn, total * weight(cn) / weights.max(1))).collect();
    let left = total - shares.iter().map(|(_, share)| share).sum::<i64>();
    shares.sort_by_key(|(cn, share)| share - has(cn));
    for (_, share) in shares.iter_mut().take(usize::try_from(left).unwrap_or_default()) {
        *share += 1;
    }
    shares.into_iter().map(|(cn, share)| (cn.name().clone(), share)).collect()
}

/// Takes sessions off those of a match that have more than their share until `to` has its own.
fn fill_one(
    to: &CnId,
    shares: &HashMap<CnId, i64>,
    sessions: &mut Vec<&Seen>,
    counts: &mut HashMap<CnId, i64>,
    moves: &mut Vec<(u32, CnId, Why)>,
) {
    let has = |counts: &HashMap<CnId, i64>, cn: &CnId| counts.get(cn).copied().unwrap_or(0);
    let share = shares.get(to).copied().unwrap_or(0);
    let why = Why::Share { has: has(counts, to), share };
    let mut kept = Vec::new();
    while has(counts, to) < share
        && let Some(seen) = sessions.pop()
    {
        let from = CnId::new(&seen.cn).ok();
        let spare = from.filter(|from| shares.get(from).is_some_and(|share| has(counts, from) > *share));
        let Some(from) = spare else {
            kept.push(seen);
            continue;
        };
        moves.push((seen.id, to.clone(), why.clone()));
        *counts.entry(to.clone()).or_default() += 1;
        *counts.entry(from).or_default() -= 1;
    }
    sessions.extend(kept.into_iter().rev());
}

/// Less time than this is none.
const LEAST: Duration = Duration::from_millis(50);

/// How many moves a second it takes to have `left` sessions off a CN in `time_left`, in half of it: some have to be tried
/// again.
pub(crate) fn hurry(left: usize, time_left: Duration) -> f64 {
    2.0 * left as f64 / time_left.max(LEAST).as_secs_f64()
}
