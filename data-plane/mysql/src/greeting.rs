//! The greeting: the first packet, from a server to its client (`Protocol::HandshakeV10`).

use crate::capability::{CLIENT_MYSQL, Capabilities, PLUGIN_AUTH};
use crate::native::{self, SALT};
use crate::packet::{Fields, Malformed};

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The version text, MariaDB's `5.5.5-` included.
    pub version: Vec<u8>,
    /// The id of this connection.
    pub connection_id: u32,
    /// What the client's password is mixed with.
    pub salt: [u8; SALT],
    /// What the server can do.
    pub capabilities: Capabilities,
    /// The server's default collation, its low byte.
    pub collation: u8,
    /// Status flags.
    pub status: u16,
    /// The plugin that the salt is for.
    pub plugin: Vec<u8>,
}

impl Greeting {
    /// Its payload.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![10];
        let caps = self.capabilities.to_le_bytes();
        out.extend_from_slice(&self.version);
        out.push(0);
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        out.extend_from_slice(&self.salt[..8]);
        out.push(0);
        out.extend_from_slice(&caps[..2]);
        out.push(self.collation);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&caps[2..4]);
        // The salt's length, with the zero that ends it.
        out.push(21);
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&caps[4..8]);
        out.extend_from_slice(&self.salt[8..]);
        out.push(0);
        out.extend_from_slice(&self.plugin);
        out.push(0);
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`Malformed`]: cut off, or not of protocol 10.
    pub fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        if fields.u8("protocol version")? != 10 {
            return Err(Malformed::Value("protocol version"));
        }
        let version = fields.nul_bytes("server version")?.to_vec();
        let connection_id = fields.u32("connection id")?;
        let mut salt = [0; SALT];
        salt[..8].copy_from_slice(fields.bytes(8, "salt")?);
        fields.bytes(1, "filler")?;
        let low = u64::from(fields.u16("capabilities")?);
        let collation = fields.u8("collation")?;
        let status = fields.u16("status")?;
        let high = u64::from(fields.u16("capabilities")?);
        let salt_len = usize::from(fields.u8("salt length")?);
        fields.bytes(6, "filler")?;
        let extended = u64::from(fields.u32("extended capabilities")?);
        let mut capabilities = low | high << 16;
        if capabilities & CLIENT_MYSQL == 0 {
            capabilities |= extended << 32;
        }
        salt[8..].copy_from_slice(fields.bytes(SALT - 8, "salt")?);
        // What is left of the salt: at least the zero that ends it.
        fields.bytes(salt_len.saturating_sub(SALT).max(1), "salt")?;
        let plugin = if capabilities & PLUGIN_AUTH == 0 {
            native::PLUGIN.to_vec()
        } else {
            // Some servers forget the zero that ends it.
            fields.nul_bytes("plugin").unwrap_or(fields.rest()).to_vec()
        };
        Ok(Self { version, connection_id, salt, capabilities, collation, status, plugin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::OFFERED;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_comes_back(id: u32, random: [u8; 20], collation: u8, status: u16) {
            let greeting = Greeting {
                version: b"5.5.5-10.11.6-MariaDB".to_vec(),
                connection_id: id,
                salt: native::salt(random),
                capabilities: OFFERED,
                collation,
                status,
                plugin: native::PLUGIN.to_vec(),
            };
            prop_assert_eq!(Greeting::read(&greeting.write()), Ok(greeting));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Greeting::read(&bytes);
        }
    }
}
