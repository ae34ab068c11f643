//! The table: each step of a move, each fault at it, and what is to come of the two. A cell that is missing does not
//! compile.
//!
//! Must not know: how a fault is brought about, how an outcome is looked at.

/// A list of all variants of an enum, made where the enum is.
macro_rules! listed {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }
    };
}

listed! {
    /// The steps of a move, each by what the CN that it is about is told at it.
    Step {
        /// The new CN is dialled, and greets.
        Dial,
        /// It is logged in to.
        LogIn,
        /// Its first statement: what a login is good for shows only then.
        FirstWords,
        /// What a session has there from the beginning is asked.
        AskNew,
        /// The session's statements are prepared there ahead.
        PrepareAhead,
        /// All is ready, and nothing is said to the new CN until the session rests.
        StandBy,
        /// The session is in the middle of a statement on the old CN, behind which it rests.
        Rest,
        /// The old CN is asked what the session is.
        AskOld,
        /// And for the values of its user variables.
        AskOldFurther,
        /// The new CN is told all of it.
        Restore,
        /// And is asked the same.
        ReadBack,
        /// The session is on the new CN: the old one is told goodbye.
        Swap,
        /// The session's first statement there.
        After,
    }
}

listed! {
    /// What goes wrong.
    Fault {
        /// The CN will have nothing of it: no connection, no login, or the error that it cannot serve.
        Refused,
        /// The CN stands still, all of it, and closes nothing.
        Hung,
        /// The CN closes this one connection.
        Closed,
        /// An error that says nothing about the CN.
        ErrorReply,
        /// The answer takes its time.
        Slow,
        /// An answer, but not to what was asked.
        WrongReply,
        /// The client leaves.
        ClientGone,
        /// The client sends more commands, which it may at any time.
        ClientTalking,
        /// The CN is gone: its connections are reset, and nobody listens.
        CnDead,
        /// Another order to move the session comes in.
        SecondOrder,
    }
}

/// What comes of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Moved,
    Failed,
    Pinned,
    Gone,
}

/// Where the session is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Old,
    New,
    /// Nowhere: it was closed.
    Closed,
}

/// What its client sees of it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Its answers, and nothing else.
    Nothing,
    /// What it had under way is answered by this error.
    Err(u16),
    /// Its connection closes.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// This outcome, here, and the client sees this.
    Is(Outcome, On, Sees),
    /// It cannot be, and why.
    Impossible(&'static str),
}

const MOVED: Expected = Expected::Is(Outcome::Moved, On::New, Sees::Nothing);
const STAYS: Expected = Expected::Is(Outcome::Failed, On::Old, Sees::Nothing);
/// The order comes to nothing, for its CN is lost; the session goes on elsewhere, as it was.
const OUTLIVES: Expected = Expected::Is(Outcome::Failed, On::New, Sees::Nothing);
/// It left with its client before it was moved.
const LEFT: Expected = Expected::Is(Outcome::Gone, On::Closed, Sees::Nothing);
/// It was moved when its client's leaving was seen.
const LEFT_THERE: Expected = Expected::Is(Outcome::Moved, On::Closed, Sees::Nothing);

/// What is to come of `fault` at `step`.
pub(crate) const fn expected(step: Step, fault: Fault) -> Expected {
    use Fault as F;
    use Step as S;
    match (step, fault) {
        // The new CN cannot be had: the session stays where it works.
        (
            S::Dial | S::FirstWords | S::AskNew | S::PrepareAhead,
            F::Refused | F::Hung | F::Closed | F::ErrorReply | F::WrongReply | F::CnDead,
        ) => STAYS,
        // The CN's own word that it does not let the user in.
        (S::LogIn, F::Refused) => Expected::Is(Outcome::Pinned, On::Old, Sees::Nothing),
        (S::LogIn, F::Hung | F::Closed | F::ErrorReply | F::WrongReply | F::CnDead) => STAYS,
        (S::StandBy, F::Refused) => Expected::Impossible("nothing is asked of it, so nothing can be refused"),
        (S::StandBy, F::Hung | F::Closed | F::ErrorReply | F::WrongReply | F::CnDead) => STAYS,

        // What the client asked is between it and its CN; the move waits for the end of it.
        (S::Rest, F::Refused) => Expected::Is(Outcome::Moved, On::New, Sees::Err(1047)),
        (S::Rest, F::ErrorReply) => Expected::Is(Outcome::Moved, On::New, Sees::Err(1105)),
        // The CN is lost with a statement of which nobody knows whether it took effect.
        (S::Rest, F::Hung | F::CnDead) => Expected::Is(Outcome::Failed, On::New, Sees::Err(1180)),
        // A CN that lives and closes a session does so on purpose; one that says what nobody asked is out of step.
        (S::Rest, F::Closed | F::WrongReply) => Expected::Is(Outcome::Gone, On::Closed, Sees::Close),

        // The old CN does not say what the session is: it stays there.
        (S::AskOld | S::AskOldFurther, F::Refused | F::ErrorReply | F::WrongReply) => STAYS,
        // It is lost: the session is known, and goes on elsewhere.
        (S::AskOld | S::AskOldFurther, F::Hung | F::CnDead) => OUTLIVES,
        (S::AskOld | S::AskOldFurther, F::Closed) => Expected::Is(Outcome::Gone, On::Closed, Sees::Close),

        // The new CN does not take the session over.
        (
            S::Restore | S::ReadBack,
            F::Refused | F::Hung | F::Closed | F::ErrorReply | F::WrongReply | F::CnDead,
        ) => STAYS,

        // What the old CN does then is nobody's business any more.
        (S::Swap, F::Refused | F::Hung | F::Closed | F::ErrorReply | F::WrongReply | F::CnDead) => MOVED,

        // A session of the new CN as any other.
        (S::After, F::Refused) => Expected::Is(Outcome::Moved, On::New, Sees::Err(1047)),
        (S::After, F::ErrorReply) => Expected::Is(Outcome::Moved, On::New, Sees::Err(1105)),
        (S::After, F::Hung | F::CnDead) => Expected::Is(Outcome::Moved, On::Old, Sees::Err(1180)),
        (S::After, F::Closed | F::WrongReply) => Expected::Is(Outcome::Moved, On::Closed, Sees::Close),

        (
            S::Dial
            | S::LogIn
            | S::FirstWords
            | S::AskNew
            | S::PrepareAhead
            | S::StandBy
            | S::Rest
            | S::AskOld
            | S::AskOldFurther
            | S::Restore
            | S::ReadBack
            | S::Swap
            | S::After,
            F::Slow | F::ClientTalking | F::SecondOrder,
        ) => MOVED,

        (
            S::Dial | S::LogIn | S::FirstWords | S::AskNew | S::PrepareAhead | S::StandBy | S::Rest,
            F::ClientGone,
        ) => LEFT,
        // The move is one step to the client: it is not read meanwhile.
        (S::AskOld | S::AskOldFurther | S::Restore | S::ReadBack | S::Swap | S::After, F::ClientGone) => {
            LEFT_THERE
        }
    }
}
