//! Sessions whose clients never rest: what they set is known all the same, and they move.

use crate::Two;
use crate::stand::{app, login};
use anyhow::{Context as _, Result, ensure};
use shunt_harness::{ErrPacket, Raw, Shunt, eventually};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a client does on and on.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Transactions that go well.
    Transactions,
    /// Transactions that all fail: its rests are behind an error whose warnings are there yet.
    Failures,
    /// Statements that change a row, each with a ROW_COUNT.
    Updates,
    /// The same, whose ROW_COUNT it reads each time.
    CountedUpdates,
    /// Statements that fail.
    Errors,
    /// Statements that leave a warning.
    Warnings,
    /// The same, and it reads the warning each time.
    ReadWarnings,
    /// A statement now and then, with pauses that are too short for a rest.
    Pauses,
}

const ALL: [Work; 8] = [
    Work::Transactions,
    Work::Failures,
    Work::Updates,
    Work::CountedUpdates,
    Work::Errors,
    Work::Warnings,
    Work::ReadWarnings,
    Work::Pauses,
];

impl Work {
    async fn once(self, s: &mut Raw, row: usize) -> Result<()> {
        match self {
            Self::Transactions => {
                s.run("BEGIN").await?;
                s.run(format!("UPDATE t SET v = v + 1 WHERE id = {row}")).await?;
                s.run("COMMIT").await?;
            }
            Self::Failures => {
                s.run("BEGIN").await?;
                fails(s, row).await?;
                s.run("ROLLBACK").await?;
            }
            Self::Updates => drop(s.run(format!("UPDATE t SET v = v + 1 WHERE id = {row}")).await?),
            Self::CountedUpdates => {
                s.run(format!("UPDATE t SET v = v + 1 WHERE id = {row}")).await?;
                ensure!(s.value("SELECT ROW_COUNT()").await? == "1");
            }
            Self::Errors => fails(s, row).await?,
            Self::Warnings => drop(s.run(format!("INSERT IGNORE INTO t (id) VALUES ({row})")).await?),
            Self::ReadWarnings => {
                s.run(format!("INSERT IGNORE INTO t (id) VALUES ({row})")).await?;
                let rows = s.query("SHOW WARNINGS").await?.success()?.rows()?;
                ensure!(rows.len() == 1 && rows[0][1].as_deref() == Some("1062"), "{rows:?}");
            }
            Self::Pauses => {
                s.run("DO 1").await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }
}

async fn fails(s: &mut Raw, row: usize) -> Result<()> {
    match s.query(format!("INSERT INTO t (id) VALUES ({row})")).await?.err() {
        Some(err) if err.code == 1062 => Ok(()),
        Some(err) => Err(err.into()),
        None => anyhow::bail!("it did not fail"),
    }
}

/// Works until it is told to stop, and still has what it set in the beginning.
async fn works(mut s: Raw, work: Work, row: usize, stop: watch::Receiver<bool>) -> Result<()> {
    s.run(format!("SET @row = {row}, time_zone = '+03:00'")).await?;
    while !*stop.borrow() {
        let Err(error) = work.once(&mut s, row).await else { continue };
        // Its CN died meanwhile: whatever it was at took no effect, or nobody knows.
        let told = error.downcast_ref::<ErrPacket>().is_some_and(|err| matches!(err.code, 1180 | 1213));
        ensure!(told, "{work:?}: {error:?}");
        s.run("ROLLBACK").await?;
    }
    ensure!(s.value("SELECT CONCAT(@row, @@time_zone)").await? == format!("{row}+03:00"));
    s.quit().await
}

struct AtWork {
    work: Work,
    id: u32,
    task: JoinHandle<Result<()>>,
}

/// Two clients of each kind, one on each CN.
async fn all_at_work(two: &Two, shunt: &Shunt, stop: &watch::Receiver<bool>) -> Result<Vec<AtWork>> {
    let mut at_work = Vec::new();
    for (row, work) in (1..).zip(ALL.into_iter().chain(ALL.into_iter().rev())) {
        for cn in &two.cns {
            cn.run(&[&format!("INSERT INTO suite.t (id, v) VALUES ({row}, 0)")]).await?;
        }
        let s = login(shunt, &app()).await?;
        let id = s.connection_id();
        at_work.push(AtWork { work, id, task: tokio::spawn(works(s, work, row, stop.clone())) });
    }
    Ok(at_work)
}

async fn all_end(at_work: Vec<AtWork>, stop: &watch::Sender<bool>) -> Result<()> {
    stop.send(true)?;
    for one in at_work {
        one.task.await?.with_context(|| format!("{:?}", one.work))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_rests_is_moved() -> Result<()> {
    let two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let (stop, stopped) = watch::channel(false);
    let at_work = all_at_work(&two, &shunt, &stopped).await?;
    for AtWork { id, work, .. } in &at_work {
        let told = shunt.try_ctl(&["-o", "json", "session", "move", &id.to_string()]).await?;
        ensure!(told.stdout.contains("\"moved\""), "{work:?}: {told:?}");
    }
    all_end(at_work, &stop).await
}

/// Each set something when it began, of which its CN was to be asked between two of its statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_rests_outlives_its_cn() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let (stop, stopped) = watch::channel(false);
    let at_work = all_at_work(&two, &shunt, &stopped).await?;
    // As long as it may take: what is known of each by then is all that there is.
    tokio::time::sleep(Duration::from_secs(5)).await;
    two.cns[0].kill()?;
    eventually("all are on the other one", async || {
        let listed = shunt.ctl(&["session", "list"]).await?;
        let all = listed["sessions"].as_array().context("no list")?;
        ensure!(all.iter().all(|one| one["cn"] == "cn-2"), "{listed}");
        anyhow::Ok(())
    })
    .await;
    all_end(at_work, &stop).await
}
