//! Configurations damaged at random: read, whatever they hold, in bounded time and without a panic.
//!
//! Begins with a real configuration, so that damage reaches every reader, and not only the parser's first line.

use shunt_proto::intent::Intent;
use shunt_proto::yaml::{Document, Section, Value};
use std::time::{Duration, SystemTime};

/// A configuration that uses each kind of value, and each way to write it.
const WHOLE: &str = r#"
mysql: { listen: 127.0.0.1:6001, server_version: "5.5.5-10.11.0-MariaDB" }
limits:
  cn_connect: 1s
  size: 64KiB
groups:
- { name: tp, labels: { workload: [tp, 'o''ltp'] }, tenant: acme, replicas: 2,
    cns: [ { name: cn-1, address: 127.0.0.1:13306 }, { name: cn-2, address: "[::1]:1", weight: 50, zone: b } ] }
- name: shared
  cns:
    - name: cn-3
      address: 'db.example:3306'
      labels: {workload: []}
tenants: # a comment
  - { name: acme, default_labels: { workload: tp }, allow: [127.0.0.0/8, "::1"], max_sessions: 1000,
      on_no_match: reject, suspended: true }
policy: { rebalance: { moves_per_second: 100, tolerance: 0.1 }, migrate: { settle_after: 20ms } }
text: |
  several
  lines
folded: >-
  more
  of them
? key
: ~
"#;

/// What damage puts in: what YAML gives a meaning.
const WORDS: [&str; 33] = [
    ": ",
    "- ",
    "\n",
    "\n  ",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "&a ",
    "*a",
    "!x ",
    "? ",
    "%YAML 1.2\n",
    "---\n",
    "...\n",
    "#",
    "~",
    "\t",
    "\u{85}",
    "\u{feff}",
    "é",
    "<<: ",
    "\\x",
    "@",
    "\r",
    "\0",
    "9999999999999999999999",
];

/// Numbers that look random, the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % below.max(1)
    }
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.roll(bytes.len() + 1);
    let end = (at + dice.roll(20)).min(bytes.len());
    match dice.roll(6) {
        0 => drop(bytes.drain(at..end)),
        1 => {
            let copied = bytes[at..end].to_vec();
            let to = dice.roll(bytes.len() + 1);
            bytes.splice(to..to, copied);
        }
        2 if at < bytes.len() => bytes[at] = u8::try_from(dice.roll(256)).expect("below 256"),
        _ => drop(bytes.splice(at..at, WORDS[dice.roll(WORDS.len())].bytes())),
    }
}

/// Reads each value as every kind, as deep as it goes.
fn read_section(section: &Section<'_>) {
    section.require("missing");
    for (_, value) in section.entries() {
        read_value(&value);
    }
}

fn read_value(value: &Value<'_>) {
    let _ = (value.text(), value.bool(), value.u32(), value.f64(), value.duration(), value.size());
    let _ = (value.address(), value.listen(), value.file(), value.word(&[("off", 1), ("v2", 2)]));
    if value.is_list() {
        value.list().iter().for_each(read_value);
    }
    if let Some(section) = value.section().filter(|_| value.is_section()) {
        read_section(&section);
    }
}

/// Reads `bytes`, and tells whether there was something to read.
fn read(bytes: &[u8]) -> bool {
    let Ok(document) = Document::parse("fuzz.yaml", bytes) else { return false };
    let root = document.root();
    for key in ["mysql", "limits", "text", "folded", "key"] {
        root.value(key);
    }
    // What has no problem can be sent, and is taken: the checks are the same ones.
    if let Ok(intent) = document.finish(Intent::read(&root)) {
        for group in intent.to_apply(false).groups {
            shunt_proto::cn::CnGroup::try_from(&group.group.expect("one is sent")).expect("it was checked");
            group.cns.iter().for_each(|cn| drop(shunt_proto::cn::Cn::try_from(cn).expect("it was checked")));
        }
    }
    read_section(&root);
    let problems = document.finish(()).err().map(|problems| problems.to_string()).unwrap_or_default();
    assert!(problems.lines().all(|line| line.starts_with("fuzz.yaml:")), "{problems}");
    true
}

/// Rounds of damage, each begun anew after a while; how many texts were readable, of how many.
fn rounds(seed: u64, mut go_on: impl FnMut() -> bool) -> (u64, u64) {
    let (mut readable, mut all) = (0, 0);
    let mut dice = Dice(seed);
    while go_on() {
        let mut bytes = WHOLE.as_bytes().to_vec();
        for _ in 0..dice.roll(8) {
            damage(&mut bytes, &mut dice);
            all += 1;
            readable += u64::from(read(&bytes));
        }
    }
    (readable, all)
}

#[test]
fn damaged_configurations_are_read() {
    let document = Document::parse("whole", WHOLE.as_bytes()).unwrap();
    let root = document.root();
    for key in ["mysql", "limits", "text", "folded", "key"] {
        root.value(key);
    }
    let intent = document.finish(Intent::read(&root)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((intent.groups.len(), intent.tenants.len()), (2, 1), "damage begins with something whole");
    let mut left = 500;
    let (readable, all) = rounds(1, || {
        left -= 1;
        left > 0
    });
    // Were each refused at its first line, nothing behind the parser would have been tried.
    assert!(readable > all / 8, "{readable} of {all}");
}

#[test]
#[ignore = "as long as FUZZ_SECONDS says: make fuzz"]
fn fuzz_yaml() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let began = SystemTime::now();
    let nanos = began.duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = u64::from(nanos) + 1;
    println!("seed {seed}");
    let (readable, all) = rounds(seed, || began.elapsed().unwrap_or_default() < Duration::from_secs(seconds));
    println!("{all} texts, {readable} of them readable");
    assert!(all > 0);
}
