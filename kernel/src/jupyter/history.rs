//! What was run before: in this session, and in earlier and other ones through a file that all kernels share.
//!
//! The file has one JSON object per line, the oldest first. A kernel adds a line with one write at the file's end, so
//! kernels that run at the same time do not mix theirs; a line that is damaged all the same is skipped. When the file
//! has grown too long, the next kernel that starts keeps the newer part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::write_private;

/// The cells of this session, and where those of others are found.
#[derive(Default, Debug)]
pub struct History {
    cells: Vec<Cell>,
    /// The number of this session; without a file there is one only.
    session: Option<u64>,
    file: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
struct Cell {
    session: u64,
    line: u64,
    input: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    output: String,
}

/// Beyond this size the file is cut down to the cells that fill half of it.
const MAX_BYTES: usize = 4 << 20;
/// The longest input or output that is kept for later sessions.
const MAX_TEXT: usize = 16 << 10;

impl History {
    /// A history that goes on from this file, which need not exist. If it cannot be used, this session is all there is.
    pub fn open(file: &Path) -> History {
        match begin(file) {
            Ok(session) => {
                History { session: Some(session), file: Some(file.to_path_buf()), ..History::default() }
            }
            Err(e) => {
                eprintln!("onelens: cells are not remembered for later sessions: {}: {e}", file.display());
                History::default()
            }
        }
    }

    fn session(&self) -> u64 {
        self.session.unwrap_or(1)
    }

    /// Adds a cell.
    pub fn push(&mut self, line: u64, input: &str, output: &str) {
        let cell = Cell { session: self.session(), line, input: input.into(), output: output.into() };
        if let Some(file) = &self.file {
            // A full disk must not fail the cell; what is not written is still known in this session.
            let _ = append(file, &cell);
        }
        self.cells.push(cell);
    }

    /// The content of the reply to a `history_request`: `range`, `tail` or `search`.
    pub fn answer(&self, request: &Value) -> Value {
        let number = |name: &str| request[name].as_u64();
        let all = match &self.file {
            // Other kernels may have added to it.
            Some(file) => read(file).unwrap_or_else(|_| self.cells.clone()),
            None => self.cells.clone(),
        };
        let mut found: Vec<&Cell> = match request["hist_access_type"].as_str() {
            Some("range") => {
                let (start, stop) = (number("start").unwrap_or(0), number("stop").unwrap_or(u64::MAX));
                let session = self.session_named(&all, request["session"].as_i64().unwrap_or(0));
                // As it was typed, also where the file keeps a shortened text.
                let from = if session == Some(self.session()) { &self.cells } else { &all };
                from.iter()
                    .filter(|c| Some(c.session) == session && c.line >= start && c.line < stop)
                    .collect()
            }
            Some("search") => {
                let pattern: Vec<char> = request["pattern"].as_str().unwrap_or("*").chars().collect();
                all.iter().filter(|c| glob(&pattern, &c.input)).collect()
            }
            _ => all.iter().collect(),
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
                (true, true) => json!([c.session, c.line, [c.input, null]]),
                (true, false) => json!([c.session, c.line, [c.input, c.output]]),
                (false, _) => json!([c.session, c.line, c.input]),
            })
            .collect();
        json!({ "status": "ok", "history": entries })
    }

    /// A positive number is a session; 0 is this one, -1 the one before, and so on.
    fn session_named(&self, all: &[Cell], number: i64) -> Option<u64> {
        if number > 0 {
            return Some(number.unsigned_abs());
        }
        let mut others: Vec<u64> =
            all.iter().map(|c| c.session).filter(|&session| session < self.session()).collect();
        others.sort_unstable();
        others.dedup();
        let back = usize::try_from(number.unsigned_abs()).ok()?;
        if back == 0 { Some(self.session()) } else { others.iter().rev().nth(back - 1).copied() }
    }
}

/// Takes the next number of a session, and shortens the file if it has grown too long.
fn begin(file: &Path) -> io::Result<u64> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    // Held while the file may be replaced and the counter is raised; writers of single lines wait for it.
    let lock = open_lock(file)?;
    lock.lock()?;
    let cells = read(file)?;
    let bytes = fs::metadata(file).map_or(0, |m| m.len());
    if bytes > MAX_BYTES as u64 {
        let mut text = String::new();
        let lines: Vec<String> = cells.iter().filter_map(|c| serde_json::to_string(c).ok()).collect();
        let mut room = MAX_BYTES / 2;
        let first = lines.iter().rposition(|line| match room.checked_sub(line.len() + 1) {
            Some(rest) => {
                room = rest;
                false
            }
            None => true,
        });
        for line in &lines[first.map_or(0, |i| i + 1)..] {
            text.push_str(line);
            text.push('\n');
        }
        write_private(file, &text)?;
    }
    // A session that has run nothing yet has a number too.
    let counter = file.with_extension("session");
    let last: u64 = fs::read_to_string(&counter).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    let session = last.max(cells.iter().map(|c| c.session).max().unwrap_or(0)) + 1;
    write_private(&counter, &session.to_string())?;
    Ok(session)
}

fn open_lock(file: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file.with_extension("lock"))
}

fn append(file: &Path, cell: &Cell) -> io::Result<()> {
    let shortened = |text: &str| text[..text.floor_char_boundary(MAX_TEXT)].to_string();
    let cell = Cell { input: shortened(&cell.input), output: shortened(&cell.output), ..cell.clone() };
    let lock = open_lock(file)?;
    lock.lock_shared()?;
    let mut end = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    end.write_all((serde_json::to_string(&cell)? + "\n").as_bytes())
}

fn read(file: &Path) -> io::Result<Vec<Cell>> {
    match fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
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

    fn asked(history: &History, request: Value) -> Value {
        history.answer(&request)["history"].clone()
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
        let ask = |request: Value| asked(&history, request);
        assert_eq!(ask(json!({ "hist_access_type": "tail", "n": 2 })), json!([[1, 2, "2"], [1, 3, "1"]]));
        let range =
            json!({ "hist_access_type": "range", "start": 1, "stop": 2, "session": 0, "output": true });
        assert_eq!(ask(range), json!([[1, 1, ["1", null]]]));
        let search = json!({ "hist_access_type": "search", "pattern": "1*", "unique": true });
        assert_eq!(ask(search), json!([[1, 3, "1"]]));
    }

    #[test]
    fn a_later_session_knows_earlier_ones_by_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/history.jsonl");
        for input in ["first", "second"] {
            History::open(&file).push(1, input, "shown");
        }
        let mut history = History::open(&file);
        history.push(1, "third", "");
        let ask = |request: Value| asked(&history, request);
        let tail = json!({ "hist_access_type": "tail", "n": 2, "output": true });
        assert_eq!(ask(tail), json!([[2, 1, ["second", "shown"]], [3, 1, ["third", null]]]));
        let range = |session: i64| ask(json!({ "hist_access_type": "range", "session": session }));
        assert_eq!(range(0), json!([[3, 1, "third"]]));
        assert_eq!(range(-1), json!([[2, 1, "second"]]));
        assert_eq!(range(-2), range(1));
        assert_eq!(range(-3), json!([]));
    }

    #[test]
    fn kernels_that_run_at_the_same_time_do_not_damage_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history.jsonl");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut history = History::open(&file);
                    (1..=50).for_each(|line| history.push(line, &"long ".repeat(500), "\n\"\u{2028}"));
                });
            }
        });
        let cells = read(&file).unwrap();
        assert_eq!(cells.len(), 400, "every line can be read");
        for session in 1..=8 {
            let lines: Vec<u64> = cells.iter().filter(|c| c.session == session).map(|c| c.line).collect();
            assert_eq!(lines, (1..=50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_file_stays_bounded_and_damaged_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history.jsonl");
        let mut history = History::open(&file);
        let long = "x".repeat(MAX_TEXT + 1);
        (1..=300).for_each(|line| history.push(line, &long, ""));
        assert_eq!(
            asked(&history, json!({ "hist_access_type": "range", "start": 1, "stop": 2 }))[0][2],
            long
        );
        let mut end = OpenOptions::new().append(true).open(&file).unwrap();
        end.write_all(b"{\"session\": 1, \"li\xff\n\n[]\n").unwrap();
        assert!(fs::metadata(&file).unwrap().len() > MAX_BYTES as u64);
        assert_eq!(History::open(&file).session(), 2);
        let rest = read(&file).unwrap();
        assert!(fs::metadata(&file).unwrap().len() <= MAX_BYTES as u64 / 2);
        assert_eq!(rest.last().unwrap().line, 300, "the newest are kept");
        assert!(rest.len() > 100);
    }

    #[test]
    fn where_nothing_can_be_written_the_session_is_remembered() {
        let mut history = History::open(Path::new("/proc/none/history.jsonl"));
        history.push(1, "a", "");
        assert_eq!(asked(&history, json!({ "hist_access_type": "tail" })), json!([[1, 1, "a"]]));
    }
}
