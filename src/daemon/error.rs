//! Why the daemon does not run.

use std::io;
use std::path::PathBuf;

use crate::admin::TokenError;
use crate::raid::StartError;
use crate::server;
use crate::tls::TlsError;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("the daemon of this instance runs already{}", with_pid(*.pid))]
    AlreadyRunning { path: PathBuf, pid: Option<u32> },
    #[error("could not {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("could not {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Admin(#[from] crate::admin::listen::ListenError),
    #[error("TLS of the admin protocol: {0}")]
    AdminTls(#[from] TlsError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("array {array}: {source}")]
    Array { array: String, source: StartError },
    #[error("array {array}: could not open the shared blobs in {}: {source}", .folder.display())]
    SharedBlobs {
        array: String,
        folder: PathBuf,
        source: io::Error,
    },
    #[error("there is no user {user} (`effective_user`)")]
    NoUser { user: String },
    #[error("only root can become the user {user} (`effective_user`); this is {me}")]
    NotRoot { user: String, me: String },
    #[error("could not become the user {user} (`effective_user`): {source}")]
    Become { user: String, source: io::Error },
    #[error("the user {user} (`effective_user`) may not write into {}: {source}", .folder.display())]
    NotIts {
        user: String,
        folder: PathBuf,
        instance: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Listen(#[from] server::ListenError),
}

impl DaemonError {
    /// What the operator can do.
    #[must_use]
    pub fn next(&self) -> Option<String> {
        match self {
            DaemonError::AlreadyRunning { .. } => {
                Some("zeoraidctl status, or: zeoraidctl restart".into())
            }
            DaemonError::Listen(server::ListenError::InUse { address }) => Some(format!(
                "find who listens there (`ss -ltnp`), or change {address} in `listen` of etc/zeoraid.yaml"
            )),
            DaemonError::Listen(server::ListenError::Tls { .. }) | DaemonError::AdminTls(_) => {
                Some("zeoraidctl check-config".into())
            }
            DaemonError::Listen(_) => Some("change `listen` in etc/zeoraid.yaml".into()),
            DaemonError::Admin(_) => Some("change `admin` in etc/zeoraid.yaml".into()),
            DaemonError::NoUser { user } => Some(format!(
                "useradd --system {user}, or change `effective_user` in etc/zeoraid.yaml"
            )),
            DaemonError::NotRoot { user, .. } => Some(format!(
                "sudo zeoraidctl start, or as that user: sudo -u {user} zeoraidctl start"
            )),
            DaemonError::NotIts { user, instance, .. } => {
                Some(format!("chown -R {user}: {}", instance.join("var").display()))
            }
            DaemonError::SharedBlobs { .. } => {
                Some("is it mounted, and may this user write there? `shared_blob_dir` in etc/zeoraid.yaml".into())
            }
            _ => None,
        }
    }

    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| DaemonError::Io { what, path, source }
    }

    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| DaemonError::System { what, source }
    }
}

fn with_pid(pid: Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!("; pid={pid}"))
}
