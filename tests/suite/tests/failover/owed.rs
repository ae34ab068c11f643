//! What a client sent that no CN gets: an error is owed to it, or it came behind what was cut.

use crate::stand::{app, is_in_state, login, metric};
use crate::{Two, failed_over, settled};
use anyhow::{Context as _, Result, ensure};
use shunt_harness::packet::split;
use shunt_harness::response::Prepared;
use shunt_harness::{Execute, Param, Raw, Response, Shunt, com, command, eventually};

const ROLLED_BACK: u16 = 1213;
const UNKNOWN: u16 = 1180;
const NO_STATEMENT: u16 = 1243;

fn code(answer: &Response) -> Option<u16> {
    answer.err().map(|err| err.code)
}

/// The session whose client sends a command that Shunt sees to itself, right behind one that the CN dies with.
async fn intercepted(two: &mut Two, shunt: &Shunt, behind: Vec<u8>) -> Result<()> {
    let mut s = login(shunt, &app()).await?;
    s.run("SET @a = 5").await?;
    settled(shunt, &s).await;
    let commands = [command::query("SELECT SLEEP(100)"), behind];
    let bytes: Vec<u8> =
        commands.iter().flat_map(|payload| split(payload, 0)).flat_map(|packet| packet.bytes()).collect();
    s.send_bytes(&bytes).await?;
    is_in_state(shunt, &s, "active").await;
    two.of(shunt, &s).await?.kill()?;
    for payload in &commands {
        // Sent before its client could hear of the first.
        let told = s.receive_for(payload[0]).await?;
        ensure!(code(&told) == Some(UNKNOWN), "{payload:02x?}: {told:?}");
    }
    // Nothing more, and nothing less.
    assert_eq!(s.value("SELECT @a").await?, "5");
    two.revive(shunt).await?;
    s.quit().await
}

#[tokio::test]
async fn what_shunt_sees_to_itself_is_thrown_away_with_what_was_cut() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let other = login(&shunt, &app()).await?;
    let kill = command::query(format!("KILL QUERY {}", other.connection_id()));
    for behind in [vec![com::RESET_CONNECTION], kill] {
        intercepted(&mut two, &shunt, behind).await?;
    }
    failed_over(&shunt, "lost", 0.0).await;
    failed_over(&shunt, "unknown", 2.0).await;
    other.quit().await
}

/// A session with a statement of one parameter, whose transaction is lost with its CN, and which is yet to hear of it.
async fn owed(two: &mut Two, shunt: &Shunt, bound: Option<Param>) -> Result<(Raw, Prepared)> {
    let mut s = login(shunt, &app()).await?;
    let statement = s.prepare("SELECT ?").await?;
    if let Some(bound) = bound {
        s.execute(statement, &[bound]).await?.success()?;
    }
    s.run("SET @a = 5").await?;
    settled(shunt, &s).await;
    s.run("BEGIN").await?;
    s.run("INSERT INTO t (v) VALUES (4711)").await?;
    is_in_state(shunt, &s, "transaction").await;
    let lost = metric(shunt, 0, "shunt_data_failovers_total", "rolled_back").await?;
    two.of(shunt, &s).await?.kill()?;
    failed_over(shunt, "rolled_back", lost + 1.0).await;
    Ok((s, statement))
}

/// The value that a statement gave.
fn gives(answer: Response, value: &[u8]) -> Result<()> {
    let results = answer.success()?.results()?;
    let row = results.first().and_then(|set| set.rows.first()).context("no row")?;
    // A header and a map of NULLs, then the value.
    ensure!(row.get(2..) == Some(value), "{row:?}, not {value:?}");
    Ok(())
}

#[tokio::test]
async fn long_data_goes_the_way_of_its_execute() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let (mut s, statement) = owed(&mut two, &shunt, Some(Param::Blob(b"x".to_vec()))).await?;
    for expected in [Some(ROLLED_BACK), None, None] {
        for part in [b"ab", b"cd"] {
            s.send(&command::long_data(statement.id, 0, part)).await?;
        }
        let answer = s.execute(statement, &[Param::Sent]).await?;
        ensure!(code(&answer) == expected, "{answer:?}");
        if expected.is_none() {
            gives(answer, b"\x04abcd")?;
        }
    }
    assert_eq!(s.value("SELECT @a").await?, "5");
    s.quit().await
}

/// Types are sent once, and later executes go by them: those that no CN got, none goes by, on no CN, until they come again.
#[tokio::test]
async fn types_that_no_cn_got_are_not_bound() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let as_bound = Execute { omit_types: true, ..Execute::default() };
    let text = || Param::Text("abc".into());
    // Nothing was bound before, or something else.
    for bound in [None, Some(Param::Long(7))] {
        let (mut s, statement) = owed(&mut two, &shunt, bound).await?;
        let answer = s.execute(statement, &[text()]).await?;
        ensure!(code(&answer) == Some(ROLLED_BACK), "{answer:?}");
        two.revive(&shunt).await?;
        for moves in [false, true] {
            if moves {
                s.run("DO 1").await?;
                let id = s.connection_id().to_string();
                // The CN that came back is tried again in a moment.
                eventually("it moved", async || {
                    let told = shunt.try_ctl(&["-o", "json", "session", "move", &id]).await?;
                    ensure!(told.status.success(), "{told:?}");
                    anyhow::Ok(())
                })
                .await;
            }
            let answer = s.command(&command::execute(statement.id, &[text()], as_bound)).await?;
            ensure!(code(&answer) == Some(NO_STATEMENT), "moved: {moves}: {answer:?}");
        }
        gives(s.execute(statement, &[text()]).await?, b"\x03abc")?;
        gives(s.command(&command::execute(statement.id, &[text()], as_bound)).await?, b"\x03abc")?;
        s.quit().await?;
    }
    Ok(())
}
