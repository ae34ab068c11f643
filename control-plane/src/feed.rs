//! What is sent next to one data plane: a delta from what it holds to the newest state, or a snapshot. Pure.
//!
//! One state is under way at a time; the next is made when that one was acknowledged. So a slow data plane gets one
//! merged delta instead of a queue. A refused delta is followed by a snapshot; a refused snapshot by nothing until
//! there is a newer state, and then by a snapshot again.

use crate::cluster::View;
use shunt_proto::pb::{self, control_frame::Frame};
use shunt_proto::snapshot::{RoutingSnapshot, Version};

/// The size of a frame, about. A delta that is larger goes as a snapshot, which has chunks.
const FRAME: usize = 192 * 1024;

/// What one data plane holds and waits for.
#[derive(Debug)]
pub(crate) struct Feed {
    /// What it holds once all that was sent is applied; none: nothing that is known here.
    holds: Option<Version>,
    /// What it has not acknowledged yet.
    sent: Option<Sent>,
    /// It refused a snapshot of this.
    refused: Option<Version>,
}

#[derive(Debug)]
struct Sent {
    version: Version,
    whole: bool,
}

impl Feed {
    /// For a data plane that says what it has.
    pub(crate) const fn new(have: Option<Version>) -> Self {
        Self { holds: have, sent: None, refused: None }
    }

    /// The revision of what it has, where that is known, so that no snapshot is needed.
    pub(crate) fn resumes(&self, view: &View) -> Option<u64> {
        let have = self.holds.as_ref()?;
        view.history.delta(have, &view.snapshot).map(|_| have.revision)
    }

    /// The frames to send now; none where it has the newest, or has yet to acknowledge.
    pub(crate) fn next(&mut self, view: &View) -> Vec<Frame> {
        let newest = &view.snapshot;
        let version = newest.version();
        if self.sent.is_some() || self.holds.as_ref() == Some(version) {
            return Vec::new();
        }
        if self.holds.is_none() && self.refused.as_ref() == Some(version) {
            return Vec::new();
        }
        let delta = self.holds.as_ref().and_then(|have| view.history.delta(have, newest));
        let delta = delta.map(|delta| pb::Delta::from(&delta));
        let delta = delta.filter(|delta| prost::Message::encoded_len(delta) <= FRAME);
        self.sent = Some(Sent { version: version.clone(), whole: delta.is_none() });
        self.holds = Some(version.clone());
        match delta {
            Some(delta) => vec![Frame::Delta(delta)],
            None => chunks(newest),
        }
    }

    /// It answered what was sent. An answer to something else is of no interest here.
    pub(crate) fn acked(&mut self, revision: u64, refused: bool) {
        let Some(Sent { version, whole }) = self.sent.take_if(|sent| sent.version.revision == revision)
        else {
            return;
        };
        if refused {
            self.holds = None;
            self.refused = whole.then_some(version);
        } else {
            self.refused = None;
        }
    }
}

/// A snapshot, cut between entries.
fn chunks(snapshot: &RoutingSnapshot) -> Vec<Frame> {
    let version = snapshot.version();
    let chunk =
        |entries, last| Frame::Snapshot(pb::Snapshot { version: Some(version.into()), entries, last });
    let mut frames = Vec::new();
    let mut entries = Vec::new();
    let mut size = 0;
    for (_, entry) in snapshot.entries() {
        let entry = pb::Entry::from(entry);
        let length = prost::Message::encoded_len(&entry);
        if size + length > FRAME && !entries.is_empty() {
            frames.push(chunk(std::mem::take(&mut entries), false));
            size = 0;
        }
        size += length;
        entries.push(entry);
    }
    frames.push(chunk(entries, true));
    frames
}

#[cfg(test)]
mod tests;
