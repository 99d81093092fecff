//! The identifiers that a piece of code mentions, also inside the format strings of macros.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeSet;

/// Adds every identifier in `tokens`. A string literal `"{x:?} {0}"` mentions `x`.
pub(super) fn collect(tokens: TokenStream, into: &mut BTreeSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                into.insert(ident.to_string());
            }
            TokenTree::Group(group) => collect(group.stream(), into),
            TokenTree::Literal(literal) => format_arguments(&literal.to_string(), into),
            TokenTree::Punct(_) => {}
        }
    }
}

fn format_arguments(literal: &str, into: &mut BTreeSet<String>) {
    if !literal.contains('"') {
        return;
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for piece in literal.split('{').skip(1) {
        // The name of the argument, and names of widths and precisions: `{x:width$.precision$}`.
        let inside = &piece[..piece.find('}').unwrap_or(piece.len())];
        for word in inside.split(|c| !is_word(c)).filter(|word| !word.is_empty()) {
            into.insert(word.to_string());
        }
    }
}

/// Whether `tokens` hold `name = ..`, also in a pattern on the left: then a moved variable may come back.
pub(in crate::engine) fn assigns(tokens: TokenStream, name: &str) -> bool {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    tokens.iter().enumerate().any(|(i, token)| match token {
        TokenTree::Group(group) if assigns(group.stream(), name) => true,
        TokenTree::Ident(_) | TokenTree::Group(_) => {
            let mut mentioned = BTreeSet::new();
            collect(std::iter::once(token.clone()).collect(), &mut mentioned);
            mentioned.contains(name) && is_equals(tokens.get(i + 1)) && !is_equals(tokens.get(i + 2))
        }
        _ => false,
    })
}

/// Whether `tokens` wait for a future, be it in a macro's arguments.
pub(in crate::engine) fn awaits(tokens: &TokenStream) -> bool {
    let mut after_dot = false;
    tokens.clone().into_iter().any(|token| {
        let here = match &token {
            TokenTree::Ident(ident) => after_dot && ident == "await",
            TokenTree::Group(group) => awaits(&group.stream()),
            _ => false,
        };
        after_dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
        here
    })
}

fn is_equals(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == '=')
}
