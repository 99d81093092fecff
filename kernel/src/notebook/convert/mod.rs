//! `onelens convert`: a notebook as it stands, not run, in another form.

mod program;

use std::path::{Path, PathBuf};

use crate::base::failure::Failure;
use crate::notebook::page;
use crate::notebook::{Notebook, check_folder_of, write_whole};

pub use program::program;

/// What a notebook is converted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// A page that needs nothing else, with the outputs that the notebook holds.
    Html,
    /// A program that does what running all cells does.
    Rust,
}

/// Converts; `output` is beside the notebook if not given.
pub fn convert(notebook: &Path, to: To, output: Option<PathBuf>) -> Result<u8, Failure> {
    let parsed = Notebook::read(notebook)?;
    let extension = match to {
        To::Html => "html",
        To::Rust => "rs",
    };
    let output = output.unwrap_or_else(|| notebook.with_extension(extension));
    if output == notebook {
        return Err(Failure::bad_input(
            format!("the result would replace the notebook {}", notebook.display()),
            "give another name with --output FILE",
        ));
    }
    check_folder_of(&output)?;
    let name = notebook.file_name().unwrap_or_default().to_string_lossy();
    let stem = notebook.file_stem().unwrap_or_default().to_string_lossy();
    let text = match to {
        To::Html => page::render(&parsed, &stem),
        To::Rust => program(&parsed, &name)?,
    };
    write_whole(&output, &text)?;
    println!("wrote {}", output.display());
    Ok(0)
}
