//! A CN that lets everybody in and then misbehaves, in the way that the client's query names. It knows just enough of
//! the protocol to be taken for one.

use anyhow::Result;
use shunt_harness::packet::{Packet, header};
use shunt_harness::{Caps, com};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How it misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Not before a query asks for it.
    Query,
    /// In place of its greeting.
    Greeting(&'static [u8]),
    /// In answer to the login.
    Login(&'static [u8]),
}

/// A fake CN. It ends with the value.
pub(crate) struct FakeCn {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];

impl FakeCn {
    pub(crate) async fn start(at: At) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                sessions.spawn(async move { drop(serve(client, at).await) });
            }
        });
        Ok(Self { address, _accepting: accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn greeting() -> Vec<u8> {
    // All that MariaDB 10.11 has, but for CLIENT_MYSQL.
    let caps = (Caps(0x1d_81ff_f7fe)).0.to_le_bytes();
    let mut payload = b"\x0a5.5.5-10.11.0-FakeDB\0".to_vec();
    payload.extend(7_u32.to_le_bytes());
    payload.extend(b"saltsalt\0");
    payload.extend(&caps[..2]);
    payload.extend([45, 2, 0]);
    payload.extend(&caps[2..4]);
    payload.push(21);
    payload.extend([0; 6]);
    payload.extend(&caps[4..]);
    payload.extend(b"saltsaltsalt\0mysql_native_password\0");
    payload
}

async fn say(client: &mut TcpStream, sequence: u8, payload: &[u8]) -> Result<()> {
    client.write_all(&header(payload.len(), sequence)).await?;
    Ok(client.write_all(payload).await?)
}

async fn serve(mut client: TcpStream, at: At) -> Result<()> {
    if let At::Greeting(bytes) = at {
        client.write_all(bytes).await?;
        return wait(&mut client).await;
    }
    say(&mut client, 0, &greeting()).await?;
    Packet::read(&mut client).await?;
    if let At::Login(bytes) = at {
        client.write_all(bytes).await?;
        return wait(&mut client).await;
    }
    say(&mut client, 2, &OK).await?;
    loop {
        let command = Packet::read(&mut client).await?.payload;
        match command.split_first() {
            Some((&com::QUERY, sql)) if !sql.starts_with(b"SET ") && sql != b"DO 1" => {
                return misbehave(&mut client, &String::from_utf8_lossy(sql)).await;
            }
            Some((&com::QUIT, _)) | None => return Ok(()),
            Some(_) => say(&mut client, 1, &OK).await?,
        }
    }
}

/// Takes what comes, and says nothing, until the other side closes.
async fn wait(client: &mut TcpStream) -> Result<()> {
    let mut bytes = [0; 4096];
    while client.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn misbehave(client: &mut TcpStream, how: &str) -> Result<()> {
    match how {
        "noise" => {
            let noise: Vec<u8> =
                (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            client.write_all(&noise).await?;
        }
        "nothing" => {}
        "half a header" => client.write_all(&[7, 0]).await?,
        "half a packet" => client.write_all(&[&header(100, 1)[..], &[0; 50]].concat()).await?,
        "an empty packet" => say(client, 1, &[]).await?,
        "an OK that is cut off" => say(client, 1, &OK[..4]).await?,
        "an OK of two megabytes" => say(client, 1, &vec![0; 2 << 20]).await?,
        "a state that is none" => {
            say(client, 1, &[0, 0, 0, 2, 0x40, 0, 0, 0, 9, 0, 200, 1, 1, 1, 1, 1, 1, 1]).await?
        }
        "two OKs" => {
            say(client, 1, &OK).await?;
            say(client, 2, &OK).await?;
        }
        "too many columns" => say(client, 1, &[0xFC, 0xFF, 0xFF]).await?,
        "more columns than there can be" => say(client, 1, &[0xFE, 0, 0, 0, 0, 0, 0, 0, 0xFF]).await?,
        "an ERR that is cut off" => say(client, 1, &[0xFF, 1]).await?,
        "an end without rows" => say(client, 1, &[0xFE, 0, 0, 2, 0]).await?,
        "a close" => return Ok(()),
        "a reset" => return Ok(client.set_zero_linger()?),
        "OKs without an end" => loop {
            // Another result follows.
            say(client, 1, &[0, 0, 0, 0x0A, 0, 0, 0]).await?;
        },
        "a row without an end" => {
            say(client, 1, &[1]).await?;
            say(client, 2, b"\x03def\0\0\0\x01a\0\x0c\x2d\0\x04\0\0\0\xFD\0\0\0\0\0").await?;
            say(client, 3, &[0xFE, 0, 0, 2, 0]).await?;
            let full = vec![b'x'; 0xFF_FFFF];
            for sequence in (4..=255).cycle() {
                say(client, sequence, &full).await?;
            }
        }
        other => panic!("the fake CN was asked for {other:?}"),
    }
    wait(client).await
}
