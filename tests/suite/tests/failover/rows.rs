//! The rows of the table of what a client sees, for a CN that hangs and for a CN that ends a session by its own KILL; what
//! they are for one that dies is in `under_way` and `idle`.

use crate::stand::{app, is_in_state, login, shown};
use crate::{Two, failed_over, settled};
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use shunt_harness::{Login, Raw, Shunt, com, command};

const UNKNOWN: u16 = 1180;

/// A session on this CN.
async fn on(shunt: &Shunt, cn: &Value, how: &Login) -> Result<Raw> {
    // Each goes where the fewest are.
    let mut elsewhere = Vec::new();
    for _ in 0..20 {
        let s = login(shunt, how).await?;
        if shown(shunt, &s).await?["cn"] == *cn {
            return Ok(s);
        }
        elsewhere.push(s);
    }
    bail!("nothing is put on {cn}")
}

/// The rows of a result of which the server has sent some: its buffer of 16 KiB was full at the end of one.
async fn half_a_result(s: &mut Raw) -> Result<u8> {
    let sql = "SELECT REPEAT('x', 11) AS a FROM seq_1_to_2000 UNION ALL SELECT SLEEP(100)";
    s.send(&command::query(sql)).await?;
    let mut last = s.read_packet().await?;
    for _ in 0..1 + 1022 {
        last = s.read_packet().await?;
    }
    Ok(last.sequence)
}

#[tokio::test]
async fn what_is_under_way_on_a_cn_that_hangs() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("limits.cn_connect", "300ms")).await?;
    let mut uploads = login(&shunt, &app().local_files(true)).await?;
    let cn = shown(&shunt, &uploads).await?["cn"].clone();
    let mut reads = on(&shunt, &cn, &app().deprecate_eof(true)).await?;
    let mut locks = on(&shunt, &cn, &app()).await?;
    locks.run("SELECT GET_LOCK('a', 0)").await?;
    let again = [
        vec![com::PING],
        vec![com::STATISTICS],
        command::with(com::INIT_DB, b"information_schema"),
        command::field_list("t", "v"),
        command::prepare("SELECT v FROM t WHERE v = ?"),
    ];
    let mut asked = Vec::new();
    for command in again {
        let mut s = on(&shunt, &cn, &app()).await?;
        s.run("SET @a = 5").await?;
        settled(&shunt, &s).await;
        asked.push((s, command));
    }
    uploads.send(&command::query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t (v)")).await?;
    assert_eq!(uploads.read_packet().await?.payload.first(), Some(&0xFB));
    let last = half_a_result(&mut reads).await?;
    is_in_state(&shunt, &reads, "active").await;

    two.of(&shunt, &locks).await?.freeze().await?;
    uploads.write(b"1\n2\n").await?;
    locks.send(&command::query("SELECT IS_USED_LOCK('a') = CONNECTION_ID()")).await?;
    for (s, command) in &mut asked {
        s.send(command).await?;
    }
    // Another CN answers these as well.
    for (s, _) in &mut asked {
        s.receive().await?.success()?;
        assert_eq!(s.value("SELECT @a").await?, "5");
    }
    // A result ends between two rows, and is numbered on.
    let mut expected = last;
    let err = loop {
        let packet = reads.read_packet().await?;
        expected = expected.wrapping_add(1);
        ensure!(packet.sequence == expected, "{packet:?} behind {expected}");
        if packet.payload.first() == Some(&0xFF) {
            break packet;
        }
    };
    assert_eq!(&err.payload[1..3], &UNKNOWN.to_le_bytes());
    reads.run("SELECT 1").await?;
    // What a client sends is heard to its end.
    uploads.write(b"3\n").await?;
    uploads.write(b"").await?;
    let packet = uploads.read_packet().await?;
    assert_eq!((packet.payload[0], &packet.payload[1..3]), (0xFF, &UNKNOWN.to_le_bytes()[..]));
    uploads.run("SELECT 1").await?;
    // What cannot be rebuilt stays where it is: its CN may yet come to itself, and this one does.
    failed_over(&shunt, "lost", 0.0).await;
    two.cns[usize::from(cn == "cn-2")].thaw()?;
    assert_eq!(locks.receive().await?.success()?.rows()?, [[Some("1".to_owned())]]);
    Ok(())
}

/// Nothing of it is rebuilt, whatever it was at: its CN meant it.
#[tokio::test]
async fn what_a_cn_ends_on_purpose_is_over() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    for at in ["rest", "transaction", "statement", "result", "upload"] {
        let mut s = login(&shunt, &app().deprecate_eof(true).local_files(true)).await?;
        let id = s.value("SELECT CONNECTION_ID()").await?;
        match at {
            "transaction" => {
                s.run("BEGIN").await?;
                s.run("INSERT INTO t (v) VALUES (7)").await?;
            }
            "statement" => s.send(&command::query("SELECT SLEEP(100)")).await?,
            "result" => drop(half_a_result(&mut s).await?),
            "upload" => {
                s.send(&command::query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t (v)")).await?;
                s.read_packet().await?;
            }
            _ => {}
        }
        two.of(&shunt, &s).await?.run(&[&format!("KILL {id}")]).await?;
        if at == "upload" {
            // MariaDB reads on to the end of the file.
            s.write(b"").await?;
        }
        let over = async {
            // What was said before it ended, an ERR of the CN's own among it, is its client's to read.
            while s.read_packet().await.is_ok() {}
            s.closed().await
        };
        over.await.map_err(|error| error.context(at))?;
    }
    for outcome in ["unnoticed", "unknown", "rolled_back", "answered", "lost"] {
        failed_over(&shunt, outcome, 0.0).await;
    }
    Ok(())
}
