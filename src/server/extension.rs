//! The original `ZEORaid`'s extension methods, with the original's values.
//!
//! A ZEO client asks its storage for them: `raid_status` is a word, `raid_details` a dictionary from
//! the members' names to what they are, the others answer a sentence. ZEO clients are not
//! authenticated as administrators, so those that change something need the option `zeo_admin`.

use crate::admin::api::{
    AdminApi, ArrayState, MemberDetails, MemberState, Problem, RecoverRequest, Recovery,
};
use crate::pickle::Value;
use crate::wire::{RaidMethod, Reply, WireError};
use crate::zodb::Tid;

/// Answers an extension method for the array `array`.
pub(super) async fn answer(
    admin: Option<&dyn AdminApi>,
    may_change: bool,
    array: &str,
    method: RaidMethod,
    arguments: Vec<Value>,
) -> Reply {
    let Some(admin) = admin else {
        return refused("this server has no array to ask");
    };
    let changes = !matches!(method, RaidMethod::Status | RaidMethod::Details);
    if changes && !may_change {
        return refused(
            "ZEO clients may not change the array (set zeo_admin to allow it); use `zeoraidctl`",
        );
    }
    match ask(admin, array, method, &arguments).await {
        Ok(value) => Reply::Value(value),
        Err(problem) => Reply::Error(WireError::Storage(in_words(problem))),
    }
}

async fn ask(
    admin: &dyn AdminApi,
    array: &str,
    method: RaidMethod,
    arguments: &[Value],
) -> Result<Value, Problem> {
    let text = match method {
        RaidMethod::Status => state(admin.array(array).await?.state).to_owned(),
        RaidMethod::Details => {
            let details = admin.array(array).await?;
            let recovery = details.recovery.as_ref();
            let members = details.members.iter();
            return Ok(Value::Dict(
                members.map(|member| line(member, recovery)).collect(),
            ));
        }
        RaidMethod::Recover => {
            let Some(member) = member(arguments) else {
                return Err(Problem::invalid("which member? give its name"));
            };
            admin
                .recover(array, member, RecoverRequest::default())
                .await?;
            format!("recovering '{member}'")
        }
        RaidMethod::Disable => {
            let Some(member) = member(arguments) else {
                return Err(Problem::invalid("which member? give its name"));
            };
            admin.disable(array, member).await?;
            format!("disabled '{member}'")
        }
        RaidMethod::Reload => {
            admin.reload(false).await?;
            return Ok(Value::None);
        }
    };
    Ok(Value::Text(text))
}

/// A problem with all its mistakes: whoever asks over ZEO sees nothing but a text.
fn in_words(problem: Problem) -> String {
    let Problem {
        detail, mistakes, ..
    } = problem;
    if mistakes.is_empty() {
        return detail;
    }
    format!("{detail}: {}", mistakes.join("; "))
}

fn state(state: ArrayState) -> &'static str {
    match state {
        ArrayState::Optimal => "optimal",
        ArrayState::Recovering => "recovering",
        ArrayState::Degraded => "degraded",
        ArrayState::Failed => "failed",
    }
}

/// A member's entry: the original says `failed: why` of one that is out, and of one that is being
/// recovered in which phase that is, and up to which transaction it has come.
fn line(member: &MemberDetails, recovery: Option<&Recovery>) -> (Value, Value) {
    let text = match member.state {
        MemberState::Optimal => "optimal".to_owned(),
        MemberState::Degraded => {
            let reason = member.reason.as_deref().unwrap_or("n/a");
            format!("failed: {reason}")
        }
        MemberState::Recovering => {
            let recovery = recovery.filter(|recovery| recovery.member == member.name);
            let phase = recovery.map_or("queued", |recovery| recovery.phase.as_str());
            let reached = recovery.and_then(|recovery| recovery.transaction.clone());
            let last = member.last.as_ref().map(|last| last.tid.clone());
            let reached = reached.or(last);
            let reached = reached.unwrap_or_else(|| Tid::ZERO.to_string());
            format!("recovering: {phase} transaction {reached}")
        }
    };
    (Value::Text(member.name.clone()), Value::Text(text))
}

/// The member that a call names in its first argument.
fn member(arguments: &[Value]) -> Option<&str> {
    arguments.first()?.as_text()
}

fn refused(why: &str) -> Reply {
    Reply::Error(WireError::Storage(why.to_owned()))
}
