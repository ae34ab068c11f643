//! Free TCP ports for servers that tests start.
//!
//! They are taken below the range that the kernel uses for outgoing connections, so that no client
//! of another test sits on one between the choice and the server's bind. A port that was given is
//! claimed until this process ends, so that no other test process is given it in the meantime.

use parking_lot::Mutex;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The claims of this process.
static CLAIMED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port on which nothing listens, and that no test process was given before.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    free_ports(&[0])
}

/// A port with which those that are so much above it are free as well.
///
/// # Panics
/// There is none.
pub fn free_ports(above: &[u16]) -> u16 {
    for _ in 0..10_000 {
        let base = rand::random_range(15_000..31_000);
        let claims: Option<Vec<_>> = above.iter().map(|n| claim(base + n)).collect();
        if let Some(claims) = claims {
            CLAIMED.lock().extend(claims);
            return base;
        }
    }
    panic!("no free port between 15000 and 31000");
}

/// Takes a port for this process. A name in the abstract namespace is the claim: the kernel gives it
/// to one process, of one network namespace, and takes it back with the process.
fn claim(port: u16) -> Option<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(format!("shunt-test-port-{port}")).ok()?;
    let claim = UnixDatagram::bind_addr(&name).ok()?;
    TcpListener::bind(("0.0.0.0", port)).is_ok().then_some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let base = free_ports(&[0, 1, 100]);
        for port in [base, base + 1, base + 100] {
            assert!(claim(port).is_none(), "{port} is given again");
            TcpListener::bind(("127.0.0.1", port)).expect("nothing listens there");
        }
        assert!(!(0..100).any(|_| free_port() == base));
    }
}
