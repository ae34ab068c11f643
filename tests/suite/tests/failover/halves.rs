//! A CN that dies in the middle of an answer that it would give again, or of a command that has none.

use crate::stand::{app, is_in_state, login, metric};
use crate::{Puppets, Two, failed_over, settled};
use anyhow::{Context as _, Result, ensure};
use shunt_harness::packet::split;
use shunt_harness::{Execute, Raw, Shunt, com, command};

async fn session(shunt: &Shunt) -> Result<Raw> {
    let mut s = login(shunt, &app()).await?;
    s.run("SET @a = 5").await?;
    settled(shunt, &s).await;
    Ok(s)
}

/// Its client has some of the definitions: it would read those of another CN as more of them.
#[tokio::test]
async fn columns_that_are_told_by_half_are_not_asked_for_again() -> Result<()> {
    let two = Puppets::start().await?;
    let mut s = session(&two.shunt).await?;
    let asked = command::field_list("t", "");
    let whole = s.command(&asked).await?.success()?.packets;
    let first = whole.first().context("no definition")?.bytes();
    ensure!(whole.len() == 3, "{whole:?}");
    let on = two.of(&s).await?;
    let other = two.other(&s).await?;
    other.count(&asked);
    on.cut(&asked, first.len());
    s.send(&asked).await?;
    ensure!(s.read_packet().await?.bytes() == first, "another definition");
    on.die().await;
    match s.read_packet().await {
        Ok(packet) => ensure!(packet.payload.first() == Some(&0xFF), "more definitions: {packet:?}"),
        Err(_) => failed_over(&two.shunt, "closed", 1.0).await,
    }
    failed_over(&two.shunt, "answered", 0.0).await;
    ensure!(other.counted() == 0, "it was asked again");
    Ok(())
}

/// Nobody could be told where it ends.
#[tokio::test]
async fn a_command_without_an_answer_that_is_half_sent_cannot_go_on_elsewhere() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    let statement = s.prepare("SELECT ?").await?;
    s.run("SET @a = 5").await?;
    settled(&shunt, &s).await;
    let data = split(&command::long_data(statement.id, 0, &[b'x'; 5000]), 0)[0].bytes();
    let passed = metric(&shunt, 0, "shunt_data_bytes_from_clients_total", "").await?;
    s.send_bytes(&data[..2500]).await?;
    shunt_harness::eventually("it is passed on", async || {
        let now = metric(&shunt, 0, "shunt_data_bytes_from_clients_total", "").await?;
        ensure!(now - passed >= 2500.0, "{now}, {passed} before");
        anyhow::Ok(())
    })
    .await;
    two.of(&shunt, &s).await?.kill()?;
    s.closed().await?;
    failed_over(&shunt, "closed", 1.0).await;
    Ok(())
}

/// One that is so short that it waits to be whole goes to the CN that is there then.
#[tokio::test]
async fn a_close_that_is_half_sent_goes_where_the_session_goes() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    let statement = s.prepare("SELECT 'it'").await?;
    s.run("SET @a = 5").await?;
    settled(&shunt, &s).await;
    let close = split(&command::about_statement(com::STMT_CLOSE, statement.id), 0)[0].bytes();
    s.send_bytes(&close[..6]).await?;
    two.of(&shunt, &s).await?.kill()?;
    failed_over(&shunt, "unnoticed", 1.0).await;
    is_in_state(&shunt, &s, "idle").await;
    s.send_bytes(&close[6..]).await?;
    assert_eq!(s.value("SELECT @a").await?, "5");
    let gone = s.command(&command::execute(statement.id, &[], Execute::default())).await?;
    ensure!(gone.err().map(|err| err.code) == Some(1243), "{gone:?}");
    s.quit().await
}
