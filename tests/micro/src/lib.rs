//! Microbenchmarks that count instructions.
//!
//! The program runs each of its cases once under valgrind's callgrind, reads how many instructions the counted part
//! took ([`callgrind`]), and compares them with the committed [`baseline`] ([`compare`]). Counts do not depend on how
//! busy the machine is, so a change of two percent shows.
//!
//! Absent on purpose: time. What a case costs in seconds, with caches and the kernel in it, is the benchmarks' to say.

pub mod baseline;
pub mod callgrind;
pub mod compare;
