//! What the meaning of an item can depend on.
//!
//! A cell with items compiles those of earlier cells once more, and a value from before stays only if its type means
//! the same there. A type means the same while its text does and every name in it leads to the same thing, so what is
//! collected here is every word that the compiler might look up. Where names can come out of nothing, as from the
//! procedural macros of other crates, the words count as parts of names.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

/// Macros of the standard library, which define no items and look up nothing but their arguments.
const MACROS: [&str; 33] = [
    "addr_of",
    "assert",
    "assert_eq",
    "assert_ne",
    "cfg",
    "column",
    "compile_error",
    "concat",
    "dbg",
    "debug_assert",
    "debug_assert_eq",
    "debug_assert_ne",
    "env",
    "eprint",
    "eprintln",
    "file",
    "format",
    "format_args",
    "line",
    "matches",
    "module_path",
    "option_env",
    "panic",
    "print",
    "println",
    "stringify",
    "thread_local",
    "todo",
    "unimplemented",
    "unreachable",
    "vec",
    "write",
    "writeln",
];
/// Derives that write impls of a trait and nothing else.
const DERIVES: [&str; 11] = [
    "Clone",
    "Copy",
    "Debug",
    "Default",
    "Deserialize",
    "Eq",
    "Hash",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Serialize",
];
/// Attributes after which an item is still what it says.
const ATTRIBUTES: [&str; 22] = [
    "allow",
    "automatically_derived",
    "cfg",
    "clippy",
    "cold",
    "default",
    "deny",
    "deprecated",
    "derive",
    "doc",
    "expect",
    "inline",
    "macro_export",
    "macro_use",
    "must_use",
    "no_mangle",
    "non_exhaustive",
    "repr",
    "rustfmt",
    "serde",
    "track_caller",
    "warn",
];
const INCLUDES: [&str; 3] = ["include", "include_bytes", "include_str"];

/// What names are looked up for an item, and how.
#[derive(Clone, Default, Debug)]
pub(super) struct Reach {
    /// Every word that could be a name, as [`canonical`] spells it.
    words: BTreeSet<String>,
    /// The macros, derives and attributes that take part.
    macros: BTreeSet<String>,
    /// A module that mentions neither `super` nor `crate`: it sees macros of the session and nothing else.
    sealed: bool,
    /// The files it includes, with a number for what they hold.
    files: Vec<(PathBuf, u64)>,
}

/// How the compiler compares names: `r#a` is `a`, and characters beyond ASCII can be written in several ways, so all
/// such names count as one.
pub(super) fn canonical(name: &str) -> String {
    let name = name.strip_prefix("r#").unwrap_or(name);
    if name.is_ascii() { name.to_string() } else { "\u{fffd}".into() }
}

impl Reach {
    /// Of what these tokens define.
    pub(super) fn of(tokens: TokenStream) -> Self {
        let mut reach = Reach::default();
        reach.collect(tokens, false);
        reach
    }

    /// Of a module.
    pub(super) fn of_module(tokens: TokenStream) -> Self {
        let mut reach = Self::of(tokens);
        reach.sealed = !["super", "crate"].iter().any(|word| reach.words.contains(*word));
        reach
    }

    /// Within a macro's arguments every word may be a name.
    fn collect(&mut self, tokens: TokenStream, in_macro: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is_punct = |i: Option<usize>, c: char| matches!(i.and_then(|i| tokens.get(i)), Some(TokenTree::Punct(p)) if p.as_char() == c);
        // Names of functions, parameters and fields where they are defined are not looked up.
        let is_definition = |i: usize| {
            let after_fn =
                matches!(i.checked_sub(1).map(|i| &tokens[i]), Some(TokenTree::Ident(word)) if word == "fn");
            after_fn || (is_punct(Some(i + 1), ':') && !is_punct(Some(i + 2), ':'))
        };
        for (i, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(_) if !in_macro && is_definition(i) => {}
                TokenTree::Ident(ident) => {
                    let word = canonical(&ident.to_string());
                    let mark = is_punct(Some(i + 1), '!');
                    let called = matches!(tokens.get(i + 2), Some(TokenTree::Group(_)));
                    if mark && called {
                        if INCLUDES.contains(&word.as_str())
                            && let Some(TokenTree::Group(group)) = tokens.get(i + 2)
                        {
                            self.includes(group.stream());
                        }
                        self.macros.insert(word.clone());
                    }
                    self.words.insert(word);
                }
                TokenTree::Group(group) => {
                    let (hash, mark) = (is_punct(i.checked_sub(1), '#'), is_punct(i.checked_sub(1), '!'));
                    let is_attribute = (hash || (mark && is_punct(i.checked_sub(2), '#')))
                        && group.delimiter() == proc_macro2::Delimiter::Bracket;
                    if is_attribute {
                        self.attribute(group.stream());
                    }
                    self.collect(group.stream(), in_macro || is_attribute || mark);
                }
                // Names in format strings, and in the arguments of attributes.
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    if text.contains('"') {
                        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                        self.words.extend(words.filter(|word| !word.is_empty()).map(canonical));
                    }
                }
                TokenTree::Punct(_) => {}
            }
        }
    }

    fn attribute(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut arguments = TokenStream::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Group(group) => arguments = group.stream(),
                TokenTree::Punct(p) if p.as_char() == '=' => break,
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        match path.first().map(String::as_str) {
            // `#[unsafe(no_mangle)]`
            Some("unsafe") => self.attribute(arguments),
            Some("derive") => {
                let idents = arguments.into_iter().filter_map(|token| match token {
                    TokenTree::Ident(ident) => Some(ident.to_string()),
                    _ => None,
                });
                let not_known = |name: &String| !DERIVES.contains(&name.as_str());
                // Parts of paths, as in `serde::Serialize`, count too, except where those are of crates known here.
                let harmless = ["serde", "std", "core", "fmt", "clone", "hash", "cmp"];
                self.macros.extend(idents.filter(|n| not_known(n) && !harmless.contains(&n.as_str())));
            }
            Some(first) if !ATTRIBUTES.contains(&first) => {
                self.macros.extend(path.last().map(|last| format!("#{last}")));
            }
            _ => {}
        }
    }

    fn includes(&mut self, tokens: TokenStream) {
        for token in tokens {
            if let Ok(literal) = syn::parse2::<syn::LitStr>(token.to_token_stream()) {
                let path = PathBuf::from(literal.value());
                let hash = hash_of(&path);
                self.files.push((path, hash));
            }
        }
    }

    /// Whether macros of other crates have a say, so that names may be made of parts. `own` are the macros of the
    /// session that have none.
    pub(super) fn is_opaque(&self, is_own: impl Fn(&str) -> bool, is_rebound: impl Fn(&str) -> bool) -> bool {
        let harmless = |name: &str| MACROS.contains(&name) || INCLUDES.contains(&name);
        self.macros.iter().any(|name| !is_own(name) && (!harmless(name) || is_rebound(name)))
    }

    pub(super) fn words(&self) -> &BTreeSet<String> {
        &self.words
    }

    /// The macros that it calls.
    pub(super) fn macros(&self) -> &BTreeSet<String> {
        &self.macros
    }

    /// Whether a change of what these names mean can be felt.
    pub(super) fn feels(&self, changed: &Names, opaque: bool) -> bool {
        let names = if self.sealed { &changed.everywhere } else { &changed.all };
        self.words.iter().any(|word| names.contains(word))
            || (opaque && names.iter().any(|name| self.words.iter().any(|word| alike(name, word))))
    }

    /// Whether a file that it includes is no longer what it was.
    pub(super) fn has_stale_file(&self) -> bool {
        self.files.iter().any(|(path, hash)| hash_of(path) != *hash)
    }

    /// Takes note of the files as they are now.
    pub(super) fn read_files_again(&mut self) {
        for (path, hash) in &mut self.files {
            *hash = hash_of(path);
        }
    }
}

/// Names that do not mean what they meant.
#[derive(Clone, Default, Debug)]
pub(super) struct Names {
    pub(super) all: BTreeSet<String>,
    /// Those of them that modules see without a path: macros, crates.
    pub(super) everywhere: BTreeSet<String>,
}

/// Whether a name may have been made of the other, as macros make `PointBuilder` and `point_builder` of `Point`.
pub(super) fn alike(name: &str, word: &str) -> bool {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let (name, word) = (plain(name), plain(word));
    !name.is_empty() && !word.is_empty() && (name.contains(&word) || word.contains(&name))
}

fn hash_of(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).ok().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(code: &str) -> Reach {
        Reach::of(code.parse().unwrap())
    }

    #[test]
    fn only_macros_of_others_can_make_names() {
        let opaque = |code: &str| reach(code).is_opaque(|name| name == "mine", |_| false);
        for code in [
            "#[derive(Debug, Clone)] #[repr(C)] struct P { x: [u8; 2] }",
            "#[derive(serde::Serialize)] #[serde(default)] struct P;",
            "struct P(mine!(f32));",
            "const N: usize = { assert!(1 != 2); vec![1].len() };",
        ] {
            assert!(!opaque(code), "{code}");
        }
        for code in ["#[derive(Builder)] struct P;", "#[bitfield] struct P;", "paste! { struct [<P Q>]; }"] {
            assert!(opaque(code), "{code}");
        }
    }

    #[test]
    fn names_are_compared_as_the_compiler_does() {
        assert!(reach("struct P { x: r#Real }").words().contains("Real"));
        // The letter a with a diaeresis, as one character and as two.
        assert_eq!(canonical("\u{e4}"), canonical("a\u{308}"));
    }
}
