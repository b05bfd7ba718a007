//! The content of the new file, complete before the session opens: a slow pipe does not keep the storage writable.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::escape::escape_path;
use crate::problem::Problem;
use crate::storage::remains;
use crate::sys::signal;

/// A larger input goes to a file, because a PiKVM has little memory.
const MEMORY_LIMIT: u64 = 4 << 20;

/// The content, in a file without a name. Programs that this process starts inherit it.
#[derive(Debug)]
pub(crate) struct Input {
    pub file: File,
    pub size: u64,
}

/// Reads SOURCE to its end, or standard input if it is `None` or "-". Signals end the wait.
pub(crate) fn read(source: Option<&Path>) -> Result<Input, Problem> {
    let source = source.filter(|source| *source != Path::new("-"));
    let shown = source.map_or_else(|| "standard input".to_owned(), escape_path);
    let cannot_read = |error: io::Error| {
        let problem = Problem::io(format_args!("cannot read {shown}"), &error);
        match error.kind() {
            ErrorKind::IsADirectory => problem.hint("give a file as SOURCE"),
            _ => problem,
        }
    };
    signal::restore_mask(); // the input may be a terminal or a slow pipe
    let content = match source {
        Some(source) => File::open(source)
            .map_err(cannot_read)
            .and_then(|file| collect(file, cannot_read)),
        None if !signal::stdin_was_open() => {
            Err(Problem::new("standard input is closed").hint("give a SOURCE"))
        }
        None => collect(io::stdin().lock(), cannot_read),
    };
    signal::block_handled();
    content
}

fn collect(
    mut source: impl Read,
    cannot_read: impl Fn(io::Error) -> Problem,
) -> Result<Input, Problem> {
    let mut start = Vec::new();
    let limit = MEMORY_LIMIT + 1;
    source
        .by_ref()
        .take(limit)
        .read_to_end(&mut start)
        .map_err(&cannot_read)?;
    let mut size = start.len() as u64;
    let is_large = size == limit;
    let mut file = if is_large {
        unnamed_file()?
    } else {
        memory_file().map_err(|error| Problem::io("cannot keep the input in memory", &error))?
    };
    file.write_all(&start).map_err(cannot_keep)?;
    drop(start);
    if is_large {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = read_some(&mut source, &mut buffer).map_err(&cannot_read)?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count]).map_err(cannot_keep)?;
            size += count as u64;
        }
    }
    Ok(Input { file, size })
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            count => return count,
        }
    }
}

fn memory_file() -> io::Result<File> {
    // Without CLOEXEC, so that the process which stores it inherits it.
    Ok(rustix::fs::memfd_create("pst-input", MemfdFlags::empty())?.into())
}

/// Creates a file in TMPDIR and removes its name.
fn unnamed_file() -> Result<File, Problem> {
    let directory = env::temp_dir();
    let path = directory.join(remains::new_name());
    let mut options = OpenOptions::new();
    let created = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = created.and_then(|file| {
        fs::remove_file(&path)?;
        rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
        Ok(file)
    });
    file.map_err(|error| {
        let what = format!(
            "cannot create a temporary file in {}",
            escape_path(&directory)
        );
        Problem::io(what, &error).hint("set TMPDIR to a directory where you can write")
    })
}

fn cannot_keep(error: io::Error) -> Problem {
    let directory = escape_path(&env::temp_dir());
    Problem::io(format_args!("cannot keep the input in {directory}"), &error)
        .hint("set TMPDIR to a directory with more space")
}
