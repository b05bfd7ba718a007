//! Parses options with argh, after splitting what argh does not: `--name=value`, `-nVALUE`, and the words
//! after the options.

use std::ffi::{OsStr, OsString};
use std::iter;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};

use super::{Stop, VERSION, fail, unknown};
use crate::escape::escape;
use crate::problem::uncapitalized;

/// An option's value: at least one byte, not necessarily UTF-8.
#[derive(Debug, PartialEq)]
pub(super) struct OptionValue(pub OsString);

impl FromStr for OptionValue {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("must not be empty"),
            text => Ok(Self(OsString::from_vec(to_bytes(text)))),
        }
    }
}

/// Parses the options of a command without other arguments.
pub(super) fn parse<T: FromArgs + ArgsInfo>(
    name: &str,
    args: impl Iterator<Item = OsString>,
) -> Result<T, Stop> {
    let (options, words) = parse_before_words(name, args)?;
    let Some(word) = words.first() else {
        return Ok(options);
    };
    let word = escape(word.as_bytes());
    fail(name, format!("unexpected argument '{word}'"))
}

/// Parses the options. Also returns the words after them.
pub(super) fn parse_before_words<T: FromArgs + ArgsInfo>(
    name: &str,
    args: impl Iterator<Item = OsString>,
) -> Result<(T, Vec<OsString>), Stop> {
    let flags = T::get_args_info().flags;
    let (options, words) = split(name, flags, args)?;
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    match T::from_args(&[name], &options) {
        Ok(options) => Ok((options, words)),
        Err(exit) if exit.status.is_ok() => Err(Stop::Show(with_values(exit.output, flags))),
        Err(exit) => {
            let text = uncapitalized(exit.output.trim_end_matches(['\n', '.']));
            fail(name, escape(&to_bytes(&text)).to_string())
        }
    }
}

/// Splits the arguments into options for argh and the words after them. Each value becomes a separate
/// argument. The first word that is not an option ends the options, as does `--`.
fn split(
    program: &str,
    flags: &[FlagInfo<'_>],
    mut args: impl Iterator<Item = OsString>,
) -> Result<(Vec<String>, Vec<OsString>), Stop> {
    let mut options = Vec::new();
    while let Some(arg) = args.next() {
        let text = to_text(&arg);
        match text.as_str() {
            "--" => break,
            "-V" | "--version" => return Err(Stop::Show(VERSION.into())),
            "-h" | "--help" => return Ok((vec![text], Vec::new())),
            _ if text == "-" || !text.starts_with('-') => {
                return Ok((options, iter::once(arg).chain(args).collect()));
            }
            _ => {}
        }
        let (name, value) = split_value(&text);
        let flag = flags.iter().find(|flag| is_named(flag, name));
        match (flag.map(|flag| &flag.kind), value) {
            (Some(FlagInfoKind::Option { .. }), value) => {
                options.push(name.to_owned());
                let next = || args.next().map(|value| to_text(&value));
                options.extend(value.map(str::to_owned).or_else(next));
            }
            (Some(FlagInfoKind::Switch), None) => options.push(text),
            (Some(FlagInfoKind::Switch), Some(_)) if name.starts_with("--") => {
                return fail(program, format!("option '{name}' takes no value"));
            }
            _ => {
                let known: Vec<&str> = flags.iter().map(|flag| flag.long).collect();
                let name = if name.starts_with("--") { name } else { &text };
                return Err(unknown(program, "option", &to_bytes(name), &known));
            }
        }
    }
    Ok((options, args.collect()))
}

/// Splits `--name=value` and `-nvalue` into name and value.
fn split_value(text: &str) -> (&str, Option<&str>) {
    let split = match text.starts_with("--") {
        true => text.split_once('='),
        false => text.split_at_checked(2).filter(|split| !split.1.is_empty()),
    };
    split.map_or((text, None), |(name, value)| (name, Some(value)))
}

fn is_named(flag: &FlagInfo<'_>, option: &str) -> bool {
    let short = flag.short.map(|short| format!("-{short}"));
    flag.long == option || short.as_deref() == Some(option)
}

/// Adds the options' values to argh's help: `--need SIZE`. They fit before the column of the descriptions.
fn with_values(mut help: String, flags: &[FlagInfo<'_>]) -> String {
    for flag in flags {
        if let FlagInfoKind::Option { arg_name } = flag.kind {
            let listed = format!("{}{}", flag.long, " ".repeat(arg_name.len() + 2));
            let value = format!("{} {arg_name} ", flag.long);
            help = help.replacen(&listed, &value, 1);
        }
    }
    help
}

/// Converts each byte to the character with its number, because argh reads only text.
fn to_text(arg: &OsStr) -> String {
    arg.as_bytes().iter().copied().map(char::from).collect()
}

/// Reverses [`to_text`].
fn to_bytes(text: &str) -> Vec<u8> {
    text.chars().flat_map(u8::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// options of a test
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(help_triggers("-h", "--help"))]
    struct TestOptions {
        /// a path
        #[argh(option, short = 'c', arg_name = "FILE")]
        config: Option<OptionValue>,
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

    fn read(args: &[&[u8]]) -> Result<(TestOptions, Vec<OsString>), Stop> {
        let args = args.iter().map(|arg| os(arg));
        parse_before_words("pst x", args)
    }

    /// Returns the text that is printed instead of starting a command.
    fn printed(args: &[&[u8]]) -> String {
        match read(args) {
            Ok(options) => panic!("{options:?}"),
            Err(Stop::Show(text)) => text,
            Err(Stop::Fail(problem)) => problem.to_string(),
        }
    }

    #[test]
    fn every_spelling_of_an_option_is_read() {
        let config = |path: &[u8]| TestOptions {
            config: Some(OptionValue(os(path))),
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
        let (all, _) = read(&[b"-q", b"-cf", b"--json"]).unwrap();
        assert!(all.quiet && all.json && all.config == Some(OptionValue("f".into())));
        assert!(read(&[b"-q", b"--quiet"]).unwrap().0.quiet);
    }

    #[test]
    fn words_after_the_options_are_unchanged() {
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
    fn every_mistake_is_one_clear_line() {
        for (args, mistake) in [
            (&[&b"--foo"[..]][..], "unknown option '--foo'"),
            (&[b"--foo=bar"], "unknown option '--foo'"),
            (&[b"--=f"], "unknown option '--'"),
            (&[b"--\xff\nx"], r"unknown option '--\xff\nx'"),
            (&[b"-qx"], "unknown option '-qx'"),
            (&["-ä".as_bytes()], "unknown option '-ä'"),
            (&[b"--quiet=1"], "option '--quiet' takes no value"),
            (&[b"-c"], "no value provided for option '-c'"),
            (&[b"--config"], "no value provided for option '--config'"),
            (
                &[b"--config="],
                "error parsing option '--config' with value '': must not be empty",
            ),
            (
                &[b"-c", b""],
                "error parsing option '-c' with value '': must not be empty",
            ),
            (
                &[b"-ca", "-cä".as_bytes()],
                "error parsing option '-c' with value 'ä': duplicate values provided",
            ),
        ] {
            let expected = format!("{mistake}; see 'pst x --help'");
            assert_eq!(printed(args), expected, "{args:?}");
        }
        let similar = "unknown option '--conf'; did you mean '--config'?";
        assert_eq!(printed(&[b"--conf=f"]), similar);
    }

    #[test]
    fn the_help_lists_options_with_their_values() {
        let help = printed(&[b"--help"]);
        assert!(help.contains("\n  -c, --config FILE a path\n"), "{help}");
        assert!(help.contains("\n  -q, --quiet       a switch\n"), "{help}");
    }

    #[test]
    fn help_and_version_are_shown_whatever_follows() {
        for args in [
            &[&b"--help"[..]][..],
            &[b"-q", b"-h", b"--foo"],
            &[b"-h", b"x"],
        ] {
            assert!(printed(args).starts_with("Usage: pst x"));
        }
        assert_eq!(printed(&[b"-q", b"--version"]), VERSION);
        assert_eq!(printed(&[b"-V", b"--foo"]), VERSION);
        assert!(read(&[b"--", b"--help"]).is_ok());
    }

    proptest! {
        #[test]
        fn arguments_are_converted_without_loss(bytes in proptest::collection::vec(1..=255u8, 0..40)) {
            prop_assert_eq!(to_bytes(&to_text(&os(&bytes))), bytes);
        }
    }
}
