use super::*;
use crate::escape::escape;
use proptest::prelude::*;

const COLUMNS: [Column; 3] = [
    Column::number("N"),
    Column::long("NAME", 4),
    Column::long("PATH", 4),
];

fn table(width: Option<usize>, rows: &[[&str; 3]]) -> Vec<String> {
    let mut page = Page::new(width, false);
    let rows: Vec<[Piece; 3]> = rows.iter().map(|row| row.map(Piece::plain)).collect();
    page.table(COLUMNS, &rows);
    page.into_lines()
}

#[test]
fn columns_are_aligned_by_what_the_terminal_shows() {
    let rows = [
        ["1", "日本", "x"],
        ["100", "e\u{301}te", "y"],
        ["20", "", "z"],
    ];
    assert_eq!(
        table(None, &rows),
        [
            "    N NAME PATH",
            "    1 日本 x",
            "  100 e\u{301}te  y",
            "   20      z",
        ]
    );
}

#[test]
fn what_has_no_room_is_cut_and_the_longest_first() {
    let rows = [["1", "short", "/a/very/long/path"]];
    assert_eq!(table(Some(19), &rows)[1], "  1 short /a/very/…");
    assert_eq!(table(Some(14), &rows)[1], "  1 short /a/…");
    assert_eq!(table(Some(13), &rows)[1], "  1 sho… /a/…");
    assert_eq!(table(Some(9), &rows)[1], "  1 sho……");
    assert_eq!(table(Some(8), &rows)[1], "  1 sho…");
}

#[test]
fn a_wide_character_is_not_cut_in_half() {
    assert_eq!(cut("日本語", 6), "日本語");
    assert_eq!(cut("日本語", 5), "日本…");
    assert_eq!(cut("日本語", 4), "日…");
    assert_eq!(cut("日本語", 1), "…");
    assert_eq!(cut("日本語", 0), "");
}

#[test]
fn values_go_on_below_themselves() {
    let mut page = Page::new(Some(20), false);
    page.marked("state", Piece::plain("bad"), ": it is held by something");
    page.value("path", "/averyveryverylongpath/x");
    assert_eq!(
        page.into_lines(),
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
fn colours_take_no_room_and_end_with_their_text() {
    let mut page = Page::new(Some(12), true);
    page.line(&[Piece::new("bad ", Look::Bad), Piece::plain("and so it is")]);
    assert_eq!(page.into_lines(), ["\x1b[1;31mbad\x1b[0m and so …"]);
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
        let mut page = Page::new(Some(width), false);
        let rows: Vec<[Piece; 3]> = cells.iter().map(|row| row.clone().map(Piece::plain)).collect();
        page.table(COLUMNS, &rows);
        for row in &cells {
            page.marked("name", Piece::plain("mark"), &row[0]);
        }
        for line in page.into_lines() {
            // A name and a mark have no way to be broken.
            prop_assert!(width_of(&line) <= width, "{:?}", line);
            prop_assert!(!line.contains(|c: char| c.is_control()));
        }
    }
}
