//! The manual pages have what the code has. That they are well formed is seen by `make lint`.
#![allow(clippy::unwrap_used)] // its helpers are tests too

use std::fs;
use std::path::PathBuf;

fn source(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The messages as `message.rs` declares them: `0x85 Status: version u16, last bool, bytes chunk`.
fn declared_messages() -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in source("src/wire/message.rs").lines().map(str::trim) {
        if line.starts_with("0x") {
            messages.push(format!("{}: ", line.trim_end_matches([' ', '{', ';'])));
        } else if let (Some(message), Some((field, codec))) =
            (messages.last_mut(), line.split_once(" = "))
        {
            let (name, of) = field.split_once(": ").unwrap();
            let codec = codec.trim_end_matches([',', ')']);
            let shown = match codec.split_once('(') {
                Some((_, limit)) => limit.trim_end_matches("_MAX").to_lowercase(),
                None if codec == "version" => "u16".to_owned(),
                None if codec == "code" => of.to_owned(),
                None => codec.to_owned(),
            };
            let comma = if message.ends_with(": ") { "" } else { ", " };
            message.push_str(&format!("{comma}{name} {shown}"));
        }
    }
    messages
}

#[test]
fn every_page_names_pst_and_its_version_in_its_footer() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contrib/man");
    let footer = concat!("\n.Os pst ", env!("CARGO_PKG_VERSION"), "\n");
    for page in fs::read_dir(folder).unwrap() {
        let page = page.unwrap().path();
        assert!(
            fs::read_to_string(&page).unwrap().contains(footer),
            "{page:?}"
        );
    }
}

#[test]
fn the_messages_of_pst_wire_are_those_of_the_code() {
    let code = declared_messages();
    assert_eq!(code.len(), 9, "{code:?}");
    let page = source("contrib/man/pst-wire.7");
    let items = page.split("\n.It 0x").skip(1);
    let page: Vec<String> = items
        .map(|item| {
            let (head, rest) = item.split_once('\n').unwrap();
            let fields = rest.lines().take_while(|line| !line.starts_with('.'));
            let fields: Vec<&str> = fields.collect();
            let fields = fields.join(" ");
            format!("0x{head}: {}", fields.trim_end_matches('.'))
        })
        .collect();
    for row in &code {
        assert!(page.contains(row), "pst-wire(7) does not have {row}");
    }
    assert_eq!(page.len(), code.len(), "pst-wire(7) has more: {page:#?}");
}

#[test]
fn the_values_of_pst_wire_are_those_of_the_code() {
    let page = source("contrib/man/pst-wire.7");
    let (_, page) = page.split_once(".Ss Values\n").unwrap();
    let code = source("src/wire/message.rs");
    let (_, code) = code.split_once("\ncodes! {").unwrap();
    let (code, _) = code.split_once("\n}\n").unwrap();
    let mut count = 0;
    for part in code.split("\n    }\n") {
        let lines: Vec<&str> = part.lines().map(str::trim).collect();
        let mut names = lines.iter().filter_map(|line| line.strip_suffix(" {"));
        let name = names.next().unwrap();
        let item = page.split(".It ").find(|item| item.starts_with(name));
        let item = item.unwrap_or_else(|| panic!("pst-wire(7) does not have {name}"));
        let values = lines.iter().filter_map(|line| line.strip_suffix(','));
        for (value, number) in values.filter_map(|value| value.split_once(" = ")) {
            count += 1;
            let item = item.replace(['\n', ',', ';', ':', '.'], " ");
            let known = item.contains(&format!(" {number} {value} "));
            assert!(
                known,
                "pst-wire(7) does not have {number} {value} of {name}"
            );
        }
    }
    assert_eq!(count, 10, "the enums are not found");
}

/// The sample has every key (a test of the config's holds it against the code).
#[test]
fn pst_toml_has_the_samples_keys_and_defaults() {
    let page = source("contrib/man/pst.toml.5").replace(" Qq Pa ", " Qq ");
    let mut count = 0;
    for line in source("contrib/pst.toml").lines() {
        let Some((key, value)) = line.trim_start_matches('#').split_once(" = ") else {
            continue;
        };
        if !line.starts_with('#') || key.contains(' ') {
            continue;
        }
        count += 1;
        let written = match value.trim_matches('"') {
            "" => "Qq \"\"".to_owned(),
            bare if bare != value => format!("Qq {bare}"),
            bare => bare.to_owned(),
        };
        let known = page.contains(&format!("Cm {key} = {written}\n"))
            || page.contains(&format!("Cm {key} = Ar "));
        assert!(known, "pst.toml(5) does not have {key} = {value}");
    }
    assert!(count > 10, "the sample's keys are not found");
}
