//! The API's JSON: the canonical JSON of the generated messages, with defaults printed.
//!
//! What people see of an object is the same everywhere: in `shuntctl -o json`, in `etcdctl get`, in grpcurl.

use crate::pb;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;
use std::sync::LazyLock;

/// The descriptors, decoded once.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS).expect("the build wrote valid descriptors"));

/// Why a text is not the JSON of a message.
#[derive(Debug, thiserror::Error)]
#[error("read {message}: {source}")]
pub struct InvalidJson {
    /// The message's name.
    pub message: String,
    /// What is wrong, with line and column.
    #[source]
    pub source: serde_json::Error,
}

fn descriptor<M: prost::Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("every generated message is in the descriptors")
}

fn dynamic<M: prost::Message + prost::Name>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("a generated message is of its own descriptor");
    dynamic
}

/// The JSON of `message`, defaults included.
#[must_use]
pub fn to_value<M: prost::Message + prost::Name>(message: &M) -> Value {
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic(message)
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a message has a JSON form")
}

/// The JSON of `message` in one line, without defaults: as the store keeps it.
#[must_use]
pub fn to_stored<M: prost::Message + prost::Name>(message: &M) -> Vec<u8> {
    serde_json::to_vec(&dynamic(message)).expect("a message has a JSON form")
}

/// A message out of its JSON. Unknown fields are left out: a newer release may have written them.
///
/// # Errors
/// [`InvalidJson`] where it is not JSON, or not of this message.
pub fn from_stored<M: prost::Message + prost::Name + Default>(json: &[u8]) -> Result<M, InvalidJson> {
    let failed = |source| InvalidJson { message: M::full_name(), source };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor::<M>(), &mut deserializer, &options)
        .map_err(failed)?;
    deserializer.end().map_err(failed)?;
    Ok(dynamic.transcode_to().expect("the descriptor is the message's own"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn a_cn_reads_as_people_expect() {
        let mut labels = crate::label::Labels::new();
        labels.add("workload", "ap").unwrap();
        let cn = pb::Cn {
            name: "cn-1".into(),
            labels: wire::labels_to_pb(&labels),
            state: pb::cn::State::Working.into(),
            sessions: 3,
            ..pb::Cn::default()
        };
        let json = to_value(&cn);
        assert_eq!(json["labels"], serde_json::json!({"workload": ["ap"]}));
        assert_eq!(json["state"], "working");
        assert_eq!(json["health"], "unknown");
        assert_eq!(json["sessions"], 3);
        assert_eq!(json["group"], "");
        assert_eq!(from_stored::<pb::Cn>(&to_stored(&cn)).unwrap(), cn);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [&b"{"[..], b"[]", b"{\"name\": 3}", b"{} {}", b"\xff"] {
            assert!(from_stored::<pb::Cn>(bad).is_err());
        }
        assert!(from_stored::<pb::Cn>(b"{\"newer\": 1}").is_ok());
    }
}
