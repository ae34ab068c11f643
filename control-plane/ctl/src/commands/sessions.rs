//! `session`.

use crate::answer::Answer;
use crate::args::Session;
use crate::server::{Failure, PAGE, Server};
use crate::table::{fields, table};
use crate::words::{NONE, age, duration, or_none, yes};
use serde_json::{Value, json};
use shunt_proto::pb;
use std::collections::BTreeSet;
use std::time::SystemTime;

pub(super) async fn run(server: &Server, command: &Session) -> Result<Answer, Failure> {
    let mut sessions = server.sessions();
    match command {
        Session::List { cn, tenant } => {
            list(server, cn.clone().unwrap_or_default(), tenant.clone().unwrap_or_default()).await
        }
        Session::Get { id } => {
            let session = server.call(sessions.get_session(pb::GetSessionRequest { id: *id })).await?;
            let mut answer = Answer::message(&session, shown(&session));
            answer.json.iter_mut().for_each(with_absent);
            Ok(answer)
        }
        Session::Move { id, to } => {
            let request = pb::MoveSessionRequest { id: *id, to: to.clone().unwrap_or_default() };
            let moved = server.call(sessions.move_session(request)).await?;
            let mut answer = Answer::message(&moved, told(*id, &moved));
            answer.is_refusal = moved.outcome() != pb::moved::Outcome::Moved;
            if let Some(json) = answer.json.as_mut().filter(|json| json.get("pause").is_none()) {
                json["pause"] = Value::Null;
            }
            Ok(answer)
        }
        Session::Kill { id, query } => {
            let request = pb::KillSessionRequest { id: *id, query_only: *query };
            server.call(sessions.kill_session(request)).await?;
            let what = if *query { "its query killed" } else { "killed" };
            Ok(Answer::done(format!("session/{id} {what}")))
        }
    }
}

/// What came of a move, in words.
fn told(id: u32, moved: &pb::Moved) -> String {
    let reasons = moved.reasons.join(", ");
    match moved.outcome() {
        pb::moved::Outcome::Moved => {
            let pause = duration(moved.pause.as_ref());
            format!("session/{id} moved from {} to {}, pause {pause}", moved.from, moved.to)
        }
        pb::moved::Outcome::Gone => format!("session/{id} is gone"),
        pb::moved::Outcome::Pinned => format!("session/{id} stays on {}: pinned: {reasons}", moved.from),
        pb::moved::Outcome::Failed | pb::moved::Outcome::Unspecified => {
            format!("session/{id} stays on {}: {reasons}", moved.from)
        }
    }
}

async fn list(server: &Server, cn: String, tenant: String) -> Result<Answer, Failure> {
    let mut unanswered = BTreeSet::new();
    let sessions = server
        .pages(async |page_token| {
            let (cn, tenant) = (cn.clone(), tenant.clone());
            let request = pb::ListSessionsRequest { page_size: PAGE, page_token, cn, tenant };
            let page = server.call(server.sessions().list_sessions(request)).await?;
            unanswered.extend(page.unanswered);
            Ok((page.sessions, page.next_page_token))
        })
        .await?;
    let header = ["ID", "TENANT", "USER", "CLIENT", "CN", "STATE", "IDLE", "PINNED", "DATA PLANE"];
    let row = |session: &pb::Session| {
        [
            session.id.to_string(),
            session.tenant.clone(),
            session.user.clone(),
            session.client.clone(),
            or_none(&session.cn),
            session.state().as_str_name().to_owned(),
            duration(session.idle.as_ref()),
            or_none(session.pinned.join(",")),
            session.data_plane.clone(),
        ]
    };
    let mut answer =
        Answer::list("sessions", &sessions, table(header, sessions.iter().map(row), "No sessions"));
    let unanswered: Vec<String> = unanswered.into_iter().collect();
    if !unanswered.is_empty() {
        answer.notes.push(format!("data planes that did not answer: {}", unanswered.join(", ")));
    }
    if let Some(json) = &mut answer.json {
        json["sessions"].as_array_mut().into_iter().flatten().for_each(with_absent);
        json["unanswered"] = json!(unanswered);
    }
    Ok(answer)
}

/// A session always has these fields: null while it is at work, and before its first move.
fn with_absent(session: &mut Value) {
    for field in ["idle", "lastMove"] {
        if session.get(field).is_none() {
            session[field] = Value::Null;
        }
    }
}

fn shown(session: &pb::Session) -> String {
    let started = session.started.as_ref();
    let ago = || format!("{} ({} ago)", time(started), age(started, SystemTime::now()));
    fields([
        ("Id", session.id.to_string()),
        ("Tenant", session.tenant.clone()),
        ("User", session.user.clone()),
        ("Client", session.client.clone()),
        ("CN", or_none(&session.cn)),
        ("Why this CN", or_none(&session.why)),
        ("Id on the CN", session.cn_connection_id.to_string()),
        ("Data plane", session.data_plane.clone()),
        ("State", session.state().as_str_name().to_owned()),
        ("Idle", duration(session.idle.as_ref())),
        ("Pinned", or_none(session.pinned.join(","))),
        ("Settled", yes(session.settled).to_owned()),
        ("Last move", last_move(session.last_move.as_ref())),
        ("Queries", session.queries.to_string()),
        ("Started", started.map_or_else(|| NONE.to_owned(), |_| ago())),
    ])
}

fn last_move(last: Option<&pb::session::Move>) -> String {
    let Some(pb::session::Move { at, from, to, outcome, reason }) = last else { return NONE.to_owned() };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{outcome} from {from} to {}{reason}, {}", or_none(to), time(at.as_ref()))
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    at.map_or_else(|| NONE.to_owned(), ToString::to_string)
}
