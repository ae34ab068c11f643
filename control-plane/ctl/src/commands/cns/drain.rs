//! `cn drain`: begins, and waits where it is asked to.

use crate::answer::Answer;
use crate::args::{Drain, OnTimeout};
use crate::server::{Failure, PAGE, Server};
use shunt_proto::pb;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at a CN that drains.
const LOOK: Duration = Duration::from_millis(200);

/// Between two looks at why what is left cannot move: all of it is asked for.
const WHY: Duration = Duration::from_secs(1);

/// How long what was forced may take to be reported.
const FORCED: Duration = Duration::from_secs(10);

pub(super) async fn run(server: &Server, arguments: &Drain) -> Result<Answer, Failure> {
    let Drain { name, wait, on_timeout, .. } = arguments;
    let timeout = arguments.timeout();
    let request = pb::DrainCnRequest {
        name: name.clone(),
        timeout: timeout.and_then(|timeout| prost_types::Duration::try_from(timeout).ok()),
        on_timeout: match on_timeout {
            OnTimeout::Hold => pb::cn::drain::OnTimeout::Hold.into(),
            OnTimeout::Force => pb::cn::drain::OnTimeout::Force.into(),
        },
    };
    let began = Instant::now();
    let mut cn = server.call(server.cns().drain_cn(request)).await?;
    if !wait {
        return Ok(Answer::message(&cn, told(&cn)));
    }
    let patience = timeout.unwrap_or(Duration::MAX);
    let patience = if *on_timeout == OnTimeout::Force { patience.saturating_add(FORCED) } else { patience };
    let (mut said, mut asked) = (String::new(), None);
    while cn.state() == pb::cn::State::Draining && began.elapsed() < patience {
        if asked.is_none_or(|asked: Instant| asked.elapsed() >= WHY) {
            asked = Some(Instant::now());
            let progress = progress(server, &cn).await?;
            if progress != said {
                // Who does not read it does not need it.
                let _ = writeln!(std::io::stderr(), "{progress}");
                said = progress;
            }
        }
        tokio::time::sleep(LOOK).await;
        cn = server.call(server.cns().get_cn(pb::GetCnRequest { name: name.clone() })).await?;
    }
    let mut answer = Answer::message(&cn, told(&cn));
    answer.is_refusal = cn.state() != pb::cn::State::Drained;
    if answer.is_refusal {
        answer.notes.push(progress(server, &cn).await?);
    }
    Ok(answer)
}

/// A CN and its state, in words.
pub(super) fn told(cn: &pb::Cn) -> String {
    format!("cn/{} {}", cn.name, cn.state().as_str_name())
}

/// How far it is: what is left, why that cannot move, and who is waited for.
async fn progress(server: &Server, cn: &pb::Cn) -> Result<String, Failure> {
    let sessions = server
        .pages(async |page_token| {
            let (cn, tenant) = (cn.name.clone(), String::new());
            let request = pb::ListSessionsRequest { page_size: PAGE, page_token, cn, tenant };
            let page = server.call(server.sessions().list_sessions(request)).await?;
            Ok((page.sessions, page.next_page_token))
        })
        .await?;
    let mut pinned: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in sessions.iter().flat_map(|session| &session.pinned) {
        *pinned.entry(reason).or_default() += 1;
    }
    let reasons: Vec<String> = pinned.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
    let pinned = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let waits = if cn.waits_for.is_empty() || !sessions.is_empty() {
        String::new()
    } else {
        format!(", waits for {}", cn.waits_for.join(", "))
    };
    Ok(format!("{}: {} sessions left{pinned}{waits}", told(cn), sessions.len()))
}
