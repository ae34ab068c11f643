use super::*;
use crate::cluster::Cluster;
use crate::keys::written;
use crate::store::{Item, Loaded};
use shunt_proto::yaml::Document;

fn intent(yaml: &str) -> Intent {
    let document = Document::parse("i.yaml", yaml.as_bytes()).unwrap();
    let read = Intent::read(&document.root());
    document.finish(read).unwrap()
}

/// The view after each of `steps` was applied.
fn view(steps: &[&str]) -> View {
    let mut view = View::default();
    for step in steps {
        view = after(&view, &plan(&view, &intent(step), true, |_| 1).unwrap().0);
    }
    view
}

/// What the store holds after `edit`, by way of the bytes that it keeps.
fn after(view: &View, edit: &Edit) -> View {
    let mut kept: BTreeMap<String, bytes::Bytes> =
        view.snapshot.entries().map(|(key, entry)| (key.to_owned(), written(&entry.object).into())).collect();
    for (key, value) in edit.written() {
        match value {
            Some(value) => kept.insert(key, value),
            None => kept.remove(&key),
        };
    }
    let (mut cluster, watch) = Cluster::new();
    let item = |(key, value)| Item { key, value, mod_revision: 1 };
    cluster.reset("s", Loaded { revision: 1, items: kept.into_iter().map(item).collect() }).unwrap();
    View::clone(&watch.view())
}

fn told(result: Result<(Edit, Vec<Change>), Error>) -> Vec<String> {
    let changes = result.unwrap().1;
    changes.iter().map(|change| format!("{} {}", change.object, change.what.as_str())).collect()
}

const TWO: &str = "groups: [ { name: tp, labels: { workload: tp }, tenant: acme, cns: [
  { name: cn-1, address: 'h:1' }, { name: cn-2, address: 'h:2' } ] } ]
tenants: [ { name: acme } ]
policy: { migrate: { settle_after: 20ms } }";

#[test]
fn what_is_so_changes_nothing() {
    let all =
        ["group/tp created", "cn/cn-1 created", "cn/cn-2 created", "tenant/acme created", "policy created"];
    assert_eq!(told(plan(&View::default(), &intent(TWO), false, |_| 0)), all);
    for prune in [false, true] {
        assert!(told(plan(&view(&[TWO]), &intent(TWO), prune, |_| 0)).is_empty());
    }
}

#[test]
fn what_is_not_named_stays() {
    let more = "groups: [ { name: ap, cns: [ { name: cn-3, address: 'h:3' } ] } ]";
    assert_eq!(
        told(plan(&view(&[TWO]), &intent(more), true, |_| 0)),
        ["group/ap created", "cn/cn-3 created"]
    );
    let no_list = "groups: [ { name: tp, labels: { workload: ap } } ]";
    assert_eq!(told(plan(&view(&[TWO]), &intent(no_list), true, |_| 0)), ["group/tp updated"]);
}

const ONE: &str = "groups: [ { name: tp, labels: { workload: tp }, tenant: acme, cns: [
  { name: cn-1, address: 'h:1' } ] } ]";

#[test]
fn a_cn_dropped_from_the_list() {
    let two = view(&[TWO]);
    let dropped = Error::Dropped { group: "tp".into(), cns: "cn-2".into() };
    assert_eq!(plan(&two, &intent(ONE), false, |_| 0).unwrap_err(), dropped);
    assert_eq!(told(plan(&two, &intent(ONE), true, |_| 0)), ["cn/cn-2 removed"]);
    assert_eq!(told(plan(&two, &intent(ONE), true, |_| 3)), ["cn/cn-2 draining"]);
    // It leaves already: nothing more is to be done, with prune or without.
    let leaving = view(&[TWO, ONE]);
    let Some(Object::Cn(cn)) = leaving.snapshot.entry("cn/cn-2").map(|entry| entry.object.clone()) else {
        panic!("cn-2 is gone")
    };
    assert!(cn.remove_when_empty && cn.state == CnState::Draining);
    for prune in [false, true] {
        assert!(told(plan(&leaving, &intent(ONE), prune, |_| 3)).is_empty());
    }
    // Put back on the list, it works again.
    assert_eq!(told(plan(&leaving, &intent(TWO), false, |_| 3)), ["cn/cn-2 updated"]);
    let back = view(&[TWO, ONE, TWO]);
    assert_eq!(back.snapshot.cn(&CnId::new("cn-2").unwrap()).unwrap().cn.state, CnState::Working);
}

#[test]
fn what_does_not_go_together_is_refused_as_a_whole() {
    let two = view(&[TWO]);
    for (yaml, error) in [
        (
            "groups: [ { name: ap, cns: [ { name: cn-1, address: 'h:1' } ] } ]",
            "CN cn-1 belongs to group tp: take it out of there first",
        ),
        (
            "groups: [ { name: ap, cns: [ { name: cn-9, address: 'H:2' } ] } ]",
            "address H:2 of CN cn-9 is that of CN cn-2 already",
        ),
        (
            "tenants: [ { name: acme, default_labels: { program_name: x } } ]",
            "tenant.default_labels: label key \"program_name\" is reserved",
        ),
    ] {
        assert_eq!(plan(&two, &intent(yaml), true, |_| 0).unwrap_err().to_string(), error);
    }
    let mut twice = intent(TWO);
    twice.tenants.push(twice.tenants[0].clone());
    assert!(matches!(plan(&two, &twice, false, |_| 0), Err(Error::Invalid(_))));
}

#[test]
fn an_address_can_pass_from_one_cn_to_another() {
    let swapped = TWO.replace("'h:1'", "x").replace("'h:2'", "'h:1'").replace('x', "'h:2'");
    let two = view(&[TWO]);
    assert_eq!(told(plan(&two, &intent(&swapped), false, |_| 0)), ["cn/cn-1 updated", "cn/cn-2 updated"]);
}

#[test]
fn a_hundred_objects_at_once() {
    let cns = |n: usize| {
        let cns: Vec<String> = (0..n).map(|i| format!("{{ name: c{i}, address: 'h:{}' }}", i + 1)).collect();
        format!("groups: [ {{ name: g, cns: [ {} ] }} ]", cns.join(", "))
    };
    assert_eq!(told(plan(&View::default(), &intent(&cns(99)), false, |_| 0)).len(), 100);
    let error = plan(&View::default(), &intent(&cns(100)), false, |_| 0).unwrap_err();
    assert_eq!(error, Error::TooManyChanges { changes: 101, max: 100 });
    // Objects that stay as they are do not count.
    let kept = view(&[&cns(99)]);
    assert_eq!(told(plan(&kept, &intent(&cns(150)), false, |_| 0)).len(), 51);
}
