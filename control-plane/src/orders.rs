//! Questions to data planes and their answers, as they travel: on a data plane's stream, and between replicas.
//!
//! Must not know: who asks, which way it goes.

use crate::planes::{Answer, Ask};
use shunt_proto::pb::{self, killed::Outcome, order::Order};

/// As it is sent.
pub(crate) fn order_of(ask: Ask) -> Order {
    match ask {
        Ask::List(list) => Order::List(list),
        Ask::Kill(kill) => Order::Kill(kill),
        Ask::Move(order) => Order::Move(order),
        Ask::Rebalance(order) => Order::Rebalance(order),
    }
}

/// What is asked by it.
pub(crate) fn ask_of(order: Order) -> Ask {
    match order {
        Order::List(list) => Ask::List(list),
        Order::Kill(kill) => Ask::Kill(kill),
        Order::Move(order) => Ask::Move(order),
        Order::Rebalance(order) => Ask::Rebalance(order),
    }
}

/// What is answered by it.
pub(crate) fn answer_of(answer: pb::Answer) -> Answer {
    let killed = answer.killed();
    let pb::Answer { id: _, sessions, more, killed: _, moved, plan } = answer;
    match (killed, moved, plan) {
        (Outcome::Unspecified, Some(moved), _) => Answer::Moved(moved),
        (Outcome::Unspecified, None, Some(plan)) => Answer::Plan(plan),
        (Outcome::Unspecified, None, None) => Answer::Sessions { sessions, more },
        (outcome, ..) => Answer::Killed(outcome),
    }
}

/// As it is sent.
pub(crate) fn answered(answer: Answer) -> pb::Answer {
    let empty = pb::Answer::default();
    match answer {
        Answer::Sessions { sessions, more } => pb::Answer { sessions, more, ..empty },
        Answer::Killed(outcome) => pb::Answer { killed: outcome.into(), ..empty },
        Answer::Moved(moved) => pb::Answer { moved: Some(moved), ..empty },
        Answer::Plan(plan) => pb::Answer { plan: Some(plan), ..empty },
    }
}
