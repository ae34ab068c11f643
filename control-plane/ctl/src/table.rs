//! Tables as kubectl prints them: a header in capitals, columns that line up, no borders.

use crate::words::harmless;
use comfy_table::{ContentArrangement, Table, presets};

/// A table, or `empty` where there are no rows. What strangers chose is made harmless.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    empty: &str,
) -> String {
    let mut table = bare();
    table.set_header(header);
    table.add_rows(rows.into_iter().map(|row| row.map(|cell| harmless(&cell))));
    if table.is_empty() { empty.to_owned() } else { text(table) }
}

/// One object, a line for each field.
pub(crate) fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let mut table = bare();
    table.add_rows(fields.map(|(name, value)| [format!("{name}:"), harmless(&value)]));
    text(table)
}

fn bare() -> Table {
    let mut table = Table::new();
    // As wide as its content, whatever the terminal: lines stay whole for grep and awk.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn text(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_borders() {
        let rows = [
            ["cn-1".to_owned(), "127.0.0.1:3306".to_owned()],
            ["a-long-name".to_owned(), "\u{1b}x".to_owned()],
        ];
        let wanted = "NAME          ADDRESS\ncn-1          127.0.0.1:3306\na-long-name   \\u{1b}x";
        assert_eq!(table(["NAME", "ADDRESS"], rows, "none"), wanted);
        assert_eq!(table::<1>(["NAME"], [], "No CNs"), "No CNs");
        assert_eq!(fields([("Name", "x".into()), ("Address", "y".into())]), "Name:      x\nAddress:   y");
    }
}
