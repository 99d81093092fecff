//! What was run before in this session of the kernel.

use serde_json::{Value, json};

/// The cells of this session, oldest first. Kept in memory.
#[derive(Default, Debug)]
pub struct History {
    cells: Vec<Cell>,
}

#[derive(Clone, PartialEq, Debug)]
struct Cell {
    line: u64,
    input: String,
    output: String,
}

/// The number of this session in replies; there is no other, as nothing is kept between sessions.
const SESSION: u64 = 1;

impl History {
    /// Adds a cell.
    pub fn push(&mut self, line: u64, input: &str, output: &str) {
        self.cells.push(Cell { line, input: input.into(), output: output.into() });
    }

    /// The content of the reply to a `history_request`: `range`, `tail` or `search`.
    pub fn answer(&self, request: &Value) -> Value {
        let number = |name: &str| request[name].as_u64();
        let mut found: Vec<&Cell> = match request["hist_access_type"].as_str() {
            Some("range") => {
                let (start, stop) = (number("start").unwrap_or(0), number("stop").unwrap_or(u64::MAX));
                let ours = request["session"].as_i64().is_none_or(|s| s == 0 || s == SESSION as i64);
                self.cells.iter().filter(|c| ours && c.line >= start && c.line < stop).collect()
            }
            Some("search") => {
                let pattern: Vec<char> = request["pattern"].as_str().unwrap_or("*").chars().collect();
                self.cells.iter().filter(|c| glob(&pattern, &c.input)).collect()
            }
            _ => self.cells.iter().collect(),
        };
        if request["unique"] == true {
            let mut seen = std::collections::HashSet::new();
            found.reverse();
            found.retain(|c| seen.insert(&c.input));
            found.reverse();
        }
        if request["hist_access_type"] != "range"
            && let Some(n) = number("n")
        {
            found.drain(..found.len().saturating_sub(usize::try_from(n).unwrap_or(usize::MAX)));
        }
        let with_output = request["output"] == true;
        let entries: Vec<Value> = found
            .into_iter()
            .map(|c| match (with_output, c.output.is_empty()) {
                (true, true) => json!([SESSION, c.line, [c.input, null]]),
                (true, false) => json!([SESSION, c.line, [c.input, c.output]]),
                (false, _) => json!([SESSION, c.line, c.input]),
            })
            .collect();
        json!({ "status": "ok", "history": entries })
    }
}

/// Whether `text` as a whole matches, `*` standing for any run of characters and `?` for any one.
fn glob(pattern: &[char], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when a match fails: after the latest star, one character further.
    let mut retry = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            retry = Some((p + 1, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            p = after_star;
            t = from + 1;
            retry = Some((after_star, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        glob(&pattern.chars().collect::<Vec<_>>(), text)
    }

    #[test]
    fn patterns_match_whole_texts() {
        assert!(matches("*", "") && matches("a*c", "abbc") && matches("a?c", "aéc") && matches("*b*", "abc"));
        assert!(!matches("a", "ab") && !matches("a?", "a") && !matches("", "a") && !matches("*b", "abc"));
        // Quadratic, not exponential.
        assert!(!matches(&"*a".repeat(50), &"a".repeat(49)));
    }

    #[test]
    fn tail_range_search_and_unique_choose_cells() {
        let mut history = History::default();
        for (i, input) in ["1", "2", "1"].into_iter().enumerate() {
            history.push(i as u64 + 1, input, "");
        }
        let ask = |request: Value| history.answer(&request)["history"].clone();
        assert_eq!(ask(json!({ "hist_access_type": "tail", "n": 2 })), json!([[1, 2, "2"], [1, 3, "1"]]));
        let range =
            json!({ "hist_access_type": "range", "start": 1, "stop": 2, "session": 0, "output": true });
        assert_eq!(ask(range), json!([[1, 1, ["1", null]]]));
        let search = json!({ "hist_access_type": "search", "pattern": "1*", "unique": true });
        assert_eq!(ask(search), json!([[1, 3, "1"]]));
    }
}
