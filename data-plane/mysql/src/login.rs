//! What a client says to log in: `HandshakeResponse41`, an auth switch, and `COM_CHANGE_USER`.

use crate::capability::{
    CLIENT_MYSQL, CONNECT_ATTRS, CONNECT_WITH_DB, Capabilities, PLUGIN_AUTH, PLUGIN_AUTH_LENENC, PROTOCOL_41,
    SECURE_CONNECTION, SSL,
};
use crate::command;
use crate::packet::{Fields, Malformed, write_lenenc, write_lenenc_bytes};

/// The most that a login packet may be, in bytes. Attributes alone may take 64 KiB.
pub const MAX_LOGIN: usize = 128 * 1024;

/// Connection attributes in the order in which they came.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// A client's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// It wants to speak TLS from here on.
    SslRequest,
    /// It logs in.
    Login(Box<Login>),
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What the client can do and wants.
    pub capabilities: Capabilities,
    /// The longest packet that it takes.
    pub max_packet: u32,
    /// Its collation, which sets its character sets.
    pub collation: u8,
    /// Who it is.
    pub user: Vec<u8>,
    /// What its plugin made of the salt.
    pub auth: Vec<u8>,
    /// The database that it starts in.
    pub database: Option<Vec<u8>>,
    /// The plugin that made `auth`.
    pub plugin: Option<Vec<u8>>,
    /// What its driver says of itself.
    pub attributes: Attributes,
}

impl First {
    /// Reads the payload of a client's first packet.
    ///
    /// # Errors
    /// [`Malformed`]: cut off, or of the protocol before 4.1.
    pub fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        let low = u64::from(fields.u32("capabilities")?);
        if low & PROTOCOL_41 == 0 {
            return Err(Malformed::Value("protocol 4.1 flag"));
        }
        let max_packet = fields.u32("longest packet")?;
        let collation = fields.u8("collation")?;
        fields.bytes(19, "filler")?;
        let extended = u64::from(fields.u32("extended capabilities")?);
        if low & SSL != 0 && fields.is_empty() {
            return Ok(Self::SslRequest);
        }
        let capabilities = if low & CLIENT_MYSQL == 0 { low | extended << 32 } else { low };
        let user = fields.nul_bytes("user")?.to_vec();
        let auth = auth(&mut fields, capabilities)?;
        let database = match capabilities & CONNECT_WITH_DB {
            0 => None,
            _ => Some(last_text(&mut fields)).filter(|database| !database.is_empty()),
        };
        let plugin = match capabilities & PLUGIN_AUTH {
            0 => None,
            _ => Some(last_text(&mut fields)),
        };
        let attributes = match capabilities & CONNECT_ATTRS {
            0 => Attributes::new(),
            _ => attributes(&mut fields)?,
        };
        Ok(Self::Login(Box::new(Login {
            capabilities,
            max_packet,
            collation,
            user,
            auth,
            database,
            plugin,
            attributes,
        })))
    }
}

fn auth(fields: &mut Fields<'_>, capabilities: Capabilities) -> Result<Vec<u8>, Malformed> {
    let auth = if capabilities & PLUGIN_AUTH_LENENC != 0 {
        fields.lenenc_bytes("authentication data")?
    } else if capabilities & SECURE_CONNECTION != 0 {
        let len = fields.u8("length of authentication data")?;
        fields.bytes(len.into(), "authentication data")?
    } else {
        fields.nul_bytes("authentication data")?
    };
    Ok(auth.to_vec())
}

/// A text that ends with a zero or with the packet: some drivers leave the last zero out.
fn last_text(fields: &mut Fields<'_>) -> Vec<u8> {
    match fields.nul_bytes("text") {
        Ok(text) => text.to_vec(),
        Err(_) => {
            let rest = fields.rest();
            *fields = Fields::new(&[]);
            rest.to_vec()
        }
    }
}

fn attributes(fields: &mut Fields<'_>) -> Result<Attributes, Malformed> {
    // A driver that sets the flag and sends nothing means none.
    if fields.is_empty() {
        return Ok(Attributes::new());
    }
    let mut inner = Fields::new(fields.lenenc_bytes("attributes")?);
    let mut attributes = Attributes::new();
    while !inner.is_empty() {
        let key = inner.lenenc_bytes("attribute key")?;
        let value = inner.lenenc_bytes("attribute value")?;
        attributes.push((key.to_vec(), value.to_vec()));
    }
    Ok(attributes)
}

fn write_attributes(out: &mut Vec<u8>, attributes: &Attributes) {
    let mut inner = Vec::new();
    for (key, value) in attributes {
        write_lenenc_bytes(&mut inner, key);
        write_lenenc_bytes(&mut inner, value);
    }
    write_lenenc_bytes(out, &inner);
}

impl Login {
    /// Bytes of the attributes, as a packet holds them, or a few more.
    #[must_use]
    pub fn attributes_len(&self) -> usize {
        let len = |text: &[u8]| text.len() + if text.len() < 0xFB { 1 } else { 9 };
        self.attributes.iter().map(|(key, value)| len(key) + len(value)).sum()
    }

    /// Its payload, in the newest form: `capabilities` must have plugin names, attributes and length-encoded
    /// authentication data.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let with_database = if self.database.is_some() { CONNECT_WITH_DB } else { 0 };
        let capabilities = self.capabilities & !CONNECT_WITH_DB | with_database;
        let caps = capabilities.to_le_bytes();
        let mut out = caps[..4].to_vec();
        out.extend_from_slice(&self.max_packet.to_le_bytes());
        out.push(self.collation);
        out.extend_from_slice(&[0; 19]);
        let extended = if capabilities & CLIENT_MYSQL == 0 { &caps[4..8] } else { &[0; 4] };
        out.extend_from_slice(extended);
        write_nul(&mut out, &self.user);
        if capabilities & PLUGIN_AUTH_LENENC != 0 {
            write_lenenc(&mut out, self.auth.len() as u64);
        } else {
            out.push(u8::try_from(self.auth.len()).unwrap_or(0));
        }
        out.extend_from_slice(&self.auth);
        if let Some(database) = &self.database {
            write_nul(&mut out, database);
        }
        if capabilities & PLUGIN_AUTH != 0 {
            write_nul(&mut out, self.plugin.as_deref().unwrap_or_default());
        }
        if capabilities & CONNECT_ATTRS != 0 {
            write_attributes(&mut out, &self.attributes);
        }
        out
    }
}

/// Writes `text` and a zero. A zero inside would let a client write the fields behind it: the text ends there.
fn write_nul(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(&text[..end]);
    out.push(0);
}

/// A server that wants another plugin's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSwitch {
    /// The plugin.
    pub plugin: Vec<u8>,
    /// What it is to work on: a salt, for most.
    pub data: Vec<u8>,
}

impl AuthSwitch {
    /// Its payload.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![0xFE];
        write_nul(&mut out, &self.plugin);
        out.extend_from_slice(&self.data);
        out.push(0);
        out
    }

    /// Reads a payload that begins with 0xFE.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        if fields.u8("auth switch")? != 0xFE {
            return Err(Malformed::Value("auth switch"));
        }
        let plugin = fields.nul_bytes("plugin")?.to_vec();
        let data = fields.rest();
        Ok(Self { plugin, data: data.strip_suffix(&[0]).unwrap_or(data).to_vec() })
    }
}

/// `COM_CHANGE_USER`: a login on a connection that is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeUser {
    /// Who it wants to be.
    pub user: Vec<u8>,
    /// What its plugin made of the salt of the greeting.
    pub auth: Vec<u8>,
    /// The database that it starts in.
    pub database: Option<Vec<u8>>,
    /// Its collation.
    pub collation: u16,
    /// The plugin that made `auth`.
    pub plugin: Option<Vec<u8>>,
    /// What its driver says of itself.
    pub attributes: Attributes,
}

impl ChangeUser {
    /// Reads the payload of the command, its first byte included.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(payload: &[u8], capabilities: Capabilities) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        if fields.u8("command")? != command::CHANGE_USER {
            return Err(Malformed::Value("command"));
        }
        let user = fields.nul_bytes("user")?.to_vec();
        let len = fields.u8("length of authentication data")?;
        let auth = fields.bytes(len.into(), "authentication data")?.to_vec();
        let database = Some(last_text(&mut fields)).filter(|database| !database.is_empty());
        // Old drivers end here; the collation of the login stays then.
        let collation = fields.u16("collation").unwrap_or(0);
        let plugin = match capabilities & PLUGIN_AUTH {
            0 => None,
            _ => Some(last_text(&mut fields)),
        };
        let attributes = match capabilities & CONNECT_ATTRS {
            0 => Attributes::new(),
            _ => attributes(&mut fields)?,
        };
        Ok(Self { user, auth, database, collation, plugin, attributes })
    }

    /// The payload of the command, for a connection with plugin names and attributes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![command::CHANGE_USER];
        write_nul(&mut out, &self.user);
        let auth = &self.auth[..self.auth.len().min(255)];
        out.push(u8::try_from(auth.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(auth);
        write_nul(&mut out, self.database.as_deref().unwrap_or_default());
        out.extend_from_slice(&self.collation.to_le_bytes());
        write_nul(&mut out, self.plugin.as_deref().unwrap_or_default());
        write_attributes(&mut out, &self.attributes);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::OFFERED;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1..=255_u8, 0..40)
    }

    proptest! {
        #[test]
        fn a_login_comes_back(
            user in text(), auth in text(), database in text(), plugin in text(), collation: u8,
            attributes in proptest::collection::vec((text(), text()), 0..4),
        ) {
            let database = Some(database).filter(|database| !database.is_empty());
            let with_database = if database.is_some() { CONNECT_WITH_DB } else { 0 };
            let login = Login {
                capabilities: OFFERED & !CONNECT_WITH_DB | with_database,
                max_packet: 1 << 24,
                collation,
                user,
                auth,
                database,
                plugin: Some(plugin),
                attributes,
            };
            prop_assert_eq!(First::read(&login.write()), Ok(First::Login(Box::new(login))));
        }

        #[test]
        fn a_change_of_user_comes_back(
            user in text(), auth in text(), database in text(), plugin in text(), collation: u16,
            attributes in proptest::collection::vec((text(), text()), 0..4),
        ) {
            let change = ChangeUser {
                user,
                auth,
                database: Some(database).filter(|database| !database.is_empty()),
                collation,
                plugin: Some(plugin),
                attributes,
            };
            prop_assert_eq!(ChangeUser::read(&change.write(), OFFERED), Ok(change));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, capabilities: u64) {
            let _ = First::read(&bytes);
            let _ = ChangeUser::read(&bytes, capabilities);
            let _ = AuthSwitch::read(&bytes);
            let mut login = vec![0xFF; 32];
            login.extend_from_slice(&bytes);
            let _ = First::read(&login);
        }
    }

    #[test]
    fn a_zero_in_a_name_cannot_reach_the_next_field() {
        let switch = AuthSwitch { plugin: b"a\0b".to_vec(), data: b"salt".to_vec() };
        assert_eq!(AuthSwitch::read(&switch.write()).unwrap().data, b"salt");
    }

    #[test]
    fn the_old_protocol_is_refused() {
        assert_eq!(First::read(&[0; 40]), Err(Malformed::Value("protocol 4.1 flag")));
    }
}
