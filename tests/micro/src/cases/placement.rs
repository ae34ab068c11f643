//! From what a login asks for to one CN: the match, the pick, and both with the look-ups that a data plane makes.

use super::data_plane::routing::pick::least_loaded;
use super::{Case, count, fleet};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use shunt_proto::cn::{CnId, Health, RoutedCn};
use shunt_proto::snapshot::RoutingSnapshot;
use shunt_proto::tenant::{Match, Request, Tier, route};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    Case { name: "match/10", about: "tenant and one label; a tenth of 10 CNs matches", run: || matched(10) },
    Case { name: "match/1000", about: "the same of 1,000 CNs", run: || matched(1000) },
    Case { name: "match/10000", about: "the same of 10,000 CNs", run: || matched(10_000) },
    Case { name: "pick/10", about: "the least loaded of 10, loads looked up by name", run: || picked(10) },
    Case { name: "pick/1000", about: "the same of 1,000", run: || picked(1000) },
    Case { name: "place/10", about: "match and pick of 10, health and loads looked up", run: || placed(10) },
    Case { name: "place/10000", about: "the same of 10,000", run: || placed(10_000) },
];

/// The map of what is known of CNs, with a hash that is the same in every run.
type Views = HashMap<CnId, (u32, Health), BuildHasherDefault<DefaultHasher>>;

struct Plane {
    snapshot: RoutingSnapshot,
    views: Views,
    rng: SmallRng,
}

impl Plane {
    fn new(cns: usize) -> Self {
        let snapshot = fleet::snapshot(cns);
        let load = |n: usize| u32::try_from(n * 7919 % 50).expect("it is below 50");
        let views =
            snapshot.cns().enumerate().map(|(n, cn)| (cn.name().clone(), (load(n), Health::Up))).collect();
        Self { snapshot, views, rng: SmallRng::seed_from_u64(7) }
    }

    fn is_down(&self, cn: &RoutedCn) -> bool {
        self.views.get(cn.name()).is_some_and(|(_, health)| *health == Health::Down)
    }

    fn pick(&mut self, cns: &[Arc<RoutedCn>]) -> Arc<RoutedCn> {
        let load = |cn: &RoutedCn| self.views.get(cn.name()).map_or(0, |(load, _)| *load);
        Arc::clone(least_loaded(cns, load, &mut self.rng))
    }
}

fn request() -> Request {
    Request { tenant: fleet::TENANT.to_owned(), labels: fleet::labels(&[("workload", "tp")]) }
}

fn assert_is_a_tenth(found: &Match, cns: usize) {
    assert_eq!((found.tier, found.cns.len()), (Tier::Tenant, cns / 10));
}

fn matched(cns: usize) {
    let mut snapshot = fleet::snapshot(cns);
    let found = count(&mut snapshot, |_| request(), |snapshot, request| route(snapshot, &request, |_| false));
    assert_is_a_tenth(&found.expect("some CN matches"), cns);
}

fn picked(cns: usize) {
    let mut plane = Plane::new(cns);
    let matched: Vec<_> = plane.snapshot.cns().cloned().collect();
    let cn = count(&mut plane, |_| (), |plane, ()| plane.pick(&matched));
    assert_eq!(plane.views[cn.name()].0, 0, "it has the least load");
}

fn placed(cns: usize) {
    let mut plane = Plane::new(cns);
    let place = |plane: &mut Plane, request: Request| {
        let found = route(&plane.snapshot, &request, |cn| plane.is_down(cn)).expect("some CN matches");
        (plane.pick(&found.cns), found)
    };
    let (cn, found) = count(&mut plane, |_| request(), place);
    assert_is_a_tenth(&found, cns);
    assert_eq!(cn.tenant.as_deref(), Some(fleet::TENANT));
}
