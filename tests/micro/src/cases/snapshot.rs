//! The routing state: made whole, changed by deltas, let go, and read off the wire.

use super::{Case, count, fleet};
use prost::Message as _;
use shunt_proto::pb;
use shunt_proto::snapshot::{Delta, Entry, RoutingSnapshot};

pub(super) const CASES: &[Case] = &[
    Case { name: "snapshot/full-10000", about: "a state out of the entries of 10,000 CNs", run: full },
    Case { name: "snapshot/delta-1-of-10000", about: "one CN of 10,000 changes", run: || applied(1) },
    Case { name: "snapshot/delta-1000-of-10000", about: "1,000 CNs of 10,000 change", run: || applied(1000) },
    Case {
        name: "snapshot/drop-10000",
        about: "the old state is let go, one CN apart from the new",
        run: drop,
    },
    Case { name: "wire/delta-1", about: "a delta of one CN, from bytes to domain types", run: || decoded(1) },
    Case { name: "wire/delta-1000", about: "the same of 1,000 CNs", run: || decoded(1000) },
    Case { name: "wire/encode-delta-1000", about: "the same, to bytes", run: encoded },
    Case { name: "wire/snapshot-10000", about: "the entries of 10,000 CNs, from bytes", run: decoded_whole },
];

const CNS: usize = 10_000;

fn delta(changed: usize) -> (RoutingSnapshot, Delta, RoutingSnapshot) {
    let before = fleet::snapshot(CNS);
    let after = fleet::rewritten(&before, changed);
    let delta = after.delta_from(&before);
    assert_eq!(delta.changed.len(), changed);
    (before, delta, after)
}

fn full() {
    let entries = fleet::entries(CNS);
    let version = fleet::version(1, &entries);
    let prepare = |_: &mut _| (version.clone(), entries.clone());
    let made =
        count(&mut (), prepare, |_, (version, entries)| RoutingSnapshot::from_entries(version, entries));
    assert_eq!(made.expect("the digest is theirs").cns().count(), CNS);
}

fn applied(changed: usize) {
    let (mut before, delta, after) = delta(changed);
    let made = count(&mut before, |_| delta.clone(), |before, delta| before.apply(delta));
    let made = made.expect("it is from this state");
    assert_eq!((made.version(), made.cns().count()), (after.version(), CNS));
}

fn drop() {
    let (mut before, delta, _) = delta(1);
    let replace = |before: &mut RoutingSnapshot| {
        let old = before.clone();
        (old.apply(delta.clone()).expect("it is from this state"), old)
    };
    let new = count(&mut before, replace, |_, (new, old)| {
        std::mem::drop(old);
        new
    });
    assert_eq!(new.cns().count(), CNS);
}

fn bytes(delta: &Delta) -> Vec<u8> {
    pb::Delta::from(delta).encode_to_vec()
}

fn decoded(changed: usize) {
    let (_, delta, _) = delta(changed);
    let bytes = bytes(&delta);
    let decode =
        |_: &mut _, bytes: &[u8]| Delta::try_from(pb::Delta::decode(bytes).expect("it is a message"));
    let decoded = count(&mut (), |_| &bytes[..], decode);
    assert_eq!(decoded, Ok(delta));
}

fn encoded() {
    let (_, mut delta, _) = delta(1000);
    let encoded = count(&mut delta, |_| (), |delta, ()| bytes(delta));
    assert_eq!(encoded, bytes(&delta));
}

fn decoded_whole() {
    let entries = fleet::entries(CNS);
    let whole = pb::Snapshot { version: None, entries: entries.iter().map(Into::into).collect(), last: true };
    let bytes = whole.encode_to_vec();
    let decode = |_: &mut _, bytes: &[u8]| -> Result<Vec<Entry>, _> {
        let whole = pb::Snapshot::decode(bytes).expect("it is a message");
        whole.entries.iter().map(Entry::try_from).collect()
    };
    let decoded = count(&mut (), |_| &bytes[..], decode);
    assert_eq!(decoded, Ok(entries));
}
