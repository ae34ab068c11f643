//! A log that nobody reads: whoever started the program stands still, or its pipe is full.

use crate::stand::{app, group_of, login, seen, setup, shared_cn};
use anyhow::{Result, ensure};
use rustix::pipe::{PipeFlags, pipe_with};
use shunt_harness::eventually;
use shunt_harness::shunt::program;
use std::process::{Command, Stdio};

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() -> Result<()> {
    let mut shunt = setup().group(group_of(&[shared_cn().await])).planes(1).await?;
    seen(&shunt).await;
    shunt.plane("data-1").stop().await?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut data_plane = Command::new(program("shunt-data")?)
        .arg("--config")
        .arg(shunt.folder().join("data-1.yaml"))
        .env("RUST_LOG", "shunt_data=trace")
        .stderr(Stdio::from(writer))
        .spawn()?;
    let served = async {
        eventually("it accepts", async || login(&shunt, &app()).await).await;
        // A session's end is a line of some 300 bytes, a pipe has room for 64 KiB.
        for _ in 0..400 {
            login(&shunt, &app()).await?.quit().await?;
        }
        let waiting = rustix::io::ioctl_fionread(&reader)?;
        ensure!(waiting > 60_000, "the pipe has room: {waiting} bytes wait in it");
        let mut session = login(&shunt, &app()).await?;
        assert_eq!(session.value("SELECT 1").await?, "1");
        session.quit().await
    }
    .await;
    data_plane.kill()?;
    data_plane.wait()?;
    served
}
