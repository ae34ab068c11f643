//! The contract of Shunt, and the words that both planes share.
//!
//! Here are the generated messages ([`pb`]), the domain types that the planes work with, the one definition of a
//! match ([`tenant`], [`label`], [`cn`]), the routing state with its pure `apply` ([`snapshot`]), the conversion
//! between generated and domain types ([`wire`]), and how YAML with these words is read ([`yaml`], [`intent`]).
//!
//! Absent on purpose: sockets, runtimes, stores, and whatever only one plane needs.

pub mod cn;
pub mod intent;
pub mod json;
pub mod label;
pub mod snapshot;
pub mod tenant;
pub mod wire;
pub mod yaml;

/// The generated messages and services of `shunt.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod pb {
    tonic::include_proto!("shunt.v1");

    /// The encoded `FileDescriptorSet` of these services and all that they import.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
