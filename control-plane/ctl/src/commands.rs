//! What each command does: calls, and the words for their answers.

mod apply;
mod cluster;
mod cns;
mod rebalance;
mod sessions;
mod tenants;

use crate::answer::Answer;
use crate::args::{Cli, Command};
use crate::server::{Failure, Server};

/// Does what the command line says.
pub(crate) async fn run(cli: &Cli) -> Result<Answer, Failure> {
    let server = Server::new(cli.server().map_err(Failure::Environment)?)?;
    match &cli.command {
        Command::Status => cluster::status(&server).await,
        Command::Apply(apply) => apply::run(&server, apply).await,
        Command::Cn(command) => cns::run(&server, command).await,
        Command::Group(command) => cns::run_group(&server, command).await,
        Command::Tenant(command) => tenants::run(&server, command).await,
        Command::Policy(command) => cluster::policy(&server, command).await,
        Command::DataPlane(command) => cluster::data_planes(&server, command).await,
        Command::Session(command) => sessions::run(&server, command).await,
        Command::Rebalance { dry_run } => rebalance::run(&server, *dry_run).await,
        Command::Explain(explain) => cluster::explain(&server, explain).await,
    }
}

#[cfg(test)]
mod tests;
