//! Forwarding: bytes of a client to its CN and back, in the bursts that they come in.
//!
//! One read and one write a burst in each direction, through a buffer of the worker's: an idle session holds none. What
//! cannot be written at once is kept until it can, and nothing more is read from the other side meanwhile, so that a
//! session holds about two bursts for each direction at most. Both sockets are polled always.
//!
//! Must not know: why this CN, what becomes of a session whose relay ends.

pub(crate) mod cut;
pub(crate) mod hold;
mod owed;

use super::inbox::{Inbox, Order};
use super::mirror::{Mirror, Transaction};
use super::pin::PinReason;
use super::settle::queue::Settling;
use crate::sessions::{State, View};
use crate::socket::Socket;
use crate::wire::Peer;
use crate::worker::Totals;
use hold::Hold;
use mysql_wire::packet::HEADER;
use mysql_wire::request::{MAX_PENDING, Requests, Stop, Violation};
use mysql_wire::response::{Desync, Responses};
use mysql_wire::track::Subscription;
use rustix::event::{PollFd, PollFlags};
use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes of a worker's buffer, and so of a burst.
pub(crate) const BURST: usize = 64 * 1024;

/// Bursts of one session in a row: then the others of the worker have their turn.
const TURN: usize = 8;

/// How often a peer that takes nothing, or is not read, is asked whether it is still there.
const STILL_THERE: Duration = Duration::from_secs(1);

/// How often a client that takes nothing of what its CN said last, before it closed, is asked: then it is given up.
const ASKED_IN_VAIN: u32 = 10;

/// What a session must see to itself.
#[derive(Debug)]
pub(crate) enum Event {
    /// A command that does not go to the CN as it is. All before it is answered. Its packet, header included.
    Intercepted(Vec<u8>),
    /// The client may have narrowed the trackers. No command is under way.
    Retrack,
    /// The CN is to say what texts are parsed by now. No command is under way.
    Ask,
    /// The CN answered with an error that says that it is unwell itself.
    Suspect(u16),
    /// The session rests, and is to be closed then.
    AtRest,
    /// A session that is held rests.
    Rest,
    /// The next command of a session that is held is there, and was not forwarded.
    Arrived,
    /// The next command of a session that is held would end its transaction and begin one. It was not forwarded.
    Begin,
    /// Somebody wants something of the session.
    Order(Order),
    /// The client is gone.
    ClientGone,
    /// The client breaks the protocol.
    Violation(Violation),
    /// The CN closed.
    CnGone,
    /// The CN says what nobody asked for.
    Desync(Desync),
}

/// Bytes that passed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) from_client: u64,
    pub(crate) from_cn: u64,
}

/// A client and its CN, joined.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: Socket,
    pub(crate) cn: Socket,
    requests: Requests,
    responses: Responses,
    pub(crate) mirror: Mirror,
    /// Read from the client, and not to be forwarded yet.
    client_held: Vec<u8>,
    /// What is held may be more than the beginning of something.
    again: bool,
    /// Why the client is not read.
    stopped: Option<Stop>,
    /// The beginning of a packet of the CN.
    cn_held: Vec<u8>,
    to_client: Vec<u8>,
    to_cn: Vec<u8>,
    /// Runs while something cannot be written, or is not told, and while the client is not read.
    still_there: Option<Pin<Box<Sleep>>>,
    /// The CN closed, and the client was not told all that it said.
    has_cn_ended: bool,
    /// How often it ran out while nothing moved, and what had moved by then.
    in_vain: (u32, u64, usize),
    retrack: bool,
    tells_rest: bool,
    /// It is held for a move.
    hold: Hold,
    /// What the client's next command gets in place of an answer.
    owed: Option<Box<owed::Owed>>,
    /// It rests as soon as the client was told what it was answered.
    comes_to_rest: bool,
    pub(crate) passed: Passed,
    /// Where the session's state is shown.
    view: Rc<View>,
    /// What all sessions of the worker have moved.
    totals: Rc<Totals>,
    /// Of its queries, those that the totals have.
    counted: u32,
    /// Sessions that are to be settled.
    settling: Rc<Settling>,
    /// Of its queries, those that there were when it was settled last.
    settle_tried: Option<u32>,
}

/// A worker's buffer, shared by its sessions.
pub(crate) type Buffer = Rc<RefCell<Vec<u8>>>;

impl Link {
    pub(crate) fn new(
        client: (Socket, Vec<u8>),
        cn: (Socket, Vec<u8>),
        responses: Responses,
        mirror: Mirror,
        view: Rc<View>,
        totals: Rc<Totals>,
        settling: Rc<Settling>,
    ) -> Self {
        // Nothing was asked of the CN yet: what was read ahead of it is the beginning of trouble, and seen as such.
        Self {
            client: client.0,
            cn: cn.0,
            requests: Requests::default(),
            responses,
            mirror,
            again: !client.1.is_empty(),
            client_held: client.1,
            stopped: None,
            cn_held: cn.1,
            to_client: Vec::new(),
            to_cn: Vec::new(),
            still_there: None,
            has_cn_ended: false,
            in_vain: (0, 0, 0),
            retrack: false,
            tells_rest: false,
            hold: Hold::No,
            owed: None,
            comes_to_rest: false,
            passed: Passed::default(),
            view,
            totals,
            counted: 0,
            settling,
            settle_tried: None,
        }
    }

    /// Whether some command awaits its response.
    pub(crate) fn is_awaiting(&self) -> bool {
        self.requests.awaited() > 0
    }

    /// Whether an ERR of ours may stand where the client reads next.
    pub(crate) fn is_at_packet(&self) -> bool {
        let begun = self.responses.is_at_packet() && self.cn_held.is_empty() && self.to_client.is_empty();
        begun && !self.requests.is_uploading() && self.responses.is_before_result()
    }

    /// Whether the CN would read what is written to it now as a command.
    pub(crate) fn is_at_command(&self) -> bool {
        self.requests.is_at_command() && self.to_cn.is_empty()
    }

    /// What the client is shown of changes.
    pub(crate) const fn shown(&mut self) -> &mut Option<Subscription> {
        &mut self.responses.shown
    }

    /// Whether the client is told of changes.
    pub(crate) const fn is_shown_changes(&self) -> bool {
        self.responses.shown.is_some()
    }

    /// The intercepted command was seen to; forwarding goes on behind it.
    pub(crate) fn go_on(&mut self) {
        self.stopped = None;
        self.again = true;
    }

    /// The intercepted command goes to the CN after all.
    pub(crate) fn pass(&mut self, packet: &[u8]) {
        self.requests.pass(packet, &mut self.mirror);
        self.to_cn.extend_from_slice(packet);
        self.go_on();
    }

    /// The sequence number of an ERR that stands where the client reads next.
    pub(crate) fn next_seq(&self) -> u8 {
        if self.is_awaiting() { self.responses.next_seq(&self.requests) } else { 1 }
    }

    /// The client, for a conversation while nothing is under way.
    pub(crate) const fn client_peer(&mut self) -> Peer<'_> {
        Peer { socket: &mut self.client, unread: &mut self.client_held }
    }

    /// The CN, for a question while nothing is under way.
    pub(crate) const fn cn_peer(&mut self) -> Peer<'_> {
        Peer { socket: &mut self.cn, unread: &mut self.cn_held }
    }

    /// From now on it is told when the session rests: no command and no transaction under way.
    pub(crate) const fn tell_rest(&mut self) {
        self.tells_rest = true;
    }

    /// Sends `bytes` to the client behind what is on its way.
    pub(crate) fn reply(&mut self, bytes: &[u8]) {
        self.to_client.extend_from_slice(bytes);
    }

    /// The session goes on with another CN, which was given its state. Gives the old one's socket.
    pub(crate) fn move_to(&mut self, cn: (Socket, Vec<u8>), _: &hold::SafePoint) -> Socket {
        self.cn_held = cn.1;
        std::mem::replace(&mut self.cn, cn.0)
    }

    /// Puts another CN in the place of this one, and gives the old one's socket.
    pub(crate) fn swap(&mut self, cn: (Socket, Vec<u8>), responses: Responses, mirror: Mirror) -> Socket {
        self.responses = responses;
        self.mirror = mirror;
        self.counted = 0;
        self.has_cn_ended = false;
        self.cn_held = cn.1;
        std::mem::replace(&mut self.cn, cn.0)
    }

    /// Forwards until there is something to see to. Cancel safe.
    pub(crate) async fn forward(&mut self, buffer: &Buffer, inbox: &Inbox) -> Event {
        poll_fn(|cx| {
            let mut buffer = buffer.borrow_mut();
            self.poll_forward(cx, &mut buffer, inbox)
        })
        .await
    }

    fn poll_forward(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], inbox: &Inbox) -> Poll<Event> {
        if let Some(order) = inbox.poll(cx) {
            return Poll::Ready(Event::Order(order));
        }
        for _ in 0..TURN {
            let mut moved = self.poll_flush(cx);
            if self.to_client.is_empty() {
                match self.poll_cn(cx, buffer) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(event)) => return Poll::Ready(event),
                    Poll::Pending => {}
                }
            }
            if self.hold != Hold::No
                && let Some(event) = self.due(cx).or_else(|| self.held(cx))
            {
                return Poll::Ready(event);
            }
            match self.poll_client(cx, buffer) {
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(event)) => return Poll::Ready(event),
                Poll::Pending => {}
            }
            if let Some(event) = self.due(cx) {
                return Poll::Ready(event);
            }
            if !moved {
                self.show();
                return self.poll_blocked(cx);
            }
        }
        cx.waker().wake_by_ref();
        // The thread may not sleep for long: what this and other sessions wait for goes to the kernel all the same.
        shunt_ring::submit();
        Poll::Pending
    }

    /// Shows what the session is at, for whoever lists sessions.
    fn show(&mut self) {
        let queries = self.mirror.queries();
        let more = u64::from(queries.wrapping_sub(self.counted));
        self.counted = queries;
        self.totals.queries.update(|sum| sum + more);
        let state = match self.mirror.transaction() {
            _ if self.requests.awaited() > 0 || self.requests.is_uploading() => State::Active,
            Transaction::Open => State::Transaction,
            Transaction::No | Transaction::Unknown => State::Idle,
        };
        let upload = if self.requests.is_uploading() { PinReason::Upload.bit() } else { 0 };
        self.view.show(state, self.mirror.pins() | upload, queries);
        let is_to_ask = self.mirror.since().is_to_ask(self.settling.code_may_be());
        self.view.show_unsettled(is_to_ask);
        if is_to_ask && self.settle_tried != Some(queries) {
            self.settling.add(&self.view, None);
        }
    }

    /// It was settled, or could not be: it is tried again when the client asked for something more.
    pub(crate) const fn settle_was_tried(&mut self) {
        self.settle_tried = Some(self.mirror.queries());
    }

    /// What is due once everything before it is answered.
    fn due(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if let Some(code) = self.mirror.take_suspect() {
            return Some(Event::Suspect(code));
        }
        if self.mirror.take_trackers_touched() {
            self.retrack = true;
        }
        if self.requests.awaited() > 0 || !self.requests.is_at_command() || !self.to_cn.is_empty() {
            return None;
        }
        if self.retrack {
            if self.mirror.transaction() == Transaction::No && !self.mirror.left().counts_rows() {
                self.retrack = false;
                return Some(Event::Retrack);
            }
            // Nothing of ours may come into a transaction, nor between a statement and its ROW_COUNT. What happens
            // meanwhile may be missed.
            self.mirror.missed();
        }
        if self.mirror.take_ask() && self.mirror.transaction() == Transaction::No {
            return Some(Event::Ask);
        }
        let rests = self.client_held.is_empty() && !self.mirror.may_be_in_transaction();
        if self.tells_rest && rests && self.to_client.is_empty() {
            // Meanwhile the client is not read: one that asks on and on would never rest.
            self.comes_to_rest = !self.is_client_told(cx);
            if !self.comes_to_rest {
                return Some(Event::AtRest);
            }
        }
        if let Some(Stop::Intercepted(len)) = self.stopped {
            let rest = self.client_held.split_off(len);
            return Some(Event::Intercepted(std::mem::replace(&mut self.client_held, rest)));
        }
        None
    }

    /// Writes what could not be written before. True where some of it went.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        flush(&mut self.client, &mut self.to_client, cx) | flush(&mut self.cn, &mut self.to_cn, cx)
    }

    /// A burst of the CN.
    fn poll_cn(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<(), Event>> {
        let held = self.cn_held.len();
        if held + HEADER >= buffer.len() {
            return self.poll_long_packet(cx);
        }
        let mut read = ReadBuf::new(&mut buffer[held..]);
        match ready!(Pin::new(&mut self.cn).poll_read(cx, &mut read)) {
            Ok(()) if !read.filled().is_empty() => {}
            _ => return self.poll_cn_ended(cx),
        }
        let n = read.filled().len();
        self.passed.from_cn += n as u64;
        self.totals.from_cn.update(|sum| sum + n as u64);
        buffer[..held].copy_from_slice(&self.cn_held);
        let burst = &mut buffer[..held + n];
        let advanced = match self.responses.advance(burst, &mut self.requests, &mut self.mirror) {
            Ok(advanced) => advanced,
            Err(desync) => return Poll::Ready(Err(Event::Desync(desync))),
        };
        if self.requests.is_uploading() && self.stopped.is_some() {
            // A server would take the command behind it for the file.
            return Poll::Ready(Err(Event::Violation(Violation::SentAhead)));
        }
        self.cn_held.clear();
        self.cn_held.extend_from_slice(&burst[advanced.held..]);
        if self.cn_held.is_empty() {
            self.cn_held = Vec::new();
        }
        let burst = &burst[..advanced.forward];
        write(&mut self.client, &mut self.to_client, burst, cx);
        Poll::Ready(Ok(()))
    }

    /// The CN said its last. It is over when the client has been told all of it; until then a read says it again.
    fn poll_cn_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        self.has_cn_ended = true;
        if self.is_client_told(cx) { Poll::Ready(Err(Event::CnGone)) } else { Poll::Pending }
    }

    /// Whether whatever was to be told to the client is with the kernel, which delivers it also behind a close.
    fn is_client_told(&mut self, cx: &mut Context<'_>) -> bool {
        self.to_client.is_empty() && Pin::new(&mut self.client).poll_flush(cx).is_ready()
    }

    /// A packet that must be decoded and is longer than the worker's buffer: read into a buffer of its own, which
    /// [`mysql_wire::response::MAX_DECODED`] bounds.
    fn poll_long_packet(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        let held = self.cn_held.len();
        self.cn_held.resize(held + BURST, 0);
        let mut read = ReadBuf::new(&mut self.cn_held[held..]);
        let polled = Pin::new(&mut self.cn).poll_read(cx, &mut read);
        let n = read.filled().len();
        self.cn_held.truncate(held + n);
        match ready!(polled) {
            Ok(()) if n > 0 => {}
            _ => return self.poll_cn_ended(cx),
        }
        self.passed.from_cn += n as u64;
        self.totals.from_cn.update(|sum| sum + n as u64);
        let mut burst = std::mem::take(&mut self.cn_held);
        match self.responses.advance(&mut burst, &mut self.requests, &mut self.mirror) {
            Ok(advanced) => {
                self.cn_held = burst.split_off(advanced.held);
                write(&mut self.client, &mut self.to_client, &burst[..advanced.forward], cx);
                Poll::Ready(Ok(()))
            }
            Err(desync) => Poll::Ready(Err(Event::Desync(desync))),
        }
    }

    /// A burst of the client, or what was held of one.
    fn poll_client(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<(), Event>> {
        if !self.to_cn.is_empty() || self.comes_to_rest {
            return Poll::Pending;
        }
        if self.is_held_back() {
            return Poll::Pending;
        }
        if self.owed.is_some() {
            return self.poll_owed(cx);
        }
        match self.stopped {
            Some(Stop::Full) if self.requests.awaited() <= MAX_PENDING / 2 => self.go_on(),
            Some(_) => return Poll::Pending,
            None => {}
        }
        if std::mem::take(&mut self.again) && !self.client_held.is_empty() {
            let mut held = std::mem::take(&mut self.client_held);
            return Poll::Ready(self.advance(&mut held, cx));
        }
        let held = self.client_held.len();
        if held >= buffer.len() {
            return self.poll_long_command(cx);
        }
        let mut read = ReadBuf::new(&mut buffer[held..]);
        match ready!(Pin::new(&mut self.client).poll_read(cx, &mut read)) {
            Ok(()) if read.filled().is_empty() => return Poll::Ready(Err(Event::ClientGone)),
            Err(_) => return Poll::Ready(Err(Event::ClientGone)),
            Ok(()) => {}
        }
        let n = read.filled().len();
        self.passed.from_client += n as u64;
        self.totals.from_client.update(|sum| sum + n as u64);
        buffer[..held].copy_from_slice(&self.client_held);
        self.client_held = Vec::new();
        Poll::Ready(self.advance(&mut buffer[..held + n], cx))
    }

    /// A command that must be there whole and is longer than the worker's buffer: a login, which
    /// [`mysql_wire::login::MAX_LOGIN`] bounds, or as much of an execute as tells the types of its 65,535 parameters.
    fn poll_long_command(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        ready!(self.poll_read_more(cx))?;
        let mut bytes = std::mem::take(&mut self.client_held);
        Poll::Ready(self.advance(&mut bytes, cx))
    }

    /// Reads more of the client, behind what is held.
    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        let held = self.client_held.len();
        self.client_held.resize(held + BURST, 0);
        let mut read = ReadBuf::new(&mut self.client_held[held..]);
        let polled = Pin::new(&mut self.client).poll_read(cx, &mut read);
        let n = read.filled().len();
        self.client_held.truncate(held + n);
        match ready!(polled) {
            Ok(()) if n > 0 => {}
            _ => return Poll::Ready(Err(Event::ClientGone)),
        }
        self.passed.from_client += n as u64;
        self.totals.from_client.update(|sum| sum + n as u64);
        Poll::Ready(Ok(()))
    }

    /// Forwards what can be of `bytes`, and holds the rest.
    fn advance(&mut self, bytes: &mut [u8], cx: &mut Context<'_>) -> Result<(), Event> {
        if self.hold != Hold::No && self.requests.is_at_command() {
            if let Some(event) = self.arrives(bytes) {
                self.client_held.extend_from_slice(bytes);
                return Err(event);
            }
            if self.hold == Hold::Command {
                self.client_held.extend_from_slice(bytes);
                return Ok(());
            }
        }
        if (self.mirror.has_refused() || !self.mirror.lost().is_nothing())
            && self.requests.is_at_command()
            && let Some(err) = self.owes_for(bytes)
        {
            self.client_held.extend_from_slice(bytes);
            self.owe(err);
            return Ok(());
        }
        let (taken, stop) = self.requests.advance(bytes, &mut self.mirror).map_err(Event::Violation)?;
        self.client_held.extend_from_slice(&bytes[taken..]);
        if self.hold != Hold::No && (taken > 0 || matches!(stop, Some(Stop::Intercepted(_)))) {
            self.hold = Hold::Rest { passed: true };
        }
        // A beginning is only waited for: nothing keeps the client from being read.
        self.stopped = stop.filter(|stop| *stop != Stop::Partial);
        write(&mut self.cn, &mut self.to_cn, &bytes[..taken], cx);
        Ok(())
    }

    /// Nothing can be moved now. Where a peer takes nothing, the other one may have left unseen: it is looked after. So
    /// is a client that is not read, because a command of its waits for the answers to those before it.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let flows = self.to_client.is_empty() && self.to_cn.is_empty() && !self.has_cn_ended;
        if flows && self.stopped.is_none() && !self.comes_to_rest && !self.is_held_back() {
            self.still_there = None;
            return Poll::Pending;
        }
        loop {
            let timer = self.still_there.get_or_insert_with(|| Box::pin(sleep(STILL_THERE)));
            ready!(timer.as_mut().poll(cx));
            self.still_there = None;
            if hung_up(&self.client) {
                return Poll::Ready(Event::ClientGone);
            }
            if hung_up(&self.cn) && (self.is_client_told(cx) || self.is_given_up()) {
                return Poll::Ready(Event::CnGone);
            }
        }
    }

    /// Whether a client that takes nothing was waited for long enough.
    fn is_given_up(&mut self) -> bool {
        let (asked, from_cn, left) = self.in_vain;
        let now = (self.passed.from_cn, self.to_client.len());
        self.in_vain = if now == (from_cn, left) { (asked + 1, now.0, now.1) } else { (0, now.0, now.1) };
        self.in_vain.0 >= ASKED_IN_VAIN
    }
}

/// Writes `bytes`, behind nothing; what does not go is kept in `later`.
fn write(socket: &mut Socket, later: &mut Vec<u8>, bytes: &[u8], cx: &mut Context<'_>) {
    let mut rest = bytes;
    if later.is_empty() {
        while !rest.is_empty() {
            match Pin::new(&mut *socket).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) => rest = &rest[n..],
                // The read side tells of a peer that is gone, after what it said last.
                Poll::Ready(Err(_)) => return,
                Poll::Pending => break,
            }
        }
    }
    later.extend_from_slice(rest);
}

fn flush(socket: &mut Socket, later: &mut Vec<u8>, cx: &mut Context<'_>) -> bool {
    if later.is_empty() {
        return false;
    }
    let bytes = std::mem::take(later);
    write(socket, later, &bytes, cx);
    later.len() < bytes.len()
}

/// Whether the peer closed its side, looked at without reading.
fn hung_up(socket: &Socket) -> bool {
    let flags = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut fds = [PollFd::new(socket, flags)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(n) => n > 0 && fds[0].revents().intersects(flags),
        Err(error) => io::Error::from(error).kind() != io::ErrorKind::Interrupted,
    }
}
