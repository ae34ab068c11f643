//! Commands that do not go to the CN as they are: a change of user, a reset, a KILL, and what is refused.
//!
//! When one of them is seen to, everything before it is answered and nothing behind it was forwarded.

use super::close::CloseReason;
use super::login::{self, ASK, Asked, Denied, Proof, TRACK, TRACK_AND_ASK};
use super::{Session, settle, welcome};
use crate::cn::{Asker, CnConnection, CnError, Column, Identity};
use crate::engine::mysql::read;
use crate::ids;
use crate::kill::{self, Outcome};
use crate::socket::Socket;
use crate::wire::{Peer, ReadError};
use mysql_wire::command;
use mysql_wire::login::ChangeUser;
use mysql_wire::packet::HEADER;
use mysql_wire::reply;
use mysql_wire::sql::{self, Kill, KillKind};
use mysql_wire::track::Trackers;
use shunt_proto::pb;
use std::time::Duration;

/// Asks for the trackers.
const TRACKERS: &str = "@@session_track_system_variables, @@session_track_schema, \
     @@session_track_state_change, @@session_track_transaction_info";

/// How long a CN may take to forget a session's state: a large transaction may have to be rolled back.
pub(super) const TO_RESET: Duration = Duration::from_secs(600);

/// How long a CN may take to answer a command that it answers at once.
const AT_ONCE: Duration = Duration::from_secs(10);

type Seen = Result<(), CloseReason>;

impl Session {
    /// Sees to an intercepted command.
    pub(super) async fn intercepted(&mut self, packet: &[u8]) -> Seen {
        let payload = &packet[HEADER..];
        let seen = match payload.first() {
            Some(&command::CHANGE_USER) => self.change_user(payload).await,
            Some(&command::RESET_CONNECTION) => self.reset().await,
            Some(&command::PROCESS_KILL) => match payload[1..].first_chunk() {
                Some(id) => {
                    let id = u64::from(u32::from_le_bytes(*id));
                    self.kill(packet, Kill { id, kind: KillKind::Connection }).await
                }
                None => self.unknown_command().await,
            },
            Some(&command::QUERY) => match sql::kill(&payload[1..]) {
                Some(kill) => self.kill(packet, kill).await,
                None => {
                    self.link.pass(packet);
                    return Ok(());
                }
            },
            Some(0x12 | 0x13 | 0x15 | 0x1E) => self.refuse(reply::Err::new(
                1235,
                "42000",
                "replication commands are refused: a routed session is not a replica's",
            )),
            _ => self.unknown_command().await,
        };
        self.link.go_on();
        seen
    }

    fn refuse(&mut self, err: reply::Err) -> Seen {
        self.link.mirror.saw_to(true);
        self.link.reply(&err.packet(1));
        Ok(())
    }

    /// A command whose response has no known shape. The CN refuses another one in its place that every CN refuses with
    /// one packet (COM_SLEEP): so its words and what it remembers of its last error are right.
    async fn unknown_command(&mut self) -> Seen {
        match within(self.asker().command(&[command::SLEEP])).await {
            Err(CnError::Refused(err)) => self.refuse(err),
            Ok(_) => self.refuse(reply::Err::new(1047, "08S01", "Unknown command")),
            Err(_) => Err(CloseReason::CnGone),
        }
    }

    pub(super) fn asker(&mut self) -> Asker<'_> {
        let deprecate_eof = login::deprecates_eof(self.login.capabilities());
        Asker::new(self.link.cn_peer(), deprecate_eof)
    }

    /// COM_RESET_CONNECTION: forgets the session's state, and goes on tracking.
    async fn reset(&mut self) -> Seen {
        let payload = match self.reset_cn().await? {
            Ok(payload) => payload,
            Err(err) => return self.refuse(err),
        };
        let changes = reply::Ok::read(&payload).ok().and_then(|ok| {
            let changes = self.link.shown().as_ref()?.filter(ok.changes).ok()?;
            Some(reply::Ok { changes: &changes, ..ok }.write())
        });
        let bare = || reply::Ok::read(&payload).map(|ok| reply::Ok { changes: &[], ..ok }.write());
        let payload = changes.or_else(|| bare().ok()).unwrap_or(payload.clone());
        self.link.reply(&welcome::one_packet(1, &payload));
        Ok(())
    }

    /// Lets the CN forget the session's state, and what is known of it along with it. Gives the CN's answer.
    async fn reset_cn(&mut self) -> Result<Result<Vec<u8>, reply::Err>, CloseReason> {
        let answer = within_limit(TO_RESET, self.asker().command(&[command::RESET_CONNECTION])).await;
        let payload = match answer {
            Ok(payload) => payload,
            Err(CnError::Refused(err)) => return Ok(Err(err)),
            Err(_) => return Err(CloseReason::CnGone),
        };
        self.link.mirror.reset();
        // What the CN said of it was before.
        self.now_keep(settle::Kept::Unknown);
        let ask = if self.tracks_itself { TRACK_AND_ASK } else { ASK };
        // A session whose password expired may not ask.
        if !self.ask_for_parse(ask).await? && self.tracks_itself {
            self.link.mirror.missed();
        }
        let shown =
            self.plane().routing.baseline(&self.cn).and_then(|baseline| baseline.subscription.clone());
        if let Some(now) = self.link.shown() {
            *now = shown.unwrap_or_default();
        }
        Ok(Ok(payload))
    }

    /// Lets the CN say what texts are parsed by now. False where the user may not ask.
    pub(super) async fn ask_for_parse(&mut self, ask: &str) -> Result<bool, CloseReason> {
        // The client did not ask for this: it costs nobody the session that its CN stands still here.
        match within_limit(TO_RESET, self.asker().execute(ask)).await {
            Ok(payload) => {
                if let Ok(ok) = reply::Ok::read(&payload) {
                    self.link.mirror.learn(&ok);
                }
                Ok(true)
            }
            Err(CnError::Refused(_)) => Ok(false),
            Err(_) => Err(CloseReason::CnGone),
        }
    }

    /// The client may have touched the tracking variables: what it is shown follows, and the mirror goes on seeing all.
    pub(super) async fn retrack(&mut self) -> Seen {
        let selected = self.link.mirror.left().selected();
        // Of a user that may ask nothing it stays unknown.
        let (found_rows, warnings) =
            read::read_first(&self.say(&read::first_questions(self.dialect())).await?).unwrap_or_default();
        self.set_trackers().await?;
        self.say(&read::put_back(self.dialect(), found_rows, warnings, selected)).await?;
        Ok(())
    }

    async fn set_trackers(&mut self) -> Seen {
        let named = self.link.mirror.take_trackers_named();
        let rows = match self.ask_trackers().await {
            Ok(rows) => rows,
            // A session whose password expired may ask nothing.
            Err(CnError::Refused(_)) => {
                self.link.mirror.missed();
                return Ok(());
            }
            Err(_) => return Err(CloseReason::CnGone),
        };
        let values: Vec<&[u8]> = rows.iter().flatten().flatten().map(Vec::as_slice).collect();
        if let [variables, schema, state, transaction] = values[..] {
            let trackers = Trackers { variables, schema, state, transaction };
            if let Some(shown) = self.link.shown() {
                shown.found(&trackers, named);
            }
            if trackers.tell_all() {
                return Ok(());
            }
        }
        match within(self.asker().execute(TRACK)).await {
            Ok(_) => {}
            Err(CnError::Refused(_)) => self.link.mirror.missed(),
            Err(_) => return Err(CloseReason::CnGone),
        }
        self.link.mirror.forget_tracking();
        Ok(())
    }

    /// The values of the trackers, which are ASCII in whatever character set the user wants results.
    async fn ask_trackers(&mut self) -> Result<Vec<Vec<Column>>, CnError> {
        let mut asked = within(self.asker().rows(&format!("SELECT {TRACKERS}"))).await;
        // A user's own limits may keep the answer away. They are lifted only then, for their return is reported.
        if asked.as_ref().map_or_else(|error| matches!(error, CnError::Refused(_)), Vec::is_empty) {
            let lifted = self.dialect().select_unhindered(TRACKERS);
            asked = within(self.asker().rows(&lifted)).await;
            self.bring_out_late_reports().await?;
        }
        let mut rows = asked?;
        for value in rows.iter_mut().flatten().flatten() {
            value.retain(|byte| *byte != 0);
        }
        Ok(rows)
    }

    /// COM_CHANGE_USER: a login of its own, routed anew. When it is refused the session stays what it was.
    async fn change_user(&mut self, payload: &[u8]) -> Seen {
        let mut seq = 1;
        let limit = self.plane().config.limits.login;
        let changed = match tokio::time::timeout(limit, self.try_change_user(payload, &mut seq)).await {
            Ok(changed) => changed,
            Err(_) => Err(Denied::Told(reply::Err::new(1159, "08S01", "the login took too long"))),
        };
        match changed {
            Ok(ok) => self.link.reply(&welcome::one_packet(seq, &ok)),
            Err(Denied::Told(err)) => {
                // A server forgets the session's state before it looks at the password, and keeps the old user.
                let _ = self.reset_cn().await?;
                self.link.reply(&err.packet(seq));
            }
            Err(Denied::Client(error)) => return Err(CloseReason::InLogin(error)),
        }
        Ok(())
    }

    async fn try_change_user(&mut self, payload: &[u8], seq: &mut u8) -> Result<Vec<u8>, Denied> {
        let worker = std::rc::Rc::clone(&self.worker);
        let plane = &worker.plane;
        let change = ChangeUser::read(payload, self.login.capabilities())
            .map_err(|error| Denied::Told(reply::Err::new(1043, "08S01", error.to_string())))?;
        let names = welcome::names(plane, &change.user, &change.attributes)?;
        let tenant = self.view().facts.borrow().tenant.clone();
        welcome::check_address(plane, &names, self.view().client, names.tenant != tenant)?;
        let asked = Asked {
            identity: Identity {
                user: names.user.clone(),
                database: change.database.clone(),
                // A login has one byte for it.
                collation: u8::try_from(change.collation).unwrap_or(45),
                capabilities: self.login.capabilities(),
                max_packet: self.login.identity.max_packet,
                attributes: change.attributes.clone(),
            },
            names,
            // A server asks again in any case: so it may be the CN that asks.
            proof: Proof::Relay(!change.auth.is_empty()),
            client: self.view().client,
            listener: self.login.listener,
            by: self.link.client.by(),
            counted_for: Some(tenant),
        };
        let mut peer = self.link.client_peer();
        let mut admitted = login::admit(plane, &asked, &mut peer, seq).await?;
        let (ok, responses, mirror) = welcome::begin(&admitted, &asked.identity)?;
        *self.view().facts.borrow_mut() = std::mem::take(&mut admitted.facts);
        let CnConnection { stream, greeting, .. } = admitted.connection;
        let old = self.link.swap(stream.into_parts(), responses, mirror);
        self.cn = admitted.cn.name().clone();
        let tenant = admitted.tenant.or_else(|| self.places.take().map(|(_, tenant)| tenant));
        self.places = tenant.map(|tenant| (admitted.place, tenant));
        // Suspended while the login was under way.
        super::close_if_suspended(plane, self.view());
        self.password = admitted.password;
        *self.login = welcome::Kept::of(asked);
        // It is what this login made it.
        self.now_keep(settle::Kept::AsLoggedIn);
        // What was prepared for it elsewhere is another user's.
        self.give_up_move("the user changed");
        self.tracks_itself = admitted.tracks_itself;
        tracing::debug!(id = self.view().id, cn = %self.cn, greeting.connection_id, "user changed");
        goodbye(old);
        Ok(ok)
    }

    /// KILL of an id that the client may have been given by Shunt, or that is the CN's own.
    async fn kill(&mut self, packet: &[u8], kill: Kill) -> Seen {
        let Some(id) = u32::try_from(kill.id).ok().filter(|id| ids::is_ours(*id)) else {
            // Higher ones than Shunt's no CN has come to give.
            if self.view().facts.borrow().moved && kill.id < u64::from(ids::FIRST) {
                // Where the client read it, that number was another connection's.
                let message =
                    format!("Unknown thread id: {} (the session has moved to another server since)", kill.id);
                return self.refuse(reply::Err::new(1094, "HY000", message));
            }
            self.link.pass(packet);
            return Ok(());
        };
        let worker = std::rc::Rc::clone(&self.worker);
        let plane = &worker.plane;
        let query_only = kill.kind == KillKind::Query;
        let target = plane.workers.find(id).await;
        let facts = self.view().facts.borrow().clone();
        // Another tenant's user of the same name is another user, which the CN does not know.
        if let Some(target) = &target
            && target.cn == self.cn.as_str()
            && target.tenant == facts.tenant
        {
            return self.kill_here(id, target.connection_id, query_only).await;
        }
        let may_kill_others = self.may_kill_others().await?;
        let asker = pb::Asker { tenant: facts.tenant, user: facts.user, may_kill_others };
        let outcome = match target {
            Some(target) => kill::here(plane, &target, query_only, Some(&asker)).await,
            None if plane.ids.owns(id) => Outcome::Unknown,
            None => plane.elsewhere.kill(id, query_only, asker).await,
        };
        let err = match outcome {
            Outcome::Done => {
                let status = self.link.mirror.status_now();
                let ok = reply::Ok {
                    header: 0,
                    affected: 0,
                    insert_id: 0,
                    status,
                    warnings: 0,
                    info: b"",
                    changes: b"",
                };
                self.link.reply(&welcome::one_packet(1, &ok.write()));
                return Ok(());
            }
            Outcome::Unknown => reply::Err::new(1094, "HY000", format!("Unknown thread id: {id}")),
            Outcome::Denied => reply::Err::new(1095, "HY000", format!("You are not owner of thread {id}")),
            Outcome::Unreachable(cause) => {
                reply::Err::new(1105, "HY000", format!("thread {id} cannot be reached: {cause}"))
            }
        };
        self.refuse(err)
    }

    /// KILL of a session on this session's own CN: the CN says whether this user may.
    async fn kill_here(&mut self, id: u32, connection_id: u32, query_only: bool) -> Seen {
        let query = if query_only { "QUERY " } else { "" };
        let answer = within(self.asker().execute(&format!("KILL {query}{connection_id}"))).await;
        let payload = match answer {
            Ok(payload) => payload,
            Err(CnError::Refused(err)) => {
                // The client knows the thread by another number.
                let message = String::from_utf8_lossy(&err.message);
                let message = message.replace(&connection_id.to_string(), &id.to_string());
                return self.refuse(reply::Err { message: message.into_bytes(), ..err });
            }
            Err(_) => return Err(CloseReason::CnGone),
        };
        let ok = reply::Ok::read(&payload).map(|ok| reply::Ok { changes: &[], ..ok }.write());
        self.link.reply(&welcome::one_packet(1, &ok.unwrap_or(payload)));
        Ok(())
    }

    /// A value that a question put back is reported with a later OK that changes state: let it be one of ours.
    async fn bring_out_late_reports(&mut self) -> Result<(), CnError> {
        match within(self.asker().execute("SET SESSION session_track_state_change=ON")).await {
            Ok(_) | Err(CnError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether this session's CN would let its user kill other users' sessions.
    async fn may_kill_others(&mut self) -> Result<bool, CloseReason> {
        let dialect = self.dialect();
        // Who may read the grant tables sees everybody's rights here: the account's own count. Its host holds no '@'.
        let question = dialect.select_all(&format!(
            "1 FROM information_schema.user_privileges \
             WHERE privilege_type IN ('SUPER', '{}') AND grantee = CONCAT( \
               '''', LEFT(CURRENT_USER(), CHAR_LENGTH(CURRENT_USER()) - 1 \
                 - CHAR_LENGTH(SUBSTRING_INDEX(CURRENT_USER(), '@', -1))), \
               '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''') LIMIT 1",
            dialect.right_to_kill()
        ));
        let rows = within(self.asker().rows(&question)).await;
        self.bring_out_late_reports().await.map_err(|_| CloseReason::CnGone)?;
        match rows {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(CnError::Refused(_)) => Ok(false),
            Err(_) => Err(CloseReason::CnGone),
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, CnError>>) -> Result<T, CnError> {
    within_limit(AT_ONCE, answer).await
}

pub(super) async fn within_limit<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, CnError>>,
) -> Result<T, CnError> {
    tokio::time::timeout(limit, answer).await.unwrap_or(Err(CnError::Timeout(limit)))
}

/// Says goodbye on a connection that nobody uses any more.
pub(super) fn goodbye(mut socket: Socket) {
    tokio::task::spawn_local(async move {
        let mut unread = Vec::new();
        let mut peer = Peer { socket: &mut socket, unread: &mut unread };
        let _ = peer.write(0, &[command::QUIT]).await;
        // Until the CN closed, or said something that nobody hears.
        let _: Result<_, ReadError> =
            tokio::time::timeout(AT_ONCE, peer.read(1 << 16)).await.unwrap_or(Err(ReadError::Closed(false)));
    });
}
