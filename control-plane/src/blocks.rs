//! Which data plane may give out which session ids. Pure.
//!
//! Ids lie between 2^30 and 2^31, so that they are never a CN's own (those begin at 1) and never negative to a driver
//! that reads them signed. Each data plane has a block of 2^20 of them for as long as it may hold a session.

use crate::cluster::View;
use crate::edit::Edit;
use crate::error::{Error, Kind};
use crate::keys::{self, KeptPlane};
use std::collections::BTreeSet;

/// Session ids of one data plane.
pub(crate) const BLOCK: u32 = 1 << 20;
/// The first id of all.
const FIRST: u32 = 1 << 30;
/// How many blocks there are.
const BLOCKS: u32 = 1 << 10;

/// The first id of the block that `session_id` is of; none: it is not Shunt's.
pub(crate) const fn block_of(session_id: u32) -> Option<u32> {
    if session_id < FIRST || session_id - FIRST >= BLOCKS * BLOCK {
        return None;
    }
    Some(session_id & !(BLOCK - 1))
}

/// The data plane that gave out `session_id`.
pub(crate) fn owner(view: &View, session_id: u32) -> Option<&str> {
    let block = block_of(session_id)?;
    let owner = view.planes.iter().find(|(_, plane)| plane.kept.first_session_id == block);
    owner.map(|(id, _)| id.as_str())
}

/// The block of data plane `id`: the one that it has; else the one that it had (`before`), where that is free; else a
/// free one.
pub(crate) fn claim(view: &View, id: &str, version: &str, before: u32) -> Result<(Edit, u32), Error> {
    let mut edit = Edit::new();
    let first_session_id = match view.planes.get(id) {
        Some(plane) if plane.kept.version == version => return Ok((edit, plane.kept.first_session_id)),
        Some(plane) => plane.kept.first_session_id,
        None => free(view, before)?,
    };
    edit.put_plane(id, &KeptPlane { first_session_id, version: version.to_owned() });
    Ok((edit, first_session_id))
}

fn free(view: &View, before: u32) -> Result<u32, Error> {
    let taken: BTreeSet<u32> = view.planes.values().map(|plane| plane.kept.first_session_id).collect();
    if block_of(before) == Some(before) && !taken.contains(&before) {
        return Ok(before);
    }
    let mut blocks = (0..BLOCKS).map(|n| FIRST + n * BLOCK);
    blocks.find(|block| !taken.contains(block)).ok_or(Error::NoBlock)
}

/// Gives the block of a data plane back.
pub(crate) fn release(view: &View, id: &str) -> Result<Edit, Error> {
    let key = keys::plane_key(id);
    if view.mod_revision(&key) == 0 {
        return Err(Error::NotFound(Kind::DataPlane, id.to_owned()));
    }
    let mut edit = Edit::new();
    edit.delete(key);
    Ok(edit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::StoredPlane;
    use std::sync::Arc;

    fn view(planes: impl IntoIterator<Item = (String, u32)>) -> View {
        let stored = |first_session_id| StoredPlane {
            kept: KeptPlane { first_session_id, version: "1".into() },
            mod_revision: 1,
        };
        let planes = planes.into_iter().map(|(id, first)| (id, stored(first))).collect();
        View { planes: Arc::new(planes), ..View::default() }
    }

    #[test]
    fn a_block_is_kept_or_the_lowest_free_one() {
        let view = view([("a".into(), FIRST), ("b".into(), FIRST + 2 * BLOCK)]);
        for (id, version, before, block, writes) in [
            ("a", "1", 0, FIRST, false),
            ("a", "2", 0, FIRST, true),
            ("a", "1", FIRST + 5 * BLOCK, FIRST, false),
            ("c", "1", 0, FIRST + BLOCK, true),
            ("c", "1", FIRST + 7 * BLOCK, FIRST + 7 * BLOCK, true),
            ("c", "1", FIRST, FIRST + BLOCK, true),
            ("c", "1", FIRST + 7, FIRST + BLOCK, true),
            ("c", "1", 5, FIRST + BLOCK, true),
        ] {
            let (edit, claimed) = claim(&view, id, version, before).unwrap();
            assert_eq!((claimed, !edit.written().is_empty()), (block, writes), "{id} {version} {before}");
        }
    }

    #[test]
    fn blocks_run_out() {
        let all = (0..BLOCKS).map(|n| (format!("dp-{n}"), FIRST + n * BLOCK));
        let full = view(all);
        assert_eq!(claim(&full, "one-more", "1", 0).unwrap_err(), Error::NoBlock);
        assert!(claim(&full, "dp-1023", "1", 0).is_ok());
    }

    #[test]
    fn an_id_leads_to_its_data_plane() {
        let view = view([("a".into(), FIRST), ("b".into(), FIRST + BLOCK)]);
        assert_eq!(owner(&view, FIRST + 7), Some("a"));
        assert_eq!(owner(&view, FIRST + BLOCK), Some("b"));
        for id in [0, 7, FIRST - 1, FIRST + 2 * BLOCK, 1 << 31, u32::MAX] {
            assert_eq!(owner(&view, id), None, "{id}");
        }
        assert_eq!(block_of((1 << 31) - 1), Some((1 << 31) - BLOCK));
        assert_eq!(block_of(1 << 31), None);
    }
}
