//! Commands that do not wait for answers, and commands that come in pieces.

use crate::stand::{app, both_ways, login, shared_cn, shunt_before};
use anyhow::{Result, ensure};
use shunt_harness::packet::split;
use shunt_harness::{Execute, Param, Raw, Shape, com, command};

#[tokio::test]
async fn five_thousand_pings_in_one_write_are_all_answered() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    let responses = s.pipeline(&vec![vec![com::PING]; 5000]).await?;
    assert_eq!(responses.len(), 5000);
    assert!(responses.iter().all(|response| response.shape == Shape::Ok));
    s.quit().await
}

/// More than may await their answers at once, with answers that are larger than what asks for them.
#[tokio::test]
async fn pipelined_queries_are_answered_in_order() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        let queries: Vec<_> = (0..3000)
            .map(|n| match n % 3 {
                0 => command::query(format!("SELECT {n}")),
                1 => command::query(format!("SELECT {n}; SELECT 'second'")),
                _ => command::query(format!("SELECT {n} FROM nothing_here")),
            })
            .collect();
        for (n, response) in s.pipeline(&queries).await?.iter().enumerate() {
            match n % 3 {
                0 | 1 => assert_eq!(response.value()?, n.to_string()),
                _ => assert_eq!(response.err().map(|err| err.code), Some(1146)),
            }
        }
        s.quit().await?;
    }
    Ok(())
}

/// What Shunt sees to itself waits for what was sent before it, and what is sent behind it waits for that.
#[tokio::test]
async fn what_is_intercepted_keeps_its_place() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    let unknown_id = s.connection_id() + 500_000;
    let sent = [
        command::query("SET @a = 7"),
        command::query("SELECT @a"),
        vec![com::RESET_CONNECTION],
        command::query("SELECT @a IS NULL"),
        command::query(format!("KILL {unknown_id}")),
        command::query("SELECT 'behind'"),
        vec![0x50],
        vec![],
        vec![com::PING],
        command::query("SET session_track_system_variables = 'autocommit'"),
        command::query("SELECT 'last'"),
    ];
    let answered = s.pipeline(&sent).await?;
    let code = |n: usize| answered[n].err().map(|err| err.code);
    assert_eq!(answered[1].value()?, "7");
    assert_eq!(answered[2].shape, Shape::Ok);
    assert_eq!(answered[3].value()?, "1");
    assert_eq!(code(4), Some(1094));
    assert_eq!(answered[5].value()?, "behind");
    assert_eq!((code(6), code(7)), (Some(1047), Some(1047)));
    assert_eq!(answered[8].shape, Shape::Ok);
    assert_eq!(answered[10].value()?, "last");
    s.quit().await
}

/// Statements, a cursor, long data and a KILL of nobody: each byte in a write of its own.
#[tokio::test]
async fn commands_may_come_byte_by_byte() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        let statement = s.prepare("SELECT ? UNION SELECT 'b'").await?;
        let cursor = Execute { cursor: true, ..Execute::default() };
        let commands = [
            command::query("SELECT 'one'"),
            command::execute(statement.id, &[Param::Text("a".into())], Execute::default()),
            command::long_data(statement.id, 0, b"long"),
            command::execute(statement.id, &[Param::Sent], cursor),
            command::fetch(statement.id, 1),
            command::about_statement(com::STMT_RESET, statement.id),
            command::query("KILL QUERY 1999999999"),
            command::with(com::INIT_DB, crate::stand::DATABASE.as_bytes()),
            vec![com::RESET_CONNECTION],
            vec![com::STATISTICS],
            command::query("SELECT 1; SELECT nothing_here"),
        ];
        let expected = [
            Shape::Text,
            Shape::Binary,
            Shape::CursorOpen,
            Shape::Fetch,
            Shape::Ok,
            Shape::Err,
            Shape::Ok,
            Shape::Ok,
            Shape::Statistics,
            Shape::MultiErr,
        ];
        let mut shapes = Vec::new();
        for payload in &commands {
            shapes.extend(slowly(&mut s, payload).await?);
        }
        assert_eq!(shapes, expected);
        s.quit().await?;
    }
    Ok(())
}

/// Sends a command byte by byte, and receives its response where it has one.
async fn slowly(s: &mut Raw, payload: &[u8]) -> Result<Option<Shape>> {
    for packet in split(payload, 0) {
        for byte in packet.bytes() {
            s.send_bytes(&[byte]).await?;
            // So that the bytes are not read together; it would be right either way.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    if payload[0] == com::STMT_SEND_LONG_DATA {
        return Ok(None);
    }
    Ok(Some(s.receive_for(payload[0]).await?.shape))
}

/// Two commands in one write, cut once at every place: a header, a first byte, a body that begins the next burst.
#[tokio::test]
async fn two_commands_may_be_cut_anywhere() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app().session_track(true).deprecate_eof(true)).await?;
    let mut bytes = Vec::new();
    for payload in [command::query("SET @a = 'left'"), command::query("SELECT @a, 'right'")] {
        bytes.extend(split(&payload, 0).iter().flat_map(shunt_harness::packet::Packet::bytes));
    }
    for cut in 1..bytes.len() {
        s.send_bytes(&bytes[..cut]).await?;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        s.send_bytes(&bytes[cut..]).await?;
        ensure!(s.receive_for(com::QUERY).await?.shape == Shape::Ok, "cut at {cut}");
        let rows = s.receive_for(com::QUERY).await?.rows()?;
        assert_eq!(rows[0], [Some("left".into()), Some("right".into())], "cut at {cut}");
    }
    s.quit().await
}
