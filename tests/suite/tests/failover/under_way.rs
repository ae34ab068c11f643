//! Sessions with something under way: what is certain they are told, and where nothing is, that too.

use crate::stand::{app, is_in_state, login};
use crate::{Two, failed_over, settled};
use anyhow::{Result, ensure};
use shunt_harness::packet::split;
use shunt_harness::{Raw, Shunt, command};

const ROLLED_BACK: (u16, &str) = (1213, "40001");
const UNKNOWN: (u16, &str) = (1180, "HY000");

async fn is_told(s: &mut Raw, expected: (u16, &str)) -> Result<()> {
    let err = s.receive().await?.err().expect("an ERR");
    assert_eq!((err.code, err.sqlstate.as_str()), expected, "{err}");
    Ok(())
}

/// It goes on with what it was.
async fn lives(s: &mut Raw) -> Result<()> {
    assert_eq!(s.value("SELECT @a").await?, "5");
    s.run("INSERT INTO t (v) VALUES (1)").await.map(drop)
}

/// A session with a user variable that its CN was asked for.
async fn session(shunt: &Shunt) -> Result<Raw> {
    let mut s = login(shunt, &app().multi_statements(true)).await?;
    s.run("SET @a = 5").await?;
    settled(shunt, &s).await;
    Ok(s)
}

/// The session's CN stands still, is sent this, and dies with it.
async fn dies_with(two: &mut Two, shunt: &Shunt, s: &mut Raw, last: &[u8]) -> Result<()> {
    let cn = two.of(shunt, s).await?;
    cn.freeze().await?;
    s.send(last).await?;
    is_in_state(shunt, s, "active").await;
    cn.kill()
}

/// In a transaction, with nothing under way: the next command, whatever it is, and all that came with it.
#[tokio::test]
async fn a_transaction_is_told_that_it_was_rolled_back() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let next = [
        vec![command::query("INSERT INTO t (v) VALUES (2)")],
        vec![vec![command::com::PING]],
        vec![command::query("COMMIT")],
        // Sent before its client could hear of it: not one of them may run outside the transaction.
        vec![command::query("INSERT INTO t (v) VALUES (3)"), command::query("COMMIT")],
    ];
    for (n, commands) in next.into_iter().enumerate() {
        let mut s = session(&shunt).await?;
        s.run("BEGIN").await?;
        s.run("INSERT INTO t (v) VALUES (4711)").await?;
        is_in_state(&shunt, &s, "transaction").await;
        two.of(&shunt, &s).await?.kill()?;
        for answer in s.pipeline(&commands).await? {
            let err = answer.err().expect("an ERR");
            assert_eq!((err.code, err.sqlstate.as_str()), ROLLED_BACK, "{n}: {err}");
        }
        lives(&mut s).await?;
        two.revive(&shunt).await?;
        for cn in &two.cns {
            cn.run(&["DELETE FROM suite.t WHERE v = 1"]).await?;
        }
        assert_eq!(s.value("SELECT COUNT(*) FROM t").await?, "0");
        s.quit().await?;
    }
    failed_over(&shunt, "lost", 0.0).await;
    Ok(())
}

/// What the CN was sent last, before it stood still and died, and what its client is told.
#[tokio::test]
async fn what_is_under_way_is_told_what_is_certain() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let cases: [(&[&str], &str, (u16, &str)); 8] = [
        (&["BEGIN", "INSERT INTO t (v) VALUES (7)"], "UPDATE t SET v = v + 1", ROLLED_BACK),
        (&["SET autocommit = 0", "INSERT INTO t (v) VALUES (7)"], "SELECT * FROM t", ROLLED_BACK),
        (&["BEGIN", "INSERT INTO t (v) VALUES (7)"], "COMMIT", UNKNOWN),
        (&["BEGIN", "INSERT INTO t (v) VALUES (7)"], "SELECT 1; COMMIT", UNKNOWN),
        (&["BEGIN", "INSERT INTO t (v) VALUES (7)"], "ALTER TABLE t COMMENT 'x'", UNKNOWN),
        (&[], "INSERT INTO t (v) VALUES (7)", UNKNOWN),
        (&[], "SELECT * FROM t", UNKNOWN),
        // The ERR may have ended the transaction, and then this stands alone.
        (&["BEGIN", "INSERT INTO t (id, v) VALUES (1, 7), (1, 7)"], "INSERT INTO t (v) VALUES (8)", UNKNOWN),
    ];
    for (before, last, told) in cases {
        let mut s = session(&shunt).await?;
        for sql in before {
            s.query(sql).await?;
        }
        dies_with(&mut two, &shunt, &mut s, &command::query(last)).await?;
        is_told(&mut s, told).await.map_err(|error| error.context(last))?;
        lives(&mut s).await?;
        two.revive(&shunt).await?;
        s.quit().await?;
    }
    failed_over(&shunt, "lost", 0.0).await;
    Ok(())
}

/// Each of several commands that were sent at once gets an answer: one too few, and its client waits for ever.
#[tokio::test]
async fn everything_that_is_under_way_is_answered() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = session(&shunt).await?;
    let commands = [
        command::query("INSERT INTO t (v) VALUES (7)"),
        vec![command::com::PING],
        command::query("SELECT 1; SELECT 2"),
    ];
    let cn = two.of(&shunt, &s).await?;
    cn.freeze().await?;
    let all = commands.iter().flat_map(|payload| split(payload, 0)).flat_map(|packet| packet.bytes());
    s.send_bytes(&all.collect::<Vec<u8>>()).await?;
    is_in_state(&shunt, &s, "active").await;
    two.of(&shunt, &s).await?.kill()?;
    for command in &commands {
        let err = s.receive_for(command[0]).await?.err().expect("an ERR");
        assert_eq!((err.code, err.sqlstate.as_str()), UNKNOWN, "{err}");
    }
    lives(&mut s).await?;
    failed_over(&shunt, "unknown", 1.0).await;
    s.quit().await
}

/// Another CN answers these as well.
#[tokio::test]
async fn what_changes_nothing_is_answered_by_another_cn() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let cases = [
        vec![command::com::PING],
        vec![command::com::STATISTICS],
        command::with(command::com::INIT_DB, b"information_schema"),
        command::field_list("t", "v"),
        command::prepare("SELECT v FROM t WHERE v = ?"),
    ];
    for last in cases {
        let mut s = session(&shunt).await?;
        dies_with(&mut two, &shunt, &mut s, &last).await?;
        s.receive().await?.success()?;
        assert_eq!(s.value("SELECT @a").await?, "5");
        two.revive(&shunt).await?;
        s.quit().await?;
    }
    failed_over(&shunt, "answered", 5.0).await;
    Ok(())
}

/// Between two rows an ERR may stand, which is numbered on.
#[tokio::test]
async fn a_result_that_is_cut_off_ends_with_an_err() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app().deprecate_eof(true)).await?;
    // The server writes when its buffer of 16 KiB is full: that ends with a row of 16 bytes, for what is before the rows
    // takes 32.
    let sql = "SELECT REPEAT('x', 11) AS a FROM seq_1_to_2000 UNION ALL SELECT SLEEP(100)";
    s.send(&command::query(sql)).await?;
    let mut last = s.read_packet().await?;
    for _ in 0..1 + 1022 {
        last = s.read_packet().await?;
    }
    two.of(&shunt, &s).await?.kill()?;
    let mut packet = s.read_packet().await?;
    while packet.payload.first() != Some(&0xFF) {
        assert_eq!(packet.sequence, last.sequence + 1);
        last = packet;
        packet = s.read_packet().await?;
    }
    assert_eq!(packet.sequence, last.sequence + 1);
    assert_eq!(&packet.payload[1..3], &UNKNOWN.0.to_le_bytes());
    failed_over(&shunt, "unknown", 1.0).await;
    Ok(())
}

/// A client that sends a file, or a long command, is heard to its end, and told then.
#[tokio::test]
async fn an_upload_is_heard_to_its_end() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app().local_files(true)).await?;
    s.send(&command::query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t (v)")).await?;
    let asked = s.read_packet().await?;
    assert_eq!(asked.payload.first(), Some(&0xFB));
    s.write(b"1\n2\n").await?;
    two.of(&shunt, &s).await?.kill()?;
    s.write(b"3\n").await?;
    s.write(b"").await?;
    let packet = s.read_packet().await?;
    assert_eq!((packet.payload[0], &packet.payload[1..3]), (0xFF, &UNKNOWN.0.to_le_bytes()[..]));
    assert_eq!(packet.sequence, 5);
    failed_over(&shunt, "unknown", 1.0).await;
    Ok(())
}

/// What cannot be rebuilt is said to who waits for an answer, and ends.
#[tokio::test]
async fn a_session_that_cannot_be_rebuilt_is_told_why() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = session(&shunt).await?;
    s.run("SELECT GET_LOCK('a', 0)").await?;
    s.send(&command::query("SELECT SLEEP(100)")).await?;
    is_in_state(&shunt, &s, "active").await;
    two.of(&shunt, &s).await?.kill()?;
    let err = s.receive().await?.err().expect("an ERR");
    ensure!(
        err.code == 1053 && err.sqlstate == "08S01" && err.message.contains("the session with it"),
        "{err}"
    );
    s.closed().await
}
