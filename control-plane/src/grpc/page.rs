//! Pages of a list in the order of names. A token names the last item shown and the list that it was made for.

use crate::error::Error;
use shunt_proto::snapshot::entry_hash;
use shunt_proto::wire::Invalid;

/// Items a page when none are asked for, and at most.
const DEFAULT: usize = 100;
const MAX: usize = 1000;

/// How much of a list to show.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Items with greater names only; empty: from the beginning.
    pub(super) after: String,
    pub(super) size: usize,
    list: String,
}

impl Page {
    /// The page that a call asks for. `list` names the list with what it is filtered by.
    pub(super) fn new(list: &str, size: i32, token: &str) -> Result<Self, Error> {
        let size = match usize::try_from(size) {
            Ok(0) => DEFAULT,
            Ok(size) => size.min(MAX),
            Err(_) => return Err(Invalid::new("page_size", "is negative").into()),
        };
        let bad = || Invalid::new("page_token", "was not given out by this list");
        let after = if token.is_empty() { String::new() } else { read(list, token).ok_or_else(bad)? };
        Ok(Self { after, size, list: list.to_owned() })
    }

    /// The items of this page out of `all`, which is in the order of names, and the token of the next.
    pub(super) fn cut<T>(
        &self,
        all: impl Iterator<Item = T>,
        name: impl Fn(&T) -> String,
    ) -> (Vec<T>, String) {
        let mut rest = all.filter(|item| self.after.is_empty() || name(item) > self.after);
        let items: Vec<T> = rest.by_ref().take(self.size).collect();
        let token = match items.last() {
            Some(last) if rest.next().is_some() => self.token(&name(last)),
            _ => String::new(),
        };
        (items, token)
    }

    /// The token of the page after the item of that name.
    pub(super) fn token(&self, last: &str) -> String {
        let sum = entry_hash(&self.list, 0, last.as_bytes()).to_be_bytes();
        sum.iter().chain(last.as_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The name in a token of `list`.
fn read(list: &str, token: &str) -> Option<String> {
    if token.len() > 1024 || !token.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..token.len()).step_by(2).map(|at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok()).collect();
    let bytes = bytes?;
    let (sum, name) = bytes.split_at_checked(8)?;
    let right = entry_hash(list, 0, name).to_be_bytes() == sum;
    String::from_utf8(name.to_vec()).ok().filter(|_| right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_make_the_whole_list() {
        let all: Vec<String> = (0..25).map(|i| format!("n{i:02}")).collect();
        let mut shown = Vec::new();
        let mut token = String::new();
        loop {
            let page = Page::new("cns", 10, &token).unwrap();
            let (items, next) = page.cut(all.iter(), |name| (*name).clone());
            shown.extend(items.into_iter().cloned());
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(shown, all);
    }

    #[test]
    fn a_full_last_page_has_no_next() {
        let all = ["a", "b"];
        let (items, next) = Page::new("l", 2, "").unwrap().cut(all.iter(), |n| (**n).to_owned());
        assert_eq!((items.len(), next.as_str()), (2, ""));
    }

    #[test]
    fn sizes_and_tokens() {
        assert_eq!(Page::new("l", 0, "").unwrap().size, 100);
        assert_eq!(Page::new("l", 5000, "").unwrap().size, 1000);
        assert!(Page::new("l", -1, "").is_err());
        let token = Page::new("l", 1, "").unwrap().token("x");
        assert_eq!(Page::new("l", 1, &token).unwrap().after, "x");
        assert!(Page::new("other", 1, &token).is_err(), "of another list");
        for bad in ["x", "zz", "00", "ä", &token[1..], &format!("{token}00"), &"0".repeat(5000)] {
            assert!(Page::new("l", 1, bad).is_err(), "{bad}");
        }
    }
}
