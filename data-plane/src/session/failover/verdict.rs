//! What a client is told whose CN is gone: the one table of it.
//!
//! SQL that was under way is never run again. What it is told is either that nothing of it took effect, where that is
//! certain, or that nobody knows.
//!
//! Must not know: sockets, where the session goes on.

use crate::session::relay::cut::Standing;
use mysql_wire::reply;

/// How a CN was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It died: what it had not committed is rolled back.
    Died,
    /// It does not answer: it may go on at any time with what it was told.
    Hangs,
}

/// What the session was at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) how: How,
    /// Commands that await an answer.
    pub(crate) awaited: usize,
    /// The client is in the middle of a command, or of a file.
    pub(crate) sends: bool,
    pub(crate) standing: Standing,
    /// A transaction is open for certain.
    pub(crate) in_transaction: bool,
    /// One may be open: an ERR left that open.
    pub(crate) may_be_in_transaction: bool,
    /// All that is under way is plain statements, that end no transaction.
    pub(crate) plain: bool,
    /// The one command that is under way changes nothing, and another CN may answer it.
    pub(crate) again: bool,
}

/// What its client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing at all.
    Nothing,
    /// An answer, of another CN.
    Again,
    /// The next command that has a response gets the ERR that its transaction was rolled back.
    Owe,
    /// What is under way gets the ERR that its transaction was rolled back.
    RolledBack,
    /// What is under way gets the ERR that its outcome is unknown.
    Unknown,
    /// It cannot be told anything that it would understand.
    Close,
}

/// Decides.
pub(crate) const fn verdict(scene: &Scene) -> Verdict {
    if matches!(scene.standing, Standing::Within) {
        return Verdict::Close;
    }
    if scene.awaited == 0 && scene.sends {
        // A command without an answer: nobody could be told where it ends.
        return Verdict::Close;
    }
    if scene.awaited == 0 {
        return if scene.may_be_in_transaction { Verdict::Owe } else { Verdict::Nothing };
    }
    let whole = matches!(scene.standing, Standing::Before) && !scene.sends;
    if scene.again && scene.awaited == 1 && whole && !scene.may_be_in_transaction {
        return Verdict::Again;
    }
    let ends_nothing = scene.plain || (scene.again && scene.awaited == 1);
    if scene.in_transaction && ends_nothing && matches!(scene.how, How::Died) {
        Verdict::RolledBack
    } else {
        Verdict::Unknown
    }
}

impl Verdict {
    /// The ERR of it, where there is one.
    pub(crate) fn err(self) -> Option<reply::Err> {
        match self {
            Self::Nothing | Self::Again | Self::Close => None,
            Self::Owe | Self::RolledBack => Some(rolled_back()),
            Self::Unknown => Some(unknown()),
        }
    }

    /// Its word in metrics and logs.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "unnoticed",
            Self::Again => "answered",
            Self::Owe | Self::RolledBack => "rolled_back",
            Self::Unknown => "unknown",
            Self::Close => "closed",
        }
    }

    /// Every one of those words.
    pub(crate) const WORDS: [&'static str; 5] = ["unnoticed", "answered", "rolled_back", "unknown", "closed"];
}

/// What drivers and frameworks know as "try the transaction again".
fn rolled_back() -> reply::Err {
    let text = "the CN was lost: the transaction was rolled back, try it again";
    reply::Err::new(1213, "40001", text)
}

/// "Got error during COMMIT", which is what servers say where nobody knows. Not of class 08: the connection lives, and
/// pools would throw it away.
pub(crate) fn unknown() -> reply::Err {
    let text = "the CN was lost while the statement ran: whether it took effect is unknown";
    reply::Err::new(1180, "HY000", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Scene = Scene {
        how: How::Died,
        awaited: 0,
        sends: false,
        standing: Standing::Before,
        in_transaction: false,
        may_be_in_transaction: false,
        plain: false,
        again: false,
    };
    const BUSY: Scene = Scene { awaited: 1, ..IDLE };
    const IN_TRANSACTION: Scene = Scene { in_transaction: true, may_be_in_transaction: true, ..IDLE };

    #[test]
    fn each_row_of_the_table() {
        use Verdict::{Again, Close, Nothing, Owe, RolledBack, Unknown};
        let busy_in = Scene { awaited: 1, ..IN_TRANSACTION };
        for (scene, expected) in [
            (IDLE, Nothing),
            (Scene { how: How::Hangs, ..IDLE }, Nothing),
            (IN_TRANSACTION, Owe),
            (Scene { how: How::Hangs, ..IN_TRANSACTION }, Owe),
            (Scene { may_be_in_transaction: true, ..IDLE }, Owe),
            (Scene { sends: true, ..IDLE }, Close),
            (Scene { again: true, ..BUSY }, Again),
            (Scene { again: true, how: How::Hangs, ..BUSY }, Again),
            (Scene { again: true, sends: true, ..BUSY }, Unknown),
            (Scene { again: true, ..busy_in }, RolledBack),
            (Scene { plain: true, ..busy_in }, RolledBack),
            (Scene { plain: true, awaited: 3, ..busy_in }, RolledBack),
            (Scene { plain: true, standing: Standing::BetweenRows, ..busy_in }, RolledBack),
            (Scene { plain: true, how: How::Hangs, ..busy_in }, Unknown),
            // What may have ended the transaction is not certain.
            (busy_in, Unknown),
            // An ERR may have ended it: then the statement committed by itself.
            (Scene { plain: true, may_be_in_transaction: true, ..BUSY }, Unknown),
            (Scene { plain: true, ..BUSY }, Unknown),
            (Scene { standing: Standing::BetweenRows, ..BUSY }, Unknown),
            (Scene { standing: Standing::Within, ..BUSY }, Close),
            (Scene { standing: Standing::Within, again: true, ..busy_in }, Close),
        ] {
            assert_eq!(verdict(&scene), expected, "{scene:?}");
        }
    }

    #[test]
    fn no_error_makes_a_pool_throw_a_living_connection_away() {
        for verdict in [Verdict::Owe, Verdict::RolledBack, Verdict::Unknown] {
            let err = verdict.err().unwrap();
            assert!(!err.write()[4..].starts_with(b"08"), "{err:?}");
            assert!(![1105, 1290, 1792].contains(&err.code), "{err:?}");
            assert!(Verdict::WORDS.contains(&verdict.word()));
        }
    }
}
