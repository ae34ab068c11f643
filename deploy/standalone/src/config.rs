//! The configuration of both planes, out of one file: the union of their keys.

use shunt_control::StoreConfig;
use shunt_proto::yaml::{Document, Problems};

/// What both planes are told at their start.
#[derive(Debug)]
pub(crate) struct Config {
    /// The control plane's part.
    pub(crate) control: shunt_control::Config,
    /// The data plane's part. Its control plane is this process's own, whatever it says.
    pub(crate) data: shunt_data::Config,
    /// Further replicas that the file names, for when the own one is not there.
    pub(crate) further_control: Vec<String>,
}

impl Config {
    /// Reads both parts.
    ///
    /// # Errors
    /// All problems of both at once.
    pub(crate) fn of(document: &Document) -> Result<Self, Problems> {
        let control = shunt_control::Config::read(document);
        let mut data = shunt_data::Config::read(document);
        let root = document.root();
        let named = !root.section("control").one_or_list("endpoints").is_empty();
        let further_control = if named { data.control.clone() } else { Vec::new() };
        if let (None, StoreConfig::Embedded(folder)) = (root.value("state"), &control.store) {
            data.state = folder.join("data-plane");
        }
        document.finish(Self { control, data, further_control })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Config, String> {
        let document = Document::parse("c", text.as_bytes()).map_err(|problems| problems.to_string())?;
        Config::of(&document).map_err(|problems| problems.to_string())
    }

    #[test]
    fn state_is_in_the_store_s_folder() {
        let config = read("store: { embedded: /x }").unwrap();
        assert_eq!(config.data.state, Path::new("/x/data-plane"));
        assert_eq!(read("api: {}").unwrap().data.state, Path::new("./shunt-data/data-plane"));
        assert_eq!(read("store: { embedded: /x }\nstate: /y").unwrap().data.state, Path::new("/y"));
        let etcd = read("store: { etcd: { endpoints: [http://h:1] } }").unwrap();
        assert_eq!(etcd.data.state, Path::new("./shunt-data-plane"));
    }

    #[test]
    fn other_control_planes_are_only_those_that_are_named() {
        assert!(read("api: {}").unwrap().further_control.is_empty());
        let config = read("control: { endpoints: [http://h:1] }").unwrap();
        assert_eq!(config.further_control, ["http://h:1"]);
    }

    #[test]
    fn problems_of_both_parts_come_together() {
        let problems =
            read("api: { listen: here }\nmysql: { listen: there }\nadmin: { date: x }\nmyqsl: {}\n")
                .unwrap_err();
        let lines: Vec<&str> = problems.lines().collect();
        assert_eq!(lines.len(), 4, "{problems}");
        for (line, part) in lines.iter().zip(["c:1:", "c:2:", "did you mean data?", "did you mean mysql?"]) {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
