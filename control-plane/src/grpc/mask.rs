//! Which fields an update changes.

use crate::error::Error;
use prost_types::FieldMask;
use shunt_proto::wire::Invalid;

/// A field that an update may name.
pub(super) struct Field {
    /// As in the proto.
    pub(super) name: &'static str,
    /// Whether the message has a value there that is not the default.
    pub(super) populated: bool,
}

/// The fields to change: those that `mask` names; without a mask the populated ones; with `*` all. `hint` says of a
/// field that cannot be changed why.
pub(super) fn fields(
    mask: Option<&FieldMask>,
    known: &[Field],
    hint: impl Fn(&str) -> Option<&'static str>,
) -> Result<Vec<&'static str>, Error> {
    let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else {
        return Ok(known.iter().filter(|field| field.populated).map(|field| field.name).collect());
    };
    if mask.paths.iter().any(|path| path == "*") {
        return match mask.paths.len() {
            1 => Ok(known.iter().map(|field| field.name).collect()),
            _ => Err(Invalid::new("update_mask", "\"*\" stands alone").into()),
        };
    }
    let field = |path: &String| {
        let found = known.iter().find(|field| field.name == path).map(|field| field.name);
        found.ok_or_else(|| {
            let why = hint(path).unwrap_or("is not a field that can be updated");
            Error::from(Invalid::new("update_mask", format!("{path:?} {why}")))
        })
    };
    mask.paths.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        let known = [Field { name: "zone", populated: true }, Field { name: "weight", populated: false }];
        let fields = |paths: &[&str]| {
            let mask = FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() };
            fields(Some(&mask), &known, |path| (path == "labels").then_some("is an output"))
                .map_err(|error| error.to_string())
        };
        assert_eq!(fields(&[]).unwrap(), ["zone"]);
        assert_eq!(fields(&["*"]).unwrap(), ["zone", "weight"]);
        assert_eq!(fields(&["weight"]).unwrap(), ["weight"]);
        assert!(fields(&["*", "zone"]).is_err());
        assert_eq!(fields(&["labels"]).unwrap_err(), "update_mask: \"labels\" is an output");
        assert!(fields(&["zone.x"]).is_err());
    }
}
