//! A move that is ordered at any byte of what a client sends, or of what its CN answers: the client reads the same bytes
//! as without one, and the CNs are asked the same, in the same order, once.

#[path = "move_bytes/cn.rs"]
mod cn;
#[path = "move_bytes/conversation.rs"]
mod conversation;
mod stand;

use anyhow::{Context as _, Result, ensure};
use cn::{Cn, Stage};
use conversation::{CLOSES, Kind, PREPARES, answered, bytes, groups};
use shunt_harness::mariadb::Options;
use shunt_harness::{Group, Login, MariaDb, Raw, Shunt, patience};
use shunt_proto::pb;
use shunt_proto::pb::session_service_client::SessionServiceClient;
use stand::{login, seen, setup, telling_cn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::transport::Channel;

/// Sessions that move at once.
const LANES: usize = 4;

/// Where in a group of commands a move is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nowhere.
    Never,
    /// Behind so many bytes of what the client sends.
    Sent(usize),
    /// Behind so many bytes of what the CN answers.
    Answered(usize),
}

/// What a group of commands is answered, and what was asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    /// To the client, byte for byte.
    client: Vec<u8>,
    /// Packets of it.
    packets: usize,
    /// Bytes of the CN: what nobody asked to be told is among them.
    from_cn: usize,
    /// Of the CNs.
    asked: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Counts {
    ordered: AtomicUsize,
    moved: AtomicUsize,
}

/// A session, and the two CNs that it moves between.
struct Lane {
    shunt: Shunt,
    cns: [Cn; 2],
    stage: Arc<Stage>,
    orders: SessionServiceClient<Channel>,
    login: Login,
}

impl Lane {
    async fn start(server: &MariaDb, user: &str) -> Result<Self> {
        server.account(user, "%", "app").await?;
        let stage = Stage::new(user);
        let cns = [
            Cn::before(server.address(), Arc::clone(&stage)).await?,
            Cn::before(server.address(), Arc::clone(&stage)).await?,
        ];
        let group = Group::named("shared").cn("cn-0", cns[0].address).cn("cn-1", cns[1].address);
        let setup = setup().group(group).set("policy.migrate.settle_after", "1h");
        let setup = setup.set("policy.migrate.freeze_deadline", "20s");
        let shunt = setup.set("policy.migrate.last_result_grace", "0s").standalone().await?;
        seen(&shunt).await;
        let orders = Channel::from_shared(format!("http://{}", shunt.api()))?.connect().await?;
        let orders = SessionServiceClient::new(orders);
        let login = Login::user(user).password("app").database(stand::DATABASE).multi_statements(true);
        Ok(Self { shunt, cns, stage, orders, login })
    }

    /// A whole conversation; the move of each group is ordered where `at` says.
    async fn converse(
        &self,
        at: impl Fn(usize) -> At,
        reference: &[Answers],
        counts: &Counts,
    ) -> Result<Vec<Answers>> {
        let _ = &self.cns;
        let mut s = login(&self.shunt, &self.login).await?;
        let shown = stand::shown(&self.shunt, &s).await?;
        let mut live = usize::from(shown["cn"] == "cn-1");
        let mut all = Vec::new();
        for (n, group) in groups().iter().enumerate() {
            let said = self.group(&mut s, (n, group), at(n), reference.get(n), &mut live, counts);
            all.push(said.await.with_context(|| format!("group {n}, {:?}", at(n)))?);
        }
        s.quit().await?;
        Ok(all)
    }

    async fn group(
        &self,
        s: &mut Raw,
        (n, group): (usize, &[Vec<u8>]),
        at: At,
        reference: Option<&Answers>,
        live: &mut usize,
        counts: &Counts,
    ) -> Result<Answers> {
        let may = if let At::Answered(may) = at { may } else { usize::MAX };
        // It is the first of the last group that closes it.
        let closes = match at {
            At::Sent(first) => first >= bytes(&group[..1]).len(),
            At::Answered(_) | At::Never => true,
        };
        let has_statement = n > PREPARES && n <= CLOSES && !(n == CLOSES && closes);
        let says = match n {
            PREPARES => Some(Kind::Prepare),
            CLOSES => Some(Kind::Close),
            _ => None,
        };
        let before = self.stage.begin(has_statement, says, may);
        ensure!(before.is_empty(), "asked behind the last answer: {before:?}");
        let sends = bytes(group);
        let first = if let At::Sent(first) = at { first } else { sends.len() };
        s.send_bytes(&sends[..first]).await?;
        let id = s.connection_id();
        let order = match at {
            At::Never => None,
            At::Sent(first) => Some(self.order(id, *live, first > 0).await?),
            At::Answered(may) => {
                let answers = answered(group).count();
                let mut said = self.stage.said.subscribe();
                let there = said.wait_for(|(bytes, whole)| *bytes >= may || *whole == answers);
                tokio::time::timeout(patience(), there).await.context("the CN is not asked")??;
                Some(self.order(id, *live, may > 0 || answers > 0).await?)
            }
        };
        s.send_bytes(&sends[first..]).await?;
        self.stage.may.send_replace(usize::MAX);
        let mut answers = Answers { client: Vec::new(), packets: 0, from_cn: 0, asked: Vec::new() };
        match reference {
            Some(reference) => {
                for _ in 0..reference.packets {
                    answers.client.extend(s.read_packet().await?.bytes());
                    answers.packets += 1;
                }
            }
            None => {
                for code in answered(group) {
                    for packet in s.receive_for(code).await?.packets {
                        answers.client.extend(packet.bytes());
                        answers.packets += 1;
                    }
                }
            }
        }
        if let Some(order) = order {
            let told = order.await??;
            counts.ordered.fetch_add(1, Ordering::Relaxed);
            if told.outcome() == pb::moved::Outcome::Moved {
                counts.moved.fetch_add(1, Ordering::Relaxed);
                *live = usize::from(told.to == "cn-1");
            } else {
                println!("group {n}, {at:?}: {told:?}");
            }
        }
        answers.from_cn = self.stage.said.borrow().0;
        answers.asked = self.stage.asked();
        Ok(answers)
    }

    /// Orders the session to the other CN, and waits until that is ready for it; where nothing is under way
    /// (`is_held`), until it is there.
    async fn order(
        &self,
        id: u32,
        live: usize,
        is_held: bool,
    ) -> Result<tokio::task::JoinHandle<Result<pb::Moved>>> {
        let mut ready = self.stage.ready.subscribe();
        let before = *ready.borrow_and_update();
        let mut orders = self.orders.clone();
        let to = format!("cn-{}", 1 - live);
        let (done, mut is_done) = tokio::sync::watch::channel(false);
        let order = tokio::spawn(async move {
            let told = orders.move_session(pb::MoveSessionRequest { id, to }).await;
            done.send_replace(true);
            Ok(told?.into_inner())
        });
        let until = async {
            if is_held {
                tokio::select! {
                    _ = ready.wait_for(|ready| *ready > before) => {}
                    _ = is_done.wait_for(|done| *done) => {}
                }
            } else {
                let _ = is_done.wait_for(|done| *done).await;
                while !order.is_finished() {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::time::timeout(patience(), until).await.context("the order comes to nothing")?;
        Ok(order)
    }
}

/// Where the moves of each conversation are ordered: at each byte that is sent, and at each that is answered.
fn rounds(reference: &[Answers]) -> Vec<Vec<At>> {
    let sent: Vec<usize> = groups().iter().map(|group| bytes(group).len()).collect();
    let longest = sent.iter().copied().max().unwrap_or_default();
    let mut rounds: Vec<Vec<At>> = (0..longest)
        .map(|byte| sent.iter().map(|len| if byte < *len { At::Sent(byte) } else { At::Never }).collect())
        .collect();
    let longest = reference.iter().map(|answers| answers.from_cn).max().unwrap_or_default();
    rounds.extend((0..=longest).map(|byte| {
        let at = |answers: &Answers| if byte <= answers.from_cn { At::Answered(byte) } else { At::Never };
        reference.iter().map(at).collect()
    }));
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_ordered_at_any_byte_changes_no_byte() -> Result<()> {
    let server = telling_cn(Options::new()).await?;
    server
        .run(&["CREATE TABLE suite.t (id INT PRIMARY KEY, v BIGINT)", "INSERT INTO suite.t VALUES (1, 1)"])
        .await?;
    let (next, counts) = (AtomicUsize::new(0), Counts::default());
    let lane = async |n: usize| {
        let lane = Lane::start(&server, &format!("lane{n}")).await?;
        let reference = lane.converse(|_| At::Never, &[], &counts).await?;
        let rounds = rounds(&reference);
        while let Some(round) = rounds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answers = lane.converse(|group| round[group], &reference, &counts).await?;
            for (n, (seen, expected)) in answers.iter().zip(&reference).enumerate() {
                let at = round[n];
                ensure!(
                    seen.client == expected.client,
                    "group {n}, {at:?}: the client read {seen:02x?}, not {expected:02x?}"
                );
                ensure!(
                    seen.asked == expected.asked,
                    "group {n}, {at:?}: the CNs were asked {:02x?}",
                    seen.asked
                );
            }
        }
        anyhow::Ok(rounds.len())
    };
    let rounds = futures::future::try_join_all((0..LANES).map(lane)).await?;
    let (ordered, moved) = (counts.ordered.into_inner(), counts.moved.into_inner());
    println!("{} conversations, {ordered} moves ordered, {moved} done", rounds[0]);
    ensure!(ordered > 1000 && moved * 100 >= ordered * 95, "{moved} of {ordered} moves were done");
    Ok(())
}
