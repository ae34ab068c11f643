//! The baseline: how many instructions each case took, and what that depends on besides the code.
//!
//! Must not know: how instructions are counted.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Instructions by case. As JSON it is one line for each case, in the order of names, so that a change reads well.
pub type Counts = BTreeMap<String, u64>;

/// What the counts depend on besides the code. Counts made with other tools are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The compiler that built the cases.
    pub rustc: String,
    /// What counted.
    pub valgrind: String,
    /// The C library, whose allocator and copying are counted too.
    pub libc: String,
    /// The architecture, and whether it has the wide registers that copying and searching use.
    pub cpu: String,
}

/// Counts, and what they were made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// What they were made with.
    pub made_with: Tools,
    /// The counts.
    pub instructions: Counts,
}

/// Why a baseline could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read or written.
    #[error("open baseline {0}")]
    File(String, #[source] std::io::Error),
    /// The file is not a baseline.
    #[error("read baseline {0}")]
    Format(String, #[source] serde_json::Error),
}

impl Baseline {
    /// Reads `file`.
    ///
    /// # Errors
    /// [`BaselineError`].
    pub fn read(file: &Path) -> Result<Self, BaselineError> {
        let name = || file.display().to_string();
        let text = std::fs::read(file).map_err(|error| BaselineError::File(name(), error))?;
        serde_json::from_slice(&text).map_err(|error| BaselineError::Format(name(), error))
    }

    /// Writes `file`.
    ///
    /// # Errors
    /// [`BaselineError`].
    pub fn write(&self, file: &Path) -> Result<(), BaselineError> {
        let name = || file.display().to_string();
        let text =
            serde_json::to_string_pretty(self).map_err(|error| BaselineError::Format(name(), error))?;
        std::fs::write(file, text + "\n").map_err(|error| BaselineError::File(name(), error))
    }
}

impl Tools {
    /// In which of them these and `others` differ, as people read it.
    #[must_use]
    pub fn differences(&self, others: &Self) -> Vec<String> {
        let Self { rustc, valgrind, libc, cpu } = self;
        [(rustc, &others.rustc), (valgrind, &others.valgrind), (libc, &others.libc), (cpu, &others.cpu)]
            .into_iter()
            .filter(|(one, other)| one != other)
            .map(|(one, other)| format!("{one}, not {other}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        let text = |text: &str| text.to_owned();
        Tools {
            rustc: text("rustc 1"),
            valgrind: text("valgrind-3"),
            libc: text("glibc 2"),
            cpu: text("x86_64"),
        }
    }

    #[test]
    fn a_case_is_a_line_in_the_order_of_names() {
        let instructions = Counts::from([("b/2".to_owned(), 7), ("a/1".to_owned(), 9)]);
        let baseline = Baseline { made_with: tools(), instructions };
        let folder = std::env::temp_dir().join(format!("shunt-micro-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("baseline.json");
        baseline.write(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("    \"a/1\": 9,\n    \"b/2\": 7\n"), "{text}");
        assert_eq!(Baseline::read(&file).unwrap(), baseline);
        std::fs::write(&file, text.replace("\"rustc\"", "\"gcc\"")).unwrap();
        assert!(matches!(Baseline::read(&file), Err(BaselineError::Format(..))));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(Baseline::read(&file), Err(BaselineError::File(..))));
    }

    #[test]
    fn tools_that_differ_are_named() {
        let other = Tools { rustc: "rustc 2".to_owned(), ..tools() };
        assert_eq!(tools().differences(&tools()), Vec::<String>::new());
        assert_eq!(other.differences(&tools()), ["rustc 2, not rustc 1"]);
    }
}
