//! Real sessions, recorded: what a client and a server said to each other after the login, packet for
//! packet, with the reference parser's verdict on each. For tests that show them to another parser.

use crate::caps::Caps;
use crate::command::com;
use crate::differential::{Way, make_accounts, run_recorded, set_up, tear_down};
use crate::mariadb::MariaDb;
use crate::random_session::{Session, Step, Surface};
use crate::wire::{Direction, Recorded};
use anyhow::{Result, ensure};

/// A recorded session.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The seed it was made from.
    pub seed: u64,
    /// The capabilities that were negotiated.
    pub caps: Caps,
    /// Its packets, in the order in which they were sent and received.
    pub packets: Vec<Recorded>,
}

impl Capture {
    /// How many bytes it has in this direction.
    pub fn bytes(&self, direction: Direction) -> usize {
        let these = self.packets.iter().filter(|recorded| recorded.direction == direction);
        these.map(|recorded| recorded.packet.payload.len() + 4).sum()
    }

    /// The packets, in runs of one direction: what could be on its way at once.
    pub fn runs(&self) -> impl Iterator<Item = &[Recorded]> {
        self.packets.chunk_by(|a, b| a.direction == b.direction)
    }
}

/// Records the sessions of these seeds. Commands that `keep` does not want are left out of them, and
/// logins in the middle of a session (COM_CHANGE_USER) always are.
///
/// # Errors
/// A server that did not answer, or refused what it must not.
pub async fn capture(cn: &MariaDb, seeds: &[u64], keep: impl Fn(u8) -> bool) -> Result<Vec<Capture>> {
    make_accounts(cn).await?;
    let way =
        Way { address: cn.address(), offered: Caps(u64::MAX), patience: crate::patience(), moves: false };
    let mut captures = Vec::new();
    for seed in seeds {
        let mut session = Session::from_seed(*seed, Surface { bulk: true, trackers: true, moves: false });
        session.steps.retain(|step| match step {
            Step::ChangeUser { .. } => false,
            Step::Command(payload) => payload.first().is_some_and(|command| keep(*command)),
            Step::Quit => keep(com::QUIT),
            _ => true,
        });
        set_up(cn, &session).await?;
        let (transcript, caps, packets) = run_recorded(way, &session).await;
        tear_down(cn, &session).await?;
        let unanswered = transcript.unanswered();
        ensure!(unanswered.is_none(), "seed {seed}: {unanswered:?}");
        captures.push(Capture { seed: *seed, caps, packets });
    }
    Ok(captures)
}
