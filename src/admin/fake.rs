//! An [`AdminApi`] for tests: one array `main` with members `a` and `b`, and a memory of what was asked.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::api::*;
use super::events::EventLog;

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) log: EventLog,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) serving: Arc<std::sync::atomic::AtomicBool>,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().push(what);
    }

    fn serves(&self) -> bool {
        self.serving.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn check(array: &str, member: Option<&str>) -> Result<(), Problem> {
        if array != "main" {
            return Err(Problem::not_found(format!(
                "there is no array {array}; there is main"
            )));
        }
        match member {
            Some(member) if !["a", "b"].contains(&member) => Err(Problem::not_found(format!(
                "array main has no member {member}; it has a, b"
            ))),
            _ => Ok(()),
        }
    }
}

pub(crate) fn member(name: &str, state: MemberState) -> MemberDetails {
    MemberDetails {
        name: name.into(),
        state,
        kind: "file".into(),
        location: format!("var/{name}/Data.fs"),
        since: Timestamp::UNIX_EPOCH,
        reason: None,
        outlook: None,
        lag: None,
        last: None,
        latency_ms: Some(0.5),
        reads: 7,
        faults: 0,
    }
}

pub(crate) fn recovery(member: &str) -> Recovery {
    Recovery {
        id: 1,
        member: member.into(),
        source: Some("a".into()),
        strategy: Strategy::Missing,
        state: RecoveryState::Running,
        phase: "copy".into(),
        note: None,
        transaction: None,
        done: Lag {
            transactions: 1,
            bytes: 10,
        },
        total: Lag {
            transactions: 4,
            bytes: 40,
        },
        transactions_per_s: 1.0,
        bytes_per_s: 10.0,
        time_left_s: Some(3),
        rate: RateLimit::default(),
        started: Timestamp::UNIX_EPOCH,
        ended: None,
        set_aside: Vec::new(),
        queued: Vec::new(),
        problem: None,
    }
}

pub(crate) fn pack() -> Job {
    Job {
        id: "pack-main-1".into(),
        kind: JobKind::Pack,
        array: "main".into(),
        state: JobState::Running,
        phase: "pack".into(),
        note: Some("a, 1 of 2".into()),
        done: Lag::default(),
        total: Lag {
            transactions: 0,
            bytes: 80,
        },
        transactions_per_s: 0.0,
        bytes_per_s: 0.0,
        time_left_s: None,
        members: vec![JobMember {
            name: "a".into(),
            state: JobMemberState::Running,
            reason: None,
        }],
        started: Timestamp::UNIX_EPOCH,
        ended: None,
        problem: None,
        backup: None,
        scrub: None,
    }
}

#[async_trait]
impl AdminApi for Fake {
    async fn status(&self) -> Result<Status, Problem> {
        let serving = self.serves();
        Ok(Status {
            version: "0".into(),
            pid: 1,
            started: Timestamp::UNIX_EPOCH,
            uptime_s: 1,
            ready: serving,
            limits_passed: [("frame".to_owned(), 3)].into(),
            arrays: vec![ArrayStatus {
                name: "main".into(),
                state: ArrayState::Degraded,
                line: "waits for members: b".into(),
                serving,
                attention: None,
            }],
        })
    }

    async fn arrays(&self) -> Result<Vec<ArrayDetails>, Problem> {
        Ok(vec![self.array("main").await?])
    }

    async fn array(&self, array: &str) -> Result<ArrayDetails, Problem> {
        Self::check(array, None)?;
        Ok(ArrayDetails {
            name: "main".into(),
            uuid: uuid::Uuid::nil(),
            state: ArrayState::Recovering,
            line: "recovering: b".into(),
            serving: self.serves(),
            addresses: vec!["127.0.0.1:8100".into()],
            epoch: 3,
            since: Timestamp::UNIX_EPOCH,
            head: None,
            objects: 5,
            bytes: 500,
            clients: 2,
            loads: 11,
            commits: 12,
            loads_per_s: 1.0,
            commits_per_s: 0.0,
            commit_lock: CommitLock {
                held: false,
                held_ms: None,
                waiting: 0,
            },
            members: vec![
                member("a", MemberState::Optimal),
                member("b", MemberState::Recovering),
            ],
            recovery: Some(recovery("b")),
            next: Some("zeoraidctl recover --interactive".into()),
            attention: None,
            last_scrub: None,
        })
    }

    async fn recover(
        &self,
        array: &str,
        name: &str,
        request: RecoverRequest,
    ) -> Result<Recovery, Problem> {
        Self::check(array, Some(name))?;
        self.note(format!("recover {name} {request:?}"));
        Ok(Recovery {
            strategy: request.strategy,
            rate: request.rate,
            ..recovery(name)
        })
    }

    async fn recovery(&self, array: &str) -> Result<Recovery, Problem> {
        Self::check(array, None)?;
        Ok(recovery("b"))
    }

    async fn change_recovery(&self, array: &str, rate: RateLimit) -> Result<Recovery, Problem> {
        Self::check(array, None)?;
        Ok(Recovery {
            rate,
            ..recovery("b")
        })
    }

    async fn cancel_recovery(&self, array: &str) -> Result<Recovery, Problem> {
        Self::check(array, None)?;
        Ok(Recovery {
            state: RecoveryState::Cancelled,
            ..recovery("b")
        })
    }

    async fn analyse(&self, array: &str, name: &str) -> Result<Analysis, Problem> {
        Self::check(array, Some(name))?;
        let lag = Lag {
            transactions: 3,
            bytes: 30,
        };
        let common = Transaction {
            tid: "0x01".into(),
            time: None,
            user: None,
            description: None,
        };
        Ok(Analysis {
            member: name.into(),
            source: "a".into(),
            finding: Finding::Behind { lag, common },
            line: "behind by 3 transactions (30 B)".into(),
            advice: Strategy::Missing,
        })
    }

    async fn disable(&self, array: &str, name: &str) -> Result<MemberDetails, Problem> {
        Self::check(array, Some(name))?;
        if name == "a" {
            let problem = Problem::conflict("a is the last optimal member of main");
            return Err(problem.with_next("zeoraidctl recover --interactive"));
        }
        self.note(format!("disable {name}"));
        Ok(member(name, MemberState::Degraded))
    }

    async fn pack(&self, array: &str, request: PackRequest) -> Result<Job, Problem> {
        Self::check(array, None)?;
        self.note(format!("pack {:?}", request.to.map(|to| to.to_string())));
        Ok(pack())
    }

    async fn back_up(&self, array: &str, request: BackupRequest) -> Result<Job, Problem> {
        Self::check(array, None)?;
        self.note(format!("back up {request:?}"));
        Ok(pack())
    }

    async fn scrub(&self, array: &str, request: ScrubRequest) -> Result<Job, Problem> {
        Self::check(array, None)?;
        self.note(format!("scrub {:?}", request.rate.bytes_per_second));
        Ok(pack())
    }

    async fn jobs(&self) -> Result<Vec<Job>, Problem> {
        Ok(vec![pack()])
    }

    async fn job(&self, id: &str) -> Result<Job, Problem> {
        let found = Some(pack()).filter(|job| job.id == id);
        found.ok_or_else(|| Problem::not_found(format!("there is no job {id}")))
    }

    async fn cancel_job(&self, id: &str) -> Result<Job, Problem> {
        self.note(format!("cancel {id}"));
        self.job(id).await
    }

    async fn reload(&self, dry_run: bool) -> Result<Reloaded, Problem> {
        if !dry_run {
            let mistakes = vec!["etc/zeoraid.yaml:1:1: wrong".to_owned()];
            return Err(Problem::configuration("1 mistake", mistakes));
        }
        Ok(Reloaded {
            dry_run,
            ..Reloaded::default()
        })
    }

    async fn shutdown(&self) -> Result<(), Problem> {
        self.note("shutdown".into());
        Ok(())
    }

    async fn reopen_logs(&self) -> Result<(), Problem> {
        self.note("reopen logs".into());
        Ok(())
    }

    async fn configuration(&self) -> Result<Configuration, Problem> {
        Ok(Configuration {
            file: "etc/zeoraid.yaml".into(),
            settings: Vec::new(),
        })
    }

    async fn events(&self, which: Events) -> Result<EventStream, Problem> {
        Ok(self.log.stream(which))
    }
}
