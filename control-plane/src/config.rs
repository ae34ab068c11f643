//! The control plane's part of a configuration file: what it takes, and what holds where a key is left out.

use crate::{apply, cluster::View};
use shunt_proto::intent::Intent;
use shunt_proto::yaml::{Document, Problems, Section};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a control plane is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC is served. Port 0: any that is free.
    pub api: SocketAddr,
    /// Where other replicas reach it (`host:port`), where that is not where it listens.
    pub advertise: Option<String>,
    /// Where `/livez`, `/readyz` and `/metrics` are. Port 0: any that is free.
    pub admin: SocketAddr,
    /// Where intent is kept.
    pub store: StoreConfig,
    /// What an empty store is filled with.
    pub seeds: Intent,
}

/// Where intent is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In a folder of this machine.
    Embedded(PathBuf),
    /// In etcd.
    Etcd {
        /// URLs of its members.
        endpoints: Vec<String>,
        /// What all keys begin with.
        prefix: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 6500)),
            advertise: None,
            admin: SocketAddr::from(([127, 0, 0, 1], 6580)),
            store: StoreConfig::Embedded(PathBuf::from("./shunt-data")),
            seeds: Intent::default(),
        }
    }
}

impl Config {
    /// Reads the keys of a control plane. Problems are noted in `document` and told by its `finish`.
    #[must_use]
    pub fn read(document: &Document) -> Self {
        let root = document.root();
        let default = Self::default();
        // Nothing can be said there yet: each key in it is unknown.
        root.section("security");
        let seeds = Intent::read(&root);
        if let Err(error) = apply::plan(&View::default(), &seeds, false, |_| 0) {
            root.problem(format_args!("groups, tenants and policy: {error}"));
        }
        let api = root.section("api");
        let listen = api.listen("listen").unwrap_or(default.api);
        let advertise = api.text("advertise");
        let store = store(&root.section("store")).unwrap_or(default.store);
        if let Some(address) = &advertise
            && !is_address(address)
        {
            api.problem_at("advertise", format_args!("{address:?} is not an address like 10.0.0.1:6500"));
        }
        if matches!(store, StoreConfig::Etcd { .. }) && listen.ip().is_unspecified() && advertise.is_none() {
            api.problem_at(
                "listen",
                "is no address that other replicas can reach: name one in api.advertise",
            );
        }
        Self {
            api: listen,
            advertise,
            admin: root.section("admin").listen("control").unwrap_or(default.admin),
            store,
            seeds,
        }
    }

    /// Reads the configuration of a control plane alone.
    ///
    /// # Errors
    /// All problems at once.
    pub fn of(document: &Document) -> Result<Self, Problems> {
        document.finish(Self::read(document))
    }
}

/// Whether it is a host and a port, such as a URL has.
fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.is_some_and(|port| port != 0)
        && tonic::transport::Endpoint::from_shared(format!("http://{text}")).is_ok()
}

fn store(section: &Section<'_>) -> Option<StoreConfig> {
    let folder = section.file("embedded");
    let etcd = section.value("etcd").map(|_| section.section("etcd"));
    match (folder, etcd) {
        (Some(_), Some(_)) => {
            section.problem("names both embedded and etcd");
            None
        }
        (Some(folder), None) => Some(StoreConfig::Embedded(folder)),
        (None, Some(etcd)) => Some(self::etcd(&etcd)),
        (None, None) => None,
    }
}

fn etcd(section: &Section<'_>) -> StoreConfig {
    section.require("endpoints");
    let mut endpoints = Vec::new();
    for value in section.one_or_list("endpoints") {
        let Some(url) = value.text() else { continue };
        if !url.starts_with("http://") || tonic::transport::Endpoint::from_shared(url.to_owned()).is_err() {
            value.problem(format_args!("{url:?} is not a URL like http://127.0.0.1:2379"));
        }
        endpoints.push(url.to_owned());
    }
    let prefix = section.text("prefix").unwrap_or_else(|| "/shunt".to_owned());
    if prefix.trim_matches('/').is_empty() {
        section.problem_at("prefix", "is empty");
    }
    StoreConfig::Etcd { endpoints, prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let document = Document::parse("c.yaml", text.as_bytes()).map_err(|problems| problems.to_string())?;
        Config::of(&document).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = read("api: {}").unwrap();
        assert_eq!(config.api.to_string(), "127.0.0.1:6500");
        assert_eq!(config.admin.to_string(), "127.0.0.1:6580");
        assert_eq!(config.store, StoreConfig::Embedded("./shunt-data".into()));
        assert!(config.seeds.is_empty());
    }

    #[test]
    fn all_of_it() {
        let config = read(
            "api: { listen: 127.0.0.1:7000 }\nadmin: { control: 127.0.0.1:7001 }\n\
             store: { etcd: { endpoints: [http://127.0.0.1:2379], prefix: /s } }\n\
             groups: [ { name: tp, cns: [ { name: cn-1, address: 127.0.0.1:1 } ] } ]\n",
        )
        .unwrap();
        let endpoints = vec!["http://127.0.0.1:2379".to_owned()];
        assert_eq!(config.store, StoreConfig::Etcd { endpoints, prefix: "/s".into() });
        assert_eq!(config.seeds.groups.len(), 1);
    }

    #[test]
    fn all_problems_come_at_once() {
        let problems = read(
            "api: { listen: here }\nsecurity: { tls: on }\n\
             store: { embedded: ./x, etcd: { endpoints: [ftp://x] } }\nmysql: {}\n\
             tenants: [ { name: a, default_labels: { _x: y } } ]\n",
        )
        .unwrap_err();
        for part in ["api.listen", "security.tls", "store", "endpoints", "mysql", "_x"] {
            assert!(problems.contains(part), "{part} in {problems}");
        }
    }
}
