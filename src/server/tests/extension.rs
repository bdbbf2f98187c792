//! The original `ZEORaid`'s extension methods.

use super::*;
use crate::admin::fake::Fake;
use crate::storage::memory::MemoryStorage;
use crate::wire::{RaidMethod, WireError};

fn raid(method: RaidMethod, arguments: &[&str]) -> Call {
    let arguments = arguments.iter().map(|text| Value::Text((*text).to_owned()));
    Call::Raid {
        method,
        arguments: arguments.collect(),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn is_refused(reply: &Reply, why: &str) -> bool {
    matches!(reply, Reply::Error(WireError::Storage(text)) if text.contains(why))
}

#[tokio::test]
async fn they_answer_with_the_originals_shapes() {
    let house = House::of(MemoryStorage::new("test"));
    *house.shared.admin.lock() = Some(Arc::new(Fake::default()));
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut client = house.connect(dialect).await;
        client.register("main", true).await;
        assert_eq!(
            client.call(raid(RaidMethod::Status, &[])).await,
            Reply::Value(text("recovering"))
        );
        let copying = "recovering: copy transaction 0x0000000000000000";
        assert_eq!(
            client.call(raid(RaidMethod::Details, &[])).await,
            Reply::Value(Value::Dict(vec![
                (text("a"), text("optimal")),
                (text("b"), text(copying)),
            ]))
        );
    }
}

#[tokio::test]
async fn those_that_change_something_need_the_option() {
    let fake = Fake::default();
    let changing = [
        (raid(RaidMethod::Recover, &["b"]), text("recovering 'b'")),
        (raid(RaidMethod::Disable, &["b"]), text("disabled 'b'")),
    ];
    let reload = raid(RaidMethod::Reload, &[]);
    for allowed in [false, true] {
        let memory = MemoryStorage::new("test");
        let house = House::changed(memory, ServerOptions::default(), |served| {
            served.with_zeo_admin(allowed)
        });
        *house.shared.admin.lock() = Some(Arc::new(fake.clone()));
        let mut client = house.client().await;
        for (call, expected) in changing.clone() {
            let reply = client.call(call).await;
            if allowed {
                assert_eq!(reply, Reply::Value(expected));
            } else {
                assert!(is_refused(&reply, "zeo_admin"), "{reply:?}");
            }
        }
        let reloaded = client.call(reload.clone()).await;
        if !allowed {
            assert!(is_refused(&reloaded, "zeo_admin"), "{reloaded:?}");
            assert!(fake.asked.lock().is_empty());
            continue;
        }
        assert_eq!(fake.asked.lock().len(), 2);
        // The new configuration has mistakes: they are told.
        let mistake = "1 mistake: etc/zeoraid.yaml:1:1: wrong";
        assert!(is_refused(&reloaded, mistake), "{reloaded:?}");
        let unknown = client.call(raid(RaidMethod::Recover, &["c"])).await;
        assert!(is_refused(&unknown, "it has a, b"), "{unknown:?}");
        let nobody = client.call(raid(RaidMethod::Disable, &[])).await;
        assert!(is_refused(&nobody, "which member?"), "{nobody:?}");
        assert_eq!(client.call(Call::Ping).await, Reply::None);
    }
}

#[tokio::test]
async fn they_are_refused_where_there_is_nobody_to_ask() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    let reply = client.call(raid(RaidMethod::Status, &[])).await;
    assert!(is_refused(&reply, "no array"), "{reply:?}");
}
