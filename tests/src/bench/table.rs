//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};

/// A row.
pub(super) type Cells = Vec<String>;

/// Lines up rows below their header: numbers to the right, words to the left.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Cells>) -> String {
    let rows: Vec<Cells> = rows.into_iter().collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in 0..header.len() {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let mut filled = cells.filter(|cell| !cell.is_empty()).peekable();
        let is_numbers = filled.peek().is_some() && filled.all(|cell| is_number(cell));
        if let Some(column) = table.column_mut(column).filter(|_| is_numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// Whether a cell is a number, perhaps one that is exceeded.
fn is_number(cell: &str) -> bool {
    cell.trim_start_matches('>').parse::<f64>().is_ok()
}
