//! Who may read and write what the configuration names: as OpenSSH looks at keys before it uses them.
//!
//! What must be a secret and is none is a mistake: a token that others can read, a key that everybody can. Whoever
//! uses it refuses it, too. What others can put something else at the place of is a warning: the configuration,
//! the folders of sockets, data and logs, where everybody on the machine may write.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::mistake::Mistake;
use super::model::{Address, Config, MemberStorage, Origin};
use super::section::shown;

/// Everybody may write to it.
const OTHERS_WRITE: u32 = 0o002;
/// In a folder: only what is one's own may be removed.
const STICKY: u32 = 0o1000;

/// What is no secret although it must be one.
pub(super) fn secrets(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if let Some(token) = &config.admin.token_file {
        let key = "admin.token_file";
        match std::fs::metadata(token) {
            Err(error) => {
                let what = format!("could not read {}: {error}", shown(&config.instance, token));
                mistakes.push(mistake(
                    config,
                    key,
                    &what,
                    "make it: `(umask 077; openssl rand -hex 32 >FILE)`",
                ));
            }
            Ok(found) if found.mode() & 0o077 != 0 => {
                let path = shown(&config.instance, token);
                let mode = found.mode() & 0o7777;
                let what = format!("{path} can be read by others (mode {mode:04o})");
                mistakes.push(mistake(config, key, &what, &format!("chmod 600 {path}")));
            }
            // Whoever may not read it cannot tell.
            Ok(_) => {
                let token_text = std::fs::read_to_string(token);
                if token_text
                    .is_ok_and(|text| text.trim().len() < crate::tls::files::SHORTEST_TOKEN)
                {
                    let path = shown(&config.instance, token);
                    let what = format!(
                        "the token in {path} is too short: at least {} characters",
                        crate::tls::files::SHORTEST_TOKEN
                    );
                    let mend = "make another: `(umask 077; openssl rand -hex 32 >FILE)`";
                    mistakes.push(mistake(config, key, &what, mend));
                }
            }
        }
    }
    for array in &config.arrays {
        for member in &array.members {
            let MemberStorage::Zeo(server) = &member.storage else {
                continue;
            };
            let Some(tls) = &server.tls else { continue };
            // A certificate alone is no secret.
            let in_certificate = || tls.certificate.as_ref().filter(|file| has_key(file));
            let Some(file) = tls.key.as_ref().or_else(in_certificate) else {
                continue;
            };
            let Err(error) = crate::tls::files::is_private(file) else {
                continue;
            };
            let of = if tls.key.is_some() {
                "key"
            } else {
                "certificate"
            };
            let key = format!("arrays.{}.members.{}.tls.{of}", array.name, member.name);
            let text = error.to_string();
            let (what, mend) = text.split_once("; ").unwrap_or((&text, ""));
            mistakes.push(mistake(config, &key, what, mend));
        }
    }
    mistakes
}

/// A user that the daemon is to become and that this machine does not have.
pub(super) fn user(config: &Config) -> Option<Mistake> {
    let name = config.effective_user.as_ref()?;
    // Where users cannot be looked up, that is found at the start, which says so.
    match nix::unistd::User::from_name(name) {
        Ok(None) => Some(mistake(
            config,
            "effective_user",
            &format!("this machine has no user {name}"),
            &format!("useradd --system {name}, or the name of another user"),
        )),
        Ok(Some(_)) | Err(_) => None,
    }
}

fn has_key(file: &Path) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY";
    let content = std::fs::read(file).unwrap_or_default();
    content.windows(MARK.len()).any(|part| part == MARK)
}

/// What everybody could put something else at the place of.
pub(super) fn exposed(config: &Config) -> Vec<Mistake> {
    let mut places: Vec<(&str, PathBuf)> = vec![
        ("admin.socket", parent(&config.admin.socket)),
        ("pid_file", parent(&config.pid_file)),
        ("log.file", parent(&config.log.file)),
        ("spool.folder", config.spool.folder.clone()),
    ];
    for listen in &config.listen {
        if let Address::Unix(path) = &listen.address {
            places.push(("listen", parent(path)));
        }
    }
    for secret in [&config.admin.token_file].into_iter().flatten() {
        places.push(("admin.token_file", parent(secret)));
    }
    let mut keys = Vec::new();
    for array in &config.arrays {
        keys.push((
            format!("arrays.{}.record", array.name),
            parent(&array.record),
        ));
        for member in &array.members {
            if let MemberStorage::File { file, blob_dir } = &member.storage {
                let key = format!("arrays.{}.members.{}", array.name, member.name);
                keys.push((format!("{key}.file"), parent(file)));
                if let Some(folder) = blob_dir {
                    keys.push((format!("{key}.blob_dir"), folder.clone()));
                }
            }
        }
    }
    places.extend(
        keys.iter()
            .map(|(key, folder)| (key.as_str(), folder.clone())),
    );

    let mut warnings = Vec::new();
    let etc = parent(&config.file);
    let of_file = [&config.file, &etc].into_iter().find(|path| is_open(path));
    if let Some(path) = of_file {
        let path = shown(&config.instance, path);
        let what = format!(
            "everybody on this machine can write to {path}, and so say what the daemon does"
        );
        let mut warning = Mistake::at(0, 0, what, format!("chmod o-w {path}"));
        warning.file = super::shown(&config.instance, &config.file);
        warnings.push(warning);
    }
    let mut said = Vec::new();
    for (key, folder) in places {
        if said.contains(&folder) || !is_open(&folder) {
            continue;
        }
        let path = shown(&config.instance, &folder);
        let path = if path.is_empty() { "." } else { &path };
        let what = format!("everybody on this machine can put other files into {path}");
        warnings.push(mistake(config, key, &what, &format!("chmod o-w {path}")));
        said.push(folder);
    }
    warnings
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// Whether everybody may write to a file, or put files into a folder for others'. What is not there, or cannot
/// be looked at, is not open.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| {
        let mode = found.mode();
        mode & OTHERS_WRITE != 0 && !(found.is_dir() && mode & STICKY != 0)
    })
}

/// At the line that says it.
fn mistake(config: &Config, key: &str, what: &str, mend: &str) -> Mistake {
    let setting = config.explain().iter().find(|setting| setting.key == key);
    let line = match setting.map(|setting| &setting.origin) {
        Some(Origin::Line(line)) => *line,
        _ => 0,
    };
    let mut mistake = Mistake::at(line, 1, format!("{key}: {what}"), mend);
    mistake.file = super::shown(&config.instance, &config.file);
    mistake
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn said(found: &[Mistake]) -> Vec<String> {
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn secrets_that_are_none_and_places_that_are_open_are_told_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["etc", "var", "data"] {
            std::fs::create_dir(root.join(name)).unwrap();
            mode(&root.join(name), 0o755);
        }
        let file = root.join("etc/zeoraid.yaml");
        for name in ["token", "me.pem", "me.key"] {
            std::fs::write(root.join("etc").join(name), "secret, and long enough").unwrap();
            mode(&root.join("etc").join(name), 0o600);
        }
        let text = "admin:\n  address: 127.0.0.1:1\n  token_file: etc/token\narrays:\n  main:\n    members:\n      \
                    a: {file: data/a.fs}\n      z:\n        zeo: h:1\n        tls:\n          \
                    certificate: etc/me.pem\n          key: etc/me.key\n";
        std::fs::write(&file, text).unwrap();
        mode(&file, 0o644);
        let config = super::super::parse(text, &file, root, &|_| None).unwrap();
        assert_eq!(said(&secrets(&config)), [""; 0]);
        assert_eq!(said(&exposed(&config)), [""; 0]);

        let with = |user: &str| {
            let text = format!("effective_user: {user}\n{text}");
            let config = super::super::parse(&text, &file, root, &|_| None).unwrap();
            config.check_user()
        };
        assert_eq!(said(&with("root")), [""; 0]);
        assert_eq!(
            said(&with("nobody-of-this-name")),
            [
                "etc/zeoraid.yaml:1:1: effective_user: this machine has no user nobody-of-this-name; useradd \
                 --system nobody-of-this-name, or the name of another user"
            ]
        );

        mode(&root.join("etc/token"), 0o640);
        mode(&root.join("etc/me.key"), 0o644);
        let key = root.join("etc/me.key").display().to_string();
        assert_eq!(
            said(&secrets(&config)),
            [
                "etc/zeoraid.yaml:3:1: admin.token_file: etc/token can be read by others (mode 0640); chmod \
                 600 etc/token"
                    .to_owned(),
                format!(
                    "etc/zeoraid.yaml:12:1: arrays.main.members.z.tls.key: the private key in {key} is open to \
                     everybody on this machine (mode 0644); `chmod o-rwx {key}`"
                ),
            ]
        );
        mode(&root.join("etc/token"), 0o600);
        std::fs::write(root.join("etc/token"), "abcde\n").unwrap();
        let short = said(&secrets(&config));
        assert!(
            short[0].contains("token in etc/token is too short"),
            "{short:?}"
        );
        std::fs::remove_file(root.join("etc/token")).unwrap();
        let gone = said(&secrets(&config));
        assert!(gone[0].contains("could not read etc/token"), "{gone:?}");

        mode(&file, 0o666);
        mode(&root.join("data"), 0o777);
        // As of /tmp: whoever writes there takes nothing away.
        mode(&root.join("var"), 0o1777);
        assert_eq!(
            said(&exposed(&config)),
            [
                "etc/zeoraid.yaml: everybody on this machine can write to etc/zeoraid.yaml, and so say what \
                 the daemon does; chmod o-w etc/zeoraid.yaml",
                "etc/zeoraid.yaml:7:1: arrays.main.members.a.file: everybody on this machine can put other \
                 files into data; chmod o-w data",
            ]
        );
    }
}
