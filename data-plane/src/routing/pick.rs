//! One CN out of a match. Pure: loads and randomness come in as arguments.

use rand::Rng;
use rand::RngExt as _;
use shunt_proto::cn::RoutedCn;
use std::sync::Arc;

/// The CN of `cns` with the least load for its weight, ties at random. A load is what it would be with this session.
///
/// # Panics
/// Where `cns` is empty: a match never is.
pub(crate) fn least_loaded<'a>(
    cns: &'a [Arc<RoutedCn>],
    load: impl Fn(&RoutedCn) -> u32,
    rng: &mut impl Rng,
) -> &'a Arc<RoutedCn> {
    let mut best: Option<(&Arc<RoutedCn>, u64, u64)> = None;
    let mut ties = 0_u32;
    for cn in cns {
        let (load, weight) = (u64::from(load(cn)) + 1, u64::from(cn.cn.weight.max(1)));
        // load / weight, compared without division.
        let order = match best {
            Some((_, best_load, best_weight)) => (load * best_weight).cmp(&(best_load * weight)),
            None => std::cmp::Ordering::Less,
        };
        if order.is_lt() {
            ties = 1;
            best = Some((cn, load, weight));
        } else if order.is_eq() {
            // The n-th of n equal ones takes the place with chance 1 in n: each ends with the same chance.
            ties += 1;
            if rng.random_range(0..ties) == 0 {
                best = Some((cn, load, weight));
            }
        }
    }
    best.expect("a match has at least one CN").0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;
    use shunt_proto::cn::{Cn, CnId, CnState};
    use shunt_proto::label::Labels;
    use std::collections::BTreeMap;

    fn cn(name: &str, weight: u32) -> Arc<RoutedCn> {
        let cn = Cn {
            name: CnId::new(name).unwrap(),
            address: "127.0.0.1:1".into(),
            group: None,
            own_labels: Labels::new(),
            zone: String::new(),
            weight,
            state: CnState::Working,
            remove_when_empty: false,
            drain: None,
        };
        Arc::new(RoutedCn::new(Arc::new(cn), None))
    }

    fn spread(cns: &[Arc<RoutedCn>], sessions: u32) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut loads: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..sessions {
            let load = |cn: &RoutedCn| loads.get(cn.name().as_str()).copied().unwrap_or(0);
            let name = least_loaded(cns, load, &mut rng).name().to_string();
            *loads.entry(name).or_default() += 1;
        }
        loads.into_values().collect()
    }

    #[test]
    fn equal_weights_get_equal_counts_and_others_their_share() {
        assert_eq!(spread(&[cn("a", 100), cn("b", 100), cn("c", 100)], 300), [100, 100, 100]);
        assert_eq!(spread(&[cn("a", 100), cn("b", 200)], 300), [100, 200]);
    }

    #[test]
    fn the_first_of_many_is_not_always_the_same() {
        let cns = [cn("a", 100), cn("b", 100), cn("c", 100)];
        let mut rng = SmallRng::seed_from_u64(7);
        let mut first = BTreeMap::new();
        for _ in 0..300 {
            *first.entry(least_loaded(&cns, |_| 0, &mut rng).name().to_string()).or_insert(0) += 1;
        }
        assert!(first.len() == 3 && first.values().all(|n| *n > 60), "{first:?}");
    }
}
