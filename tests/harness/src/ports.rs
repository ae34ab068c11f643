//! Free TCP ports for servers that tests start.
//!
//! They are taken below the range that the kernel uses for outgoing connections, so that no client
//! of another test sits on one between the choice and the server's bind.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::TcpListener;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port on which nothing listens, and that this process was not given before.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    let mut given = GIVEN.lock();
    let given = given.get_or_insert_with(HashSet::new);
    for _ in 0..10_000 {
        let port = rand::random_range(15_000..31_000);
        if !given.contains(&port) && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port between 15000 and 31000");
}
