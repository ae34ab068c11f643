//! Commands beside queries and statements: those that pass, those that are refused, and those that nobody knows.

use crate::stand::{DATABASE, app, both_ways, login, seen, shared_cn, shown, shunt_before};
use anyhow::{Result, ensure};
use shunt_harness::{Caps, Login, Param, Raw, Response, Shape, com, command};

/// The same session twice: at the CN itself, and through Shunt.
async fn twice(shunt: &shunt_harness::Shunt, way: &Login) -> Result<[Raw; 2]> {
    let cn = shared_cn().await;
    Ok([Raw::login(cn.address(), way).await?, login(shunt, way).await?])
}

async fn both(sessions: &mut [Raw; 2], payload: &[u8]) -> Result<[Response; 2]> {
    let [direct, routed] = sessions;
    Ok([direct.command(payload).await?, routed.command(payload).await?])
}

#[tokio::test]
async fn rare_commands_are_answered_as_the_cn_answers_them() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut root = cn.root().await?;
    root.run(format!("CREATE OR REPLACE TABLE {DATABASE}.fields (a INT DEFAULT 7, b TEXT, ab INT)")).await?;
    for way in both_ways(&app()) {
        let mut sessions = twice(&shunt, &way).await?;
        for payload in [
            command::set_option(1),
            command::query("SELECT 1; SELECT 2"),
            command::set_option(0),
            command::query("SELECT 1; SELECT 2"),
            command::set_option(9),
            command::field_list("fields", ""),
            command::field_list("fields", "a%"),
            command::field_list("nowhere", ""),
            vec![com::DEBUG],
            vec![com::REFRESH, 1],
            vec![com::PING],
            command::with(com::INIT_DB, b"nowhere"),
            command::with(com::INIT_DB, DATABASE.as_bytes()),
        ] {
            let [direct, routed] = both(&mut sessions, &payload).await?;
            assert_eq!(direct.shape, routed.shape, "{payload:02x?}");
            assert_eq!(direct.roles, routed.roles, "{payload:02x?}");
            assert_eq!(direct.err(), routed.err());
        }
        let [direct, routed] = both(&mut sessions, &[com::STATISTICS]).await?;
        assert_eq!((direct.shape, routed.shape), (Shape::Statistics, Shape::Statistics));
        assert!(routed.packets[0].payload.starts_with(b"Uptime: "));
        let [_, routed] = both(&mut sessions, &[com::PROCESS_INFO]).await?;
        assert_eq!(routed.shape, Shape::Text);
        for s in sessions {
            s.quit().await?;
        }
    }
    Ok(())
}

/// No client can have a CN avoided by a command that the CN does not know.
#[tokio::test]
async fn an_unknown_option_says_nothing_about_the_cn() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    assert_eq!(s.command(&command::set_option(9)).await?.err().map(|err| err.code), Some(1047));
    assert_eq!(s.value("SELECT 1").await?, "1");
    ensure!(
        !shunt.planes[0].metrics().await?.contains("shunt_data_cn_up{cn=\"cn-1\"} 0"),
        "the CN is avoided"
    );
    seen(&shunt).await;
    s.quit().await
}

#[tokio::test]
async fn unknown_commands_are_refused_and_the_session_lives() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut sessions = twice(&shunt, &way).await?;
        // Sleep, create and drop a database, the server's own, and numbers that nobody gave away.
        for code in [0x00, 0x05, 0x06, 0x0B, 0x0F, 0x10, 0x14, 0x1D, 0x20, 0x50, 0xFB, 0xFC, 0xFE] {
            let [direct, routed] = both(&mut sessions, &[code, b'x']).await?;
            assert_eq!(direct.err(), routed.err(), "{code:#04x}");
            assert_eq!(routed.err().map(|err| (err.code, err.sqlstate)), Some((1047, "08S01".into())));
        }
        let [_, mut routed] = sessions;
        assert_eq!(routed.value("SELECT 'lives'").await?, "lives");
        assert_eq!(shown(&shunt, &routed).await?["state"], "idle");
        routed.quit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn replication_is_refused_and_the_session_lives() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET @a = 1").await?;
    for code in [com::BINLOG_DUMP, 0x13, 0x15, 0x1E] {
        let mut payload = vec![code];
        payload.extend([0; 30]);
        let err = s.command(&payload).await?.err().expect("a refusal");
        assert_eq!((err.code, err.sqlstate.as_str()), (1235, "42000"), "{code:#04x}");
        assert_eq!(s.value("SELECT @a").await?, "1");
    }
    s.quit().await
}

/// The CN says who may shut it down.
#[tokio::test]
async fn a_user_cannot_shut_the_cn_down() -> Result<()> {
    let cn = shared_cn().await;
    cn.run(&["CREATE OR REPLACE USER plain@'%' IDENTIFIED BY 'plain'"]).await?;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &Login::user("plain").password("plain")).await?;
    assert_eq!(s.command(&[0x08]).await?.err().map(|err| err.code), Some(1227));
    assert_eq!(s.value("SELECT 'lives'").await?, "lives");
    s.quit().await
}

/// A command of the wrong sequence number is answered like MariaDB does, and ends the session: what follows is not to
/// be trusted.
#[tokio::test]
async fn a_command_out_of_order_ends_the_session() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    s.send_bytes(&[1, 0, 0, 7, com::PING]).await?;
    let packet = s.read_packet().await?;
    assert_eq!(packet.payload[..3], [0xFF, 0x84, 0x04], "1156");
    s.closed().await
}

#[tokio::test]
async fn bulk_execution_passes() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app().caps(Caps::MARIADB_BULK, true)) {
        let mut s = login(&shunt, &way).await?;
        ensure!(s.caps.has(Caps::MARIADB_BULK), "it is not offered");
        s.run(format!("CREATE OR REPLACE TABLE {DATABASE}.bulk (a INT PRIMARY KEY, b TEXT)")).await?;
        let insert = s.prepare(format!("INSERT INTO {DATABASE}.bulk VALUES (?, ?)")).await?;
        let rows: Vec<_> =
            (0..1000).map(|n| vec![Param::Long(n), Param::Text(format!("text of {n}"))]).collect();
        let done = s.command(&command::bulk_execute(insert.id, &rows)).await?;
        assert_eq!(done.ok()?.affected, 1000);
        let twice = s.command(&command::bulk_execute(insert.id, &rows[..1])).await?;
        assert_eq!(twice.err().map(|err| err.code), Some(1062));
        assert_eq!(s.value(format!("SELECT COUNT(*) FROM {DATABASE}.bulk")).await?, "1000");
        s.quit().await?;
    }
    Ok(())
}
