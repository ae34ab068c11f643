//! What a command prints: words for people on stdout, or one JSON document, and notes on stderr.

use crate::args::Output;
use serde_json::{Value, json};
use shunt_proto::json::to_value;
use std::io::{self, Write};

/// The outcome of a command.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Lines for people.
    pub(crate) words: String,
    /// The same for programs. None: a command that has nothing to tell but that it is done.
    pub(crate) json: Option<Value>,
    /// What is to be known either way.
    pub(crate) notes: Vec<String>,
    /// What was asked for was not done: the exit status says so.
    pub(crate) is_refusal: bool,
}

impl Answer {
    /// A message, with words for it.
    pub(crate) fn message<M: prost::Message + prost::Name>(message: &M, words: impl Into<String>) -> Self {
        Self { words: words.into(), json: Some(to_value(message)), ..Self::default() }
    }

    /// A list under its name.
    pub(crate) fn list<M: prost::Message + prost::Name>(name: &str, list: &[M], words: String) -> Self {
        let list: Vec<Value> = list.iter().map(to_value).collect();
        Self { words, json: Some(json!({ name: list })), ..Self::default() }
    }

    /// Done, and nothing to show for it.
    pub(crate) fn done(words: impl Into<String>) -> Self {
        Self { words: words.into(), ..Self::default() }
    }

    /// Prints it. A reader that went away is none of our business (`shuntctl … | head -1`).
    pub(crate) fn print(&self, output: Output) -> io::Result<()> {
        match self.write(output, &mut io::stdout().lock(), &mut io::stderr().lock()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    fn write(&self, output: Output, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        for note in &self.notes {
            writeln!(stderr, "{note}")?;
        }
        match (output, &self.json) {
            (Output::Table, _) if self.words.is_empty() => {}
            (Output::Table, _) => writeln!(stdout, "{}", self.words)?,
            (Output::Json, Some(json)) => writeln!(stdout, "{json:#}")?,
            (Output::Json, None) => {}
        }
        stdout.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_proto::pb;

    fn written(answer: &Answer, output: Output) -> (String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        answer.write(output, &mut stdout, &mut stderr).unwrap();
        (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    #[test]
    fn json_is_one_document_or_nothing() {
        let cn = pb::Cn { name: "cn-1".into(), ..pb::Cn::default() };
        let mut answer = Answer::list("cns", &[cn], "NAME".into());
        answer.notes.push("a note".into());
        let (stdout, stderr) = written(&answer, Output::Json);
        let json: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(json["cns"][0]["name"], "cn-1");
        assert_eq!(json["cns"][0]["sessions"], 0);
        assert_eq!(stderr, "a note\n");
        assert_eq!(written(&answer, Output::Table), ("NAME\n".into(), "a note\n".into()));
        assert_eq!(written(&Answer::done("cn/cn-1 deleted"), Output::Json).0, "");
        assert_eq!(
            written(&Answer::list::<pb::Cn>("cns", &[], "No CNs".into()), Output::Json).0,
            "{\n  \"cns\": []\n}\n"
        );
    }
}
