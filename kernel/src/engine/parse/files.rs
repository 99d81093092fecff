//! What a cell takes from files: `mod geometry;`, `include_str!("data.txt")`. The compiler would look for them beside
//! the file that it compiles; people put them beside the notebook, which is where the kernel runs.
//!
//! A module becomes part of the cell, as its file stands when the cell runs: so types defined in files are told apart
//! like all others when a file changes.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;

use super::report;
use super::source::{FromFile, Quote, Text};
use crate::cells::CellError;

const INCLUDES: [&str; 3] = ["include", "include_bytes", "include_str"];

/// Files that lead to each other would go on for ever.
const DEEPEST: usize = 64;

/// The folder of the notebook.
pub(in crate::engine) fn beside() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

/// The code with the files that it includes named by whole paths; `folder` is where it looks for them.
pub(in crate::engine) fn with_whole_paths(code: &str, folder: &Path) -> String {
    fn walk(tokens: TokenStream, folder: &Path, found: &mut Vec<(std::ops::Range<usize>, String)>) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            let TokenTree::Group(group) = token else { continue };
            let is_include = matches!(&tokens[..i], [.., TokenTree::Ident(name), TokenTree::Punct(mark)]
                if mark.as_char() == '!' && INCLUDES.iter().any(|one| name == one));
            match syn::parse2::<syn::LitStr>(group.stream()) {
                Ok(path) if is_include && Path::new(&path.value()).is_relative() => {
                    let whole = folder.join(path.value());
                    found.push((path.span().byte_range(), format!("{:?}", whole.to_string_lossy())));
                }
                _ => walk(group.stream(), folder, found),
            }
        }
    }
    let mut found = Vec::new();
    // What cannot be read is told about when it is parsed.
    if code.contains("include")
        && let Ok(tokens) = code.parse()
    {
        walk(tokens, folder, &mut found);
    }
    let mut whole = code.to_string();
    for (range, path) in found.into_iter().rev() {
        whole.replace_range(range, &path);
    }
    whole
}

/// Parses a text, or says what is wrong with it.
pub(super) fn parsed<T>(text: &Text, parse: impl FnOnce(&str) -> syn::Result<T>) -> Result<T, CellError> {
    parse(&text.code).map_err(|error| report::syntax(&error, text))
}

/// `mod name;` of a cell as `mod name { .. }`, with what its file holds.
pub(super) fn module(item: &syn::ItemMod, text: &Text) -> Result<Text, CellError> {
    let at = Quote { text: text.clone(), range: item.span().byte_range() };
    let mut whole = Whole { code: String::new(), files: Vec::new(), at };
    let head = whole.at.as_str().to_string();
    let folder = beside();
    whole.module(&head, item, &folder, &folder, 0)?;
    Ok(Text { cell: text.cell, code: whole.code.into(), files: whole.files.into() })
}

/// A module, written with all that its files hold.
struct Whole {
    code: String,
    files: Vec<FromFile>,
    /// Where the cell asks for it.
    at: Quote,
}

impl Whole {
    /// Adds the module whose declaration reads `head`. Files are looked for in `folder`, those named by an attribute
    /// beside the file that names them, in `beside`.
    fn module(
        &mut self,
        head: &str,
        item: &syn::ItemMod,
        folder: &Path,
        beside: &Path,
        depth: usize,
    ) -> Result<(), CellError> {
        let name = item.ident.to_string();
        let name = name.strip_prefix("r#").unwrap_or(&name);
        let places = match named_path(item) {
            Some(path) => vec![beside.join(path)],
            None => vec![folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")],
        };
        let shown =
            |path: &Path| path.strip_prefix(self::beside()).unwrap_or(path).to_string_lossy().into_owned();
        let read = places.iter().find_map(|path| Some((path, std::fs::read_to_string(path).ok()?)));
        let Some((path, code)) = read.filter(|_| depth < DEEPEST) else {
            let names: Vec<String> = places.iter().map(|path| format!("`{}`", shown(path))).collect();
            let names = names.join(" or ");
            let (what, help) = match depth < DEEPEST {
                true => (
                    format!("`mod {name};`: there is no text file {names} beside the notebook"),
                    format!(
                        "put it into {}, or write the module out: `mod {name} {{ .. }}`",
                        beside.display()
                    ),
                ),
                false => (
                    format!("`mod {name};`: {names} leads to itself"),
                    "leave out one of the `mod` lines in it".into(),
                ),
            };
            return Err(report::refusal(&what, &help, &self.at));
        };
        let own = path.parent().unwrap_or(folder);
        // Where it looks for modules of its own.
        let below = match path.file_name().is_some_and(|file| file == "mod.rs") || named_path(item).is_some()
        {
            true => own.to_path_buf(),
            false => own.join(name),
        };
        let code = with_whole_paths(&code, own);
        self.code.push_str(head.trim_end().trim_end_matches(';'));
        self.code.push_str(" {\n");
        let from = |line_there| FromFile { line: 0, name: shown(path), line_there };
        let alone = Text {
            cell: self.at.text.cell,
            code: code.as_str().into(),
            files: [FromFile { line: 1, ..from(1) }].into(),
        };
        let file = parsed(&alone, syn::parse_file)?;
        self.begins(from(1));
        let mut written = 0;
        for inner in &file.items {
            let syn::Item::Mod(inner) = inner else { continue };
            if inner.content.is_some() {
                continue;
            }
            let range = inner.span().byte_range();
            self.code.push_str(&code[written..range.start]);
            self.module(&code[range.clone()], inner, &below, own, depth + 1)?;
            written = range.end;
            self.begins(from(code[..written].matches('\n').count() + 1));
        }
        self.code.push_str(&code[written..]);
        self.code.push_str("\n}");
        Ok(())
    }

    /// From here on lines are those of another file.
    fn begins(&mut self, from: FromFile) {
        self.files.push(FromFile { line: self.code.matches('\n').count() + 1, ..from });
    }
}

/// `#[path = ".."]`.
fn named_path(item: &syn::ItemMod) -> Option<String> {
    item.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("path") => match &meta.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_included_by_relative_paths_are_named_anew() {
        let whole = |code: &str| with_whole_paths(code, Path::new("/n b"));
        assert_eq!(
            whole("let é = (include_str!(\"a.txt\"), f!(include_bytes![\"b\"]));"),
            "let é = (include_str!(\"/n b/a.txt\"), f!(include_bytes![\"/n b/b\"]));"
        );
        for other in
            ["include_str!(\"/a\")", "// include_str!(\"a\")", "include!(env!(\"A\"))", "include(\"a\")"]
        {
            assert_eq!(whole(other), other);
        }
    }
}
