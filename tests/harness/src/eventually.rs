//! Waiting for something to become so: polled, with a deadline, never a sleep to be right.

use std::fmt::Display;
use std::time::Duration;
use tokio::time::Instant;

/// How long a test waits for what should come at once: 30 seconds, or `SHUNT_TEST_PATIENCE` seconds.
pub fn patience() -> Duration {
    let seconds = std::env::var("SHUNT_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// Polls `attempt` until it gives a value, for at most `patience()`.
///
/// # Panics
/// It never did; the panic says what was waited for, and the last reason why not.
pub async fn eventually<T, E: Display>(what: &str, attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    match within(patience(), attempt).await {
        Ok(value) => value,
        Err(last) => panic!("{what}: not within {:?}: {last}", patience()),
    }
}

/// Polls `attempt` until it gives a value, or the last error once `limit` has passed.
///
/// # Errors
/// The error of the last attempt.
pub async fn within<T, E: Display>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
