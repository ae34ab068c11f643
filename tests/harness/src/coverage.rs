//! What a differential test covered: a table of command, shape of the response, and capabilities.

use crate::command;
use crate::differential::Transcript;
use crate::random_session::Session;
use crate::reference::Shape;
use std::collections::BTreeMap;
use std::fmt;

/// How often each command was answered in each shape under each pair of capabilities.
#[derive(Default)]
pub struct Coverage(BTreeMap<(u8, Shape), [u32; 4]>);

impl Coverage {
    /// Counts a session.
    pub fn count(&mut self, session: &Session, transcript: &Transcript) {
        let column = usize::from(session.deprecate_eof) + 2 * usize::from(session.session_track);
        for exchange in &transcript.0 {
            if let Some(shape) = exchange.shape.filter(|_| exchange.command != 0) {
                self.0.entry((exchange.command, shape)).or_default()[column] += 1;
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (cell, counts) in &other.0 {
            let sums = self.0.entry(*cell).or_default();
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    /// The required cells that nothing fell into.
    pub fn empty<'a>(&self, required: impl IntoIterator<Item = &'a (u8, Shape)>) -> Vec<String> {
        let columns = ["neither", "DEPRECATE_EOF", "SESSION_TRACK", "both"];
        let mut empty = Vec::new();
        for (command, shape) in required {
            let counts = self.0.get(&(*command, *shape)).copied().unwrap_or_default();
            for (count, column) in counts.iter().zip(columns) {
                if *count == 0 {
                    empty.push(format!("{} {shape:?} with {column}", command::name(*command)));
                }
            }
        }
        empty
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:22}{:14}{:>9}{:>15}{:>15}{:>7}",
            "command", "shape", "neither", "DEPRECATE_EOF", "SESSION_TRACK", "both"
        )?;
        for ((command, shape), [neither, eof, track, both]) in &self.0 {
            let name = match command::name(*command) {
                "UNKNOWN" => format!("unknown {command:#04x}"),
                known => known.to_owned(),
            };
            let shape = format!("{shape:?}");
            writeln!(f, "{name:22}{shape:14}{neither:>9}{eof:>15}{track:>15}{both:>7}")?;
        }
        Ok(())
    }
}
