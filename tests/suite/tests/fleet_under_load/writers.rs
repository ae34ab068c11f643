//! Sessions that insert rows of which each is another, and note which of them were acknowledged.
//!
//! Must not know: what happens to the fleet meanwhile.

use crate::sysbench::MET;
use anyhow::{Context as _, Result, ensure};
use shunt_harness::{ErrPacket, Param, Raw};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// Nothing in it is unique but what the server counts itself: a row that was written twice is there twice.
pub(crate) const TABLE: &str = "CREATE TABLE shop.written (seq BIGINT AUTO_INCREMENT PRIMARY KEY, \
     writer INT NOT NULL, n INT NOT NULL, KEY (writer, n)) ENGINE=InnoDB";

/// What came of one writer's rows.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Its rows have the numbers from 0 up to this.
    pub(crate) acknowledged: u32,
    /// Galera's errors, by their number: what they were told of did not happen, and was tried again.
    pub(crate) told: BTreeMap<u16, u32>,
}

/// Writers at work.
pub(crate) struct Writers {
    running: JoinSet<Result<(u32, Written)>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Each session writes, alternating text, prepared statements and transactions by its number.
    pub(crate) fn start(sessions: Vec<Raw>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        for (writer, session) in (0..).zip(sessions) {
            let stop = Arc::clone(&stop);
            running.spawn(async move {
                let written = write(session, writer, &stop).await;
                Ok((writer, written.with_context(|| format!("writer {writer}"))?))
            });
        }
        Self { running, stop }
    }

    /// Has them end, with the row that each is at.
    pub(crate) async fn stop(mut self) -> Result<BTreeMap<u32, Written>> {
        self.stop.store(true, Ordering::Release);
        let mut all = BTreeMap::new();
        while let Some(ended) = self.running.join_next().await {
            let (writer, written) = ended??;
            all.insert(writer, written);
        }
        Ok(all)
    }
}

async fn write(mut s: Raw, writer: u32, stop: &AtomicBool) -> Result<Written> {
    let insert = s.prepare("INSERT INTO written (writer, n) VALUES (?, ?)").await?;
    let mut written = Written::default();
    while !stop.load(Ordering::Acquire) {
        let n = written.acknowledged;
        let response = match writer % 3 {
            0 => s.run(format!("INSERT INTO written (writer, n) VALUES ({writer}, {n})")).await,
            1 => s
                .execute(insert, &[Param::Unsigned(writer.into()), Param::Unsigned(n.into())])
                .await
                .and_then(|done| done.success()),
            _ => in_a_transaction(&mut s, writer, n).await,
        };
        if let Err(error) = response {
            let err = error.downcast::<ErrPacket>().context("the connection was lost")?;
            ensure!(err.code == MET, "{err}");
            *written.told.entry(err.code).or_default() += 1;
            s.run("ROLLBACK").await?;
            continue;
        }
        written.acknowledged += 1;
        // Whichever CN it is on by now.
        let own =
            s.value(format!("SELECT COUNT(*) FROM written WHERE writer = {writer} AND n = {n}")).await?;
        ensure!(own == "1", "row {n} of writer {writer} is there {own} times for itself");
    }
    s.quit().await?;
    Ok(written)
}

async fn in_a_transaction(s: &mut Raw, writer: u32, n: u32) -> Result<shunt_harness::Response> {
    s.run("BEGIN").await?;
    s.run(format!("INSERT INTO written (writer, n) VALUES ({writer}, {n})")).await?;
    s.run("COMMIT").await
}
