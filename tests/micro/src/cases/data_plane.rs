//! The parts of the data plane that are counted and private to it, out of its own files.
//!
//! They are built in here, rather than made public there, because each of them is pure, and the data plane's library
//! would bring a gRPC client, a runtime and an HTTP server into a build that needs none. A part that one day needs more
//! of its crate than these files is to be made public there and named here by its path.

#[path = "../../../../data-plane/src/routing"]
pub(super) mod routing {
    pub(crate) mod pick;
}

#[path = "../../../../data-plane/src/session"]
pub(super) mod session {
    #[allow(dead_code, reason = "sessions use all of it")]
    pub(crate) mod mirror;
    #[allow(dead_code, reason = "sessions use all of it")]
    pub(crate) mod pin;

    pub(crate) mod login {
        #[allow(dead_code, reason = "logins use all of it")]
        pub(crate) mod user;
    }
}
