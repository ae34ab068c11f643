//! `rebalance`.

use crate::answer::Answer;
use crate::server::{Failure, Server};
use crate::table::table;
use shunt_proto::pb;

pub(super) async fn run(server: &Server, dry_run: bool) -> Result<Answer, Failure> {
    let request = pb::RebalanceRequest { dry_run };
    let plan = server.call(server.sessions().rebalance(request)).await?;
    let mut answer = Answer::message(&plan, words(&plan));
    if !plan.unanswered.is_empty() {
        let names = plan.unanswered.join(", ");
        answer.notes.push(format!("data planes that did not answer, whose sessions stay: {names}"));
        answer.is_refusal = true;
    }
    Ok(answer)
}

/// The plan, and what comes of it.
fn words(plan: &pb::RebalancePlan) -> String {
    let header = ["FROM", "TO", "SESSIONS", "PINNED", "DATA PLANE", "WHY"];
    let row = |part: &pb::rebalance_plan::Part| {
        let to = if part.to.is_empty() { "the best" } else { &part.to };
        [
            part.from.clone(),
            to.to_owned(),
            part.sessions.to_string(),
            part.pinned.to_string(),
            part.data_plane.clone(),
            part.why.clone(),
        ]
    };
    let all = plan.parts.iter().map(|part| part.sessions).sum::<u32>().saturating_add(plan.left_out);
    if all == 0 {
        return "Nothing is to move".to_owned();
    }
    let parts = table(header, plan.parts.iter().map(row), "");
    let move_now = if plan.dry_run { "would move" } else { "move from now on" };
    let left_out = match plan.left_out {
        0 => String::new(),
        left_out => format!(", {left_out} of them in smaller parts that are not shown"),
    };
    format!("{parts}\n\n{all} sessions {move_now}{left_out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_a_table_and_a_sentence() {
        let part = |from: &str, to: &str, sessions, pinned| pb::rebalance_plan::Part {
            data_plane: "dp-1".into(),
            from: from.into(),
            to: to.into(),
            sessions,
            pinned,
            why: "the CN is draining".into(),
        };
        let mut plan = pb::RebalancePlan {
            parts: vec![part("cn-1", "cn-2", 12, 0), part("cn-3", "", 1, 1)],
            dry_run: true,
            ..pb::RebalancePlan::default()
        };
        let wanted = "FROM   TO         SESSIONS   PINNED   DATA PLANE   WHY\n\
                      cn-1   cn-2       12         0        dp-1         the CN is draining\n\
                      cn-3   the best   1          1        dp-1         the CN is draining\n\n\
                      13 sessions would move";
        assert_eq!(words(&plan), wanted);
        (plan.dry_run, plan.left_out) = (false, 7);
        let last = words(&plan).lines().last().map(str::to_owned);
        let wanted = "20 sessions move from now on, 7 of them in smaller parts that are not shown";
        assert_eq!(last.as_deref(), Some(wanted));
        assert_eq!(words(&pb::RebalancePlan::default()), "Nothing is to move");
    }
}
