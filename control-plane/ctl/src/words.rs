//! How single values read: labels, ages, durations, and text that strangers chose.

use prost_types::value::Kind;
use prost_types::{Duration, ListValue, Timestamp};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// What stands where there is nothing.
pub(crate) const NONE: &str = "-";

/// `workload=tp,tier=gold|silver`; a key without a value takes a group's label away, and reads `tier=`.
pub(crate) fn labels(labels: &BTreeMap<String, ListValue>) -> String {
    let label = |(key, list): (&String, &ListValue)| format!("{key}={}", values(list));
    or_none(labels.iter().map(label).collect::<Vec<_>>().join(","))
}

fn values(list: &ListValue) -> String {
    let text = |value: &prost_types::Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => "?".to_owned(),
    };
    list.values.iter().map(text).collect::<Vec<_>>().join("|")
}

pub(crate) fn or_none(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// `yes` or `no`.
pub(crate) const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// How long ago it was.
pub(crate) fn age(at: Option<&Timestamp>, now: SystemTime) -> String {
    let at = at.and_then(|at| SystemTime::try_from(*at).ok());
    match at {
        Some(at) => short(now.duration_since(at).unwrap_or_default()),
        None => NONE.to_owned(),
    }
}

/// A duration of a message.
pub(crate) fn duration(duration: Option<&Duration>) -> String {
    let duration = duration.and_then(|duration| std::time::Duration::try_from(*duration).ok());
    duration.map_or_else(|| NONE.to_owned(), short)
}

/// The two largest units: `250ms`, `12s`, `3m5s`, `2h10m`, `4d3h`.
fn short(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, l: &str, small: u64, s: &str| match small {
        0 => format!("{large}{l}"),
        small => format!("{large}{l}{small}{s}"),
    };
    match seconds {
        0 if duration.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

/// Text without what a terminal would obey: user names are chosen by clients.
pub(crate) fn harmless(text: &str) -> String {
    // Bidirectional overrides and the like are no control characters, but mislead as well.
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if invisible(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_two_units() {
        let short = |seconds: u64, millis: u32| short(std::time::Duration::new(seconds, millis * 1_000_000));
        let shown = [short(0, 0), short(0, 250), short(1, 999), short(60, 0), short(185, 0), short(7800, 0)];
        assert_eq!(shown, ["0s", "250ms", "1s", "1m", "3m5s", "2h10m"]);
        assert_eq!(short(4 * 86400 + 3 * 3600, 0), "4d3h");
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(harmless("a\u{1b}[2Jb\n\u{202e}é"), "a\\u{1b}[2Jb\\u{a}\\u{202e}é");
    }

    #[test]
    fn ages_of_the_future_are_zero() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(age(Some(&Timestamp { seconds: 5, nanos: 0 }), now), "0s");
        assert_eq!(age(None, now), "-");
    }
}
