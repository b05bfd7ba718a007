//! The manual pages have what the code has. That they are well formed is seen by `make lint`.
#![allow(clippy::unwrap_used)] // its helpers are tests too

use std::fs;
use std::path::PathBuf;

fn source(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `0x85 Storage: version u16, …`, of each message.
#[test]
fn the_messages_of_pst_wire_are_the_codes() {
    let code = source("src/wire/mod.rs");
    let rows = code
        .lines()
        .filter_map(|line| line.strip_prefix("//! | 0x"));
    let code: Vec<String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let name = cells[1].split('`').nth(1).unwrap();
            let fields = cells[2].replace(['`', '[', ']'], "");
            format!("0x{} {name}: {fields}", cells[0])
        })
        .collect();
    assert!(code.len() > 10, "the table is not found: {code:?}");
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
fn the_values_of_pst_wire_are_the_codes() {
    let page = source("contrib/man/pst-wire.7");
    let (_, page) = page.split_once(".Ss Values\n").unwrap();
    let code = source("src/wire/code.rs");
    let mut count = 0;
    for part in code.split("\ncode! {").skip(1) {
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
    assert!(count > 20, "the enums are not found");
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

/// The fields of `status::json`'s structures below `kind`, named as the page names them.
fn json_fields(code: &str, kind: &str, above: &str, out: &mut Vec<String>) {
    let body = code.split("\nstruct ").find_map(|part| {
        let (name, body) = part.split_once(" {\n")?;
        (name.trim_end_matches("<'a>") == kind).then_some(body)
    });
    let (body, _) = body.unwrap().split_once("\n}").unwrap();
    let fields = body.lines().map(str::trim);
    for field in fields.filter(|line| !line.starts_with("///")) {
        let (name, of) = field.trim_end_matches(',').split_once(": ").unwrap();
        let list = if of.starts_with("Vec<") { "[]" } else { "" };
        let name = format!("{above}{name}{list}");
        let inner = of.trim_start_matches("Vec<").trim_start_matches("Option<");
        let inner = inner.trim_end_matches('>').trim_end_matches("<'a");
        if code.contains(&format!("\nstruct {inner}")) {
            json_fields(code, inner, &format!("{name}."), out);
        }
        out.push(name);
    }
}

#[test]
fn the_fields_of_pst_status_are_those_of_its_json() {
    let mut code = Vec::new();
    json_fields(&source("src/status/json.rs"), "Status", "", &mut code);
    let page = source("contrib/man/pst-status.1");
    let (_, page) = page.split_once(".Sh JSON\n").unwrap();
    let (page, _) = page.split_once("\n.Sh ").unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix(".It Va "));
    let mut page: Vec<String> = names.map(str::to_owned).collect();
    // What only holds others need not be told of itself.
    code.retain(|name| page.contains(name) || !["daemon", "storage", "totals"].contains(&&**name));
    assert!(code.len() > 40, "the fields are not found: {code:?}");
    code.sort();
    page.sort();
    assert_eq!(code, page);
}
