//! Whether the calls of a macro by example define items, which a later cell may name, or are statements.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use std::collections::BTreeMap;

/// Whether every rule of `macro_rules! .. { rules }` writes items and nothing else, as far as can be told without a
/// call.
pub(super) fn defines_items(rules: &TokenStream) -> bool {
    let tokens: Vec<TokenTree> = rules.clone().into_iter().collect();
    let mut written = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let is_arrow = matches!(token, TokenTree::Punct(p) if p.as_char() == '=')
            && matches!(tokens.get(i + 1), Some(TokenTree::Punct(p)) if p.as_char() == '>');
        if let (true, Some(TokenTree::Group(matcher)), Some(TokenTree::Group(writes))) =
            (is_arrow, i.checked_sub(1).and_then(|i| tokens.get(i)), tokens.get(i + 2))
        {
            let mut kinds = BTreeMap::new();
            fragments(matcher.stream(), &mut kinds);
            written.push(filled(writes.stream(), &kinds));
        }
    }
    let is_items = |written: &TokenStream| {
        syn::parse2::<syn::File>(written.clone()).is_ok_and(|file| {
            let calls = |item: &syn::Item| matches!(item, syn::Item::Macro(call) if call.ident.is_none());
            !file.items.is_empty() && !file.items.iter().all(calls)
        })
    };
    !written.is_empty() && written.iter().all(is_items)
}

/// The `$name:kind` of a matcher.
fn fragments(matcher: TokenStream, kinds: &mut BTreeMap<String, String>) {
    let tokens: Vec<TokenTree> = matcher.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => fragments(group.stream(), kinds),
            TokenTree::Punct(dollar) if dollar.as_char() == '$' => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Ident(kind))) =
                    (tokens.get(i + 1), tokens.get(i + 3))
                {
                    kinds.insert(name.to_string(), kind.to_string());
                }
            }
            _ => {}
        }
    }
}

/// What a rule writes, with something in the place of each variable, and each repetition once.
fn filled(writes: TokenStream, kinds: &BTreeMap<String, String>) -> TokenStream {
    let tokens: Vec<TokenTree> = writes.into_iter().collect();
    let mut out = TokenStream::new();
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        i += 1;
        let is_dollar = matches!(token, TokenTree::Punct(p) if p.as_char() == '$');
        match (is_dollar, token, tokens.get(i)) {
            (true, _, Some(TokenTree::Group(repeated))) if repeated.delimiter() == Delimiter::Parenthesis => {
                out.extend(filled(repeated.stream(), kinds));
                i += 1;
                // The sign of the repetition, perhaps after a separator.
                let is_sign = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(p)) if "*+?".contains(p.as_char()));
                i += if is_sign(tokens.get(i)) { 1 } else { 2 };
            }
            (true, _, Some(TokenTree::Ident(name))) => {
                out.extend(example(&name.to_string(), kinds));
                i += 1;
            }
            (_, TokenTree::Group(group), _) => {
                let inside = filled(group.stream(), kinds);
                out.extend([TokenTree::Group(Group::new(group.delimiter(), inside))]);
            }
            _ => out.extend([token.clone()]),
        }
    }
    out
}

fn example(name: &str, kinds: &BTreeMap<String, String>) -> TokenStream {
    let text = match kinds.get(name).map(String::as_str) {
        Some("vis") => "pub",
        Some("block") => "{}",
        Some("item") => "struct __OnelensItem;",
        Some("lifetime") => "'static",
        Some("literal") => "0",
        // `$crate`, and what can be a name.
        _ => return TokenTree::Ident(Ident::new("__onelens_name", Span::call_site())).into(),
    };
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_that_write_items_are_told_from_those_that_write_statements() {
        let defines = |rules: &str| defines_items(&rules.parse().unwrap());
        for rules in [
            "($n:ident) => { struct $n { a: u8 } }",
            "($v:vis $n:ident : $t:ty) => { #[derive(Debug)] $v struct $n($t); impl $n { fn new(x: $t) -> Self { Self(x) } } };",
            "($($n:ident),* $(,)?) => { $(const $n: u8 = 0;)* }",
            "($i:item) => { $i } ; ($n:ident, $b:block) => { fn $n() $b }",
        ] {
            assert!(defines(rules), "{rules}");
        }
        for rules in [
            "($e:expr) => { $e * 2 }",
            "() => { println!(\"a\"); }",
            "() => { let x = 1; }",
            "() => { const X: u8 = 1; println!(\"{X}\") }",
            "($e:expr) => {{ struct L; $e }}",
            "() => {}",
        ] {
            assert!(!defines(rules), "{rules}");
        }
    }
}
