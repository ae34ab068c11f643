//! A CN that says goodbye: an ERR that nobody asked for, and then its end.

use crate::stand::{app, login};
use crate::{Puppets, failed_over, settled};
use anyhow::{Result, ensure};
use shunt_harness::packet::Packet;

/// As a server numbers what it says unasked, and what some say when they end a session.
fn farewell(code: u16) -> Vec<u8> {
    let payload = [&[0xFF][..], &code.to_le_bytes(), b"#08S01goodbye"].concat();
    Packet { sequence: 0, payload }.bytes()
}

/// Its client reads it next, whatever it sends: another answer behind it would be taken for that of the command after.
/// So the session ends with its CN.
#[tokio::test]
async fn an_err_that_nobody_asked_for_is_the_last_that_its_client_reads() -> Result<()> {
    for code in [1927, 1053, 4031] {
        let two = Puppets::start().await?;
        let mut s = login(&two.shunt, &app()).await?;
        s.run("SET @a = 5").await?;
        settled(&two.shunt, &s).await;
        // Nothing of it stands in the way of going on but that.
        s.run("SELECT 1").await?;
        let cn = two.of(&s).await?;
        cn.say(farewell(code));
        let said = s.read_packet().await?;
        ensure!(said.payload.first() == Some(&0xFF) && said.payload[1..3] == code.to_le_bytes(), "{said:?}");
        cn.die().await;
        s.closed().await?;
        for outcome in ["unnoticed", "answered", "rolled_back", "unknown", "lost"] {
            failed_over(&two.shunt, outcome, 0.0).await;
        }
    }
    Ok(())
}
