//! The last good routing state on disk: a data plane starts from it when no control plane answers.
//!
//! The file holds one [`pb::Snapshot`]; its version's digest tells whether it is whole.

use crate::ids::write_whole;
use prost::Message as _;
use shunt_proto::pb;
use shunt_proto::snapshot::{Entry, RoutingSnapshot};
use std::io;
use std::path::Path;

/// The longest file that is read: 100,000 CNs and tenants fit.
const LONGEST: u64 = 256 << 20;

/// Why there is no state in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateFileError {
    #[error("read: {0}")]
    Io(#[from] io::Error),
    #[error("it has {0} bytes")]
    TooLong(u64),
    #[error("it ends early")]
    Cut,
    #[error("decode: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Invalid(#[from] shunt_proto::wire::Invalid),
    #[error(transparent)]
    Apply(#[from] shunt_proto::snapshot::ApplyError),
}

/// Reads the state; `None` where there is no file.
pub(crate) fn read(file: &Path) -> Result<Option<RoutingSnapshot>, StateFileError> {
    let bytes = match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(metadata) if metadata.len() > LONGEST => return Err(StateFileError::TooLong(metadata.len())),
        Ok(_) => std::fs::read(file)?,
    };
    let snapshot = pb::Snapshot::decode(bytes.as_slice())?;
    // An empty file decodes, as every message does without its fields.
    let version = snapshot.version.filter(|_| snapshot.last).ok_or(StateFileError::Cut)?.into();
    let entries = snapshot.entries.iter().map(Entry::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(RoutingSnapshot::from_entries(version, entries)?))
}

/// Writes the state, whole or not at all.
pub(crate) fn write(file: &Path, snapshot: &RoutingSnapshot) -> io::Result<()> {
    let message = pb::Snapshot {
        version: Some(snapshot.version().into()),
        entries: snapshot.entries().map(|(_, entry)| entry.into()).collect(),
        last: true,
    };
    write_whole(file, &message.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_proto::cn::CnGroup;
    use shunt_proto::label::Labels;
    use shunt_proto::snapshot::{Object, Version};
    use std::sync::Arc;

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routing");
        assert!(read(&file).unwrap().is_none());
        let group =
            CnGroup { name: "tp".into(), labels: Labels::new(), tenant: Some("acme".into()), replicas: 2 };
        let entry = Entry { object: Object::Group(Arc::new(group)), mod_revision: 3, hash: 99 };
        let version = Version { store_id: "s".into(), revision: 3, digest: 99 };
        let snapshot = RoutingSnapshot::from_entries(version, [entry]).unwrap();
        write(&file, &snapshot).unwrap();
        assert_eq!(read(&file).unwrap().unwrap().version(), snapshot.version());
        let mut bytes = std::fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            // Never a panic; never a state with another digest than its entries have.
            bytes[at] ^= 0x5A;
            std::fs::write(&file, &bytes).unwrap();
            let _ = read(&file);
            bytes[at] ^= 0x5A;
        }
        for len in 0..bytes.len() {
            std::fs::write(&file, &bytes[..len]).unwrap();
            assert!(read(&file).is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}
