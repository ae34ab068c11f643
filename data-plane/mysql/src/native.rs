//! `mysql_native_password`: what a client answers to a salt, and what can be learnt from its answer.
//!
//! The answer is `SHA1(password) XOR SHA1(salt + SHA1(SHA1(password)))`. Who knows `SHA1(SHA1(password))`, which is
//! what a server stores, gets `SHA1(password)` out of a right answer, and can answer any other salt with it.

use sha1::{Digest, Sha1};

/// The plugin's name.
pub const PLUGIN: &[u8] = b"mysql_native_password";

/// Bytes of a salt.
pub const SALT: usize = 20;

/// `SHA1(password)`: enough to log in. Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stage1([u8; 20]);

/// `SHA1(SHA1(password))`, as a server stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2(pub [u8; 20]);

impl std::fmt::Debug for Stage1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stage1(..)")
    }
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

impl Stage1 {
    /// Of a password.
    #[must_use]
    pub fn of(password: &[u8]) -> Self {
        Self(sha1(&[password]))
    }

    /// Its hash, as a server stores it.
    #[must_use]
    pub fn stage2(&self) -> Stage2 {
        Stage2(sha1(&[&self.0]))
    }

    /// The answer to `salt`.
    #[must_use]
    pub fn answer(&self, salt: &[u8]) -> [u8; 20] {
        xor(&self.0, &sha1(&[salt, &self.stage2().0]))
    }
}

impl Stage2 {
    /// Out of `*` and forty hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('*').filter(|digits| digits.len() == 40 && digits.is_ascii())?;
        let mut bytes = [0; 20];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// What the client must have hashed, where `answer` to `salt` is the right one.
    #[must_use]
    pub fn recover(&self, salt: &[u8], answer: &[u8]) -> Option<Stage1> {
        let answer: &[u8; 20] = answer.try_into().ok()?;
        let stage1 = Stage1(xor(answer, &sha1(&[salt, &self.0])));
        (stage1.stage2() == *self).then_some(stage1)
    }
}

fn xor(a: &[u8; 20], b: &[u8; 20]) -> [u8; 20] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// A salt out of random bytes: none of them zero (a C string ends there) or `$` (a separator in other plugins), all of
/// them 7-bit.
#[must_use]
pub fn salt(random: [u8; SALT]) -> [u8; SALT] {
    random.map(|byte| match byte & 0x7F {
        0 => 1,
        b'$' => b'%',
        byte => byte,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_stored_form_is_the_servers() {
        // SELECT PASSWORD('secret')
        let stored = Stage2::parse("*14E65567ABDB5135D0CFD9A70B3032C179A49EE7").unwrap();
        assert_eq!(Stage1::of(b"secret").stage2(), stored);
        for bad in ["", "*", "14E6", "*14E65567ABDB5135D0CFD9A70B3032C179A49EEZ", "*ääääääääääääääääääää"]
        {
            assert!(Stage2::parse(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_right_answer_gives_the_hash_away_and_a_wrong_one_nothing(
            password: Vec<u8>, other: Vec<u8>, random: [u8; 20],
        ) {
            let salt = salt(random);
            prop_assert!(salt.iter().all(|byte| (1..=127).contains(byte) && *byte != b'$'));
            let stage1 = Stage1::of(&password);
            prop_assert_eq!(stage1.stage2().recover(&salt, &stage1.answer(&salt)), Some(stage1));
            if other != password {
                prop_assert_eq!(stage1.stage2().recover(&salt, &Stage1::of(&other).answer(&salt)), None);
            }
        }
    }
}
