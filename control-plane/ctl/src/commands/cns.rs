//! `cn` and `group`.

mod drain;

use crate::answer::Answer;
use crate::args::{Cn, Group, Register};
use crate::label::{self, Change};
use crate::server::{Failure, PAGE, Server};
use crate::table::{fields, table};
use crate::words::{NONE, labels, or_none, yes};
use shunt_proto::pb;
use shunt_proto::wire::labels_to_pb;

pub(super) async fn run(server: &Server, command: &Cn) -> Result<Answer, Failure> {
    let mut cns = server.cns();
    match command {
        Cn::List { group } => list(server, group.clone().unwrap_or_default()).await,
        Cn::Get { name } => {
            let cn = server.call(cns.get_cn(pb::GetCnRequest { name: name.clone() })).await?;
            Ok(Answer::message(&cn, shown(&cn)))
        }
        Cn::Register(register) => {
            let cn = server.call(cns.create_cn(pb::CreateCnRequest { cn: Some(new(register)) })).await?;
            Ok(Answer::message(&cn, format!("cn/{} registered", cn.name)))
        }
        Cn::Label { name, changes } => {
            let cn = server.call(cns.label_cn(changed(name, changes))).await?;
            Ok(Answer::message(&cn, format!("cn/{} carries {}", cn.name, labels(&cn.labels))))
        }
        Cn::Drain(arguments) => drain::run(server, arguments).await,
        Cn::Undrain { name } => {
            let cn = server.call(cns.undrain_cn(pb::UndrainCnRequest { name: name.clone() })).await?;
            Ok(Answer::message(&cn, drain::told(&cn)))
        }
        Cn::Delete { name, force } => {
            let request = pb::DeleteCnRequest { name: name.clone(), force: *force, etag: String::new() };
            server.call(cns.delete_cn(request)).await?;
            Ok(Answer::done(format!("cn/{name} deleted")))
        }
    }
}

async fn list(server: &Server, group: String) -> Result<Answer, Failure> {
    let cns = server
        .pages(async |page_token| {
            let request = pb::ListCnsRequest { page_size: PAGE, page_token, group: group.clone() };
            let page = server.call(server.cns().list_cns(request)).await?;
            Ok((page.cns, page.next_page_token))
        })
        .await?;
    let header = ["NAME", "ADDRESS", "GROUP", "LABELS", "STATE", "HEALTH", "SESSIONS"];
    let row = |cn: &pb::Cn| {
        [
            cn.name.clone(),
            cn.address.clone(),
            or_none(&cn.group),
            labels(&cn.labels),
            cn.state().as_str_name().to_owned(),
            cn.health().as_str_name().to_owned(),
            cn.sessions.to_string(),
        ]
    };
    Ok(Answer::list("cns", &cns, table(header, cns.iter().map(row), "No CNs")))
}

fn shown(cn: &pb::Cn) -> String {
    let health = match cn.health_reason.as_str() {
        "" => cn.health().as_str_name().to_owned(),
        reason => format!("{}: {reason}", cn.health().as_str_name()),
    };
    fields([
        ("Name", cn.name.clone()),
        ("Address", cn.address.clone()),
        ("Group", or_none(&cn.group)),
        ("Labels", labels(&cn.labels)),
        ("Own labels", labels(&cn.own_labels)),
        ("Zone", or_none(&cn.zone)),
        ("Weight", cn.weight.to_string()),
        ("State", cn.state().as_str_name().to_owned()),
        ("Health", health),
        ("Sessions", cn.sessions.to_string()),
        ("Drain waits for", or_none(cn.waits_for.join(", "))),
        ("Removed when empty", yes(cn.remove_when_empty).to_owned()),
    ])
}

fn new(register: &Register) -> pb::Cn {
    let (own_labels, _) = merged(&register.labels);
    pb::Cn {
        name: register.name.clone(),
        address: register.address().to_owned(),
        group: register.group.clone().unwrap_or_default(),
        own_labels: labels_to_pb(&own_labels),
        zone: register.zone.clone().unwrap_or_default(),
        weight: register.weight,
        ..pb::Cn::default()
    }
}

fn changed(name: &str, changes: &[Change]) -> pb::LabelCnRequest {
    let (set, remove) = merged(changes);
    pb::LabelCnRequest {
        name: name.to_owned(),
        set: labels_to_pb(&set),
        remove: remove.into_iter().collect(),
        etag: String::new(),
    }
}

fn merged(changes: &[Change]) -> (shunt_proto::label::Labels, std::collections::BTreeSet<String>) {
    label::merged(changes).expect("the arguments were checked")
}

pub(super) async fn run_group(server: &Server, command: &Group) -> Result<Answer, Failure> {
    let mut groups = server.groups();
    match command {
        Group::List => list_groups(server).await,
        Group::Get { name } => {
            let group = server.call(groups.get_group(pb::GetGroupRequest { name: name.clone() })).await?;
            Ok(Answer::message(&group, shown_group(&group)))
        }
        Group::Delete { name } => {
            let request = pb::DeleteGroupRequest { name: name.clone(), etag: String::new() };
            server.call(groups.delete_group(request)).await?;
            Ok(Answer::done(format!("group/{name} deleted")))
        }
    }
}

async fn list_groups(server: &Server) -> Result<Answer, Failure> {
    let groups = server
        .pages(async |page_token| {
            let request = pb::ListGroupsRequest { page_size: PAGE, page_token };
            let page = server.call(server.groups().list_groups(request)).await?;
            Ok((page.groups, page.next_page_token))
        })
        .await?;
    let header = ["NAME", "TENANT", "LABELS", "WORKING", "REPLICAS", "SESSIONS"];
    let row = |group: &pb::CnGroup| {
        [
            group.name.clone(),
            or_none(&group.tenant),
            labels(&group.labels),
            working(group),
            replicas(group),
            group.sessions.to_string(),
        ]
    };
    Ok(Answer::list("groups", &groups, table(header, groups.iter().map(row), "No groups")))
}

fn shown_group(group: &pb::CnGroup) -> String {
    fields([
        ("Name", group.name.clone()),
        ("Tenant", or_none(&group.tenant)),
        ("Labels", labels(&group.labels)),
        ("CNs", or_none(group.cns.join(","))),
        ("Working", working(group)),
        ("Replicas", replicas(group)),
        ("Sessions", group.sessions.to_string()),
    ])
}

fn working(group: &pb::CnGroup) -> String {
    format!("{}/{}", group.working, group.cns.len())
}

fn replicas(group: &pb::CnGroup) -> String {
    match group.replicas {
        0 => NONE.to_owned(),
        replicas => replicas.to_string(),
    }
}
