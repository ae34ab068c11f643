use super::*;
use proptest::prelude::*;

/// All problems of `text`, after `read` has read it.
fn problems(text: &str, read: impl FnOnce(Section<'_>)) -> Vec<String> {
    let document = match Document::parse("f.yaml", text.as_bytes()) {
        Ok(document) => document,
        Err(problems) => return lines(&problems),
    };
    read(document.root());
    document.finish(()).err().as_ref().map(lines).unwrap_or_default()
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.to_string().lines().map(str::to_owned).collect()
}

/// Asks for every key as every kind, as deep as it goes.
fn read_all(section: &Section<'_>) {
    section.require("missing");
    section.section("a section that may be there").require("b");
    for (_, value) in section.entries() {
        read_value(&value);
    }
}

fn read_value(value: &Value<'_>) {
    let _ = (value.text(), value.bool(), value.u32(), value.f64(), value.duration(), value.size());
    let _ = (value.address(), value.listen(), value.file(), value.word(&[("off", 1), ("v2", 2)]));
    value.one_or_list().iter().filter(|item| item.path() != value.path()).for_each(read_value);
    if let Some(section) = value.section() {
        read_all(&section);
    }
}

#[test]
fn each_kind_is_read() {
    let text = "
listen: 127.0.0.1:0
to: '[::1]:3306'
local: localhost:6001
on: true
count: 7
part: 0.1
times: [50ms, 1s, 2m, 1h, 0s]
sizes: [512, 64KiB, 16 MiB, 1GiB]
folder: ./x
mode: off
one: word
several: [a, b]
empty:
";
    let document = Document::parse("f", text.as_bytes()).unwrap();
    let root = document.root();
    assert_eq!(root.listen("listen"), Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(root.address("to").as_deref(), Some("[::1]:3306"));
    assert_eq!(root.listen("local"), Some("127.0.0.1:6001".parse().unwrap()));
    assert_eq!(root.bool("on"), Some(true));
    assert_eq!(root.u32("count"), Some(7));
    assert_eq!(root.f64("part"), Some(0.1));
    let times: Vec<_> =
        root.list("times").iter().map(|value| value.duration().unwrap().as_millis()).collect();
    assert_eq!(times, [50, 1_000, 120_000, 3_600_000, 0]);
    let sizes: Vec<_> = root.list("sizes").iter().map(|value| value.size().unwrap()).collect();
    assert_eq!(sizes, [512, 64 << 10, 16 << 20, 1 << 30]);
    assert_eq!(root.file("folder"), Some(PathBuf::from("./x")));
    assert_eq!(root.word("mode", &[("off", 0), ("v2", 2)]), Some(0));
    let words = |key| root.one_or_list(key).iter().map(|value| value.text().unwrap()).collect::<Vec<_>>();
    assert_eq!(words("one"), ["word"]);
    assert_eq!(words("several"), ["a", "b"]);
    assert!(!root.section("empty").is_present());
    assert!(root.section("absent").section("deeper").u32("x").is_none());
    document.finish(()).unwrap();
}

#[test]
fn json_is_yaml() {
    let document =
        Document::parse("f", br#"{"a": "1s", "b": 7, "c": {"d": ["64KiB", true]}, "e": null}"#).unwrap();
    let root = document.root();
    assert_eq!((root.duration("a"), root.u32("b")), (Some(Duration::from_secs(1)), Some(7)));
    let list = root.section("c").list("d");
    assert_eq!((list[0].size(), list[1].bool()), (Some(64 << 10), Some(true)));
    assert!(!root.section("e").is_present());
    document.finish(()).unwrap();
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "mysql:
  listen: here
  lisen: 1
limits: { login: 10, cn_connect: \"1d\", first_packet: -1s }
sessions: +3
flag: yes
list: [1, {a: 1}]
nothing:
";
    let found = problems(text, |root| {
        root.section("mysql").listen("listen");
        let limits = root.section("limits");
        for key in ["login", "cn_connect", "first_packet", "shutdown"] {
            let _ = limits.duration(key);
        }
        let _ = (root.u32("sessions"), root.bool("flag"), root.text("nothing"), root.section("list"));
        for item in root.list("list") {
            item.text();
        }
        root.require("store");
        root.section("mysql").require("name");
    });
    let wanted = [
        "f.yaml:1:1: store: is missing",
        "f.yaml:2:3: mysql.name: is missing",
        "f.yaml:2:11: mysql.listen: \"here\" is not an address to listen on, such as 127.0.0.1:6001",
        "f.yaml:3:3: mysql.lisen: unknown key (did you mean listen?)",
        "f.yaml:4:18: limits.login: \"10\" is not a duration such as 50ms, 1s, 2m or 1h",
        "f.yaml:4:34: limits.cn_connect: \"1d\" is not a duration such as 50ms, 1s, 2m or 1h",
        "f.yaml:4:54: limits.first_packet: \"-1s\" is not a duration such as 50ms, 1s, 2m or 1h",
        "f.yaml:5:11: sessions: \"+3\" is not a whole number from 0 to 4294967295",
        "f.yaml:6:7: flag: \"yes\" is not true or false",
        "f.yaml:7:7: list: is a list, not a section",
        "f.yaml:7:11: list[1]: is a section, not a word",
        "f.yaml:8:8: nothing: has no value, expected a word",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn two_readers_know_the_union_of_their_keys() {
    let text = "admin: { control: a, data: b, other: c }\napi: {}\nmysql: {}\nlimits: {x: 1}\n";
    let found = problems(text, |root| {
        root.section("admin").text("control");
        root.section("api");
        root.section("admin").text("data");
        root.section("mysql");
    });
    assert_eq!(
        found,
        ["f.yaml:1:31: admin.other: unknown key", "f.yaml:4:1: limits: unknown key"],
        "what is inside an unknown section is not told apart"
    );
}

#[test]
fn what_yaml_allows_and_configurations_do_not_need_is_refused() {
    let cases = [
        ("", "f.yaml:1:1: holds no configuration"),
        ("# only this\n", "f.yaml:1:1: holds no configuration"),
        ("~", "f.yaml:1:1: holds no configuration"),
        ("- a\n", "f.yaml:1:1: is not a mapping of keys to values"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1: a second document begins: one file holds one"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: tab in the indentation: YAML wants spaces"),
        ("a: \u{7}\n", "f.yaml:1:4: control character '\\u{7}'"),
        ("a: 1\0\nb: 2", "f.yaml:1:5: control character '\\0'"),
        ("x: {a: 1, b: 2, a: 3}", "f.yaml:1:17: x.a: the key is there twice, first in line 1"),
        ("x: [{a: &b 1}]", "f.yaml:1:9: x[0].a: anchors and aliases are not used here"),
        ("a: !!str 1", "f.yaml:1:4: a: tags are not used here"),
        ("[a]: 1", "f.yaml:1:1: a key must be a word"),
        ("a: b: c", "f.yaml:1:5: mapping values are not allowed in this context"),
    ];
    for (text, wanted) in cases {
        assert_eq!(problems(text, |root| drop(root.entries())), [wanted], "{text:?}");
    }
    let not_utf8 = Document::parse("f", b"a: 1\nb: \xff\n").unwrap_err();
    assert_eq!(not_utf8.to_string(), "f:2:4: is not UTF-8");
}

#[test]
fn work_is_bounded() {
    let bomb = "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b, *b]\n";
    assert_eq!(problems(bomb, |root| drop(root.entries())).len(), 10, "each is told, none is followed");
    let deep = "a: {".repeat(40);
    assert_eq!(problems(&deep, |_| ()), ["f.yaml:1:128: is nested deeper than 32"]);
    let deep: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert_eq!(problems(&deep, |_| ()), ["f.yaml:33:33: is nested deeper than 32"]);
    let large = "#".repeat(tree::MAX_BYTES + 1);
    assert_eq!(problems(&large, |_| ()), ["f.yaml:1:1: is larger than 2 MiB"]);
    let many = format!("a: [{}]", "x,".repeat(201_000));
    assert!(problems(&many, |_| ())[0].ends_with("has more than 200000 values"));
    let wrong = format!("a: [{}]", "x,".repeat(5_000));
    let found = problems(&wrong, |root| root.list("a").iter().for_each(|item| assert_eq!(item.u32(), None)));
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], "f.yaml: and 4900 more");
}

#[test]
fn a_file_that_is_not_there_is_a_problem_of_its_own() {
    let problems = Document::read(Path::new("/nowhere/at all.yaml")).unwrap_err();
    assert_eq!(problems.to_string(), "/nowhere/at all.yaml:1:1: No such file or directory (os error 2)");
}

#[test]
fn long_words_are_cut_where_they_are_quoted() {
    let found = problems(&format!("a: {}", "é".repeat(1000)), |root| assert_eq!(root.bool("a"), None));
    assert_eq!(found, [format!("f.yaml:1:4: a: \"{}\"… is not true or false", "é".repeat(60))]);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        problems(&text, |root| read_all(&root));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse("f", &bytes);
    }

    #[test]
    fn nothing_like_yaml_makes_it_panic(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "a", "b: ", ": ", "- ", "\n", "\n  ", "  ", "[", "]", "{", "}", ",", "\"", "'", "|", ">", "&a ", "*a",
                "!x ", "? ", "%YAML 1.2\n", "---\n", "...\n", "#", "~", "1", "50ms", "\t", "\u{85}", "\u{feff}", "é",
                "<<", "\\", "\\x", "@", "`", "-1", "\r", "|2\n", ">-\n",
            ]),
            0..40,
        )
    ) {
        problems(&parts.concat(), |root| read_all(&root));
    }
}
