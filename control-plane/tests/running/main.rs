//! Tests of a control plane that runs in this process: the calls, the stream, its ends.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod apply;
mod calls;
mod control;
#[path = "../etcd/mod.rs"]
mod etcd;
mod explain;
mod process;
mod stream;
