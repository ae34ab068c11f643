//! Capability flags of the MySQL protocol, with MariaDB's extended ones from bit 32 up.
//!
//! A list of bits and their names; what a flag changes is said where it is used.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of capability flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Caps(pub u64);

macro_rules! caps {
    ($($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl Caps {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(&'static str, u64)] = &[$((stringify!($name), 1 << $bit),)*];
        }
    };
}

caps! {
    /// MySQL: long passwords. MariaDB calls the bit CLIENT_MYSQL: its absence says "I am MariaDB".
    LONG_PASSWORD = 0;
    /// Affected rows counts rows found, not rows changed.
    FOUND_ROWS = 1;
    /// Long column flags.
    LONG_FLAG = 2;
    /// A database is named in the login.
    CONNECT_WITH_DB = 3;
    /// Compressed protocol.
    COMPRESS = 5;
    /// Special handling of ODBC behaviour.
    ODBC = 6;
    /// The client can upload local files.
    LOCAL_FILES = 7;
    /// Spaces before a parenthesis are ignored.
    IGNORE_SPACE = 8;
    /// The 4.1 protocol.
    PROTOCOL_41 = 9;
    /// The client is interactive: `interactive_timeout` instead of `wait_timeout`.
    INTERACTIVE = 10;
    /// TLS after the greeting.
    SSL = 11;
    /// Status flags in EOF packets.
    TRANSACTIONS = 13;
    /// The 4.1 authentication.
    SECURE_CONNECTION = 15;
    /// Several statements in one COM_QUERY.
    MULTI_STATEMENTS = 16;
    /// Several results in answer to COM_QUERY.
    MULTI_RESULTS = 17;
    /// Several results in answer to COM_STMT_EXECUTE.
    PS_MULTI_RESULTS = 18;
    /// Authentication plugins are named.
    PLUGIN_AUTH = 19;
    /// Connection attributes are sent in the login.
    CONNECT_ATTRS = 20;
    /// The authentication answer has a length-encoded length.
    PLUGIN_AUTH_LENENC = 21;
    /// The client can handle an expired password.
    CAN_HANDLE_EXPIRED_PASSWORDS = 22;
    /// OK packets carry session state changes.
    SESSION_TRACK = 23;
    /// Results end with an OK packet (header 0xFE) instead of EOF.
    DEPRECATE_EOF = 24;
    /// MariaDB: progress reports in the middle of a response.
    MARIADB_PROGRESS = 32;
    /// MariaDB: COM_STMT_BULK_EXECUTE.
    MARIADB_BULK = 34;
    /// MariaDB: extended type names in column definitions.
    MARIADB_EXTENDED_METADATA = 35;
    /// MariaDB: column definitions are left out when the client has them.
    MARIADB_CACHE_METADATA = 36;
}

impl Caps {
    /// No flag at all.
    pub const NONE: Self = Self(0);

    /// Every flag of `other` is in this set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the flags of `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// This set with the flags of `other` switched on or off.
    pub fn set(self, other: Self, on: bool) -> Self {
        if on { self | other } else { self.without(other) }
    }

    /// The 32 bits that every MySQL server knows.
    pub fn base(self) -> u32 {
        self.0 as u32
    }

    /// MariaDB's 32 further bits.
    pub fn extended(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl BitOr for Caps {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Caps {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Caps {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Self::NAMES.iter().filter(|(_, bit)| self.0 & bit != 0).map(|(name, _)| *name).collect();
        write!(f, "{:#x} ({})", self.0, names.join("|"))
    }
}
