//! The user name of a login: tenant, user, role, and the labels behind the question mark.
//!
//! `tenant:user[:role]` or `tenant#user[#role]`, then `?key=value,key2=value2`. Labels may come as connection
//! attributes too, where the key is one that CNs carry.

use mysql_wire::login::Attributes;
use shunt_proto::label::Labels;
use shunt_proto::tenant::DEFAULT_TENANT;

/// Who logs in, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) tenant: String,
    /// As the CN is given it.
    pub(crate) user: Vec<u8>,
    pub(crate) role: Option<String>,
    pub(crate) labels: Labels,
}

/// Why a user name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidUser {
    #[error("user name: a part of tenant:user[:role] is empty")]
    EmptyPart,
    #[error("user name: more than tenant, user and role")]
    TooManyParts,
    #[error("user name: tenant: {0}")]
    Tenant(String),
    #[error("user name: {0:?} is not key=value")]
    NotALabel(String),
    #[error("user name: {0}")]
    Label(#[from] shunt_proto::label::InvalidLabel),
    #[error("user name: is not UTF-8 behind the '?'")]
    Encoding,
}

/// Keys of attributes that never ask for a label.
const DRIVERS_OWN: [&str; 3] = ["program_name", "os_user", "os_sudouser"];

impl Names {
    /// Reads `user`, and what `attributes` ask for with keys that `is_label_key` knows.
    pub(crate) fn read(
        user: &[u8],
        attributes: &Attributes,
        is_label_key: impl Fn(&str) -> bool,
    ) -> Result<Self, InvalidUser> {
        let (account, asked) = match memchr_question(user) {
            Some(at) => (&user[..at], &user[at + 1..]),
            None => (user, &[][..]),
        };
        let mut labels = asked_labels(asked)?;
        for (key, value) in attributes {
            let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else {
                continue;
            };
            let drivers_own = key.starts_with('_') || DRIVERS_OWN.contains(&key);
            // What the user name asks for counts before what an attribute does.
            if !drivers_own && is_label_key(key) && labels.values(key).is_none() {
                labels.add(key, value)?;
            }
        }
        let (tenant, user, role) = account_parts(account)?;
        Ok(Self { tenant, user, role, labels })
    }
}

fn memchr_question(user: &[u8]) -> Option<usize> {
    user.iter().position(|byte| *byte == b'?')
}

fn asked_labels(asked: &[u8]) -> Result<Labels, InvalidUser> {
    let asked = std::str::from_utf8(asked).map_err(|_| InvalidUser::Encoding)?;
    let mut labels = Labels::new();
    for pair in asked.split(',').filter(|pair| !pair.is_empty()) {
        let not_a_label = || InvalidUser::NotALabel(pair.chars().take(80).collect());
        let (key, value) = pair.split_once('=').ok_or_else(not_a_label)?;
        labels.add(key, value)?;
    }
    Ok(labels)
}

type Parts = (String, Vec<u8>, Option<String>);

fn account_parts(account: &[u8]) -> Result<Parts, InvalidUser> {
    let separator = [b':', b'#'].into_iter().find(|separator| account.contains(separator));
    let Some(separator) = separator else {
        return Ok((DEFAULT_TENANT.to_owned(), account.to_vec(), None));
    };
    let parts: Vec<&[u8]> = account.split(|byte| *byte == separator).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(InvalidUser::EmptyPart);
    }
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    let tenant = text(parts[0]);
    shunt_proto::cn::check_name(&tenant).map_err(|error| InvalidUser::Tenant(error.to_string()))?;
    match parts[1..] {
        [user] => Ok((tenant, user.to_vec(), None)),
        [user, role] => Ok((tenant, user.to_vec(), Some(text(role)))),
        _ => Err(InvalidUser::TooManyParts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(user: &str) -> Result<(String, String, Option<String>, String), InvalidUser> {
        let attributes = vec![
            (b"zone".to_vec(), b"a".to_vec()),
            (b"other".to_vec(), b"b".to_vec()),
            (b"_os".to_vec(), b"c".to_vec()),
            (b"program_name".to_vec(), b"d".to_vec()),
        ];
        let names = Names::read(user.as_bytes(), &attributes, |key| key != "other")?;
        let user = String::from_utf8(names.user).unwrap();
        Ok((names.tenant, user, names.role, names.labels.to_string()))
    }

    #[test]
    fn names_are_read() {
        for (user, tenant, bare, role, labels) in [
            ("app", "sys", "app", None, "zone=a"),
            ("", "sys", "", None, "zone=a"),
            ("acme:app", "acme", "app", None, "zone=a"),
            ("acme#app#dba", "acme", "app", Some("dba"), "zone=a"),
            ("Acme:app:dba?workload=tp", "Acme", "app", Some("dba"), "workload=tp,zone=a"),
            ("app?zone=b,workload=ap", "sys", "app", None, "workload=ap,zone=b"),
            ("app?", "sys", "app", None, "zone=a"),
        ] {
            let role = role.map(str::to_owned);
            let wanted = (tenant.to_owned(), bare.to_owned(), role, labels.to_owned());
            assert_eq!(read(user), Ok(wanted), "{user}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_cause() {
        for (user, cause) in [
            (":app", "is empty"),
            ("acme:", "is empty"),
            ("acme:a:b:c", "more than"),
            ("a b:app", "tenant"),
            ("app?workload", "key=value"),
            ("app?tenant=x", "tenant of the group"),
            ("app?a=b=c", "value"),
        ] {
            let told = read(user).unwrap_err().to_string();
            assert!(told.contains(cause), "{user}: {told}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(user: Vec<u8>) {
            let _ = Names::read(&user, &Attributes::new(), |_| true);
        }
    }
}
