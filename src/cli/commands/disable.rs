//! `disable`: takes a member out until an operator has it recovered.

use clap::Args;

use crate::admin::api::MemberState;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::escape;
use crate::cli::prompt::Question;

/// Take a member out of the array
///
/// It is neither read nor written until `recover` brings it back: for work on its disk, say. Clients
/// notice nothing. The last member that holds everything cannot be taken out.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  zeoraidctl disable copy2")]
pub struct DisableArgs {
    /// The member to take out
    member: String,

    /// Do not ask, also where only one complete copy remains
    #[arg(short, long)]
    yes: bool,
}

pub async fn run(args: &DisableArgs, context: &Context) -> Result<Exit, CliError> {
    let api = context.api()?;
    let array = context.array(&*api).await?;
    let mut others = array
        .members
        .iter()
        .filter(|member| member.state == MemberState::Optimal && member.name != args.member);
    let (first, second) = (others.next(), others.next());
    let is_optimal = array
        .members
        .iter()
        .any(|member| member.name == args.member && member.state == MemberState::Optimal);
    // Unknown members and the last optimal one are refused by the daemon, which says what to do.
    if let (Some(last), None, true, false) = (first, second, is_optimal, args.yes) {
        let text = format!(
            "Only {} will hold every transaction. Take out {}?",
            escape(&last.name),
            escape(&args.member)
        );
        let question = Question {
            text: &text,
            flags: &["--yes"],
        };
        if !context.prompt.confirm(question, false)? {
            return Err(CliError::BrokenOff);
        }
    }
    let member = api.disable(&array.name, &args.member).await?;
    context.printer.success(&format!(
        "{0} is out; bring it back with `zeoraidctl recover {0}`",
        escape(&member.name)
    ));
    context.printer.print_for_programs(&member)?;
    Ok(Exit::Done)
}
