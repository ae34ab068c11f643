//! Moves to a CN that fails on the way, at any of the packets that it says: each ends in one outcome, and the session is
//! whole, where it was or where it was to go.

mod stand;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use shunt_harness::fault_proxy::{Fault, FaultProxy, Mutation};
use shunt_harness::mariadb::Options;
use shunt_harness::packet::Packet;
use shunt_harness::{Execute, Group, Raw, Shunt, command, eventually};
use stand::{app, login, seen, setup, shown, telling_cn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// An error in place of what was to be said.
    Error,
    /// An error that says that the CN cannot serve.
    Unable,
    /// The last byte is another.
    Byte,
    /// Nothing; the connection stays.
    Silence,
    /// Nothing; the connection is reset.
    Reset,
}

const ALL: [Wrong; 5] = [Wrong::Error, Wrong::Unable, Wrong::Byte, Wrong::Silence, Wrong::Reset];

const NEVER: usize = usize::MAX;

/// Goes off once.
struct Trap {
    /// The number of a connection's packet at which it does, or behind which.
    at: AtomicUsize,
    /// Which of them all it is then.
    wrong: AtomicUsize,
    /// An error took the place of an answer, of which the rest must not come.
    is_cut: AtomicBool,
    /// The highest number of a packet that was seen since.
    highest: AtomicUsize,
    resets: mpsc::UnboundedSender<()>,
}

/// The packets of a login: none of them begins an answer to a command.
const LOGIN: usize = 3;

impl Trap {
    fn spring(&self, number: usize, mut packet: Packet) -> Option<Packet> {
        self.highest.fetch_max(number, Ordering::SeqCst);
        let begins = packet.sequence == 1 || number < LOGIN;
        if self.is_cut.load(Ordering::SeqCst) && number >= LOGIN {
            if !begins {
                return None;
            }
            self.is_cut.store(false, Ordering::SeqCst);
        }
        let wrong = ALL[self.wrong.load(Ordering::SeqCst)];
        let is_there = number >= self.at.load(Ordering::SeqCst);
        let may = begins || !matches!(wrong, Wrong::Error | Wrong::Unable);
        if !is_there || !may || self.at.swap(NEVER, Ordering::SeqCst) == NEVER {
            return Some(packet);
        }
        let error = |code: u16| {
            self.is_cut.store(true, Ordering::SeqCst);
            let words = [&[0xFF][..], &code.to_le_bytes(), b"#HY000made up"].concat();
            Some(Packet { sequence: packet.sequence, payload: words })
        };
        match wrong {
            Wrong::Error => error(1105),
            Wrong::Unable => error(1047),
            Wrong::Byte => {
                if let Some(last) = packet.payload.last_mut() {
                    *last ^= 1;
                }
                Some(packet)
            }
            Wrong::Silence => None,
            Wrong::Reset => {
                // Who listens is the test, which outlives the proxy.
                let _ = self.resets.send(());
                None
            }
        }
    }
}

async fn order(shunt: &Shunt, s: &Raw, to: &str) -> Result<Value> {
    let id = s.connection_id().to_string();
    let said = shunt.try_ctl(&["-o", "json", "session", "move", &id, "--to", to]).await?;
    let told: Value = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
    ensure!(said.status.success() == (told["outcome"] == "moved"), "{said:?}");
    Ok(told)
}

/// Orders it until the CN is one that can be tried: after a fault it is avoided until it was asked.
async fn order_once_it_is_up(shunt: &Shunt, s: &Raw, to: &str) -> Result<Value> {
    for _ in 0..600 {
        let told = order(shunt, s, to).await?;
        let reasons = told["reasons"].to_string();
        if !reasons.contains("may use now") {
            return Ok(told);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{to} is never up again")
}

const STATE: &str = "SELECT @v, @n, @@sql_mode, @@time_zone, DATABASE(), LAST_INSERT_ID(), @@lock_wait_timeout, \
                     @@collation_connection, @@character_set_results";

async fn state(s: &mut Raw, statement: u32) -> Result<Vec<Vec<Option<String>>>> {
    let rows = s.query(STATE).await?.success()?.rows()?;
    s.command(&command::execute(statement, &[], Execute::default())).await?.success()?;
    ensure!(s.value("EXECUTE named").await? == "named", "another statement");
    Ok(rows)
}

/// A session with something of many kinds, on `cn-1`.
async fn furnished(shunt: &Shunt) -> Result<(Raw, u32)> {
    let mut s = login(shunt, &app()).await?;
    s.run("SET @v = 'kept', @n = 5, sql_mode = 'ANSI_QUOTES', time_zone = '+03:00', lock_wait_timeout = 77")
        .await?;
    s.run("SET NAMES latin1, last_insert_id = 9").await?;
    s.run("PREPARE named FROM 'SELECT ''named'''").await?;
    let statement = s.prepare("SELECT @n").await?.id;
    if shown(shunt, &s).await?["cn"] == "cn-2" {
        let told = order_once_it_is_up(shunt, &s, "cn-1").await?;
        ensure!(told["outcome"] == "moved", "{told}");
    }
    Ok((s, statement))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_fails_anywhere_leaves_the_session_where_it_was() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let (resets, mut wanted) = mpsc::unbounded_channel();
    let trap = Arc::new(Trap {
        at: AtomicUsize::new(NEVER),
        wrong: AtomicUsize::new(0),
        is_cut: AtomicBool::new(false),
        highest: AtomicUsize::new(0),
        resets,
    });
    let mutation: Mutation = Arc::new({
        let trap = Arc::clone(&trap);
        move |number, packet| trap.spring(number, packet)
    });
    let proxy = Arc::new(FaultProxy::mutating(cn.address(), mutation).await?);
    let resetting = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move {
            while wanted.recv().await.is_some() {
                proxy.set(Fault::Reset);
                // Those that there are see it; those that come do not.
                tokio::time::sleep(Duration::from_millis(10)).await;
                proxy.set(Fault::None);
            }
        }
    });
    let group = Group::named("shared").cn("cn-1", cn.address()).cn("cn-2", proxy.address());
    let setup = setup().group(group).set("limits.cn_connect", "2s");
    let setup = setup.set("policy.migrate.freeze_deadline", "2s");
    let shunt = setup.set("policy.migrate.last_result_grace", "0s").standalone().await?;
    seen(&shunt).await;
    let (mut s, mut statement) = furnished(&shunt).await?;
    let whole = state(&mut s, statement).await?;
    let mut packets = 0;
    // The first time it asks for more: which variables there are.
    for _ in 0..2 {
        trap.highest.store(0, Ordering::SeqCst);
        let told = order(&shunt, &s, "cn-2").await?;
        ensure!(told["outcome"] == "moved", "{told}");
        packets = trap.highest.load(Ordering::SeqCst);
        ensure!(state(&mut s, statement).await? == whole, "the move itself");
        ensure!(order(&shunt, &s, "cn-1").await?["outcome"] == "moved", "back");
    }
    // The end is where the session is put in, and what matters most.
    let points: Vec<usize> =
        (0..12).chain((12..packets).step_by(packets.div_ceil(12))).chain(packets - 40..=packets).collect();
    let mut counts: BTreeMap<(Wrong, String), usize> = BTreeMap::new();
    for (number, wrong) in ALL.into_iter().enumerate() {
        trap.wrong.store(number, Ordering::SeqCst);
        for at in &points {
            // Each is waited out.
            let is_login_or_end = *at < LOGIN || *at > packets - 40 && at % 5 == 0;
            if wrong == Wrong::Silence && !is_login_or_end {
                continue;
            }
            trap.at.store(*at, Ordering::SeqCst);
            let told = order_once_it_is_up(&shunt, &s, "cn-2").await?;
            let outcome = told["outcome"].as_str().unwrap_or_default().to_owned();
            let went_off = trap.at.swap(NEVER, Ordering::SeqCst) == NEVER;
            let case = format!("{wrong:?} at packet {at} of {packets}: {told}");
            ensure!(["moved", "failed"].contains(&&*outcome), "{case}");
            let now = state(&mut s, statement).await.with_context(|| case.clone())?;
            ensure!(now == whole, "{case}: {now:?}, not {whole:?}");
            let on = shown(&shunt, &s).await?["cn"].clone();
            ensure!(on == if outcome == "moved" { "cn-2" } else { "cn-1" }, "{case}: on {on}");
            if outcome == "moved" {
                let back = order_once_it_is_up(&shunt, &s, "cn-1").await?;
                // A count that was told wrong is a doubt later, which holds the session.
                let is_in_doubt = wrong == Wrong::Byte && back["outcome"] == "pinned";
                ensure!(back["outcome"] == "moved" || is_in_doubt, "{case}: {back}");
                if is_in_doubt {
                    s.quit().await?;
                    (s, statement) = furnished(&shunt).await?;
                }
            }
            let outcome = if went_off { outcome } else { "in time".to_owned() };
            *counts.entry((wrong, outcome)).or_default() += 1;
        }
    }
    for ((wrong, outcome), count) in &counts {
        println!("{count:>4} {outcome:<7} {wrong:?}");
    }
    for wrong in ALL {
        ensure!(counts.contains_key(&(wrong, "failed".to_owned())), "{wrong:?} was never noticed");
    }
    // An error is passed over only in answer to what may be refused: a variable that nobody can set, a character set that
    // no client can have.
    for wrong in [Wrong::Error, Wrong::Unable] {
        let passed_over = counts.get(&(wrong, "moved".to_owned())).copied().unwrap_or(0);
        ensure!(passed_over <= 4, "{wrong:?} was passed over {passed_over} times");
    }
    // And nothing of it is left: it moves as ever, and the CN has one session of it.
    let told = order_once_it_is_up(&shunt, &s, "cn-2").await?;
    ensure!(told["outcome"] == "moved", "{told}");
    eventually("nothing is left of failed moves", async || {
        let listed = shunt.ctl(&["cn", "list"]).await?;
        let counts: Vec<_> =
            listed["cns"].as_array().context("no list")?.iter().map(|cn| &cn["sessions"]).collect();
        ensure!(counts == [&json!(0), &json!(1)], "{counts:?}");
        let mut root = cn.root().await?;
        let there =
            root.value("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'").await?;
        ensure!(there == "1", "{there} connections");
        anyhow::Ok(())
    })
    .await;
    resetting.abort();
    s.quit().await
}
