//! Where most of these tests stand: real CNs with Shunt's service account, Shunt in front of them, and the questions
//! that are asked again and again.
//!
//! Each test file includes it and uses what it needs.
#![allow(dead_code)]

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_harness::mariadb::Options;
use shunt_harness::{Group, Login, MariaDb, Raw, Setup, Shunt, eventually};
use tokio::sync::OnceCell;

/// The database that these tests keep to.
pub(crate) const DATABASE: &str = "suite";

/// The least that the service account needs.
const SERVICE: [&str; 4] = [
    "CREATE USER shunt@'127.%' IDENTIFIED BY 'secret'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'127.%'",
    "GRANT SELECT ON mysql.proc TO shunt@'127.%'",
    "GRANT PROCESS, CONNECTION ADMIN, TRIGGER ON *.* TO shunt@'127.%'",
];

/// Makes a CN report every change of state to every session, as its operator should.
pub(crate) const TRACKERS: [&str; 3] = [
    "--session-track-system-variables=*",
    "--session-track-state-change=ON",
    "--session-track-transaction-info=CHARACTERISTICS",
];

async fn prepare(cn: &MariaDb) -> Result<()> {
    cn.run(&SERVICE).await?;
    cn.fresh_database(DATABASE).await
}

/// The CN that the tests of this file share. It tracks as MariaDB does by itself.
pub(crate) async fn shared_cn() -> &'static MariaDb {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    let cn = MariaDb::shared().await;
    PREPARED.get_or_init(async || prepare(cn).await.expect("accounts on the CN")).await;
    cn
}

/// A CN of this test's own.
pub(crate) async fn own_cn(options: Options) -> Result<MariaDb> {
    let cn = options.start().await?;
    prepare(&cn).await?;
    Ok(cn)
}

/// A CN of a test's own that tells which locks a session holds.
pub(crate) async fn telling_cn(options: Options) -> Result<MariaDb> {
    let cn = own_cn(options).await?;
    cn.run(&["INSTALL SONAME 'metadata_lock_info'"]).await?;
    Ok(cn)
}

/// A CN whose globals switch every tracker on.
pub(crate) async fn tracking_cn() -> Result<MariaDb> {
    own_cn(TRACKERS.into_iter().fold(Options::new(), Options::arg)).await
}

/// Both planes, with the service account, and no CN.
pub(crate) fn setup() -> Setup {
    Setup::new().cn_account("shunt", "secret")
}

/// `cn-1`, `cn-2`, … without labels, in one group.
pub(crate) fn group_of(cns: &[&MariaDb]) -> Group {
    let group = Group::named("shared");
    cns.iter().enumerate().fold(group, |group, (n, cn)| group.cn(&format!("cn-{}", n + 1), cn.address()))
}

/// Shunt in front of these CNs, once it has looked at each of them.
pub(crate) async fn shunt_before(cns: &[&MariaDb]) -> Result<Shunt> {
    let shunt = setup().group(group_of(cns)).standalone().await?;
    seen(&shunt).await;
    Ok(shunt)
}

/// Waits until every CN was probed.
pub(crate) async fn seen(shunt: &Shunt) {
    eventually("every CN is up", async || {
        let listed = shunt.ctl(&["cn", "list"]).await?;
        let cns = listed["cns"].as_array().context("no list")?;
        ensure!(cns.iter().all(|cn| cn["health"] == "up"), "{listed}");
        anyhow::Ok(())
    })
    .await;
}

/// `app` on the tests' database.
pub(crate) fn app() -> Login {
    Login::user("app").password("app").database(DATABASE)
}

/// `app`, with a user name as these characters.
pub(crate) fn app_as(user: &str) -> Login {
    Login::user(user).password("app").database(DATABASE)
}

/// Logs in through Shunt.
pub(crate) async fn login(shunt: &Shunt, login: &Login) -> Result<Raw> {
    Raw::login(shunt.address(), login).await
}

/// Each combination of the two capabilities that change how responses end.
pub(crate) fn both_ways(login: &Login) -> Vec<Login> {
    let ways = [(false, false), (false, true), (true, false), (true, true)];
    ways.into_iter().map(|(eof, track)| login.clone().deprecate_eof(eof).session_track(track)).collect()
}

/// A session as `shuntctl` shows it.
pub(crate) async fn shown(shunt: &Shunt, session: &Raw) -> Result<Value> {
    shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await
}

/// Waits until a session is shown pinned by these words, and only by these.
pub(crate) async fn is_pinned(shunt: &Shunt, session: &Raw, words: &[&str]) {
    eventually(&format!("pinned by {words:?}"), async || {
        let shown = shown(shunt, session).await?;
        ensure!(shown["pinned"] == serde_json::json!(words), "{shown}");
        anyhow::Ok(())
    })
    .await;
}

/// Waits until a session is shown in this state.
pub(crate) async fn is_in_state(shunt: &Shunt, session: &Raw, state: &str) {
    eventually(&format!("state {state}"), async || {
        let shown = shown(shunt, session).await?;
        ensure!(shown["state"] == state, "{shown}");
        anyhow::Ok(())
    })
    .await;
}

/// The id of a session's connection on its CN.
pub(crate) async fn id_on_cn(session: &mut Raw) -> Result<u32> {
    Ok(session.value("SELECT CONNECTION_ID()").await?.parse()?)
}

/// Waits until this connection is gone from the CN.
pub(crate) async fn gone_from(cn: &MariaDb, connection: u32) -> Result<()> {
    let mut root = cn.root().await?;
    eventually(&format!("connection {connection} is gone"), async || {
        let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {connection}");
        let left = root.value(sql).await?;
        ensure!(left == "0", "it is there");
        anyhow::Ok(())
    })
    .await;
    root.quit().await
}

/// The sum of the samples of a metric whose labels contain this text.
///
/// # Errors
/// The program does not answer, or has no such metric.
pub(crate) async fn metric(shunt: &Shunt, plane: usize, name: &str, labels: &str) -> Result<f64> {
    let text = shunt.planes[plane].metrics().await?;
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(labels))
    });
    let mut sum = 0.0;
    for sample in samples {
        sum += sample.rsplit(' ').next().context("no value")?.parse::<f64>()?;
    }
    ensure!(text.contains(&format!("# TYPE {}", name.trim_end_matches("_total"))), "no {name} in {text}");
    Ok(sum)
}

/// Waits until this many sessions are left on the last plane.
pub(crate) async fn sessions_left(shunt: &Shunt, but: u32) {
    eventually(&format!("{but} sessions are left"), async || {
        let n = metric(shunt, shunt.planes.len() - 1, "shunt_data_sessions", "").await?;
        ensure!(n == f64::from(but), "{n}");
        anyhow::Ok(())
    })
    .await;
}
