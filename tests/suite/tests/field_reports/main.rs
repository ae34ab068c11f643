//! What users of other routers reported, where no test of another file has it. docs/field-reports.md lists the reports
//! with the tests of all of them.

mod leaving;
mod logging_in;
mod passing;
#[path = "../stand/mod.rs"]
mod stand;
mod strangers;

use anyhow::{Context as _, Result, ensure};
use shunt_harness::{Process, Shunt, eventually};
use stand::metric;

/// The process of a standalone.
fn process(shunt: &mut Shunt) -> Result<&Process> {
    Ok(shunt.plane("standalone").process()?)
}

/// Waits until nobody is there any more, by what is shown as current.
async fn nobody_is_left(shunt: &Shunt) {
    eventually("no session is left", async || {
        for name in ["shunt_data_sessions", "shunt_data_cn_sessions"] {
            let now = metric(shunt, 0, name, "").await?;
            ensure!(now == 0.0, "{name} is {now}");
        }
        anyhow::Ok(())
    })
    .await;
}

/// A number that a CN counts, asked for on a connection that is there already.
async fn counted(root: &mut shunt_harness::Raw, name: &str) -> Result<u64> {
    let rows = root.run(format!("SHOW GLOBAL STATUS LIKE '{name}'")).await?.rows()?;
    let value = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
    Ok(value.context("no such counter")?.parse()?)
}
