//! The names that `std::any::type_name` gives to types, taken apart into the paths in them.

use crate::cells::with_aliases;
use std::collections::BTreeSet;

/// The crate that every cell is.
pub(in crate::engine) const CRATE: &str = "notebook";

/// The name of a path's crate.
pub(in crate::engine) fn crate_of(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

/// Calls `f` for every path with `::` in it.
pub(in crate::engine) fn for_each_path(ty: &str, f: &mut dyn FnMut(&str)) {
    map_paths(ty, &mut |path| {
        f(path);
        String::new()
    });
}

/// Replaces every path with `::` in it.
pub(in crate::engine) fn map_paths(ty: &str, f: &mut dyn FnMut(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = ty;
    while let Some(start) = rest.find(|c: char| c.is_alphanumeric() || c == '_') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = word_end(rest);
        let word = &rest[..end];
        out.push_str(&if word.contains("::") { f(word) } else { word.to_string() });
        rest = &rest[end..];
    }
    out + rest
}

/// The end of a path: words joined by `::`.
fn word_end(text: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '#';
    let mut end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    while let Some(next) = text[end..].strip_prefix("::") {
        let more = next.find(|c| !is_word(c)).unwrap_or(next.len());
        if more == 0 {
            break;
        }
        end += 2 + more;
    }
    end
}

/// The names of the user's own that occur in a type.
pub(super) fn own_names(ty: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for_each_path(ty, &mut |path| {
        if let Some(own) = path.strip_prefix("notebook::") {
            names.extend(own.split("::").map(str::to_string));
        }
    });
    names
}

/// The type as a reader wants it: last names only, and ndarray's aliases.
pub(in crate::engine) fn for_display(ty: &str) -> String {
    with_aliases(&map_paths(ty, &mut |path| path.rsplit("::").next().unwrap_or(path).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ndarray_types_are_shown_by_their_aliases() {
        let ty = "alloc::vec::Vec<ndarray::ArrayBase<ndarray::data_repr::OwnedRepr<f64>, ndarray::dimension::dim::Dim<[usize; 2]>>>";
        assert_eq!(for_display(ty), "Vec<Array2<f64>>");
    }

    #[test]
    fn own_names_are_found_in_any_depth() {
        let names = own_names("alloc::vec::Vec<(notebook::geo::Point, &str)>");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["Point", "geo"]);
    }
}
