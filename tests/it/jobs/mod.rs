//! Long work that an operator asks for while clients go on: backups and scrubs.

mod backup;
mod scrub;
