//! With Python's server: the suite in both encodings, and what only such a server can show.

use serde_json::json;

use super::server::Server;
use crate::storage::suite::Fixture;
use crate::storage::zeo::ZeoStorage;

async fn fixture(more: serde_json::Value) -> Fixture {
    let server = Server::start(more);
    let storage = ZeoStorage::open(server.options()).await.unwrap();
    Fixture::keeping(std::sync::Arc::new(storage), server)
}

mod z5 {
    use super::*;
    crate::storage::suite::storage_suite!(fixture(json!({})));
}

mod m5 {
    use super::*;
    crate::storage::suite::storage_suite!(fixture(json!({"msgpack": true})));
}
