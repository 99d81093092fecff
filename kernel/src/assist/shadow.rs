//! The file that rust-analyzer is shown: the session so far, and in it the cell with the cursor.

use super::cursor::line_and_column;
use crate::cells;
use crate::cells::Scene;

/// A file, and where the cell stands in it.
pub(super) struct Shadow {
    pub(super) text: String,
    /// The line of the file, from 0, that is the cell's first.
    first: usize,
}

const HEAD: &str = "#![allow(warnings)]\nextern crate alloc;\n";
/// What a `?` and an `.await` at the top of a cell are in.
const CELL: &str = "async fn __onelens_cell() -> ::core::result::Result<(), ::alloc::boxed::Box<dyn ::core::error::Error>> {\n";

impl Shadow {
    pub(super) fn new(scene: &Scene, cell: &str) -> Shadow {
        let mut text = format!("{HEAD}{}{CELL}", scene.items);
        for (name, variable) in &scene.variables {
            if let Some(of_type) = &variable.code {
                let pattern = if variable.mutable { "mut " } else { "" };
                text.push_str(&format!("let {pattern}{name}: {of_type} = ::core::todo!();\n"));
            }
        }
        if let Some(running) = &scene.running {
            text.push_str(&cells::commands::without_commands(running));
            text.push_str("\n;\n");
        }
        let first = text.matches('\n').count();
        text.push_str(&cells::commands::without_commands(cell));
        // An expression that the cell has not finished must not run on into the end of the function.
        text.push_str("\n;\n}\n");
        Shadow { text, first }
    }

    /// Line and column, from 0, of a character of the cell.
    pub(super) fn position(&self, cell: &str, at: usize) -> (usize, usize) {
        let (line, column) = line_and_column(cell, at);
        (self.first + line, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Variable;

    #[test]
    fn a_cells_position_is_the_same_character_in_the_file() {
        let mut scene = Scene { items: "use a::b;\n".into(), ..Scene::default() };
        let variable = Variable { mutable: true, code: Some("f64".into()), shown: "f64".into() };
        scene.variables.insert("x".into(), variable);
        scene.running = Some("let y = 1;\nf(y)".into());
        let cell = ":dep a\nlet ü = x.";
        let shadow = Shadow::new(&scene, cell);
        let (line, column) = shadow.position(cell, cell.chars().count() - 1);
        let found = shadow.text.lines().nth(line).unwrap().chars().nth(column);
        assert_eq!(found, Some('.'), "{}", shadow.text);
    }
}
