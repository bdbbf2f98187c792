//! TLS as it is spoken at an address: files that are read again while connections go on.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::rustls::ServerConfig;

use super::files::TlsError;
use super::server::{ServerTls, Speaks};

/// How TLS is spoken at an address.
#[derive(Debug)]
pub struct Spoken {
    files: ServerTls,
    speaks: ArcSwap<Speaks>,
}

impl Spoken {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that cannot be used, and why.
    pub async fn read(files: &ServerTls) -> Result<Arc<Self>, TlsError> {
        let speaks = read(files).await?;
        Ok(Arc::new(Spoken {
            files: files.clone(),
            speaks: ArcSwap::from_pointee(speaks),
        }))
    }

    /// Reads the files again, and changes nothing yet.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn read_again(&self) -> Result<Speaks, TlsError> {
        read(&self.files).await
    }

    /// Speaks so from now on; false where that is what it does already.
    pub fn put_in_force(&self, speaks: Speaks) -> bool {
        let before = self.speaks.swap(Arc::new(speaks));
        before.digest != self.speaks.load().digest
    }

    /// What a connection that begins now speaks by.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.speaks.load().config)
    }
}

async fn read(files: &ServerTls) -> Result<Speaks, TlsError> {
    let files = files.clone();
    let path = files.certificate.clone();
    let read = crate::task::blocking(move || files.read()).await;
    read.unwrap_or_else(|ended| {
        let source = io::Error::other(ended);
        Err(TlsError::Unreadable { path, source })
    })
}
