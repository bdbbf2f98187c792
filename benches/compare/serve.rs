//! The front end over one storage, without a daemon: what the protocol alone costs.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use zeoraidctl::server::{ListenAddress, Served, Server, ServerOptions, Serving};
use zeoraidctl::storage::Storage;
use zeoraidctl::storage::file::{FileOptions, FileStorage};
use zeoraidctl::storage::memory::MemoryStorage;
use zeoraidctl::wire::Dialect;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// `memory`, or `file` in the current folder.
    #[arg(long, default_value = "memory")]
    storage: String,
    /// Announce msgpack.
    #[arg(long)]
    msgpack: bool,
}

#[tokio::main]
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    // Whoever looks for what is wrong says more in `RUST_LOG`.
    let wanted = std::env::var("RUST_LOG").ok();
    let filter: Option<Targets> = wanted.and_then(|text| text.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::ERROR));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    let storage: Arc<dyn Storage> = match options.storage.as_str() {
        "memory" => Arc::new(MemoryStorage::new("bench")),
        "file" => {
            let path = std::path::Path::new("Data.fs");
            Arc::new(FileStorage::open(path, FileOptions::default()).await?)
        }
        other => anyhow::bail!("there is no storage {other:?}"),
    };
    let (_serving, watched) = watch::channel(Serving::Yes);
    let address = ListenAddress::Tcp {
        host: "127.0.0.1".to_owned(),
        port: options.port,
    };
    let server_options = ServerOptions {
        offer: if options.msgpack {
            Dialect::Msgpack
        } else {
            Dialect::Pickle
        },
        ..ServerOptions::default()
    };
    let storages = vec![Served::new("1", Arc::clone(&storage), watched)];
    let server = Server::start(server_options, vec![address.into()], storages).await?;
    for listening in server.listening() {
        println!("{listening}");
    }
    // The parent keeps the other end.
    zeoraidctl::task::blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    server.shutdown(Duration::from_secs(5)).await?;
    storage.close().await;
    Ok(())
}
