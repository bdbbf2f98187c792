//! A whole daemon in one process, over files, asked through its admin protocol.

use std::path::PathBuf;
use std::time::Duration;

use super::api::Daemon;
use super::logging::Logging;
use super::run::{close, open, serve_admin};
use crate::admin::api::{
    AdminApi as _, ArrayState, Finding, MemberState, RateLimit, RecoverRequest, RecoveryState,
};
use crate::admin::client::{AdminClient, Target};
use crate::config;
use crate::task::Tasks;

struct Instance {
    folder: tempfile::TempDir,
}

struct Running {
    daemon: Daemon,
    client: AdminClient,
    admin: Tasks,
    tasks: Tasks,
}

const TWO: &str = "listen: 127.0.0.1:0\n\
    arrays: {main: {members: {a: {file: var/a/Data.fs}, b: {file: var/b/Data.fs}}}}\n";
const THREE: &str = "listen: 127.0.0.1:0\nencoding: M5\n\
    arrays: {main: {members: {a: {file: var/a/Data.fs}, b: {file: var/b/Data.fs}, \
    c: {file: var/c/Data.fs}}}}\n";

impl Instance {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::create_dir_all(folder.path().join("var/tmp")).unwrap();
        let instance = Instance { folder };
        instance.write(text);
        instance
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(config::FILE), text).unwrap();
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Starts, and waits until clients could be served.
    async fn start(&self) -> Running {
        let config = config::load(self.folder.path(), None, &|_| None).unwrap();
        let admin = Tasks::new("admin tasks");
        let tasks = Tasks::new("daemon tasks");
        let client = AdminClient::new(Target::Socket(config.admin.socket.clone())).unwrap();
        let daemon = Daemon::new(config, Logging::none(), tasks.clone());
        serve_admin(&daemon, &admin).await.unwrap();
        let status = client.status().await.unwrap();
        assert!(!status.ready, "it answers before anything is open");
        assert_eq!(status.arrays[0].line, "starting");
        open(&daemon, false, &tasks).await.unwrap();
        let running = Running {
            daemon,
            client,
            admin,
            tasks,
        };
        running.until(|array| array.serving).await;
        running
    }
}

impl Running {
    /// Waits until the details say so.
    async fn until(&self, wanted: impl Fn(&crate::admin::api::ArrayDetails) -> bool) {
        let wait = async {
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            loop {
                looks.tick().await;
                if wanted(&self.client.array("main").await.unwrap()) {
                    return;
                }
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), wait).await;
        let last = self.client.array("main").await;
        assert!(seen.is_ok(), "never: {last:#?}");
    }

    async fn end(self) {
        assert!(
            close(&self.daemon, &self.admin, &self.tasks).await,
            "gracefully"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_can_be_asked_and_ends() {
    let instance = Instance::new(TWO);
    let running = instance.start().await;
    let status = running.client.status().await.unwrap();
    assert!(status.ready);
    assert_eq!(status.pid, std::process::id());
    let array = running.client.array("1").await.unwrap();
    assert_eq!(array.name, "main", "it answers to its alias");
    assert_eq!(array.state, ArrayState::Optimal);
    assert!(array.addresses[0].starts_with("127.0.0.1:"), "{array:?}");
    assert_eq!(array.next, None);
    let names: Vec<_> = array
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let problem = running.client.array("other").await.unwrap_err();
    assert_eq!(problem.detail, "there is no array other; there is main");
    let problem = running.client.recovery("main").await.unwrap_err();
    assert_eq!(problem.status, 404);
    let problem = running.client.cancel_recovery("main").await.unwrap_err();
    assert_eq!(problem.status, 409);
    running.end().await;
    assert!(!instance.path("var/zeoraid.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_damaged_copy_it_says_that_it_has_to_be_rebuilt() {
    let instance = Instance::new(TWO);
    let running = instance.start().await;
    running
        .until(|array| array.state == ArrayState::Optimal)
        .await;
    running.end().await;
    std::fs::write(instance.path("var/b/Data.fs"), "no Data.fs").unwrap();
    let running = instance.start().await;
    let outlook = |array: &crate::admin::api::ArrayDetails| {
        array.members[1].outlook.clone().unwrap_or_default()
    };
    running
        .until(|array| outlook(array) == "waits for `zeoraidctl recover --rebuild b`")
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_taken_out_and_recovered() {
    let instance = Instance::new(TWO);
    let running = instance.start().await;
    let client = &running.client;
    running
        .until(|array| array.state == ArrayState::Optimal)
        .await;
    let member = client.disable("main", "b").await.unwrap();
    assert_eq!(member.state, MemberState::Degraded);
    assert_eq!(
        member.outlook.as_deref(),
        Some("waits for `zeoraidctl recover b`")
    );
    let array = client.array("main").await.unwrap();
    assert_eq!(
        array.next.as_deref(),
        Some("zeoraidctl recover --interactive")
    );
    let problem = client.disable("main", "a").await.unwrap_err();
    assert_eq!(problem.status, 409, "the last optimal one: {problem}");
    // The member's file is closed behind the answer to `disable`.
    let analysis = loop {
        match client.analyse("main", "b").await {
            Err(problem) if problem.detail.contains("in use") => tokio::task::yield_now().await,
            analysis => break analysis.unwrap(),
        }
    };
    let finding = analysis.finding;
    assert!(
        matches!(finding, Finding::UpToDate | Finding::Empty { .. }),
        "{finding:?}"
    );
    let rate = RateLimit {
        bytes_per_second: Some(0),
        ..RateLimit::default()
    };
    let request = RecoverRequest {
        rate,
        ..RecoverRequest::default()
    };
    let recovery = client.recover("main", "b", request).await.unwrap();
    assert_eq!(
        (recovery.member.as_str(), recovery.rate),
        ("b", RateLimit::default())
    );
    running
        .until(|array| array.state == ArrayState::Optimal)
        .await;
    let recovery = client.recovery("main").await.unwrap();
    assert_eq!(recovery.state, RecoveryState::Done);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_and_removes_members_and_names_what_has_to_wait() {
    let instance = Instance::new(TWO);
    let running = instance.start().await;
    let client = &running.client;
    instance.write(THREE);
    let would = client.reload(true).await.unwrap();
    assert_eq!(would.added, ["main/c"]);
    assert_eq!(would.needs_restart, ["encoding: Z5 -> M5"]);
    assert_eq!(
        client.array("main").await.unwrap().members.len(),
        2,
        "only asked"
    );
    assert_eq!(client.reload(false).await.unwrap().added, ["main/c"]);
    running
        .until(|array| array.members.len() == 3 && array.state == ArrayState::Optimal)
        .await;
    let configuration = client.configuration().await.unwrap();
    let value = |key: &str| {
        let found = configuration
            .settings
            .iter()
            .find(|setting| setting.key == key);
        found.map(|setting| setting.value.as_str())
    };
    assert_eq!(value("encoding"), Some("Z5"), "it waits for a restart");
    assert_eq!(value("arrays.main.members.c.file"), Some("var/c/Data.fs"));

    instance.write("arrays: {main: {membres: {}}}\nlisten: nowhere\n");
    let problem = client.reload(false).await.unwrap_err();
    assert_eq!(
        (problem.status, problem.mistakes.len()),
        (422, 3),
        "{problem:?}"
    );

    instance.write(TWO);
    assert_eq!(client.reload(false).await.unwrap().removed, ["main/c"]);
    assert_eq!(client.array("main").await.unwrap().members.len(), 2);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_and_everything_is_closed_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let instance = Instance::new(&TWO.replace("127.0.0.1:0", &address.to_string()));
    let config = config::load(instance.folder.path(), None, &|_| None).unwrap();
    let (admin, tasks) = (Tasks::new("admin tasks"), Tasks::new("daemon tasks"));
    let daemon = Daemon::new(config, Logging::none(), tasks.clone());
    let error = open(&daemon, false, &tasks).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{address} is in use by another process")
    );
    assert!(error.next().unwrap().contains("`listen`"));
    assert!(close(&daemon, &admin, &tasks).await);
    let lock = instance.path("var/a/Data.fs");
    assert!(!lock.exists() || std::fs::OpenOptions::new().append(true).open(lock).is_ok());
}
