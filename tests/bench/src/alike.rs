//! A real server's answers: what is asked for the first time is asked of that server, and said again at once ever after.
//!
//! So a fake CN knows whatever a CN is asked about a session's state, and takes no time over it. All its sessions are
//! alike, as sessions are in which nothing was set.

use anyhow::{Context as _, Result};
use shunt_harness::{Caps, Login, Raw};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The connection id of every session: it is in answers, too.
pub(crate) const CONNECTION_ID: u32 = 7;

/// What a server said.
pub(crate) struct Alike {
    server: SocketAddr,
    /// By the capabilities that shape answers.
    known: Mutex<HashMap<u64, Known>>,
}

/// What it said to a client with certain capabilities, and the session in which it is asked.
struct Known {
    answers: HashMap<Vec<u8>, Arc<[u8]>>,
    session: Raw,
}

impl Alike {
    /// Of this server, which lets `app` in.
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self { server, known: Mutex::default() }
    }

    /// The answer to a command.
    ///
    /// # Errors
    /// It is not known, and the server does not say it.
    pub(crate) async fn answer(&self, caps: Caps, command: &[u8]) -> Result<Arc<[u8]>> {
        let mut all = self.known.lock().await;
        let known = match all.entry(caps.0) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let session = self.log_in(caps).await?;
                place.insert(Known { answers: HashMap::new(), session })
            }
        };
        if let Some(answer) = known.answers.get(command) {
            return Ok(Arc::clone(answer));
        }
        let response =
            known.session.command(command).await.with_context(|| format!("ask {}", self.server))?;
        let bytes: Arc<[u8]> = response.packets.iter().flat_map(|packet| packet.bytes()).collect();
        known.answers.insert(command.to_vec(), Arc::clone(&bytes));
        Ok(bytes)
    }

    async fn log_in(&self, caps: Caps) -> Result<Raw> {
        let mut login = Login::user("app").password("app");
        login.caps = caps;
        let mut session = Raw::login(self.server, &login).await?;
        // What is another in each session of a server is the same in all of these, whichever fake asked.
        session
            .run(format!("SET pseudo_thread_id = {CONNECTION_ID}, rand_seed1 = 1, rand_seed2 = 2"))
            .await?;
        Ok(session)
    }
}
