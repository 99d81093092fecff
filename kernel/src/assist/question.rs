//! `?name`, `??name` and `name?`: a cell that asks for documentation.

use crate::cells::Scene;

/// What a cell asks about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    /// A path, for instance `Vec::push`, or a call chain's beginning such as `model.train`.
    pub(super) name: String,
    /// Whether the definition is wanted too.
    pub(super) with_source: bool,
}

impl Question {
    /// The question that a cell asks, if it asks one.
    ///
    /// `name?` is Rust too: it is a question only where it could not be compiled, because `name` is no variable, or
    /// one to which `?` cannot be applied.
    pub(super) fn parse(code: &str, scene: &Scene) -> Option<Question> {
        let code = code.trim();
        let (name, marks) = match code.trim_start_matches('?') {
            name if name.len() < code.len() => (name.trim(), code.len() - name.len()),
            _ => {
                let name = code.trim_end_matches('?');
                if name.len() == code.len() || name.ends_with(')') || can_fail(name, scene) {
                    return None;
                }
                (name, code.len() - name.len())
            }
        };
        let name = name.trim_end_matches("()").trim_end_matches('!');
        let is_name = !name.is_empty()
            && name
                .split("::")
                .flat_map(|part| part.split('.'))
                .all(|word| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
            && !name.starts_with(|c: char| c.is_ascii_digit());
        (is_name && marks <= 2).then(|| Question { name: name.into(), with_source: marks == 2 })
    }
}

/// Whether `?` may be meant for the value: it has a field's or variable's type that is not known to refuse it.
fn can_fail(name: &str, scene: &Scene) -> bool {
    match scene.variables.get(name) {
        Some(variable) => {
            ["Result<", "Option<", "Poll<", "ControlFlow<"].iter().any(|ty| variable.shown.starts_with(ty))
        }
        // A field, or a constant.
        None => name.contains('.') || matches!(scene.names.get(name), Some(&("const" | "static"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Variable;

    #[test]
    fn questions_are_told_from_rust() {
        let mut scene = Scene::default();
        for (name, shown) in [("v", "Vec<f64>"), ("file", "Result<File, Error>"), ("first", "Option<u8>")] {
            let variable = Variable { mutable: false, code: None, shown: shown.into() };
            scene.variables.insert(name.into(), variable);
        }
        scene.names.insert("LIMIT".into(), "const");
        let asked = |code: &str| Question::parse(code, &scene).map(|q| (q.name, q.with_source));
        let question = |name: &str, with_source| Some((name.to_string(), with_source));
        assert_eq!(asked("?v"), question("v", false));
        assert_eq!(asked(" ? Vec::push\n"), question("Vec::push", false));
        assert_eq!(asked("??v.push"), question("v.push", true));
        assert_eq!(asked("?println!"), question("println", false));
        assert_eq!(asked("v?"), question("v", false));
        assert_eq!(asked("Vec::push??"), question("Vec::push", true));
        for rust in
            ["file?", "first?", "LIMIT?", "f()?", "v.x?", "let x = 1;", "?", "v???", "a + b?", "?a b", "1?"]
        {
            assert_eq!(asked(rust), None, "{rust}");
        }
    }
}
