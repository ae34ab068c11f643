//! Password hashes of the users of the CNs, as far as a login needs them to be sure of a password.
//!
//! A user may have several accounts (for several hosts) and an account several plugins; every native hash among them
//! is kept, the anonymous accounts' too. Whichever fits the client's answer gives SHA1(password) away for certain;
//! whether that account may log in from here stays for the CN to say.
//!
//! Must not know: how a CN is asked ([`crate::service`] does that).

use mysql_wire::native::{Stage1, Stage2};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Users that are kept. At the limit all are forgotten, and asked for again.
const MOST_USERS: usize = 10_000;

/// How long what is kept may be used without a question. A changed password is noticed earlier: it fits none.
const FRESH: Duration = Duration::from_secs(300);

/// How soon the same user may be asked for again because nothing fitted: a guesser must not load the CNs.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a user.
#[derive(Clone, Debug)]
struct Known {
    hashes: Arc<[Stage2]>,
    asked: Instant,
}

/// The hashes of all users that logged in lately.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    users: RwLock<HashMap<Vec<u8>, Known>>,
}

/// What an answer of a client proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// The password is right: this is its first hash.
    Right(Stage1),
    /// No hash that is known fits. `ask`: what is known is not of just now.
    None {
        /// Whether to ask a CN.
        ask: bool,
    },
}

impl Accounts {
    /// Checks `answer` to `salt` against the hashes of `user`.
    pub(crate) fn check(&self, user: &[u8], salt: &[u8], answer: &[u8]) -> Checked {
        let known = self.users.read().get(user).cloned();
        let Some(known) = known else { return Checked::None { ask: true } };
        let age = known.asked.elapsed();
        let fits = known.hashes.iter().find_map(|hash| hash.recover(salt, answer));
        match fits {
            Some(stage1) if age < FRESH => Checked::Right(stage1),
            _ => Checked::None { ask: age >= ASK_AGAIN },
        }
    }

    /// Takes what a CN said of `user`.
    pub(crate) fn learn(&self, user: &[u8], hashes: Vec<Stage2>) {
        let mut users = self.users.write();
        if users.len() >= MOST_USERS && !users.contains_key(user) {
            users.clear();
        }
        users.insert(user.to_vec(), Known { hashes: hashes.into(), asked: Instant::now() });
    }
}

/// The native hashes in the `Priv` column of `mysql.global_priv`: of the account's own plugin, and of the further ones
/// in `auth_or`.
pub(crate) fn hashes(privileges: &[u8]) -> Vec<Stage2> {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(privileges) else {
        return Vec::new();
    };
    let further = json.get("auth_or").and_then(serde_json::Value::as_array);
    std::iter::once(&json).chain(further.into_iter().flatten()).filter_map(hash).collect()
}

/// The native hash in a row of MySQL's `mysql.user`: of the one plugin that an account has for its password there.
pub(crate) fn hash_of(plugin: &[u8], stored: &[u8]) -> Vec<Stage2> {
    let hash = || Stage2::parse(std::str::from_utf8(stored).ok()?);
    (plugin == b"mysql_native_password").then(hash).flatten().into_iter().collect()
}

fn hash(account: &serde_json::Value) -> Option<Stage2> {
    // An account without a plugin is of the native one.
    let plugin = account.get("plugin").and_then(serde_json::Value::as_str).unwrap_or("mysql_native_password");
    let stored = account.get("authentication_string")?.as_str()?;
    (plugin == "mysql_native_password").then(|| Stage2::parse(stored)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 20] = [7; 20];

    #[tokio::test(start_paused = true)]
    async fn what_fits_is_right_and_what_does_not_is_asked_for_but_not_at_once_again() {
        let accounts = Accounts::default();
        let (right, wrong) = (Stage1::of(b"right"), Stage1::of(b"wrong"));
        assert_eq!(accounts.check(b"app", &SALT, &right.answer(&SALT)), Checked::None { ask: true });
        accounts.learn(b"app", vec![Stage1::of(b"other").stage2(), right.stage2()]);
        assert_eq!(accounts.check(b"app", &SALT, &right.answer(&SALT)), Checked::Right(right));
        assert_eq!(accounts.check(b"app", &SALT, &wrong.answer(&SALT)), Checked::None { ask: false });
        tokio::time::advance(ASK_AGAIN).await;
        assert_eq!(accounts.check(b"app", &SALT, &wrong.answer(&SALT)), Checked::None { ask: true });
        tokio::time::advance(FRESH).await;
        assert_eq!(accounts.check(b"app", &SALT, &right.answer(&SALT)), Checked::None { ask: true });
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_users_take_no_memory_without_bound() {
        let accounts = Accounts::default();
        for i in 0..3 * MOST_USERS {
            accounts.learn(i.to_string().as_bytes(), Vec::new());
        }
        assert!(accounts.users.read().len() <= MOST_USERS);
    }

    #[test]
    fn every_native_hash_of_an_account_is_found() {
        let one = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";
        for (privileges, found) in [
            (format!(r#"{{"plugin":"mysql_native_password","authentication_string":"{one}"}}"#), 1),
            (format!(r#"{{"access":1,"authentication_string":"{one}"}}"#), 1),
            (
                format!(
                    r#"{{"plugin":"ed25519","authentication_string":"x","auth_or":[{{}},
                    {{"plugin":"mysql_native_password","authentication_string":"{one}"}}]}}"#
                ),
                1,
            ),
            (r#"{"plugin":"mysql_native_password","authentication_string":"invalid"}"#.into(), 0),
            (format!(r#"{{"plugin":"unix_socket","authentication_string":"{one}"}}"#), 0),
            ("[]".into(), 0),
            ("{".into(), 0),
        ] {
            assert_eq!(hashes(privileges.as_bytes()).len(), found, "{privileges}");
        }
        // As MySQL has them.
        for (plugin, stored, found) in [
            ("mysql_native_password", one, 1),
            ("mysql_native_password", "", 0),
            ("caching_sha2_password", one, 0),
            ("caching_sha2_password", "$A$005$salt", 0),
        ] {
            assert_eq!(hash_of(plugin.as_bytes(), stored.as_bytes()).len(), found, "{plugin} {stored}");
        }
    }
}
