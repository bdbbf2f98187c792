//! `logtail`: the end of the log file, and what is added to it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Printer, escape};
use crate::config::LogTarget;

/// Show the end of the log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl logtail
  zeoraidctl logtail -n 100 -f")]
pub struct LogtailArgs {
    /// How many lines
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 10)]
    lines: usize,

    /// Go on with what is added, until Ctrl-C; a rotated log is followed
    #[arg(short, long)]
    follow: bool,
}

pub async fn run(args: &LogtailArgs, context: &Context) -> Result<Exit, CliError> {
    let log = context.config()?.log;
    if log.target == LogTarget::Journal {
        return Err(CliError::new("the log goes to the journal (`log.target`)")
            .with_next(format!("journalctl -t zeoraid -n {}", args.lines)));
    }
    let path = log.file;
    let printer = &context.printer;
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                CliError::new(format!("there is no log yet: {}", path.display()))
                    .with_next("zeoraidctl start"),
            );
        }
        Err(error) => return Err(unreadable(&path, &error)),
    };
    let end = last_lines(&mut file, args.lines).map_err(|error| unreadable(&path, &error))?;
    write(printer, &end)?;
    if args.follow {
        return context.until_ctrl_c(follow(printer, &path, file)).await;
    }
    Ok(Exit::Done)
}

/// The last lines of what was added to a log since it was so long, for who must say why a daemon did not
/// start. Empty where there are none.
pub(super) fn tail_since(path: &Path, length: u64, lines: usize) -> Vec<String> {
    let end = File::open(path).and_then(|mut file| {
        let added = file.metadata()?.len().saturating_sub(length);
        let mut end = last_lines(&mut file, lines)?;
        let before = end.len().saturating_sub(added as usize);
        end.drain(..before);
        Ok(end)
    });
    let text = String::from_utf8_lossy(&end.unwrap_or_default()).into_owned();
    text.lines().map(str::to_owned).collect()
}

const FOLLOW_EVERY: Duration = Duration::from_millis(250);
const PIECE: usize = 64 << 10;

async fn follow(printer: &Printer, path: &Path, mut file: File) -> Result<Exit, CliError> {
    let mut piece = vec![0; PIECE];
    let mut line = Vec::new();
    loop {
        let read = file
            .read(&mut piece)
            .map_err(|error| unreadable(path, &error))?;
        if read > 0 {
            line.extend_from_slice(&piece[..read]);
            // Whole lines, so that a character is not cut; a line without end does not pile up.
            let whole = line
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let whole = if whole == 0 && line.len() > PIECE {
                line.len()
            } else {
                whole
            };
            write(printer, &line[..whole])?;
            line.drain(..whole);
            continue;
        }
        if let Some(new) = replaced(path, &mut file).map_err(|error| unreadable(path, &error))? {
            printer.note(&format!("{}: a new file", path.display()));
            file = new;
            continue;
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// The file that took this one's place; or this one from its beginning, where it was cut.
fn replaced(path: &Path, file: &mut File) -> io::Result<Option<File>> {
    let here = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) if (there.dev(), there.ino()) != (here.dev(), here.ino()) => {
            File::open(path).map(Some)
        }
        Ok(there) if there.len() < file.stream_position()? => {
            file.seek(SeekFrom::Start(0))?;
            Ok(None)
        }
        Ok(_) => Ok(None),
        // Between the two steps of a rotation.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last lines of a file, which is read from its end; it then stands at its end.
fn last_lines(file: &mut File, lines: usize) -> io::Result<Vec<u8>> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut start = length;
    let mut end: Vec<u8> = Vec::new();
    while start > 0 && lines > 0 {
        let size = start.min(PIECE as u64);
        start -= size;
        file.seek(SeekFrom::Start(start))?;
        let mut piece = vec![0; size as usize];
        file.read_exact(&mut piece)?;
        piece.append(&mut end);
        end = piece;
        if let Some(at) = cut(&end, lines) {
            end.drain(..at);
            break;
        }
    }
    file.seek(SeekFrom::Start(length))?;
    Ok(end)
}

/// Where the last lines begin; none where there are not that many before.
fn cut(text: &[u8], lines: usize) -> Option<usize> {
    // The line end at the very end belongs to the last line.
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1)
}

fn write(printer: &Printer, bytes: &[u8]) -> io::Result<()> {
    if !printer.stdout_is_terminal() {
        return printer.write_bytes(bytes);
    }
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(|line| format!("{}\n", escape(line)));
    printer.write(&lines.collect::<String>())
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("could not read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_from_the_end_also_of_a_large_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let check = |content: &str, lines: usize, expected: &str| {
            std::fs::write(&path, content).unwrap();
            let found = last_lines(&mut File::open(&path).unwrap(), lines).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected);
        };
        check("", 3, "");
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc", 2, "b\nc");
        check("a\nb\n", 5, "a\nb\n");
        check("a\n", 0, "");
        let long = "x".repeat(PIECE);
        check(
            &format!("{long}\n{long}\nend\n"),
            2,
            &format!("{long}\nend\n"),
        );
        assert_eq!(tail_since(&path, 0, 1), ["end"]);
        std::fs::write(&path, "old\nnew\n").unwrap();
        assert_eq!(tail_since(&path, 4, 5), ["new"]);
        assert_eq!(tail_since(&path, 8, 5), Vec::<String>::new());
    }
}
