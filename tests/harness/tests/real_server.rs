//! The raw client and the reference parser against a real MariaDB.

use anyhow::Result;
use shunt_harness::command::{self, bulk_execute};
use shunt_harness::decode::status;
use shunt_harness::{Caps, ErrPacket, Execute, Login, MariaDb, Param, Raw, Role, Shape, com};

/// Every combination of the two capabilities that change how responses end.
fn logins() -> impl Iterator<Item = Login> {
    [(false, false), (false, true), (true, false), (true, true)].into_iter().map(|(eof, track)| {
        Login::user("app").password("app").database("test_raw").deprecate_eof(eof).session_track(track)
    })
}

async fn server() -> Result<&'static MariaDb> {
    let cn = MariaDb::shared().await;
    cn.run(&["CREATE DATABASE IF NOT EXISTS test_raw"]).await?;
    Ok(cn)
}

#[tokio::test]
async fn a_query_is_answered() -> Result<()> {
    let cn = server().await?;
    for login in logins() {
        let mut s = Raw::login(cn.address(), &login).await?;
        let r = s.query("SELECT 1 AS one, NULL, 'x' UNION SELECT 2, 'b', ''").await?;
        assert_eq!(r.shape, Shape::Text);
        let rows = r.rows()?;
        assert_eq!(rows[0], [Some("1".into()), None, Some("x".into())]);
        assert_eq!(rows[1], [Some("2".into()), Some("b".into()), Some(String::new())]);
        assert_eq!(r.results()?[0].columns[0].name, "one");
        let err = s.query("SELECT nothing_here").await?.err().unwrap();
        assert_eq!((err.code, err.sqlstate.as_str()), (1054, "42S22"));
        assert_eq!(s.query("DO 1; SELECT 2; SELECT nope").await?.shape, Shape::MultiErr);
        s.quit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_refused() -> Result<()> {
    let cn = server().await?;
    let refused = Raw::login(cn.address(), &Login::user("app").password("no")).await.err().unwrap();
    assert_eq!(refused.downcast_ref::<ErrPacket>().unwrap().code, 1045);
    // Without the plugin's name in the answer; and with one the server does not know.
    Raw::login(cn.address(), &Login::user("app").password("app").caps(Caps::PLUGIN_AUTH, false)).await?;
    let s = Raw::login(cn.address(), &Login::user("app").password("app").plugin("unknown_plugin")).await?;
    assert_eq!(s.login_packets.len(), 3, "greeting, switch, OK");
    Ok(())
}

#[tokio::test]
async fn statements_cursors_and_long_data() -> Result<()> {
    let cn = server().await?;
    for login in logins() {
        let mut s = Raw::login(cn.address(), &login).await?;
        let st = s.prepare("SELECT ?, ?, ? UNION SELECT 1, 2, 3").await?;
        assert_eq!((st.params, st.columns), (3, 3));
        let params = [Param::LongLong(7), Param::Null, Param::Text("x".into())];
        let r = s.execute(st, &params).await?;
        assert_eq!((r.shape, r.results()?[0].rows.len()), (Shape::Binary, 2));

        s.send(&command::long_data(st.id, 2, b"hello ")).await?;
        s.send(&command::long_data(st.id, 2, b"world")).await?;
        let r = s.execute(st, &[Param::LongLong(7), Param::Null, Param::Sent]).await?;
        assert!(r.results()?[0].rows[0].ends_with(b"\x0bhello world"), "{r:?}");

        let how = Execute { cursor: true, ..Execute::default() };
        let r = s.command(&command::execute(st.id, &params, how)).await?;
        assert_eq!(r.shape, Shape::CursorOpen);
        let r = s.command(&command::fetch(st.id, 1)).await?;
        assert_eq!((r.shape, r.results()?[0].rows.len()), (Shape::Fetch, 1));
        assert_eq!(r.status()? & status::LAST_ROW_SENT, 0);
        let r = s.command(&command::fetch(st.id, 5)).await?;
        assert_ne!(r.status()? & status::LAST_ROW_SENT, 0);
        assert_eq!(s.command(&command::fetch(st.id, 5)).await?.shape, Shape::Err);
        assert_eq!(s.command(&command::about_statement(com::STMT_RESET, st.id)).await?.shape, Shape::Ok);
        s.send(&command::about_statement(com::STMT_CLOSE, st.id)).await?;
        assert_eq!(s.ping().await?.shape, Shape::Ok);
        assert_eq!(s.command(&command::prepare("DO 1")).await?.shape, Shape::PrepareBare);
        assert_eq!(s.command(&command::prepare("SELEC")).await?.shape, Shape::Err);
    }
    Ok(())
}

#[tokio::test]
async fn the_lesser_commands() -> Result<()> {
    let cn = server().await?;
    cn.account("other", "%", "two").await?;
    for login in logins() {
        let mut s = Raw::login(cn.address(), &login).await?;
        s.run("CREATE OR REPLACE TABLE f (a INT DEFAULT 5, b VARCHAR(9))").await?;
        let r = s.command(&command::field_list("f", "%")).await?;
        assert_eq!((r.shape, r.packets.len()), (Shape::FieldList, 3));
        assert_eq!(s.command(&command::field_list("nope", "")).await?.shape, Shape::Err);
        assert_eq!(s.command(&[com::STATISTICS]).await?.shape, Shape::Statistics);
        assert_eq!(s.command(&command::set_option(1)).await?.shape, Shape::Eof);
        assert_eq!(s.query("DO 1; DO 2").await?.shape, Shape::Err);
        assert_eq!(s.command(&command::set_option(0)).await?.shape, Shape::Eof);
        assert_eq!(s.query("DO 1; DO 2").await?.shape, Shape::Multi);
        assert_eq!(s.command(&command::with(com::INIT_DB, b"mysql")).await?.shape, Shape::Ok);
        assert_eq!(s.command(&command::with(com::INIT_DB, b"nope")).await?.shape, Shape::Err);
        assert_eq!(s.command(&[com::RESET_CONNECTION]).await?.shape, Shape::Ok);
        assert_eq!(s.command(&[com::PROCESS_INFO]).await?.shape, Shape::Text);
        let other = Login::user("other").password("two").database("test_raw");
        // MariaDB asks again, even if the answer was right.
        assert_eq!(s.change_user(&other).await?.shape, Shape::SwitchOk);
        let switched = s.change_user(&other.clone().plugin("unknown_plugin")).await?;
        assert_eq!(switched.shape, Shape::SwitchOk);
        assert!(s.value("SELECT CURRENT_USER()").await?.starts_with("other@"));
        let wrong = s.change_user(&other.password("wrong")).await?;
        assert_eq!(wrong.err().unwrap().code, 1045);
        assert!(s.value("SELECT CURRENT_USER()").await?.starts_with("other@"));
        let responses =
            s.pipeline(&[command::query("SELECT 1"), vec![com::PING], command::query("x")]).await?;
        let shapes: Vec<_> = responses.iter().map(|r| r.shape).collect();
        assert_eq!(shapes, [Shape::Text, Shape::Ok, Shape::Err]);
    }
    Ok(())
}

#[tokio::test]
async fn uploads() -> Result<()> {
    let cn = server().await?;
    for login in logins() {
        let mut s = Raw::login(cn.address(), &login).await?;
        s.run("CREATE OR REPLACE TABLE up (a INT PRIMARY KEY)").await?;
        let load = "LOAD DATA LOCAL INFILE 'x' INTO TABLE up";
        let r = s.query_with_file(load, &[b"1\n2\n".to_vec(), b"3\n".to_vec()]).await?;
        assert_eq!((r.shape, r.ok()?.affected), (Shape::Upload, 3));
        let r = s.query(load).await?;
        assert_eq!((r.shape, r.ok()?.affected), (Shape::Upload, 0));
        let bad = "LOAD DATA LOCAL INFILE 'x' INTO TABLE up (@v) SET a = (SELECT 1 UNION SELECT 2)";
        assert_eq!(s.query_with_file(bad, &[b"9\n".to_vec()]).await?.shape, Shape::UploadErr);
        let r = s.query_with_file(&format!("SELECT 1; {load}; SELECT 2"), &[b"8\n".to_vec()]).await?;
        assert_eq!(r.roles.iter().filter(|role| **role == Role::ResultEnd).count(), 2);
        assert_eq!(s.value("SELECT COUNT(*) FROM up").await?, "4");
    }
    Ok(())
}

#[tokio::test]
async fn packets_over_16_mib_both_ways() -> Result<()> {
    let cn = server().await?;
    for login in logins() {
        let mut s = Raw::login(cn.address(), &login).await?;
        for length in [0xFF_FFFF_usize - 30, 0xFF_FFFF, 0xFF_FFFF + 3] {
            let text = "x".repeat(length - b"\x03SELECT ''".len());
            let r = s.query(format!("SELECT '{text}'")).await?;
            assert_eq!(r.value()?.len(), text.len());
        }
        // The row is 4 + 2^24 - 1 - 4 bytes: the packet is full, and an empty one follows.
        let r = s.query(format!("SELECT REPEAT('a', {})", 0xFF_FFFF - 4)).await?;
        assert_eq!(r.roles.iter().filter(|role| **role == Role::Continuation).count(), 1);
        assert_eq!(r.value()?.len(), 0xFF_FFFF - 4);
    }
    Ok(())
}

#[tokio::test]
async fn bulk_execution() -> Result<()> {
    let cn = server().await?;
    for login in logins() {
        let mut s = Raw::login(cn.address(), &login.caps(Caps::MARIADB_BULK, true)).await?;
        assert!(s.caps.has(Caps::MARIADB_BULK), "{:?}", s.caps);
        s.run("CREATE OR REPLACE TABLE bulk (a INT PRIMARY KEY, b VARCHAR(10))").await?;
        let st = s.prepare("INSERT INTO bulk VALUES (?, ?)").await?;
        let rows: Vec<_> = (1..=3).map(|i| vec![Param::Long(i), Param::Text(format!("v{i}"))]).collect();
        let r = s.command(&bulk_execute(st.id, &rows)).await?;
        assert_eq!((r.shape, r.ok()?.affected), (Shape::Ok, 3));
        assert_eq!(s.command(&bulk_execute(st.id, &rows)).await?.shape, Shape::Err);
    }
    Ok(())
}

#[tokio::test]
async fn a_server_can_be_frozen_killed_and_started_again() -> Result<()> {
    let mut cn = MariaDb::start().await?;
    let mut s = cn.root().await?;
    s.run("CREATE DATABASE kept").await?;
    cn.freeze().await?;
    s.set_patience(std::time::Duration::from_millis(100));
    assert!(s.ping().await.is_err());
    cn.thaw()?;
    cn.kill()?;
    cn.restart().await?;
    cn.run(&["USE kept"]).await?;
    cn.stop().await?;
    Ok(())
}
