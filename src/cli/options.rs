//! Options as getopt_long(3) reads them, brought into the form that argh reads: `--name=value`,
//! `-nVALUE` and `-abc` are spelled out, and the first word that is no option ends them.
//! Which options there are is said by argh's types only.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};
use log::LevelFilter;

use super::{Stop, fail, version};
use crate::escape::escape;
use crate::logging::LEVELS;

/// The options of an applet that takes nothing else.
pub(super) fn only<T: FromArgs + ArgsInfo>(
    name: &str,
    args: impl Iterator<Item = OsString>,
) -> Result<T, Stop> {
    let (options, words) = before_words(name, args)?;
    match words.first() {
        None => Ok(options),
        Some(word) => fail(format!(
            "unexpected argument '{}' for '{}'; see '{name} --help'",
            escape(word.as_bytes()),
            label(name)
        )),
    }
}

/// The options, and the words after them: those from the first that is no option, or after `--`.
pub(super) fn before_words<T: FromArgs + ArgsInfo>(
    name: &str,
    args: impl Iterator<Item = OsString>,
) -> Result<(T, Vec<OsString>), Stop> {
    let mut reader = Reader {
        name,
        flags: T::get_args_info().flags,
        args,
        spelled: Vec::new(),
        valued: Vec::new(),
    };
    let words = reader.read()?;
    let spelled: Vec<&str> = reader.spelled.iter().map(String::as_str).collect();
    match T::from_args(&[name], &spelled) {
        Ok(options) => Ok((options, words)),
        Err(exit) if exit.status.is_ok() => Err(Stop::Show(exit.output)),
        Err(exit) => fail(format!("{}; see '{name} --help'", exit.output.trim_end())),
    }
}

/// Reads a path that [`Reader`] has spelled for argh.
pub(super) fn path(spelled: &str) -> Result<PathBuf, String> {
    Ok(decode(spelled).into())
}

/// Reads a level of the log.
pub(super) fn level(spelled: &str) -> Result<LevelFilter, String> {
    let level = spelled.parse();
    level.map_err(|_| format!("no level, which are {LEVELS}"))
}

struct Reader<'a, I> {
    /// What the user called the applet.
    name: &'a str,
    flags: &'static [FlagInfo<'static>],
    args: I,
    /// The options so far, as argh wants them.
    spelled: Vec<String>,
    /// Those among them that took a value.
    valued: Vec<&'static str>,
}

impl<I: Iterator<Item = OsString>> Reader<'_, I> {
    /// Reads all options; what is left is returned.
    fn read(&mut self) -> Result<Vec<OsString>, Stop> {
        while let Some(arg) = self.args.next() {
            match arg.as_bytes() {
                b"--" => break,
                b"-h" | b"--help" => {
                    self.spelled = vec!["--help".into()]; // whatever else is asked for
                    return Ok(Vec::new());
                }
                b"-V" | b"--version" => return Err(Stop::Show(version())),
                [b'-', b'-', ..] => self.read_long(arg.as_bytes())?,
                [b'-', _, ..] => self.read_short(&arg)?,
                _ => return Ok(std::iter::once(arg).chain(&mut self.args).collect()),
            }
        }
        Ok(self.args.by_ref().collect())
    }

    /// `--name`, `--name value` or `--name=value`.
    fn read_long(&mut self, option: &[u8]) -> Result<(), Stop> {
        let mut parts = option.splitn(2, |&byte| byte == b'=');
        let (long, value) = (parts.next().unwrap_or_default(), parts.next());
        match self.flags.iter().find(|flag| flag.long.as_bytes() == long) {
            Some(flag) => self.add(flag, value),
            None => self.unknown(long),
        }
    }

    /// `-n`, `-n value`, `-nvalue` or several in one.
    fn read_short(&mut self, arg: &OsStr) -> Result<(), Stop> {
        let mut rest = &arg.as_bytes()[1..];
        while let [first, more @ ..] = rest {
            let short = char::from(*first);
            match self.flags.iter().find(|flag| flag.short == Some(short)) {
                None if first.is_ascii() => return self.unknown(&[b'-', *first]),
                None => return self.unknown(arg.as_bytes()),
                Some(flag) if takes_value(flag) => {
                    return self.add(flag, (!more.is_empty()).then_some(more));
                }
                Some(flag) => self.add(flag, None)?,
            }
            rest = more;
        }
        Ok(())
    }

    /// Spells an option for argh, with the next word as its value if it needs one and has none.
    fn add(&mut self, flag: &FlagInfo<'static>, value: Option<&[u8]>) -> Result<(), Stop> {
        let long = flag.long;
        let FlagInfoKind::Option { arg_name } = flag.kind else {
            if value.is_some() {
                return self.fault(format!("option {long} takes no value"));
            }
            self.spelled.push(long.into());
            return Ok(());
        };
        let value = match value {
            Some(value) => encode(value),
            None => match self.args.next() {
                Some(value) => encode(value.as_bytes()),
                None => return self.fault(format!("option {long} needs a value, {arg_name}")),
            },
        };
        if self.valued.contains(&long) {
            return self.fault(format!("option {long} is given twice"));
        }
        if value.is_empty() {
            return self.fault(format!("option {long} has an empty value"));
        }
        self.valued.push(long);
        self.spelled.extend([long.into(), value]);
        Ok(())
    }

    fn unknown(&self, option: &[u8]) -> Result<(), Stop> {
        self.fault(format!("unknown option {}", escape(option)))
    }

    fn fault(&self, fault: String) -> Result<(), Stop> {
        let name = self.name;
        fail(format!(
            "{fault} for '{}'; see '{name} --help'",
            label(name)
        ))
    }
}

fn takes_value(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { .. })
}

/// `run` of `pst run`; `kvmd-pstrun` of itself.
fn label(name: &str) -> &str {
    name.rsplit(' ').next().unwrap_or(name)
}

/// Bytes as text, since argh takes nothing else: what is no UTF-8 becomes NUL, which no argument
/// contains, and two hex digits.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\0{byte:02x}"));
        }
    }
    text
}

/// What [`encode`] was given.
fn decode(text: &str) -> OsString {
    let mut pieces = text.split('\0');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (hex, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        bytes.extend(u8::from_str_radix(hex, 16));
        bytes.extend_from_slice(rest.as_bytes());
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An applet of the tests.
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(help_triggers("-h", "--help"))]
    struct Options {
        /// a path
        #[argh(option, short = 'c', arg_name = "FILE", from_str_fn(path))]
        config: Option<PathBuf>,
        /// a switch
        #[argh(switch, short = 'q')]
        quiet: bool,
        /// another
        #[argh(switch)]
        json: bool,
    }

    fn os(bytes: &[u8]) -> OsString {
        OsStr::from_bytes(bytes).to_owned()
    }

    fn read(args: &[&[u8]]) -> Result<(Options, Vec<OsString>), String> {
        let args = args.iter().map(|arg| os(arg));
        before_words("pst x", args).map_err(|stop| match stop {
            Stop::Show(text) => text,
            Stop::Fail(fault) => fault,
        })
    }

    #[test]
    fn every_spelling_of_an_option_is_read() {
        let config = |path: &[u8]| Options {
            config: Some(os(path).into()),
            quiet: false,
            json: false,
        };
        for (args, expected) in [
            (&[&b"--config"[..], b"f"][..], config(b"f")),
            (&[b"--config=f"], config(b"f")),
            (&[b"--config=f=g"], config(b"f=g")),
            (&[b"-c", b"f"], config(b"f")),
            (&[b"-cf"], config(b"f")),
            (&[b"-c=f"], config(b"=f")),
            (&[b"-c", b"--json"], config(b"--json")),
            (&[b"-c", b"--"], config(b"--")),
            (&[b"--config", b"--help"], config(b"--help")),
            (&[b"-c\xff\xc3"], config(b"\xff\xc3")),
            (&[b"--config=a\xffb"], config(b"a\xffb")),
        ] {
            assert_eq!(read(args).unwrap(), (expected, vec![]), "{args:?}");
        }
        let (both, _) = read(&[b"-qcf", b"--json"]).unwrap();
        assert!(both.quiet && both.json && both.config == Some("f".into()));
        assert!(read(&[b"-qq", b"--quiet"]).unwrap().0.quiet);
    }

    #[test]
    fn words_end_the_options_and_stay_as_they_are() {
        for (args, words) in [
            (&[&b"-q"[..], b"cmd", b"-q", b"--", b"--foo"][..], 4),
            (&[b"-q", b"--", b"-c"], 1),
            (&[b"-q", b"--", b"--", b"x"], 2),
            (&[b"-q", b"-", b"x"], 2),
            (&[b"-q", b"", b"x"], 2),
            (&[b"-q", b"\xff", b"\xfe"], 2),
            (&[b"-q", b"help"], 1),
            (&[b"-q"], 0),
        ] {
            let (options, rest) = read(args).unwrap();
            assert!(options.quiet);
            let expected = args[args.len() - words..].iter().map(|arg| os(arg));
            assert_eq!(rest, expected.collect::<Vec<_>>(), "{args:?}");
        }
    }

    #[test]
    fn every_fault_is_one_clear_line() {
        for (args, fault) in [
            (&[&b"--foo"[..]][..], "unknown option --foo for"),
            (&[b"--foo=bar"], "unknown option --foo for"),
            (&[b"--conf=f"], "unknown option --conf for"),
            (&[b"--=f"], "unknown option -- for"),
            (&[b"--\xff\n"], r"unknown option --\xff\n for"),
            (&[b"-qx"], "unknown option -x for"),
            (&["-ä".as_bytes()], "unknown option -ä for"),
            (&[b"--quiet=1"], "option --quiet takes no value for"),
            (&[b"-c"], "option --config needs a value, FILE for"),
            (&[b"--config"], "option --config needs a value, FILE for"),
            (&[b"--config="], "option --config has an empty value for"),
            (&[b"-c", b""], "option --config has an empty value for"),
            (&[b"-ca", b"-cb"], "option --config is given twice for"),
        ] {
            let expected = format!("{fault} 'x'; see 'pst x --help'");
            assert_eq!(read(args).unwrap_err(), expected, "{args:?}");
        }
    }

    #[test]
    fn help_and_version_are_shown_whatever_else_is_asked() {
        for args in [
            &[&b"--help"[..]][..],
            &[b"-q", b"-h", b"--foo"],
            &[b"-h", b"x"],
        ] {
            assert!(read(args).unwrap_err().starts_with("Usage: pst x"));
        }
        assert_eq!(read(&[b"-q", b"--version"]).unwrap_err(), version());
        assert_eq!(read(&[b"-V", b"--foo"]).unwrap_err(), version());
        assert!(read(&[b"--", b"--help"]).is_ok());
    }

    proptest! {
        #[test]
        fn arguments_survive_argh(bytes in proptest::collection::vec(1..=255u8, 0..40)) {
            prop_assert_eq!(decode(&encode(&bytes)).into_vec(), bytes);
        }
    }
}
