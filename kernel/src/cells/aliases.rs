//! Types as a reader wants them.

/// ndarray's types by their aliases.
pub(crate) fn with_aliases(text: &str) -> String {
    let mut short = text.to_string();
    for (n, shape) in
        [(0, "[usize; 0]"), (1, "[usize; 1]"), (2, "[usize; 2]"), (3, "[usize; 3]"), (4, "[usize; 4]")]
    {
        short = alias(&short, &format!("Dim<{shape}>"), &format!("Array{n}"));
    }
    alias(&short, "Dim<IxDynImpl>", "ArrayD")
}

/// `ArrayBase<OwnedRepr<f64>, Dim<..>>` is `Array2<f64>`; since 0.17 the element is a third parameter.
fn alias(ty: &str, dim: &str, name: &str) -> String {
    let mut out = String::new();
    let mut rest = ty;
    let open = "ArrayBase<OwnedRepr<";
    while let Some(at) = rest.find(open) {
        let inside = &rest[at + open.len()..];
        let Some(end) = closing(inside) else { break };
        let element = &inside[..end];
        let after = &inside[end + 1..];
        let tail = [format!(", {dim}>"), format!(", {dim}, {element}>")];
        match tail.iter().find(|tail| after.starts_with(tail.as_str())) {
            Some(tail) => {
                out.push_str(&format!("{}{name}<{element}>", &rest[..at]));
                rest = &after[tail.len()..];
            }
            None => {
                out.push_str(&rest[..at + open.len()]);
                rest = inside;
            }
        }
    }
    out + rest
}

/// Where the angle bracket that is open at the start of `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if depth == 0 => return Some(at),
            '>' => depth -= 1,
            _ => {}
        }
    }
    None
}
