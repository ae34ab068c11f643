//! What a CN tells of its accounts may be anything: a login is never worse off than if nothing had been told.

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use shunt_harness::fake_cn::{Answer, FakeCn};
use shunt_harness::{Login, Raw, Setup, Shunt, eventually};

/// The hash of the password `pw`, and another one.
const RIGHT: &str = "*D821809F681A40A6E379B50D0463EFAE20BDD122";
const OTHER: &str = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";

fn native(hash: &str) -> String {
    format!(r#"{{"access":0,"plugin":"mysql_native_password","authentication_string":"{hash}"}}"#)
}

fn either(first: &str, further: &str) -> String {
    format!(r#"{{"access":7,"plugin":"ed25519","authentication_string":"{first}","auth_or":[{further}]}}"#)
}

/// What is told, and whether a password can be known by it.
fn told() -> Vec<(Vec<u8>, bool)> {
    let many = vec![native(OTHER); 8000].join(",");
    let mut told: Vec<(Vec<u8>, bool)> = [
        (native(RIGHT), true),
        (native(&RIGHT.to_lowercase()), true),
        (format!(r#"{{"authentication_string":"{RIGHT}"}}"#), true),
        (either("x", &native(RIGHT)), true),
        (either("x", &format!("{{}},[],null,7,{},{}", native(OTHER), native(RIGHT))), true),
        (either("x", &format!("{many},{}", native(RIGHT))), true),
        (native(OTHER), false),
        (native(&RIGHT[..40]), false),
        (native(&format!("{RIGHT}0")), false),
        (native(&RIGHT.replace('D', "G")), false),
        (native("*ä821809F681A40A6E379B50D0463EFAE20BDD12"), false),
        (either("x", &many), false),
        (native(&"A".repeat(900_000)), false),
        (format!(r#"{{"plugin":7,"authentication_string":["{RIGHT}"],"auth_or":{{}}}}"#), false),
        ("[".repeat(900_000), false),
        (r#"{"auth_or":["#.repeat(70_000), false),
        (format!("[{}]", native(RIGHT)), false),
        (format!(r#""{RIGHT}""#), false),
        ("1e999999999".into(), false),
        (String::new(), false),
    ]
    .map(|(text, known)| (text.into_bytes(), known))
    .into();
    told.push((vec![0xFF; 1000], false));
    told.push((vec![0; 1000], false));
    told
}

/// Some bytes of it changed, taken out, put in, or twice there.
fn damaged(sample: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
        let end = (at + rng.random_range(0..8)).min(bytes.len());
        match rng.random_range(0..4) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.insert(at, rng.random()),
            2 => bytes.extend_from_within(at..end),
            _ => bytes[at..end].fill(rng.random()),
        }
    }
    bytes
}

/// A CN on which the user `u7` has the password `pw`, and is told of by the seventh of these.
async fn telling(all: Vec<Vec<u8>>) -> Result<FakeCn> {
    let users: Vec<String> = (0..all.len()).map(|n| format!("u{n}")).collect();
    let mut accounts: Vec<_> = users.iter().map(|user| (user.as_str(), "pw")).collect();
    accounts.push(("shunt", "secret"));
    FakeCn::behind_shunt(&accounts, move |received| {
        let asked = received.text();
        // The name is a hexadecimal literal, in which each digit of the number is two.
        let (_, user) = asked.split_once("global_priv")?.1.split_once("x'75")?;
        let digits: String = user.chars().take_while(char::is_ascii_digit).skip(1).step_by(2).collect();
        let told = all.get(digits.parse::<usize>().ok()?)?;
        Some(Answer::Bytes(told.clone()))
    })
    .await
}

/// Logs in as the user `n`; whether its password is known then.
async fn is_known(shunt: &Shunt, n: usize) -> Result<bool> {
    let login = Login::user(format!("u{n}")).password("pw");
    let session = Raw::login(shunt.address(), &login).await?;
    let shown = shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await?;
    let known = shown["pinned"] == json!([]);
    ensure!(known || shown["pinned"] == json!(["credentials unknown"]), "{shown}");
    Ok(known)
}

#[tokio::test]
async fn whatever_a_cn_tells_of_an_account_its_user_is_let_in() -> Result<()> {
    let told = told();
    let mut all: Vec<_> = told.iter().map(|(bytes, _)| bytes.clone()).collect();
    let samples = [native(RIGHT), either("x", &native(RIGHT)), native("")].map(String::into_bytes);
    let mut rng = StdRng::seed_from_u64(7);
    all.extend((0..500).map(|n| damaged(&samples[n % samples.len()], &mut rng)));
    let cn = telling(all.clone()).await?;
    let mut shunt = Setup::new().cn("cn-1", cn.address()).cn_account("shunt", "secret").planes(1).await?;
    eventually("the CN is up", async || {
        let shown = shunt.ctl(&["cn", "get", "cn-1"]).await?;
        ensure!(shown["health"] == "up", "{shown}");
        anyhow::Ok(())
    })
    .await;
    let before = shunt.plane("data-1").process()?.resident()?;
    for (n, bytes) in all.iter().enumerate() {
        let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        match told.get(n) {
            Some((_, known)) => {
                let is = is_known(&shunt, n).await.with_context(text)?;
                ensure!(is == *known, "known: {is}, {}", text());
            }
            None => {
                let login = Login::user(format!("u{n}")).password("pw");
                let mut session = Raw::login(shunt.address(), &login).await.with_context(text)?;
                session.ping().await.with_context(text)?.success()?;
            }
        }
    }
    let process = shunt.plane("data-1").process()?;
    ensure!(!process.output().contains("panicked"), "{}", process.output());
    let grown = process.resident()?.saturating_sub(before);
    ensure!(grown < 32 << 20, "{} KiB more", grown / 1024);
    Ok(())
}
