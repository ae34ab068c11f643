//! `status`, `policy`, `data-plane` and `explain`: what concerns the cluster as a whole.

use crate::answer::Answer;
use crate::args::{DataPlane, Explain, Policy};
use crate::label;
use crate::server::{Failure, PAGE, Server};
use crate::table::{fields, table};
use crate::words::{NONE, age, duration, labels, or_none, yes};
use shunt_proto::pb;
use shunt_proto::wire::labels_to_pb;
use std::time::SystemTime;

pub(super) async fn status(server: &Server) -> Result<Answer, Failure> {
    let status = server.call(server.cluster().get_status(pb::GetStatusRequest {})).await?;
    let store = match status.store_problem.as_str() {
        "" => status.store.clone(),
        problem => format!("{}: {problem}", status.store),
    };
    let words = fields([
        ("Version", status.version.clone()),
        ("Up for", age(status.started.as_ref(), SystemTime::now())),
        ("Store", store),
        ("Store id", status.store_id.clone()),
        ("Revision", status.revision.to_string()),
        ("CNs", format!("{} of {} up", status.cns_up, status.cns)),
        ("Groups", status.groups.to_string()),
        ("Tenants", status.tenants.to_string()),
        ("Sessions", status.sessions.to_string()),
    ]);
    let mut tables = data_plane_table(&status.data_planes);
    if !status.replicas.is_empty() {
        tables = format!("{}\n\n{tables}", replica_table(&status));
    }
    Ok(Answer::message(&status, format!("{words}\n\n{tables}")))
}

fn replica_table(status: &pb::Status) -> String {
    let now = SystemTime::now();
    let row = |replica: &pb::Replica| {
        [
            replica.id.clone(),
            replica.api.clone(),
            yes(replica.leader).to_owned(),
            yes(replica.id == status.replica).to_owned(),
            or_none(&replica.version),
            age(replica.started.as_ref(), now),
        ]
    };
    let header = ["CONTROL PLANE", "API", "LEADS", "ANSWERS", "VERSION", "UP FOR"];
    table(header, status.replicas.iter().map(row), "No control planes")
}

pub(super) async fn policy(server: &Server, Policy::Get: &Policy) -> Result<Answer, Failure> {
    let policy = server.call(server.cluster().get_policy(pb::GetPolicyRequest {})).await?;
    let rebalance = policy.rebalance.unwrap_or_default();
    let migrate = policy.migrate.unwrap_or_default();
    let words = fields([
        ("rebalance.moves_per_second", rebalance.moves_per_second.to_string()),
        ("rebalance.tolerance", rebalance.tolerance.to_string()),
        ("migrate.settle_after", duration(migrate.settle_after.as_ref())),
        ("migrate.freeze_deadline", duration(migrate.freeze_deadline.as_ref())),
        ("migrate.last_result_grace", duration(migrate.last_result_grace.as_ref())),
        ("migrate.wait_for_cn", duration(migrate.wait_for_cn.as_ref())),
    ]);
    Ok(Answer::message(&policy, words))
}

pub(super) async fn data_planes(server: &Server, command: &DataPlane) -> Result<Answer, Failure> {
    match command {
        DataPlane::List => list_data_planes(server).await,
        DataPlane::Forget { id } => {
            let request = pb::ForgetDataPlaneRequest { id: id.clone() };
            server.call(server.cluster().forget_data_plane(request)).await?;
            Ok(Answer::done(format!("data-plane/{id} forgotten")))
        }
    }
}

async fn list_data_planes(server: &Server) -> Result<Answer, Failure> {
    let data_planes = server
        .pages(async |page_token| {
            let request = pb::ListDataPlanesRequest { page_size: PAGE, page_token };
            let page = server.call(server.cluster().list_data_planes(request)).await?;
            Ok((page.data_planes, page.next_page_token))
        })
        .await?;
    Ok(Answer::list("dataPlanes", &data_planes, data_plane_table(&data_planes)))
}

fn data_plane_table(data_planes: &[pb::DataPlane]) -> String {
    let now = SystemTime::now();
    let header = ["DATA PLANE", "CONNECTED", "SESSIONS", "REVISION", "VERSION", "SEEN", "REFUSED"];
    let row = |data_plane: &pb::DataPlane| {
        [
            data_plane.id.clone(),
            yes(data_plane.connected).to_owned(),
            data_plane.sessions.to_string(),
            data_plane.revision.to_string(),
            or_none(&data_plane.version),
            age(data_plane.seen.as_ref(), now),
            or_none(&data_plane.refused),
        ]
    };
    table(header, data_planes.iter().map(row), "No data planes")
}

pub(super) async fn explain(server: &Server, explain: &Explain) -> Result<Answer, Failure> {
    let (asked, _) = label::merged(&explain.labels).expect("the arguments were checked");
    let request = pb::ExplainRequest {
        tenant: explain.tenant.clone().unwrap_or_default(),
        user: explain.user.clone().unwrap_or_default(),
        labels: labels_to_pb(&asked),
        client: explain.client.map(|client| client.to_string()).unwrap_or_default(),
    };
    let explanation = server.call(server.cluster().explain(request)).await?;
    Ok(Answer::message(&explanation, explained(&explanation)))
}

/// The sentence, what counted, and each CN with its tier, or why it is not in the match.
fn explained(explanation: &pb::Explanation) -> String {
    let outcome = match &explanation.refusal {
        Some(refusal) => {
            let pb::explanation::Refusal { code, sqlstate, message } = refusal;
            ("The client is told", format!("ERROR {code} ({sqlstate}): {message}"))
        }
        None => ("Picked now", or_none(&explanation.pick)),
    };
    let words = fields([
        ("Tenant", explanation.tenant.clone()),
        ("Labels", labels(&explanation.labels)),
        ("Match", or_none(explanation.r#match.join(","))),
        outcome,
    ]);
    let header = ["CN", "TIER", "CHOSEN", "STATE", "HEALTH", "SESSIONS", "WHY NOT"];
    let row = |candidate: &pb::explanation::Candidate| {
        [
            candidate.cn.clone(),
            tier(candidate.tier),
            yes(candidate.chosen).to_owned(),
            candidate.state().as_str_name().to_owned(),
            candidate.health().as_str_name().to_owned(),
            candidate.sessions.to_string(),
            or_none(&candidate.reason),
        ]
    };
    let candidates = table(header, explanation.candidates.iter().map(row), "No CNs");
    let summary = crate::words::harmless(&explanation.summary);
    format!("{summary}\n\n{words}\n\n{candidates}")
}

fn tier(tier: u32) -> String {
    match tier {
        0 => NONE.to_owned(),
        1 => "1 (tenant)".to_owned(),
        2 => "2 (labels)".to_owned(),
        3 => "3 (unlabelled)".to_owned(),
        other => other.to_string(),
    }
}
