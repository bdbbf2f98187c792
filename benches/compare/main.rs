//! Side by side with Python's `runzeo`: both servers run at the same time, rounds alternate, medians
//! are shown. See `--help`.

mod serve;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Compares this server with Python's runzeo, in one run")]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serves one storage without a daemon around it, until its standard input ends.
    Serve(serve::Options),
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match options.command {
        Some(Command::Serve(options)) => serve::run(options),
        None => Ok(()),
    }
}
