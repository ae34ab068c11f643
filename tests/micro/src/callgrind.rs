//! One case under valgrind's callgrind: how many instructions its counted part took.
//!
//! Callgrind counts from where a function whose name fits a pattern is entered to where it is left. The case runs in a
//! process of its own with an empty environment, under a short name in a folder of its own, so that neither what ran
//! before nor where the checkout lies shifts its memory.
//!
//! Must not know: what the cases are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The counted function: its name in a symbol, whichever way the compiler mangles it.
const COUNTED: &str = "*shunt_micro*cases*counted_from_here*";

/// The name of a program in the folder where it runs.
const PROGRAM: &str = "case";

/// Why instructions could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// A folder or file cannot be made or read.
    #[error("open {}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A program cannot be run.
    #[error("run {program}")]
    Run {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A program ended with an error.
    #[error("{program}: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// Nothing was counted.
    #[error("case {0}: no function {COUNTED} was entered")]
    Nothing(String),
}

/// What counts, and where it keeps what it finds: a profile for each case, which `callgrind_annotate` reads.
#[derive(Clone, Debug)]
pub struct Callgrind {
    folder: PathBuf,
}

impl Callgrind {
    /// Counts what `program` does when it is called with `--case NAME`, in `folder`, which is made.
    ///
    /// # Errors
    /// [`CountError::File`].
    pub fn new(program: &Path, folder: &Path) -> Result<Self, CountError> {
        let wrong = |file: &Path| {
            let file = file.to_owned();
            move |error| CountError::File { file, error }
        };
        std::fs::create_dir_all(folder).map_err(wrong(folder))?;
        let folder = folder.canonicalize().map_err(wrong(folder))?;
        let copy = folder.join(PROGRAM);
        std::fs::copy(program, &copy).map_err(wrong(&copy))?;
        Ok(Self { folder })
    }

    /// The file that tells where the instructions of `case` went.
    #[must_use]
    pub fn profile(&self, case: &str) -> PathBuf {
        self.folder.join(format!("{}.callgrind", case.replace('/', ".")))
    }

    /// Instructions of `case`.
    ///
    /// # Errors
    /// [`CountError`].
    pub fn count(&self, case: &str) -> Result<u64, CountError> {
        let profile = self.profile(case);
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--collect-atstart=no"])
            .arg(format!("--toggle-collect={COUNTED}"))
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(format!("./{PROGRAM}"))
            .args(["--case", case])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(&self.folder);
        said("valgrind", &mut valgrind)?;
        let text = std::fs::read_to_string(&profile)
            .map_err(|error| CountError::File { file: profile.clone(), error })?;
        total(&text).ok_or_else(|| CountError::Nothing(case.to_owned()))
    }
}

/// The instructions of a profile; none where nothing was counted.
fn total(profile: &str) -> Option<u64> {
    let number = profile.lines().find_map(|line| line.strip_prefix("totals:"))?;
    number.trim().parse().ok().filter(|counted| *counted > 0)
}

/// What `command` says on its standard output.
///
/// # Errors
/// [`CountError::Run`], and [`CountError::Failed`] with what it said on its standard error.
pub fn said(program: &'static str, command: &mut Command) -> Result<String, CountError> {
    let output = command.output().map_err(|error| CountError::Run { program, error })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CountError::Failed { program, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile_is_read() {
        assert_eq!(total("events: Ir\n\nfn=(1) x\n5 12\n\ntotals: 4711\n"), Some(4711));
        assert_eq!(total("events: Ir\n\ntotals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn a_program_that_fails_is_told_with_its_words() {
        let failed = said("sh", Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert_eq!(failed.to_string(), "sh: why");
        assert_eq!(said("sh", Command::new("sh").args(["-c", "echo yes"])).unwrap(), "yes");
    }
}
