//! Whether a CN is up, by what the data planes say of it. Pure.
//!
//! A data plane that says *down* wins over any number that say *up*: it tried and failed, on behalf of a client, and
//! its probes go on until one succeeds; the others may not have tried since. With no word against it, one that says
//! *up* makes it up. A CN that nobody has tried is *unknown*, which counts as up. What a data plane said that is no
//! longer connected does not count: it would hold a CN down that nobody probes any more.

use shunt_proto::cn::Health;

/// What one connected data plane says of a CN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) plane: &'a str,
    pub(crate) health: Health,
    pub(crate) reason: &'a str,
}

/// What counts, and why it is down.
pub(crate) fn health<'a>(said: impl IntoIterator<Item = Said<'a>>) -> (Health, String) {
    let mut all = Health::Unknown;
    for Said { plane, health, reason } in said {
        match health {
            Health::Down if reason.is_empty() => {
                return (Health::Down, format!("data plane {plane} says so"));
            }
            Health::Down => return (Health::Down, format!("{reason} (data plane {plane})")),
            Health::Up => all = Health::Up,
            Health::Unknown => {}
        }
    }
    (all, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_failed_wins() {
        use Health::{Down, Unknown, Up};
        for (said, is) in [
            (&[][..], Unknown),
            (&[Unknown], Unknown),
            (&[Unknown, Up], Up),
            (&[Up, Down, Up], Down),
            (&[Down, Unknown], Down),
        ] {
            let all = said.iter().map(|&health| Said { plane: "dp-1", health, reason: "refused" });
            assert_eq!(health(all).0, is, "{said:?}");
        }
        let down = [Said { plane: "dp-1", health: Down, reason: "connection refused" }];
        assert_eq!(health(down).1, "connection refused (data plane dp-1)");
    }
}
