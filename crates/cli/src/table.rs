//! Columns of text.

/// Rows under a header, aligned to the left.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// Spaces between two columns.
const GAP: usize = 3;

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// A table without a header line.
    pub(crate) fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The whole table, every line with its end.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<pad$}", pad = width + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text without control characters: it may have come from a guest, and a file name must not drive
/// the terminal.
pub(crate) fn printable(cell: &str) -> String {
    cell.chars()
        .flat_map(|c| {
            let (escaped, plain) =
                if c.is_control() { (Some(c.escape_default()), None) } else { (None, Some(c)) };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NAME", "STATUS"]);
        table.row(["grün".to_owned(), "running".to_owned()]);
        table.row(["a-longer-name".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME            STATUS\ngrün            running\na-longer-name\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::bare();
        table.row(["\u{1b}[2Jx".to_owned()]);
        assert_eq!(table.render(), "\\u{1b}[2Jx\n");
    }
}
