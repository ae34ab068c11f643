//! Logging in: the server's greeting, and the client's answer with the capabilities of its choice.
//!
//! Bytes only; `wire` sends them.

use crate::caps::Caps;
use crate::command::lenenc_bytes;
use crate::decode::Cursor;
use anyhow::{Result, bail};
use sha1::{Digest as _, Sha1};
use std::net::IpAddr;
use std::time::Duration;

/// The plugin that every account of the tests uses.
pub const NATIVE: &str = "mysql_native_password";

/// The plugin that MySQL 8 has by default.
pub const CACHING_SHA2: &str = "caching_sha2_password";

/// The server's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Server version.
    pub version: String,
    /// Connection id.
    pub connection_id: u32,
    /// What the server can do.
    pub caps: Caps,
    /// Its default collation.
    pub charset: u8,
    /// Status.
    pub status: u16,
    /// 20 bytes to sign.
    pub salt: Vec<u8>,
    /// Its default plugin.
    pub plugin: String,
}

impl Greeting {
    /// Reads a greeting of protocol version 10.
    ///
    /// # Errors
    /// The bytes are not one.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(payload);
        if at.u8()? != 10 {
            bail!("not a greeting of version 10: {payload:02x?}");
        }
        let version = String::from_utf8_lossy(at.until_nul()?).into_owned();
        let connection_id = at.u32()?;
        let mut salt = at.take(8)?.to_vec();
        at.take(1)?;
        let low = u64::from(at.u16()?);
        let charset = at.u8()?;
        let status = at.u16()?;
        let mut caps = low | (u64::from(at.u16()?) << 16);
        let salt_length = at.u8()?;
        at.take(6)?;
        let extended = at.u32()?;
        if caps & Caps::LONG_PASSWORD.0 == 0 {
            caps |= u64::from(extended) << 32;
        }
        salt.extend_from_slice(at.take(usize::from(salt_length.max(21)) - 9)?);
        at.take(1)?;
        let plugin = if at.is_empty() { &[][..] } else { at.until_nul()? };
        let plugin = String::from_utf8_lossy(plugin).into_owned();
        Ok(Self { version, connection_id, caps: Caps(caps), charset, status, salt, plugin })
    }
}

/// How a client logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password; none is an empty answer.
    pub password: String,
    /// Database.
    pub database: Option<String>,
    /// Collation id. 45 is utf8mb4_general_ci.
    pub charset: u8,
    /// What the client asks for; what the server lacks is dropped.
    pub caps: Caps,
    /// Connection attributes.
    pub attributes: Vec<(String, String)>,
    /// The plugin the client names in its answer.
    pub plugin: String,
    /// Where the client connects from.
    pub from: Option<IpAddr>,
    /// How long any one answer may take.
    pub patience: Duration,
}

impl Login {
    /// A login with the capabilities of a usual client: multi-statements, multi-results, files;
    /// neither DEPRECATE_EOF nor SESSION_TRACK.
    pub fn user(user: impl Into<String>) -> Self {
        let caps = Caps::LONG_PASSWORD
            | Caps::LONG_FLAG
            | Caps::LOCAL_FILES
            | Caps::PROTOCOL_41
            | Caps::TRANSACTIONS
            | Caps::SECURE_CONNECTION
            | Caps::MULTI_STATEMENTS
            | Caps::MULTI_RESULTS
            | Caps::PS_MULTI_RESULTS
            | Caps::PLUGIN_AUTH;
        Self {
            user: user.into(),
            password: String::new(),
            database: None,
            charset: 45,
            caps,
            attributes: Vec::new(),
            plugin: NATIVE.into(),
            from: None,
            patience: crate::eventually::patience(),
        }
    }

    /// With this password.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = password.into();
        self
    }

    /// With this database.
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// With this collation.
    pub fn charset(mut self, id: u8) -> Self {
        self.charset = id;
        self
    }

    /// With these capabilities on or off.
    pub fn caps(mut self, caps: Caps, on: bool) -> Self {
        self.caps = self.caps.set(caps, on);
        // MariaDB's extended capabilities are read only from a client that does not say "MySQL".
        if self.caps.extended() != 0 {
            self.caps = self.caps.without(Caps::LONG_PASSWORD);
        }
        self
    }

    /// Results end with OK instead of EOF.
    pub fn deprecate_eof(self, on: bool) -> Self {
        self.caps(Caps::DEPRECATE_EOF, on)
    }

    /// OK packets carry session state.
    pub fn session_track(self, on: bool) -> Self {
        self.caps(Caps::SESSION_TRACK, on)
    }

    /// Several statements in one query.
    pub fn multi_statements(self, on: bool) -> Self {
        self.caps(Caps::MULTI_STATEMENTS, on)
    }

    /// Uploads.
    pub fn local_files(self, on: bool) -> Self {
        self.caps(Caps::LOCAL_FILES, on)
    }

    /// A connection attribute.
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self.caps(Caps::CONNECT_ATTRS, true)
    }

    /// Names this plugin in the answer.
    pub fn plugin(mut self, plugin: impl Into<String>) -> Self {
        self.plugin = plugin.into();
        self
    }

    /// Connects from this address.
    pub fn from(mut self, address: impl Into<IpAddr>) -> Self {
        self.from = Some(address.into());
        self
    }

    /// Waits this long for any one answer.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What both sides can do.
    pub fn negotiate(&self, server: Caps) -> Caps {
        let asked = self.caps.set(Caps::CONNECT_WITH_DB, self.database.is_some());
        // A client says LONG_PASSWORD of itself, whatever the server says.
        asked & (server | Caps::LONG_PASSWORD)
    }

    /// The answer to a greeting.
    pub fn response(&self, greeting: &Greeting) -> Vec<u8> {
        let caps = self.negotiate(greeting.caps);
        let mut payload = caps.base().to_le_bytes().to_vec();
        payload.extend(0x4000_0000_u32.to_le_bytes()); // max packet
        payload.push(self.charset);
        payload.extend([0; 19]);
        payload.extend(caps.extended().to_le_bytes());
        payload.extend_from_slice(self.user.as_bytes());
        payload.push(0);
        let answer = if self.plugin == NATIVE { native(&self.password, &greeting.salt) } else { Vec::new() };
        self.identity(&mut payload, caps, &answer, caps.has(Caps::PLUGIN_AUTH_LENENC));
        payload
    }

    /// COM_CHANGE_USER to this login, on a connection with these capabilities.
    pub fn change_user(&self, caps: Caps, salt: &[u8]) -> Vec<u8> {
        let mut payload = vec![crate::command::com::CHANGE_USER];
        payload.extend_from_slice(self.user.as_bytes());
        payload.push(0);
        let answer = if self.plugin == NATIVE { native(&self.password, salt) } else { Vec::new() };
        payload.push(answer.len() as u8);
        payload.extend_from_slice(&answer);
        payload.extend_from_slice(self.database.as_deref().unwrap_or_default().as_bytes());
        payload.push(0);
        payload.extend(u16::from(self.charset).to_le_bytes());
        self.plugin_and_attributes(&mut payload, caps);
        payload
    }

    /// Answer, database, plugin and attributes, as the login has them.
    fn identity(&self, payload: &mut Vec<u8>, caps: Caps, answer: &[u8], lenenc: bool) {
        if lenenc {
            lenenc_bytes(payload, answer);
        } else {
            payload.push(answer.len() as u8);
            payload.extend_from_slice(answer);
        }
        if let Some(database) = self.database.as_deref().filter(|_| caps.has(Caps::CONNECT_WITH_DB)) {
            payload.extend_from_slice(database.as_bytes());
            payload.push(0);
        }
        self.plugin_and_attributes(payload, caps);
    }

    fn plugin_and_attributes(&self, payload: &mut Vec<u8>, caps: Caps) {
        if caps.has(Caps::PLUGIN_AUTH) {
            payload.extend_from_slice(self.plugin.as_bytes());
            payload.push(0);
        }
        if caps.has(Caps::CONNECT_ATTRS) {
            let mut block = Vec::new();
            for (key, value) in &self.attributes {
                lenenc_bytes(&mut block, key.as_bytes());
                lenenc_bytes(&mut block, value.as_bytes());
            }
            lenenc_bytes(payload, &block);
        }
    }
}

/// The answer of mysql_native_password: SHA1(password) xor SHA1(salt, SHA1(SHA1(password))).
pub fn native(password: &str, salt: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let stage1 = Sha1::digest(password.as_bytes());
    let stage2 = Sha1::digest(stage1);
    let salted = Sha1::new().chain_update(salt).chain_update(stage2).finalize();
    stage1.iter().zip(salted.iter()).map(|(a, b)| a ^ b).collect()
}

/// The answer of caching_sha2_password: SHA256(password) xor SHA256(SHA256(SHA256(password)), salt).
pub fn caching_sha2(password: &str, salt: &[u8]) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha256::digest(password.as_bytes());
    let twice = Sha256::digest(once);
    let salted = Sha256::new().chain_update(twice).chain_update(salt).finalize();
    once.iter().zip(salted.iter()).map(|(a, b)| a ^ b).collect()
}

/// An AuthSwitchRequest: the plugin, and what it is to sign.
///
/// # Errors
/// The bytes are not one.
pub fn auth_switch(payload: &[u8]) -> Result<(String, Vec<u8>)> {
    let mut at = Cursor::new(payload);
    if at.u8()? != 0xFE {
        bail!("not an AuthSwitchRequest: {payload:02x?}");
    }
    let plugin = String::from_utf8_lossy(at.until_nul()?).into_owned();
    let salt = at.rest();
    Ok((plugin, salt.strip_suffix(&[0]).unwrap_or(salt).to_vec()))
}

/// What a client said in its login, read as a server reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Capabilities of the client.
    pub caps: Caps,
    /// User name.
    pub user: String,
    /// Its answer to the salt.
    pub answer: Vec<u8>,
    /// The database it names.
    pub database: Option<String>,
    /// The plugin it answered for; empty if it names none.
    pub plugin: String,
}

impl Handshake {
    /// Reads a login packet of protocol 4.1.
    ///
    /// # Errors
    /// The bytes are not one.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(payload);
        let mut caps = u64::from(at.u32()?);
        at.take(4 + 1 + 19)?;
        let extended = at.u32()?;
        if caps & Caps::LONG_PASSWORD.0 == 0 {
            caps |= u64::from(extended) << 32;
        }
        let caps = Caps(caps);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = text(at.until_nul()?);
        let answer = if caps.has(Caps::PLUGIN_AUTH_LENENC) {
            at.lenenc_bytes()?
        } else {
            let length = at.u8()?;
            at.take(usize::from(length))?
        };
        let answer = answer.to_vec();
        let database = if caps.has(Caps::CONNECT_WITH_DB) { Some(text(at.until_nul()?)) } else { None };
        let plugin = if caps.has(Caps::PLUGIN_AUTH) { text(at.until_nul()?) } else { String::new() };
        Ok(Self { caps, user, answer, database, plugin })
    }
}
