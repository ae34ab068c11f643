//! Values as SQL, in ASCII and the same under every `sql_mode` and character set.

use std::fmt::Write as _;

/// Bytes in hexadecimal, as SQL reads them between the quotes of `X''`.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

/// Reads hexadecimal digits.
pub(super) fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// A string of UTF-8.
pub(super) fn text(value: &[u8]) -> String {
    format!("_utf8mb4 X'{}'", hex(value))
}

/// A number as the CN printed it. `None` where it is none.
pub(super) fn number(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    (digits && plain).then_some(text)
}

/// A name in backticks.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_number_is_not_written_as_one() {
        for text in ["0", "-1", "18446744073709551615", "0.000000", "1.5e-10"] {
            assert_eq!(number(text.as_bytes()), Some(text));
        }
        for text in ["", "-", "NULL", "1; DROP TABLE t", "0x41", "inf"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
        assert_eq!(name("a`b"), "`a``b`");
        assert_eq!(text(b"a'\xff"), "_utf8mb4 X'6127FF'");
    }

    proptest! {
        #[test]
        fn hexadecimal_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(from_hex(hex(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = (from_hex(&bytes), number(&bytes));
        }
    }
}
