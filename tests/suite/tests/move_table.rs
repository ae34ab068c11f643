//! Every step of a move, and every fault at each: one outcome, told the same by all who tell it, the session where the
//! table says, whole, and nothing left of it behind.

#[path = "move_table/cell.rs"]
mod cell;
#[path = "move_table/gate.rs"]
mod gate;
mod stand;
#[path = "move_table/table.rs"]
mod table;

use anyhow::{Result, ensure};
use cell::{Lane, Seen};
use parking_lot::Mutex;
use shunt_harness::mariadb::Options;
use stand::telling_cn;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use table::{Expected, Fault, Step, expected};

/// Cells that are run at once.
const LANES: usize = 6;

type Cell = (Step, Fault);

/// What was seen of each cell, and how long it took.
type Results = BTreeMap<Cell, (Result<Seen>, Duration)>;

/// The cells that can be, those first that are waited out.
fn cells() -> VecDeque<Cell> {
    let only = std::env::var("CELLS").unwrap_or_default();
    let all = Step::ALL.iter().flat_map(|step| Fault::ALL.iter().map(move |fault| (*step, *fault)));
    let mut cells: Vec<Cell> = all
        .filter(|(step, fault)| matches!(expected(*step, *fault), Expected::Is(..)))
        .filter(|cell| format!("{cell:?}").contains(&only))
        .collect();
    cells.sort_by_key(|(_, fault)| *fault != Fault::Hung);
    cells.into()
}

fn print(results: &Results) {
    for step in Step::ALL {
        for fault in Fault::ALL {
            let (seen, took) = match (expected(*step, *fault), results.get(&(*step, *fault))) {
                (Expected::Impossible(why), _) => (format!("impossible: {why}"), Duration::ZERO),
                (Expected::Is(..), None) => ("not run".to_owned(), Duration::ZERO),
                (Expected::Is(..), Some((Ok(seen), took))) => (format!("{seen:?}"), *took),
                (Expected::Is(..), Some((Err(error), took))) => (format!("{error:#}"), *took),
            };
            println!(
                "{:<14}{:<14}{:>6.2} s  {seen}",
                format!("{step:?}"),
                format!("{fault:?}"),
                took.as_secs_f64()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_step_of_a_move_has_one_outcome() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let left = Mutex::new(cells());
    let results = Mutex::new(Results::new());
    let lane = async |n: usize| {
        let lane = Lane::start(&cn, &format!("lane{n}")).await?;
        loop {
            let Some((step, fault)) = left.lock().pop_front() else { break };
            let began = tokio::time::Instant::now();
            let seen = lane.run(step, fault).await;
            let _ = results.lock().insert((step, fault), (seen, began.elapsed()));
        }
        anyhow::Ok(())
    };
    futures::future::try_join_all((0..LANES).map(lane)).await?;
    let results = results.into_inner();
    print(&results);
    let wrong: Vec<String> = results
        .iter()
        .filter_map(|((step, fault), (seen, _))| {
            let is_right = matches!((seen, expected(*step, *fault)),
                (Ok((outcome, on, sees)), Expected::Is(a, b, c)) if (*outcome, *on, *sees) == (a, b, c));
            (!is_right).then(|| format!("{step:?}, {fault:?}: {seen:?}, not {:?}", expected(*step, *fault)))
        })
        .collect();
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), results.len(), wrong.join("\n"));
    Ok(())
}
