//! The store in etcd, for a replicated control plane.
//!
//! What measurement taught: a watch that etcd cancels leaves its stream open and silent, so `canceled` is its end; a
//! watch from a revision that a restored etcd has not reached yet is silent for ever, so the header's revision is
//! compared; a dead endpoint fails every other call of a balanced client, so there is one channel for each endpoint
//! and a failed call goes on to the next one; a stalled server answers nothing at all, so every call has a deadline
//! and every connection is kept alive; and a write that was not answered is read back before it is done again.

use super::{Batch, Change, Item, Loaded, Outcome, Store, StoreError, Txn, Watch, Write, check};
use async_trait::async_trait;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;

/// One try of a call.
const TRY: Duration = Duration::from_secs(3);
/// A call with all its tries.
const CALL: Duration = Duration::from_secs(9);
/// Between two rounds over all endpoints.
const PAUSE: Duration = Duration::from_millis(200);
/// Keys a page when everything is loaded.
const PAGE: i64 = 500;
/// What is taken from etcd in one message: a page of the largest values, with room.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// A store in an etcd cluster, under a prefix.
pub struct Etcd {
    prefix: String,
    endpoints: Vec<Channel>,
    /// The endpoint that answered last.
    current: AtomicUsize,
    closed: AtomicBool,
}

/// Why a try failed, and what that says of a write.
enum Failed {
    /// Certainly not done, and no use in trying again.
    Refused(StoreError),
    /// Another endpoint, or the same one later, may do it.
    Again {
        /// In etcd's words.
        why: String,
        /// It may have been done all the same.
        sent: bool,
    },
}

impl Etcd {
    /// A store at `endpoints` (`http://host:port`) with keys that begin with `prefix`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: an endpoint is no such URL, or there is none.
    pub fn new(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        let channel = |url: &String| -> Result<Channel, StoreError> {
            let endpoint = Endpoint::from_shared(url.clone())
                .map_err(|error| StoreError::Unusable(format!("etcd endpoint {url}: {error}")))?;
            Ok(endpoint
                .connect_timeout(Duration::from_secs(2))
                .tcp_nodelay(true)
                // etcd refuses pings that come more often than every 5 s.
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true)
                .connect_lazy())
        };
        if endpoints.is_empty() {
            return Err(StoreError::Unusable("etcd has no endpoints".to_owned()));
        }
        Ok(Self {
            prefix: format!("{}/", prefix.trim_end_matches('/')),
            endpoints: endpoints.iter().map(channel).collect::<Result<_, _>>()?,
            current: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Tries `call` on one endpoint after the other until it is answered, refused, or [`CALL`] is over. Only for what
    /// may be done twice.
    async fn call<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + CALL;
        let mut why = String::new();
        while Instant::now() < deadline {
            for _ in 0..self.endpoints.len() {
                match self.attempt(&call, deadline).await {
                    Ok(answer) => return Ok(answer),
                    Err(Failed::Refused(error)) => return Err(error),
                    Err(Failed::Again { why: error, .. }) => why = error,
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(StoreError::Unavailable(why))
    }

    /// One try, on the current endpoint. Where it fails the next one becomes current.
    async fn attempt<T, F>(&self, call: &impl Fn(Channel) -> F, deadline: Instant) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Status>>,
    {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Failed::Refused(StoreError::Unavailable("it is closed".to_owned())));
        }
        let at = self.current.load(Ordering::Relaxed) % self.endpoints.len();
        let until = deadline.min(Instant::now() + TRY);
        let failed = match timeout_at(until, call(self.endpoints[at].clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => failure(&status),
            Err(_) => Failed::Again { why: "etcd does not answer".to_owned(), sent: true },
        };
        if matches!(failed, Failed::Again { .. }) {
            // Another call may have moved on already: from here only once.
            let next = (at + 1) % self.endpoints.len();
            let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        Err(failed)
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        let request = &request;
        self.call(|channel| async move {
            let mut kv = KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            Ok(kv.range(request.clone()).await?.into_inner())
        })
        .await
    }

    fn key(&self, key: &str) -> bytes::Bytes {
        format!("{}{key}", self.prefix).into()
    }

    /// Just behind the last key with the prefix: it ends in '/', and '0' follows.
    fn end(&self) -> bytes::Bytes {
        format!("{}0", self.prefix.trim_end_matches('/')).into()
    }

    fn item(&self, kv: pb::KeyValue) -> Item {
        Item { key: self.name(&kv.key), value: kv.value, mod_revision: unsigned(kv.mod_revision) }
    }

    fn name(&self, key: &[u8]) -> String {
        String::from_utf8_lossy(key.get(self.prefix.len()..).unwrap_or_default()).into_owned()
    }

    fn request(&self, txn: &Txn) -> pb::TxnRequest {
        use pb::{compare, request_op::Request};
        let compare = |(key, revision): &(String, u64)| pb::Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: self.key(key),
            target_union: Some(compare::TargetUnion::ModRevision(signed(*revision))),
        };
        let op = |write: &Write| pb::RequestOp {
            request: Some(match write {
                Write::Put { key, value, lease } => Request::RequestPut(pb::PutRequest {
                    key: self.key(key),
                    value: value.clone(),
                    lease: lease.unwrap_or(0),
                }),
                Write::Delete { key } => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key: self.key(key),
                    range_end: bytes::Bytes::new(),
                }),
            }),
        };
        pb::TxnRequest {
            compare: txn.when.iter().map(compare).collect(),
            success: txn.then.iter().map(op).collect(),
            failure: Vec::new(),
        }
    }

    /// What became of a transaction of which one try at least was not answered: its first write of a key that it has
    /// a condition on is the witness.
    async fn read_back(&self, txn: &Txn) -> Result<ReadBack, StoreError> {
        let witness = txn.then.iter().find_map(|write| match write {
            Write::Put { key, value, .. } => {
                txn.when.iter().find(|(when, _)| when == key).map(|(_, at)| (key, value, *at))
            }
            Write::Delete { .. } => None,
        });
        let Some((key, value, at)) = witness else { return Ok(ReadBack::Unknown) };
        let found = self.read(key).await?;
        let revision = found.as_ref().map_or(0, |item| item.mod_revision);
        Ok(match found {
            Some(item) if item.value == *value && revision > at => ReadBack::Done(revision),
            _ if revision == at => ReadBack::NotDone,
            _ => ReadBack::Unknown,
        })
    }
}

enum ReadBack {
    Done(u64),
    /// Not done so far; to be tried again under the same conditions it can be done only once.
    NotDone,
    Unknown,
}

#[async_trait]
impl Store for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded { revision: 0, items: Vec::new() };
        let mut from = bytes::Bytes::from(self.prefix.clone());
        loop {
            let page = self
                .range(pb::RangeRequest {
                    key: from,
                    range_end: self.end(),
                    limit: PAGE,
                    // All pages of the revision of the first.
                    revision: signed(loaded.revision),
                    serializable: false,
                })
                .await?;
            if loaded.revision == 0 {
                loaded.revision = unsigned(page.header.map_or(0, |header| header.revision));
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            loaded.items.extend(page.kvs.into_iter().map(|kv| self.item(kv)));
            let Some(last) = last.filter(|_| page.more) else { return Ok(loaded) };
            from = [&last[..], &[0]].concat().into();
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Item>, StoreError> {
        let request = pb::RangeRequest { key: self.key(key), ..pb::RangeRequest::default() };
        let answer = self.range(request).await?;
        Ok(answer.kvs.into_iter().next().map(|kv| self.item(kv)))
    }

    async fn watch(&self, revision: u64) -> Result<Box<dyn Watch>, StoreError> {
        let create = pb::WatchCreateRequest {
            key: self.prefix.clone().into(),
            range_end: self.end(),
            start_revision: signed(revision + 1),
            progress_notify: true,
        };
        let create = &create;
        let (requests, stream, first) = self
            .call(|channel| async move {
                let (sender, requests) = tokio::sync::mpsc::channel(1);
                let union = pb::watch_request::RequestUnion::CreateRequest(create.clone());
                let _ = sender.send(pb::WatchRequest { request_union: Some(union) }).await;
                let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
                // Without a quorum the watch ends instead of being silent.
                request
                    .metadata_mut()
                    .insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
                let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
                let mut stream = client.watch(request).await?.into_inner();
                let first = stream.message().await?;
                let first = first.ok_or_else(|| Status::unavailable("etcd closed the watch"))?;
                Ok((sender, stream, first))
            })
            .await?;
        let watch = Follow { prefix: self.prefix.len(), at: revision, _requests: requests, stream };
        watch.check(&first)?;
        if !first.created {
            return Err(StoreError::Unavailable("etcd did not begin the watch".to_owned()));
        }
        Ok(Box::new(watch))
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        check(&txn)?;
        let request = &self.request(&txn);
        let deadline = Instant::now() + CALL;
        let commit =
            |channel| async move { Ok(KvClient::new(channel).txn(request.clone()).await?.into_inner()) };
        let mut why = "etcd does not answer".to_owned();
        // Whether a try that was not answered may have been done.
        let mut doubt = false;
        while Instant::now() < deadline {
            match self.attempt(&commit, deadline).await {
                Ok(answer) if answer.succeeded => {
                    return Ok(Outcome::Committed(unsigned(answer.header.map_or(0, |h| h.revision))));
                }
                Ok(_) if !doubt => return Ok(Outcome::Conflict),
                Ok(_) => {}
                Err(Failed::Refused(StoreError::NoLease(_))) => return Err(StoreError::NoLease(lease(&txn))),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Again { why: error, sent }) => {
                    why = error;
                    doubt |= sent;
                }
            }
            if doubt {
                // Where an earlier try was done, this one failed its conditions because of it.
                match timeout_at(deadline, self.read_back(&txn)).await {
                    Ok(Ok(ReadBack::Done(revision))) => return Ok(Outcome::Committed(revision)),
                    Ok(Ok(ReadBack::NotDone)) => {}
                    _ => return Err(StoreError::Unknown(why)),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(if doubt { StoreError::Unknown(why) } else { StoreError::Unavailable(why) })
    }

    async fn lease(&self, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(2);
        let answer = self
            .call(|channel| async move {
                let request = pb::LeaseGrantRequest { ttl: seconds, id: 0 };
                Ok(LeaseClient::new(channel).lease_grant(request).await?.into_inner())
            })
            .await?;
        Ok(answer.id)
    }

    async fn keep_alive(&self, lease: i64) -> Result<(), StoreError> {
        let left = self
            .call(|channel| async move {
                let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease });
                let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
                let answer = answers.message().await?;
                Ok(answer.ok_or_else(|| Status::unavailable("etcd closed the stream"))?.ttl)
            })
            .await?;
        if left > 0 { Ok(()) } else { Err(StoreError::NoLease(lease)) }
    }

    async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        let done = self
            .call(|channel| async move {
                LeaseClient::new(channel).lease_revoke(pb::LeaseRevokeRequest { id: lease }).await?;
                Ok(())
            })
            .await;
        match done {
            Err(StoreError::NoLease(_)) => Ok(()),
            other => other,
        }
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// A watch on one stream of its own.
struct Follow {
    prefix: usize,
    at: u64,
    /// Keeps the request half open: etcd would take its end for a cancellation.
    _requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    stream: Streaming<pb::WatchResponse>,
}

impl Follow {
    /// Whether this answer says that the watch is over.
    fn check(&self, answer: &pb::WatchResponse) -> Result<(), StoreError> {
        if answer.canceled && answer.compact_revision > 0 {
            return Err(StoreError::Compacted(self.at));
        }
        if answer.canceled {
            return Err(StoreError::Unavailable(format!("etcd ended the watch: {}", answer.cancel_reason)));
        }
        let revision = unsigned(answer.header.map_or(0, |header| header.revision));
        if revision < self.at {
            // It was restored from a backup.
            return Err(StoreError::Compacted(self.at));
        }
        Ok(())
    }
}

#[async_trait]
impl Watch for Follow {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            let answer = match self.stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(StoreError::Unavailable("etcd closed the watch".to_owned())),
                Err(status) => return Err(StoreError::Unavailable(said(&status))),
            };
            self.check(&answer)?;
            let changes: Vec<Change> = answer.events.into_iter().filter_map(|e| self.change(e)).collect();
            let Some(revision) = changes.iter().map(|change| change.mod_revision).max() else { continue };
            self.at = revision;
            return Ok(Batch { revision, changes });
        }
    }
}

impl Follow {
    fn change(&self, event: pb::Event) -> Option<Change> {
        let deleted = event.r#type() == pb::event::EventType::Delete;
        let kv = event.kv?;
        Some(Change {
            key: String::from_utf8_lossy(kv.key.get(self.prefix..)?).into_owned(),
            value: if deleted { None } else { Some(kv.value) },
            mod_revision: unsigned(kv.mod_revision),
        })
    }
}

/// The first lease that `txn` puts a key under.
fn lease(txn: &Txn) -> i64 {
    let lease = |write: &Write| match write {
        Write::Put { lease, .. } => *lease,
        Write::Delete { .. } => None,
    };
    txn.then.iter().find_map(lease).unwrap_or(0)
}

/// What a status says of a call. By its words where the code means several things.
fn failure(status: &Status) -> Failed {
    let said = said(status);
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Failed::Refused(StoreError::TooLarge(said)),
        Code::NotFound if status.message().contains("lease") => Failed::Refused(StoreError::NoLease(0)),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
            Failed::Refused(StoreError::Unavailable(said))
        }
        // No space is told at two layers, and only the first of them is certain: try again, and read back.
        _ => Failed::Again { sent: !said.contains("tcp connect error"), why: said },
    }
}

fn said(status: &Status) -> String {
    use std::error::Error as _;
    let mut said = format!("etcd: {}", status.message());
    let mut source = status.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        source = error.source();
    }
    said
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
