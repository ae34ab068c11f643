//! Sets of variables, each kept once for all sessions of a worker that have it, or nearly: most sessions set the same, or
//! only a few of a CN's two hundred.
//!
//! Must not know: sessions, what the variables mean.

use crate::cn::Column;
use crate::engine::mysql::read::Variables;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// Sets that are looked through for one that is the same.
const MOST_SETS: usize = 256;

/// Variables by which a set may differ from one that it shares.
const MOST_OWN: usize = 16;

/// Those of a worker's sessions.
#[derive(Debug, Default)]
pub(crate) struct Sets(RefCell<Vec<Weak<Variables>>>);

/// A set: one that others have too, and by what it differs from that.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    others: Rc<Variables>,
    own: Box<[(Box<str>, Column)]>,
}

impl Sets {
    /// `variables`, shared as far as can be.
    pub(crate) fn share(&self, variables: Rc<Variables>) -> Shared {
        let mut sets = self.0.borrow_mut();
        sets.retain(|set| set.strong_count() > 0);
        let all = sets.iter().filter_map(Weak::upgrade);
        let nearest =
            all.filter_map(|set| Some((own(&variables, &set)?, set))).min_by_key(|(own, _)| own.len());
        if let Some((own, others)) = nearest {
            return Shared { others, own: own.into() };
        }
        if sets.len() < MOST_SETS {
            sets.push(Rc::downgrade(&variables));
        }
        Shared { others: variables, own: Box::default() }
    }
}

/// By what `variables` differs from `set`. `None`: by too much, or it has others.
fn own(variables: &Variables, set: &Variables) -> Option<Vec<(Box<str>, Column)>> {
    let mut own = Vec::new();
    let mut others = set.iter();
    for (name, value) in variables {
        let (other, others_value) = others.next()?;
        if name != other || own.len() == MOST_OWN {
            return None;
        }
        if value != others_value {
            own.push((name.clone(), value.clone()));
        }
    }
    others.next().is_none().then_some(own)
}

impl Shared {
    /// The value of one of them.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let own = self.own.iter().find(|(own, _)| **own == *name).map(|(_, value)| value);
        own.or_else(|| self.others.get(name)).and_then(Option::as_deref)
    }

    /// The whole set.
    pub(crate) fn whole(&self) -> Rc<Variables> {
        let mut whole = Rc::clone(&self.others);
        if !self.own.is_empty() {
            Rc::make_mut(&mut whole).extend(self.own.iter().cloned());
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(values: &[u8]) -> Rc<Variables> {
        let one = |(n, value): (usize, &u8)| (format!("v{n:02}").into(), Some(vec![*value]));
        Rc::new(values.iter().enumerate().map(one).collect())
    }

    #[test]
    fn what_is_the_same_is_kept_once_and_what_nobody_has_is_forgotten() {
        let sets = Sets::default();
        let one = sets.share(set(&[1, 2]));
        let same = sets.share(set(&[1, 2]));
        let near = sets.share(set(&[1, 3]));
        assert!(Rc::ptr_eq(&one.others, &same.others) && Rc::ptr_eq(&one.others, &near.others));
        assert_eq!((one.own.len(), same.own.len(), near.own.len()), (0, 0, 1));
        // Other names, or more of them, are another set.
        let more = sets.share(set(&[1, 2, 3]));
        assert!(!Rc::ptr_eq(&one.others, &more.others));
        assert_eq!(sets.0.borrow().len(), 2);
        drop((one, same, near));
        let far = sets.share(set(&[7; MOST_OWN + 5]));
        assert_eq!((sets.0.borrow().len(), far.own.len()), (2, 0));
    }

    proptest! {
        /// Whatever was shared before, a session gets back what it gave.
        #[test]
        fn a_set_comes_back_as_it_was(
            all in prop::collection::vec(prop::collection::vec(0_u8..3, 0..40), 1..20),
        ) {
            let sets = Sets::default();
            let shared: Vec<(Rc<Variables>, Shared)> =
                all.iter().map(|values| (set(values), sets.share(set(values)))).collect();
            for (given, shared) in &shared {
                prop_assert_eq!(given, &shared.whole());
                for (name, value) in given.iter() {
                    prop_assert_eq!(value.as_deref(), shared.get(name));
                }
                prop_assert!(shared.own.len() <= MOST_OWN);
            }
        }
    }
}
