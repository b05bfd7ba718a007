//! Tests of the layout.

use super::*;
use crate::escape::escape;
use proptest::prelude::*;

const COLUMNS: [Column; 3] = [
    Column::Number("N"),
    Column::Shrinkable("NAME"),
    Column::Shrinkable("PATH"),
];

fn lines(table: &Table) -> Vec<&str> {
    table.lines.iter().map(String::as_str).collect()
}

fn rows(width: Option<usize>, rows: &[[&str; 3]]) -> Table {
    let mut table = Table::new(width, false);
    table.rows(COLUMNS, rows.iter().map(|row| row.map(Cell::plain)));
    table
}

#[test]
fn columns_are_aligned_by_their_width_on_the_terminal() {
    let table = rows(
        None,
        &[
            ["1", "日本", "x"],
            ["100", "e\u{301}te", "y"],
            ["20", "", "z"],
        ],
    );
    assert_eq!(
        lines(&table),
        [
            "    N NAME PATH",
            "    1 日本 x",
            "  100 e\u{301}te  y",
            "   20      z",
        ]
    );
}

#[test]
fn the_widest_columns_are_cut_first() {
    for (width, expected) in [
        (19, "  1 short /a/very/…"),
        (14, "  1 short /a/…"),
        (13, "  1 sho… /a/…"),
        (9, "  1 sho……"),
        (8, "  1 sho…"),
    ] {
        let table = rows(Some(width), &[["1", "short", "/a/very/long/path"]]);
        assert_eq!(lines(&table)[1], expected);
    }
}

#[test]
fn a_wide_character_is_not_cut_in_half() {
    for (room, expected) in [(6, "日本語"), (5, "日本…"), (4, "日…"), (1, "…"), (0, "")]
    {
        assert_eq!(Cell::plain("日本語").cut(room).text, expected);
    }
}

#[test]
fn values_continue_in_their_own_column() {
    let mut table = Table::new(Some(20), false);
    table.styled_value("state", Cell::plain("bad"), ": it is held by something");
    table.value("path", "/averyveryverylongpath/x");
    assert_eq!(
        lines(&table),
        [
            "state     bad: it is",
            "          held by",
            "          something",
            "path      /averyvery",
            "          verylongpa",
            "          th/x",
        ]
    );
}

#[test]
fn colours_take_no_room_and_are_reset_after_their_text() {
    let mut table = Table::new(Some(12), true);
    table.line(&[
        Cell::new("bad", Style::Bad),
        Cell::plain(" and more than fits"),
    ]);
    assert_eq!(lines(&table), ["\x1b[1;31mbad\x1b[0m and mor…"]);
}

#[test]
fn control_characters_are_escaped() {
    let mut table = Table::new(None, false);
    let hostile = "\x1b[2J\n\u{9b}m";
    table.value(hostile, hostile);
    table.paragraph(0, &[Cell::plain(hostile)], hostile);
    table.rows(
        [Column::Fixed("NAME")],
        [[Cell::new(hostile, Style::Plain)]],
    );
    let shown = r"\u{1b}[2J\n\u{9b}m";
    assert_eq!(lines(&table)[0], shown.repeat(2));
    assert_eq!(lines(&table)[1], shown.repeat(2));
    assert_eq!(lines(&table)[3], format!("  {shown}"));
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal(
        cells in prop::collection::vec(any::<[Vec<u8>; 3]>(), 0..5),
        width in 1..100usize,
    ) {
        let cells: Vec<[String; 3]> = cells
            .iter()
            .map(|row| row.each_ref().map(|cell| escape(cell).to_string()))
            .collect();
        let mut table = Table::new(Some(width), false);
        let rows = cells.iter().map(|row| row.each_ref().map(Cell::plain));
        table.rows(COLUMNS, rows);
        for [head, text, _] in &cells {
            table.styled_value("name", Cell::plain("word"), text);
            table.paragraph(30, &[Cell::plain(head)], text);
        }
        for line in lines(&table) {
            prop_assert!(width_of(line) <= width, "{:?}", line);
            prop_assert!(!line.contains(char::is_control));
        }
    }
}
