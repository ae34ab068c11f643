//! Why a session cannot move now.

/// A reason. Its words are a contract: they are shown wherever a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PinReason {
    Transaction,
    LockedTables,
    UserLock,
    TemporaryTable,
    Cursor,
    LongData,
    Handler,
    Upload,
    CredentialsUnknown,
    CredentialsRefused,
    TooLarge,
    UnknownState,
}

impl PinReason {
    /// Every reason.
    pub(crate) const ALL: [Self; 12] = [
        Self::Transaction,
        Self::LockedTables,
        Self::UserLock,
        Self::TemporaryTable,
        Self::Cursor,
        Self::LongData,
        Self::Handler,
        Self::Upload,
        Self::CredentialsUnknown,
        Self::CredentialsRefused,
        Self::TooLarge,
        Self::UnknownState,
    ];

    /// Its bit among a session's reasons.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The words for all of `bits`.
    pub(crate) fn words_of(bits: u16) -> Vec<&'static str> {
        Self::ALL.into_iter().filter(|reason| bits & reason.bit() != 0).map(Self::words).collect()
    }

    /// The words that people read.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::LockedTables => "locked tables",
            Self::UserLock => "user lock",
            Self::TemporaryTable => "temporary table",
            Self::Cursor => "cursor",
            Self::LongData => "long data",
            Self::Handler => "handler",
            Self::Upload => "upload",
            Self::CredentialsUnknown => "credentials unknown",
            Self::CredentialsRefused => "credentials refused",
            Self::TooLarge => "too large",
            Self::UnknownState => "unknown state",
        }
    }
}
