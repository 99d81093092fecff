//! The cases of `tests/semantics/*.txt`, in every engine that this build has. The format is in the README there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use onelens_kernel::cells::CellRunner;
use onelens_kernel::cells::{CellError, Output};
use onelens_kernel::engine::Engine;
use onelens_kernel::image::Image;

/// A case: cells, one after the other.
#[derive(Clone, Default)]
struct Case {
    title: String,
    cells: Vec<Cell>,
    instant_only: bool,
}

/// A cell with what is expected of it; each list holds lines.
#[derive(Clone, Default)]
struct Cell {
    code: String,
    result: Vec<String>,
    stdout: Vec<String>,
    stderr: Vec<String>,
    error: Option<String>,
}

fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            cases.push(Case { title: title.into(), cells: vec![Cell::default()], ..Case::default() });
            continue;
        }
        let case = cases.last_mut().expect("a file begins with a case");
        if line == "--" {
            case.cells.push(Cell::default());
            continue;
        }
        if line.starts_with("(instant only: ") {
            case.instant_only = true;
            continue;
        }
        let cell = case.cells.last_mut().expect("a case has a cell");
        // An empty line printed or an error without words has nothing after the mark.
        let (mark, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest).to_string();
        match mark {
            "=>" => cell.result.push(rest),
            ">>" => cell.stdout.push(rest),
            "!>" => cell.stderr.push(rest),
            "!!" => cell.error = Some(rest),
            _ => {
                cell.code.push_str(line);
                cell.code.push('\n');
            }
        }
    }
    cases
}

/// What a cell did.
#[derive(Default, Debug)]
struct Ran {
    result: String,
    stdout: String,
    stderr: String,
    error: Option<CellError>,
}

fn run(session: &mut dyn CellRunner, code: &str) -> Ran {
    let mut ran = Ran::default();
    let plain = |bundle: Vec<(String, String)>| {
        bundle.into_iter().find(|(mime, _)| mime == "text/plain").map(|(_, text)| text).unwrap_or_default()
    };
    ran.error = session
        .execute(code, &mut |output| match output {
            Output::Stdout(text) => ran.stdout.push_str(&text),
            Output::Stderr(text) => ran.stderr.push_str(&text),
            Output::Result(bundle) | Output::Display { bundle, .. } => ran.result.push_str(&plain(bundle)),
            Output::Update { .. } | Output::Clear { .. } => {}
        })
        .err();
    // As in a notebook: a compiler waits for the next cell.
    session.settle();
    ran
}

impl Cell {
    /// Why this is not what was expected, if so.
    fn disagreement(&self, ran: &Ran) -> Option<String> {
        match (&self.error, &ran.error) {
            (None, Some(error)) => return Some(format!("it failed:\n{}", error.traceback.join("\n"))),
            (Some(words), None) => return Some(format!("it did not fail; expected {words:?}")),
            (Some(words), Some(error)) => {
                let told = format!("{} {} {}", error.ename, error.evalue, error.traceback.join("\n"));
                if let Some(missing) = words.split(' ').find(|word| !told.contains(word)) {
                    return Some(format!("the error does not say {missing:?}:\n{told}"));
                }
            }
            (None, None) => {}
        }
        let wanted = self.result.join("\n");
        if self.error.is_none() && ran.result.trim_end() != wanted {
            return Some(format!("the result is {:?}, expected {wanted:?}", ran.result));
        }
        let printed: Vec<&str> = ran.stdout.lines().collect();
        let as_wanted = match self.stdout.split_last() {
            Some((last, before)) if last == "..." => {
                printed.starts_with(&before.iter().map(String::as_str).collect::<Vec<_>>())
            }
            _ => printed == self.stdout,
        };
        if !as_wanted {
            return Some(format!("it printed {printed:?}, expected {:?}", self.stdout));
        }
        let missing = self.stderr.iter().find(|words| !ran.stderr.contains(words.as_str()));
        missing.map(|words| format!("standard error lacks {words:?}: {:?}", ran.stderr))
    }
}

fn check(session: &mut dyn CellRunner, case: &Case) -> Result<(), Failed> {
    for (i, cell) in case.cells.iter().enumerate() {
        let ran = run(session, cell.code.trim_end());
        if let Some(why) = cell.disagreement(&ran) {
            return Err(format!("cell {}:\n{}{why}", i + 1, cell.code).into());
        }
    }
    Ok(())
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::ensure(&mut |line| eprintln!("{line}")).unwrap_or_else(|e| panic!("{e}")))
}

fn instant(case: &Case) -> Result<(), Failed> {
    let mut engine = Engine::start_with(image(), Path::new(env!("CARGO_BIN_EXE_onelens")))?;
    check(&mut engine, case)
}

/// One session for all cases, cleared in between: evcxr takes seconds to start.
#[cfg(feature = "evcxr")]
fn evcxr(session: &Mutex<Option<onelens_kernel::evcxr::Evcxr>>, case: &Case) -> Result<(), Failed> {
    let mut session = session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if session.is_none() {
        *session = Some(onelens_kernel::evcxr::Evcxr::start()?);
    }
    let session = session.as_mut().expect("just made");
    let cleared = run(session, ":clear");
    assert!(cleared.error.is_none(), "{cleared:?}");
    check(session, case)
}

fn main() {
    #[cfg(feature = "evcxr")]
    onelens_kernel::evcxr::runtime_hook();
    let arguments = Arguments::from_args();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/semantics");
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).expect("the folder of cases").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "txt") {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            files.insert(name, std::fs::read_to_string(&path).expect("readable cases"));
        }
    }
    let session = Arc::new(Mutex::new(None));
    let mut trials = Vec::new();
    for (file, text) in &files {
        for case in parse(text) {
            let title = |engine: &str| format!("{engine}: {file}: {}", case.title);
            #[cfg(feature = "evcxr")]
            if !case.instant_only {
                let (session, case) = (Arc::clone(&session), case.clone());
                trials.push(Trial::test(title("evcxr"), move || evcxr(&session, &case)));
            }
            trials.push(Trial::test(title("instant"), {
                let case = case.clone();
                move || instant(&case)
            }));
        }
    }
    #[cfg(not(feature = "evcxr"))]
    let _: Arc<Mutex<Option<()>>> = session;
    assert!(trials.len() > 100, "only {} cases were found in {}", trials.len(), folder.display());
    libtest_mimic::run(&arguments, trials).exit();
}
