//! Many sessions whose CN dies at once: the one that takes over is not buried.

use crate::stand::{app, login};
use crate::{Puppets, all_settled, failed_over};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Half of them are on the one that dies.
const SESSIONS: usize = 640;

/// Each worker rebuilds so many at once.
const AT_ONCE: usize = 16;

#[tokio::test]
async fn those_that_come_over_come_one_after_the_other() -> Result<()> {
    let two = Puppets::start().await?;
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let mut s = login(&two.shunt, &app()).await?;
        s.run(format!("SET @a = {n}")).await?;
        sessions.push(s);
    }
    all_settled(&two.shunt, SESSIONS).await;
    // So long that all of them would be seen at it.
    two.puppets[1].logins_take(Duration::from_millis(100));
    let before = two.puppets[1].most_logins();
    two.puppets[0].die().await;
    for (n, s) in sessions.iter_mut().enumerate() {
        assert_eq!(s.value("SELECT @a").await?, n.to_string());
    }
    let most = two.puppets[1].most_logins();
    let workers = std::thread::available_parallelism()?.get();
    println!("{most} logged in at once, {before} before, with {workers} workers");
    ensure!(most > before && most <= AT_ONCE * workers, "{most} logged in at once");
    failed_over(&two.shunt, "lost", 0.0).await;
    failed_over(&two.shunt, "unnoticed", (SESSIONS / 2) as f64).await;
    Ok(())
}
