//! Python's `FileStorage` opens what a crash has left.

use super::*;

/// Python opens a copy of a state.
pub(super) fn python_looks(
    story: &Story,
    one: &Look<'_>,
    expected: &Expected,
    python: &mut Oracle,
) -> Result<bool, String> {
    let folder = examine::folder();
    let root = folder.path().join("copy");
    super::crash::copy_folder(one.root, &root);
    let data = root.join(&story.data);
    let mut request = json!({"do": "open", "file": data, "keep_old": story.keep_old});
    if let Some(blob_dir) = &story.blob_dir {
        request["blob_dir"] = json!(root.join(blob_dir));
    }
    if let Err(error) = python.ask(&request) {
        if has_unfinished_end(&data) {
            return Ok(false);
        }
        return Err(format!("Python does not open it: {error}"));
    }
    let answer = python.ask(&json!({"do": "iterate"}));
    let answer = match answer {
        Ok(answer) => answer,
        // It opens an empty file and does not read it.
        Err(_) if has_unfinished_end(&one.root.join(&story.data)) => return Ok(false),
        Err(error) => return Err(format!("Python does not read it: {error}")),
    };
    let theirs: Vec<u64> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|txn| txn[0].as_u64().unwrap())
        .collect();
    let is = |_: &Base, at: usize, tid| theirs[at] == tid;
    let agrees = expected.find(is, theirs.len()).is_some();
    if !agrees {
        return Err(format!("Python reads the transactions {theirs:x?}"));
    }
    let ours = theirs_as_ours(&answer);
    python.must(&json!({"do": "close"}));
    // By this engine, from Python's file.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let history = runtime.block_on(async {
        let storage = open_at(story, &root).await?;
        let found = read(&storage).await?;
        storage.close().await;
        Ok::<_, String>(found.history)
    })?;
    let history: Vec<_> = history
        .iter()
        .map(|txn| {
            let records = txn.records.iter().map(|record| {
                let data = record.data.payload();
                (
                    record.oid.0,
                    data.map(|data| oracle::hex(&data.read().unwrap())),
                )
            });
            (txn.tid.0, records.collect::<Vec<_>>())
        })
        .collect();
    if history != ours {
        return Err("Python reads other records than this engine".to_owned());
    }
    Ok(true)
}

pub(super) type Records = Vec<(u64, Option<String>)>;

pub(super) fn theirs_as_ours(answer: &serde_json::Value) -> Vec<(u64, Records)> {
    let txns = answer.as_array().unwrap().iter();
    txns.map(|txn| {
        let records = txn[2].as_array().unwrap().iter().map(|record| {
            let data = record[1].as_str().map(str::to_owned);
            (record[0].as_u64().unwrap(), data)
        });
        (txn[0].as_u64().unwrap(), records.collect())
    })
    .collect()
}

/// Whether the file does not end with a finished transaction, which Python may not know what to do with.
pub(super) fn has_unfinished_end(data: &Path) -> bool {
    if std::fs::metadata(data).map_or(0, |meta| meta.len()) <= 4 {
        // It was being made.
        return true;
    }
    let folder = examine::folder();
    std::fs::copy(data, data_fs(&folder)).unwrap();
    let opened = open::open(
        &data_fs(&folder),
        FileOptions::default(),
        open::Absent::Refuse,
    );
    opened.unwrap().close();
    let mut files = std::fs::read_dir(folder.path()).unwrap();
    files.any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().contains(".tr")
    })
}
