//! What the kernel counted of one TCP connection of this machine (sock_diag(7), as `ss -ti` asks it).

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};
use std::net::SocketAddr;

/// One end of a connection, as counted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Bytes that this end received.
    pub bytes_received: u64,
    /// Segments with data that this end received. A write is one or more; the kernel may put some
    /// writes that wait into one.
    pub segments_received: u32,
}

/// `SOCK_DIAG_BY_FAMILY`: the type of the question, and of its answer.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO`: the attribute that holds `struct tcp_info`.
const INFO: u16 = 2;
/// A message's header, and that of what an answer says before its attributes.
const HEADER: usize = 16;
const ANSWER: usize = 72;

/// Asks for the end at `own` of the connection to `peer`, both IPv4.
///
/// # Errors
/// There is no such connection, or the kernel does not tell.
pub fn tcp_info(own: SocketAddr, peer: SocketAddr) -> Result<TcpInfo> {
    let kernel = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))?;
    send(&kernel, &question(own, peer)?, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&kernel, &mut answer, RecvFlags::empty())?;
    read(answer.get(..length).context("a longer answer than asked for")?)
}

fn question(own: SocketAddr, peer: SocketAddr) -> Result<Vec<u8>> {
    let (SocketAddr::V4(own), SocketAddr::V4(peer)) = (own, peer) else { bail!("only of IPv4") };
    let mut body = vec![2, 6, 1 << (INFO - 1), 0]; // AF_INET, TCP, and what to tell
    body.extend(u32::MAX.to_ne_bytes()); // in any state
    body.extend(own.port().to_be_bytes());
    body.extend(peer.port().to_be_bytes());
    for address in [own.ip(), peer.ip()] {
        body.extend(address.octets());
        body.extend([0; 12]);
    }
    body.extend(0_u32.to_ne_bytes()); // on any interface
    body.extend([0xFF; 8]); // with any cookie
    let mut message = u32::try_from(HEADER + body.len())?.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes()); // NLM_F_REQUEST
    message.extend([0; 8]);
    message.extend(body);
    Ok(message)
}

fn read(answer: &[u8]) -> Result<TcpInfo> {
    let u16_at = |at: usize| answer.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    ensure!(u16_at(4) == Some(BY_FAMILY), "the kernel knows no such connection: {answer:02x?}");
    let mut at = HEADER + ANSWER;
    while let (Some(length), Some(kind)) = (u16_at(at), u16_at(at + 2)) {
        ensure!(length >= 4, "an attribute of {length} bytes");
        if kind == INFO {
            let info = answer.get(at + 4..at + usize::from(length)).context("cut off")?;
            let bytes = info.get(128..136).context("an old kernel")?;
            let segments = info.get(152..156).context("an old kernel")?;
            return Ok(TcpInfo {
                bytes_received: u64::from_ne_bytes(bytes.try_into()?),
                segments_received: u32::from_ne_bytes(segments.try_into()?),
            });
        }
        at += usize::from(length).next_multiple_of(4);
    }
    bail!("nothing of TCP in {answer:02x?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_one_connection_received_is_counted() -> Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        server.set_nodelay(true)?;
        let own = (client.local_addr()?, client.peer_addr()?);
        let before = tcp_info(own.0, own.1)?;
        let mut bytes = [0; 10];
        for _ in 0..100 {
            server.write_all(b"ten bytes.")?;
            client.read_exact(&mut bytes)?;
        }
        let after = tcp_info(own.0, own.1)?;
        assert_eq!(after.bytes_received - before.bytes_received, 1000);
        assert_eq!(after.segments_received - before.segments_received, 100);
        assert!(tcp_info(own.0, SocketAddr::from(([127, 0, 0, 1], 1))).is_err());
        Ok(())
    }
}
