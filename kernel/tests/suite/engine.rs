//! The instant engine: cells in, outputs out.
//!
//! One image is built for all tests (or found in the cache of the user that runs them); each test has a session
//! of its own.

use crate::portable;
use onelens_kernel::cells::{CellError, Output};
use onelens_kernel::engine::Engine;
use onelens_kernel::image::Image;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::ensure(&mut |line| eprintln!("{line}")).unwrap_or_else(|e| panic!("{e}")))
}

/// A session under test.
struct Notebook {
    engine: Engine,
}

/// What a cell did.
#[derive(Debug)]
struct Ran {
    outputs: Vec<Output>,
    error: Option<CellError>,
}

impl Notebook {
    fn new() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_onelens"));
        Notebook { engine: Engine::start_with(image(), program).unwrap_or_else(|e| panic!("{e}")) }
    }

    fn run(&mut self, code: &str) -> Ran {
        let mut outputs = Vec::new();
        let error = self.engine.execute(code, &mut |output| outputs.push(output)).err();
        self.engine.settle();
        Ran { outputs, error }
    }

    /// Runs a cell that must succeed.
    #[track_caller]
    fn ok(&mut self, code: &str) -> Ran {
        let ran = self.run(code);
        assert!(ran.error.is_none(), "{code}\n{}", ran.error.as_ref().unwrap().traceback.join("\n"));
        ran
    }

    /// The folder with the session's files, from the command line of its supervisor.
    fn folder(&mut self) -> String {
        let supervisor = self.value("std::os::unix::process::parent_id()");
        let command_line = std::fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
        command_line.split('\0').nth(4).unwrap().to_string()
    }

    /// Runs a cell that must fail with this class and a text that contains these words.
    #[track_caller]
    fn fails(&mut self, code: &str, ename: &str, words: &str) -> CellError {
        let ran = self.run(code);
        let error = ran.error.unwrap_or_else(|| panic!("must fail: {code}\n{:?}", ran.outputs));
        assert!(error.ename == ename, "{code}\n{error:#?}");
        assert!(error.evalue.contains(words), "{code}\n{error:#?}");
        error
    }

    /// Runs a cell that is interrupted when it has printed something.
    #[track_caller]
    fn interrupted(&mut self, code: &str, words: &str) {
        let interrupter = self.engine.interrupter();
        let mut on_output = |output| {
            if matches!(output, Output::Stdout(_)) {
                interrupter.interrupt();
            }
        };
        let error = self.engine.execute(&format!("println!();\n{code}"), &mut on_output).unwrap_err();
        assert!(error.ename == "KeyboardInterrupt" && error.evalue.contains(words), "{code}\n{error:#?}");
    }

    /// The plain text of the result of a cell that must succeed.
    #[track_caller]
    fn value(&mut self, code: &str) -> String {
        self.ok(code).result()
    }
}

impl Ran {
    fn result(&self) -> String {
        let plain = |output: &Output| match output {
            Output::Result(bundle) => {
                bundle.iter().find(|(mime, _)| mime == "text/plain").map(|b| b.1.clone())
            }
            _ => None,
        };
        self.outputs.iter().find_map(plain).unwrap_or_default()
    }

    fn stdout(&self) -> String {
        let text = |output: &Output| match output {
            Output::Stdout(text) => Some(text.clone()),
            _ => None,
        };
        self.outputs.iter().filter_map(text).collect()
    }

    fn stderr(&self) -> String {
        let text = |output: &Output| match output {
            Output::Stderr(text) => Some(text.clone()),
            _ => None,
        };
        self.outputs.iter().filter_map(text).collect()
    }
}

/// Text without colours.
fn plain(lines: &[String]) -> String {
    let mut out = String::new();
    for piece in lines.join("\n").split('\x1b') {
        out.push_str(piece.strip_prefix('[').and_then(|p| p.split_once('m')).map_or(piece, |(_, rest)| rest));
    }
    out
}

#[test]
fn variables_of_inferred_types_live_on() {
    let mut n = Notebook::new();
    n.ok("let x = 1;\nlet name = \"a\";\nlet mut v = vec![1.5, 2.5];");
    n.ok("v.push(3.0);");
    assert_eq!(n.value("(x + 1, name, v.len())"), "(2, \"a\", 3)");
    n.ok("use ndarray::prelude::*;\nuse std::collections::HashMap;");
    n.ok(
        "let a = Array2::<f64>::eye(2); let b = &a * 2.0; let m: HashMap<String, Vec<i32>> = HashMap::new();",
    );
    assert_eq!(n.value("(b.sum(), m.len(), a.dim())"), "(4.0, 0, (2, 2))");
    let shown = n.engine.variables();
    assert_eq!(shown["a"], "Array2<f64>");
    assert_eq!(shown["m"], "HashMap<String, Vec<i32>>");
}

#[test]
fn models_lenses_and_figures_are_kept_without_annotations() {
    let mut n = Notebook::new();
    n.ok("use onelens::prelude::*;");
    n.ok("let source = Markov::new(5, 0.5)?;\nlet tokens = source.sample(40, 12, &mut rng(0, 0))?;");
    n.ok(
        "let config = Config { d_vocab: 5, n_ctx: 12, d_model: 8, n_layers: 2, n_heads: 2, d_head: 4, d_mlp: 16, ..Default::default() };
let model = Transformer::new(config)?;
let (logits, cache) = model.run_with_cache(&tokens)?;",
    );
    n.ok("let resid = cache.resid_post(1)?; let scaled = &resid * 2.0; let mean = resid.mean_axis(Axis(0));");
    n.ok("let moments = LayerMoments::collect(&model, &tokens)?;");
    n.ok("let own = Ridge::default().own(&moments)?; let lens = own.layer(0);");
    n.ok("let seen = compare(&model, &[&own, &LogitLens], &moments, &tokens)?; let figure = seen.figure()?; let both = figure.beside(&figure);");
    assert!(n.value("both").contains("KL (nats)"));
    assert_eq!(
        n.value("(logits.dim(), scaled.dim(), own.len(), lens.is_some(), seen.n_tokens)"),
        "((40, 12, 5), (40, 12, 8), 3, true, 480)"
    );
}

#[test]
fn the_last_expression_is_shown_by_debug_or_by_its_own_display() {
    let mut n = Notebook::new();
    assert_eq!(n.value("1 + 1"), "2");
    assert_eq!(n.value("\"text\""), "\"text\"");
    assert_eq!(n.value("vec![Some(1), None]"), "[Some(1), None]");
    assert_eq!(n.value("let s = String::from(\"abc\");\ns[1..]"), "\"bc\"");
    for silent in
        ["()", "for i in 0..2 { let _ = i; }", "println!();", "if 1 > 2 { }", "let x = 3;", "// nothing"]
    {
        assert_eq!(n.ok(silent).result(), "", "{silent}");
    }
    n.ok("struct Shout(u8);\nimpl Shout { fn evcxr_display(&self) { println!(\"EVCXR_BEGIN_CONTENT text/html\\n<b>{}</b>\\nEVCXR_END_CONTENT\", self.0) } }");
    let shown = Output::Result(vec![("text/html".into(), "<b>7</b>".into())]);
    assert_eq!(n.ok("let shout = Shout(7);\nshout").outputs, std::slice::from_ref(&shown));
    assert_eq!(n.ok("&shout").outputs, [shown]);
    n.ok("struct Silent;");
    let error = n.fails("Silent", "E0599", "`Silent`");
    assert!(error.evalue.contains("#[derive(Debug)]"), "{error:?}");
    n.ok("Silent;");
}

#[test]
fn library_displays_are_results_at_the_end_and_displays_before() {
    let mut n = Notebook::new();
    n.ok(
        "struct Rich;\nimpl Rich { fn evcxr_display(&self) { onelens::session::display(&vec![(\"text/plain\".into(), \"rich\".into())]) } }\nfn noisy() -> Rich { Rich.evcxr_display(); Rich }",
    );
    let bundle = || vec![("text/plain".to_string(), "rich".to_string())];
    let ran = n.ok("println!(\"a\");\nRich.evcxr_display();\nprint!(\"b\");\nnoisy()");
    assert_eq!(
        ran.outputs,
        [
            Output::Stdout("a\n".into()),
            Output::Display { bundle: bundle(), id: None },
            Output::Stdout("b".into()),
            Output::Display { bundle: bundle(), id: None },
            Output::Result(bundle()),
        ]
    );
}

#[test]
fn progress_is_a_display_that_updates() {
    let mut n = Notebook::new();
    let ran = n.ok(
        "let mut p = onelens::session::Progress::new(\"work\", 2);\np.update(1, || \"half\".into());\np.finish(\"all\");\nlet done = true;",
    );
    let Output::Display { id: Some(shown), .. } = &ran.outputs[0] else { panic!("{:?}", ran.outputs) };
    let Output::Update { id, bundle } = &ran.outputs[1] else { panic!("{:?}", ran.outputs) };
    assert_eq!(shown, id);
    assert!(bundle[1].1.contains("all"));
}

#[test]
fn blocks_on_standard_output_become_displays() {
    let mut n = Notebook::new();
    let ran = n.ok("print!(\"before\\nEVCXR_BEGIN_CONTENT text/html\\n<b>\\nEVCXR_END_CONTENT\\nEVCXR_BEGIN_CONTENT text/plain\\nb\\nEVCXR_END_CONTENT\\nafter\");");
    let bundle = vec![("text/html".to_string(), "<b>".to_string()), ("text/plain".into(), "b".into())];
    assert_eq!(
        ran.outputs,
        [
            Output::Stdout("before\n".into()),
            Output::Display { bundle, id: None },
            Output::Stdout("after".into())
        ]
    );
}

#[test]
fn output_without_newline_and_much_output_arrive() {
    let mut n = Notebook::new();
    assert_eq!(n.ok("print!(\"abc\");").stdout(), "abc");
    assert_eq!(n.ok("eprint!(\"def\");").stderr(), "def");
    let many = n.ok("for i in 0..10_000 { println!(\"line {i} {}\", \"x\".repeat(100)); }").stdout();
    assert_eq!(many.lines().count(), 10_000);
    assert_eq!(n.ok("print!(\"{}\", \"é\".repeat(3_000_000));").stdout().chars().count(), 3_000_000);
    let ran = n.ok("use std::io::Write; std::io::stdout().write_all(&[b'a', 0xff, b'b']).unwrap();");
    assert_eq!(ran.stdout(), "a\u{fffd}b");
}

#[test]
fn mutability_shadowing_and_destructuring() {
    let mut n = Notebook::new();
    n.ok("let (a, mut b) = (1, vec![1]);\nlet [x, .., z] = [1, 2, 3];\nstruct P { u: i32, v: i32 }\nlet P { u, v: renamed } = P { u: 4, v: 5 };");
    n.ok("b.push(a);");
    assert_eq!(n.value("(a, b.clone(), x, z, u, renamed)"), "(1, [1, 1], 1, 3, 4, 5)");
    n.ok("let a = format!(\"{a}{x}\");");
    assert_eq!(n.value("a"), "\"11\"");
    n.ok("let a = a + \"!\";");
    n.ok("let a = a.len(); let a = a * 2;");
    assert_eq!(n.value("a"), "6");
    n.ok("let Some(inner) = Some(3) else { panic!() };");
    assert_eq!(n.value("inner"), "3");
    let error = n.fails("x += 1;", "E0594", "").evalue + &n.fails("a = 7;", "E0594", "").evalue;
    assert!(error.contains("let mut"), "{error}");
    n.fails("let late;\nlate = 3;", "CompileError", "`late` is declared without a value");
}

#[test]
fn only_variables_that_occur_are_taken_also_in_format_strings() {
    let mut n = Notebook::new();
    n.ok("let width = 6usize; let x = 1.5;");
    assert_eq!(n.ok("println!(\"[{x:>width$}]\");").stdout(), "[   1.5]\n");
    assert_eq!(n.value("format!(\"{{x}} {x}\")"), "\"{x} 1.5\"");
}

#[test]
fn moved_variables_are_gone_and_come_back_when_assigned() {
    let mut n = Notebook::new();
    n.ok("let v = vec![1]; let mut w = vec![2]; let s = String::from(\"s\"); let p = (String::from(\"l\"), 1);");
    n.ok("let moved = v;");
    assert_eq!(n.value("moved"), "[1]");
    let error = n.fails("v.len()", "E0425", "cannot find value `v`");
    assert!(error.evalue.contains("moved by an earlier cell"), "{error:?}");
    n.ok("drop(w);\nw = vec![3, 4];");
    assert_eq!(n.value("w.len()"), "2");
    n.ok("if w.len() > 5 { drop(s); }");
    n.fails("s", "E0425", "`s`");
    n.ok("let left = p.0;");
    n.fails("p.1", "E0425", "`p`");
    n.ok("let a = vec![1]; let b = a; let c = b;");
    assert_eq!(n.value("c"), "[1]");
    n.fails("a", "E0425", "`a`");
    n.fails("let d = c; c.len()", "E0382", "moved value: `c`");
    assert_eq!(n.value("c"), "[1]");
}

#[test]
fn uses_persist_and_may_be_repeated() {
    let mut n = Notebook::new();
    n.ok("use std::collections::HashMap;");
    n.ok("use std::collections::{self, HashMap, BTreeMap as Map};\nuse std::collections::HashMap;");
    n.ok("use std::collections::*;\nlet m: Map<i32, i32> = Map::new(); let h: HashMap<i32, i32> = HashMap::new(); let q: collections::VecDeque<u8> = VecDeque::new();");
    n.ok("use std::collections::HashSet as Map;\nlet s: Map<i32> = Map::new();");
    assert_eq!(n.value("m.len() + h.len() + s.len() + q.len()"), "0");
    n.ok("use ndarray::prelude::*;\nuse ndarray::prelude::*;");
    n.ok("struct HashMap;");
    n.fails("use std::nothing::X;", "E0432", "unresolved import");
    assert_eq!(n.value("m.len()"), "0");
    n.ok("enum Shape { Round, Square }\nuse Shape::*;");
    assert_eq!(n.value("match Round { Round => 1, Square => 2 }"), "1");
}

#[test]
fn items_persist_and_are_replaced() {
    let mut n = Notebook::new();
    n.ok("fn f(x: i32) -> i32 { x + 1 }\nconst N: usize = 3;\nstatic NAME: &str = \"n\";\ntype Row = [f64; N];\nmod inner { pub fn g() -> i32 { 5 } }");
    n.ok("macro_rules! twice { ($e:expr) => { $e * 2 } }\ntrait Area { fn area(&self) -> f64; }\n#[derive(Debug, Clone, PartialEq)]\nstruct Sq(f64);\nimpl Area for Sq { fn area(&self) -> f64 { self.0 * self.0 } }");
    assert_eq!(
        n.value("let r: Row = [0.0; N];\n(f(1), twice!(4), inner::g(), Sq(2.0).area(), NAME, r.len())"),
        "(2, 8, 5, 4.0, \"n\", 3)"
    );
    n.ok("fn f(x: i32) -> i32 { x + 10 }");
    assert_eq!(n.value("f(1)"), "11");
    n.ok("impl Sq { fn a(&self) -> i32 { 1 } }");
    n.ok("impl Sq { fn b(&self) -> i32 { self.a() + 1 } }");
    n.ok("impl Sq { fn a(&self) -> i32 { 10 } }");
    assert_eq!(n.value("Sq(1.0).b()"), "11");
    n.ok("let sq = Sq(1.0);");
    n.ok("trait Area { fn area(&self) -> f64; fn twice(&self) -> f64 { self.area() * 2.0 } }");
    assert_eq!(n.value("sq.twice()"), "2.0");
    n.ok("fn generic<T: std::fmt::Debug>(t: T) -> String { format!(\"{t:?}\") }");
    assert_eq!(n.value("generic(sq)"), "\"Sq(1.0)\"");
}

#[test]
fn a_redefined_type_drops_the_variables_that_have_it() {
    let mut n = Notebook::new();
    n.ok("#[derive(Debug, Clone)]\nstruct P { x: f64 }\n#[derive(Debug)]\nstruct Line { from: P }\ntype Grid = Vec<P>;");
    n.ok("struct Other(u8);\nlet other = Other(3); let p = P { x: 1.0 }; let many = vec![P { x: 2.0 }]; let line = Line { from: p.clone() }; let n = 5;");
    // The same definition, with another comment, changes nothing.
    n.ok("/// A point.\n#[derive(Debug, Clone)]\nstruct P { x: f64 } // here\n");
    assert_eq!(n.value("(p.x, many[0].x, line.from.x)"), "(1.0, 2.0, 1.0)");
    let told = n.ok("#[derive(Debug, Clone)]\nstruct P { name: String, x: f64 }").stderr();
    for name in ["`p` (P)", "`many` (Vec<P>)", "`line` (Line)"] {
        assert!(told.contains(name), "{told}");
    }
    assert_eq!(n.engine.variables().keys().collect::<Vec<_>>(), ["n", "other"]);
    assert_eq!(n.value("other.0"), "3");
    let error = n.fails("p.x", "E0425", "`p`");
    assert!(error.evalue.contains("dropped"), "{error:?}");
    n.ok("let p = P { name: \"a\".into(), x: 1.0 };");
    assert_eq!(n.value("p"), "P { name: \"a\", x: 1.0 }");
    // A definition that does not compile changes nothing.
    n.fails("struct P { x: Missing }", "E0425", "Missing");
    assert_eq!(n.value("p.x"), "1.0");
    // Through a constant.
    n.ok("const LEN: usize = 2;\nstruct Fixed { data: [u8; LEN] }");
    n.ok("let fixed = Fixed { data: [1; LEN] };");
    let told = n.ok("const LEN: usize = 4;").stderr();
    assert!(told.contains("`fixed`"), "{told}");
}

#[test]
fn dyn_any_does_not_mistake_a_redefined_type() {
    let mut n = Notebook::new();
    n.ok("struct P(u8);\nlet any: Box<dyn std::any::Any> = Box::new(P(1));");
    assert_eq!(n.value("any.downcast_ref::<P>().is_some()"), "true");
    n.ok("struct P(String);");
    assert_eq!(n.value("any.downcast_ref::<P>().is_some()"), "false");
}

#[test]
fn an_item_that_a_new_definition_breaks_is_removed_with_a_note() {
    let mut n = Notebook::new();
    n.ok("struct P { x: f64 }\nfn x_of(p: &P) -> f64 { p.x }");
    let told = n.ok("struct P { y: f64 }").stderr();
    assert!(told.contains("`x_of`"), "{told}");
    n.ok("let p = P { y: 1.0 };");
    n.fails("x_of(&p)", "E0425", "x_of");
}

#[test]
fn question_mark_ends_the_cell_with_the_error_and_keeps_variables() {
    let mut n = Notebook::new();
    n.ok("let mut v = vec![1]; let text = \"4x\";");
    n.fails(
        "let fresh = vec![7];\nv.push(2);\nlet number: i32 = text.parse()?;\nv.push(3);",
        "Error",
        "invalid digit found in string",
    );
    assert_eq!(n.value("(v.clone(), fresh.clone())"), "([1, 2], [7])");
    n.fails("number", "E0425", "number");
    n.fails(
        "Err::<(), _>(onelens::Error::new(onelens::ErrorKind::Config, \"n is 0\", \"set n to 1\"))?;",
        "Error",
        "n is 0\nhelp: set n to 1",
    );
    n.fails(
        "let boxed: Result<i32, Box<dyn std::error::Error>> = Err(\"boxed\".into());\nboxed?",
        "Error",
        "boxed",
    );
    n.fails("Err::<(), _>(\"plain text\")?;", "Error", "plain text");
    assert_eq!(n.value("Ok::<_, std::fmt::Error>(3)?"), "3");
}

#[test]
fn a_panic_names_the_line_and_keeps_variables() {
    let mut n = Notebook::new();
    n.ok("let mut v = vec![1];");
    let error = n.fails(
        "// a comment\nlet fresh = 5;\nv.push(2);\n  let x: Option<i32> = None; x.unwrap();",
        "Panic",
        "called `Option::unwrap()` on a `None` value (cell:4:",
    );
    assert!(plain(&error.traceback).contains("4 |   let x: Option<i32> = None; x.unwrap();"), "{error:#?}");
    assert_eq!(n.value("(v.clone(), fresh)"), "([1, 2], 5)");
    n.fails("panic!(\"with {}\", 1 + 1)", "Panic", "with 2 (cell:1:1)");
    n.ok("use ndarray::prelude::*;\nlet a = Array1::<f64>::zeros(2);");
    n.fails("let i = 7;\n\na[i]", "Panic", "cell:3:");
    // A variable that the cell had used up is as before the cell.
    n.fails("v.push(9);\nlet eaten = v;\npanic!(\"full\");", "Panic", "full");
    assert_eq!(n.value("(v.clone(), a.len())"), "([1, 2], 2)");
    n.ok("fn breaks() { panic!(\"inside\") }");
    n.fails("breaks()", "Panic", "inside (earlier cell:1:15)");
}

#[test]
fn compile_errors_show_the_users_lines_only() {
    let mut n = Notebook::new();
    n.ok("let x = 1;");
    let error = n.fails("let a = 1;\n\nlet b: String = a + x;", "E0308", "mismatched types");
    let text = plain(&error.traceback);
    assert!(text.contains("--> cell:3:17") && text.contains("3 | let b: String = a + x;"), "{text}");
    for hidden in ["__onelens", "onelens_image", "cell.rs", "stage"] {
        assert!(!text.contains(hidden), "{text}");
    }
    assert!(error.traceback.join("").contains("\x1b[1;"), "in colours");
    n.fails("missing()", "E0425", "cannot find function `missing`");
    let error = n.fails("let arr = [1, 2];\narr[7]", "unconditional_panic", "");
    assert!(plain(&error.traceback).contains("--> cell:2:1"), "{error:?}");
    n.fails("if x > 0 { return; }", "CompileError", "a cell cannot `return`");
    n.fails("break;", "E0267", "`break` outside of a loop");
    assert_eq!(n.value("x"), "1");
    let error = n.fails("let y = ;", "SyntaxError", "line 1, column 9");
    assert!(plain(&error.traceback).contains("let y = ;\n  |         ^"), "{}", plain(&error.traceback));
    n.fails("let y = 5", "SyntaxError", "");
    n.fails("fn f( {", "SyntaxError", "");
    n.ok("let ünïcödé = \"√\"; let y = ünïcödé.len();");
    let error = n.fails("let s = \"√√\"; nothing", "E0425", "nothing");
    assert!(plain(&error.traceback).contains("cell:1:15"), "{}", plain(&error.traceback));
    let error = n.fails("let m = HashMap::<i32, i32>::new();", "E0433", "HashMap");
    assert!(
        plain(&error.traceback).contains("use std::collections::HashMap;"),
        "{}",
        plain(&error.traceback)
    );
}

#[test]
fn values_that_cannot_be_kept_are_refused_by_name() {
    let mut n = Notebook::new();
    n.ok("let v = vec![1, 2];");
    n.fails("let f = |x: i32| x + 1;", "CompileError", "`f` is a closure");
    n.fails(
        "let half = v.iter().map(|x| x / 2).collect::<Vec<_>>(); let it = (0..3).map(|x| x + 1);",
        "CompileError",
        "`it` is a closure",
    );
    let error = n.fails("let r = &v;\nr.len()", "CompileError", "`r` borrows from another value");
    assert!(error.evalue.contains(".clone()"), "{error:?}");
    n.fails("let own = vec![1];\nlet s = own.as_slice();", "CompileError", "`s` borrows");
    n.fails("let mut own = vec![1];\nlet s = &mut own;\ns.push(1);", "CompileError", "`s` borrows");
    n.fails("let it = v.iter();", "CompileError", "`it` borrows");
    assert_eq!(n.value("{ let r = &v; r.len() }"), "2");
    n.ok("let f: Box<dyn Fn(i32) -> i32> = Box::new(|x| x + 1); let g: fn(i32) -> i32 = |x| x * 2;");
    assert_eq!(n.value("(f(1), g(4))"), "(2, 8)");
}

#[test]
fn many_kinds_of_types_can_be_named_again() {
    let mut n = Notebook::new();
    n.ok("use std::{rc::Rc, cell::RefCell, sync::{Arc, Mutex}, collections::*, borrow::Cow};");
    n.ok("mod geo { #[derive(Debug)] pub struct Point<T, const N: usize>(pub [T; N]); }\ntrait Area { fn area(&self) -> f64 { 2.0 } }\nimpl Area for u8 {}");
    n.ok("let a = Rc::new(RefCell::new(vec![1])); let b = Arc::new(Mutex::new(HashMap::from([(1, \"x\")]))); let c: Cow<str> = \"c\".into();\nlet d = geo::Point([1.5f32; 3]); let e: Box<dyn Area> = Box::new(1u8); let f = (1u8, 'c', [0i64; 2], Some(()), -1..=3);");
    n.ok("let g = std::sync::mpsc::channel::<i32>(); let h = std::time::Instant::now(); let i = std::path::PathBuf::from(\"/\"); let j: Result<i32, std::num::ParseIntError> = \"1\".parse();\nlet k: Option<fn(&str) -> usize> = None; let l = String::new().into_bytes().into_iter(); let m = std::iter::repeat(3).take(2);");
    assert_eq!(
        n.value("a.borrow_mut().push(2); g.0.send(5).unwrap();\n((a.borrow().len(), b.lock().unwrap().len(), c.len(), d.0[2], e.area(), f.1), (g.1.recv().unwrap(), h.elapsed().as_secs() < 60, i.is_absolute(), j.clone().unwrap(), k.is_none(), l.len(), m.count()))")
            .as_str(),
        "((2, 1, 1, 1.5, 2.0, 'c'), (5, true, true, 1, true, 0, 2))"
    );
    n.ok("let x = onelens::ndarray::arr2(&[[1.0, 2.0]]); let y = x.row(0).to_owned(); let z = &x + &y; let s = x.shape().to_vec(); let dynamic = x.clone().into_dyn();");
    assert_eq!(n.value("(z.sum(), y.len(), s, dynamic.ndim())"), "(6.0, 2, [1, 2], 2)");
}

#[test]
fn nothing_is_lost_when_the_process_dies() {
    let mut n = Notebook::new();
    n.ok("use rayon::prelude::*;\nlet mut v = vec![1, 2, 3]; let mut log: Vec<i32> = vec![];");
    n.ok("log.push((0..1000).into_par_iter().sum::<i32>());");
    let deaths = [
        ("v.push(1); std::process::abort();", "it aborted"),
        ("v.push(1); std::process::exit(3);", "exit code 3"),
        ("v.push(1); unsafe { std::ptr::null_mut::<u8>().write_volatile(1) }", "segmentation fault"),
        (
            "v.push(1); fn deep(n: u64) -> u64 { if n == u64::MAX { 0 } else { deep(n + 1) + 1 } } deep(0)",
            "WorkerDied",
        ),
        (
            "v.push(1); struct D; impl Drop for D { fn drop(&mut self) { panic!() } } { let _d = D; panic!(); }",
            "it aborted",
        ),
        // As the system does it to the process that takes too much memory.
        (
            "v.push(1); std::process::Command::new(\"kill\").args([\"-9\", &std::process::id().to_string()]).status()?; std::thread::park();",
            "killed",
        ),
    ];
    for (code, words) in deaths {
        let words = if words == "WorkerDied" { "the cell's process died" } else { words };
        n.fails(code, "WorkerDied", words);
        assert_eq!(n.value("v.len()"), "3", "{code}");
        n.ok("log.push((0..1000).into_par_iter().sum::<i32>());");
    }
    assert_eq!(n.value("log.len()"), "7");
}

#[test]
fn an_interrupt_is_polite_first() {
    let mut n = Notebook::new();
    n.ok("let mut count = 0u64; let mut kept = vec![1];");
    let start = Instant::now();
    n.interrupted("kept.push(2); while !onelens::session::interrupted() { count += 1; }\nlet partial = count;\nkept.push(3);", "stopped by itself");
    assert_eq!(n.value("(partial < u64::MAX, kept.clone())"), "(true, [1, 2])");
    n.interrupted("kept.push(4); loop { count = count.wrapping_add(1); }", "as before it");
    assert_eq!(n.value("kept.clone()"), "[1, 2]");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    // Between cells it does nothing.
    n.engine.interrupter().interrupt();
    assert_eq!(n.value("1 + 1"), "2");
}

#[test]
fn no_process_and_no_file_is_left_behind() {
    let mut n = Notebook::new();
    let pid: u32 = n.value("let child = std::process::Command::new(\"sleep\").arg(\"1000\").spawn().unwrap();\n(std::process::id(), child.id()).0").parse().unwrap();
    let child: u32 = n.value("child.id()").parse().unwrap();
    let runs =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    assert!(runs(pid) && runs(child));
    drop(n);
    assert!(!runs(pid) && !runs(child));
    let own = format!("onelens-{}-", std::process::id());
    // Other tests of this process have folders of their own; this one's is gone with its last file.
    let folders = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    for folder in folders.filter(|f| f.file_name().to_string_lossy().starts_with(&own)) {
        assert!(std::fs::read_dir(folder.path()).map_or(true, |files| files.count() < 15));
    }
}

#[test]
fn a_worker_killed_between_cells_is_replaced() {
    let mut n = Notebook::new();
    n.ok("fn f() -> u8 { 3 }\nlet x = 1;");
    let worker = n.value("std::process::id()");
    std::process::Command::new("kill").args(["-9", &worker]).status().unwrap();
    n.fails("x", "WorkerDied", "could not be restored");
    assert!(n.engine.variables().is_empty());
    assert_eq!(n.value("f()"), "3");
    n.ok("let y = 2;");
    assert_eq!(n.value("y"), "2");
}

#[test]
fn commands_help_and_dependencies() {
    let mut n = Notebook::new();
    assert_eq!(n.value(":vars"), "no variables yet");
    n.ok(":dep onelens = { path = \"..\" }\n:dep ndarray = \"0.17\"\n:opt 0\nlet x = 1.5;");
    assert_eq!(n.value(":vars"), "x: f64");
    assert!(n.value(":help").contains(":vars"));
    n.fails(":dep serde = { version = \"1\", features = [\"unstable\"] }", "DependencyError", "unstable");
    n.fails(":nonsense", "CommandError", "`:nonsense` is not a command");
    n.fails(":ops 2", "CommandError", "did you mean `:opt`?");
    // A notebook that came from stock evcxr may begin with its settings.
    assert!(n.ok(":sccache 1\n:cache 500\nlet z = 1;").stderr().contains("`:cache` sets nothing"));
    n.ok(":opt 2\nlet y = x * 2.0;");
    n.fails(":opt 9", "CommandError", "`:opt 9`");
    let error = n.fails(":opt 0\n\nmissing", "E0425", "missing");
    assert!(plain(&error.traceback).contains("cell:3:1"));
    let json = n.value(":last_error_json");
    assert!(json.lines().any(|line| line.starts_with('{') && line.contains("E0425")), "{json}");
    assert!(n.value(":explain").contains("An unresolved name was used"));
    assert!(n.value(":toolchain").starts_with("rustc 1."));
}

#[test]
fn a_loop_that_prints_is_few_messages_and_a_slow_one_is_heard_at_once() {
    let mut n = Notebook::new();
    let ran = n.ok("for i in 0..30_000 { println!(\"{i}\"); }");
    let lines: String = (0..30_000).map(|i| format!("{i}\n")).collect();
    assert_eq!(ran.stdout(), lines);
    assert!(ran.outputs.len() < 1_000, "{} messages", ran.outputs.len());
    let mut seen = Vec::new();
    let slow =
        "for i in 0..3 { println!(\"{i}\"); std::thread::sleep(std::time::Duration::from_millis(400)); }";
    let begin = Instant::now();
    n.engine.execute(slow, &mut |output| seen.push((output, begin.elapsed()))).unwrap();
    let texts: Vec<Output> = seen.iter().map(|(output, _)| output.clone()).collect();
    assert_eq!(texts, ["0\n", "1\n", "2\n"].map(|text| Output::Stdout(text.into())));
    assert!(seen[2].1 - seen[0].1 > Duration::from_millis(500), "{seen:?}");
}

#[test]
fn what_threads_put_out_between_cells_comes_without_another_cell() {
    let mut n = Notebook::new();
    // A display waits to be read, and must not hold up the next cell either.
    let code = r#"std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        println!("late");
        eprintln!("careful");
        onelens::session::display(&vec![("text/plain".into(), "shown".into())]);
        println!("EVCXR_BEGIN_CONTENT text/plain\nblock\nEVCXR_END_CONTENT");
    });"#;
    let ran = n.ok(code);
    assert_eq!(ran.stdout(), "");
    let mut seen = Vec::new();
    let since = Instant::now();
    while seen.len() < 4 && since.elapsed() < Duration::from_secs(20) {
        n.engine.idle(&mut |output| seen.push(output));
        std::thread::sleep(Duration::from_millis(20));
    }
    let shown = |text: &str| Output::Display { bundle: vec![("text/plain".into(), text.into())], id: None };
    let expected =
        [Output::Stdout("late\n".into()), Output::Stderr("careful\n".into()), shown("shown"), shown("block")];
    assert_eq!(seen, expected);
    assert_eq!(n.value("1 + 1"), "2");
}

#[test]
fn an_unused_result_is_warned_about() {
    let mut n = Notebook::new();
    let told = n.ok("\"1\".parse::<i32>();\nlet unused = 1;").stderr();
    assert!(told.contains("must be used") && !told.contains("unused variable"), "{told}");
}

#[test]
fn odd_cells() {
    let mut n = Notebook::new();
    for nothing in ["", "  \n", "// comment", "/* comment */", ";;", "#[allow(unused)] let _ = 1;"] {
        n.ok(nothing);
    }
    assert_eq!(n.value("/* a */ 1 /* b */ + // c\n 1 // d"), "2");
    assert_eq!(n.value("let r#type = 3;\nr#type + 1"), "4");
    assert_eq!(n.value("r#type"), "3");
    assert_eq!(n.value("{ fn local() -> u8 { 4 } local() }"), "4");
    assert_eq!(n.value("match 3 { x if x > 2 => \"big\", _ => \"small\" }"), "\"big\"");
    assert_eq!(n.value("let s = r#\"a \"quoted\" {brace}\"#; s.len()"), "18");
    n.fails("panic!()", "Panic", "explicit panic");
    n.fails("todo!()", "Panic", "not yet implemented");
    n.ok("thread_local! { static T: std::cell::Cell<u8> = std::cell::Cell::new(3); }");
    assert_eq!(n.value("T.with(|t| t.get())"), "3");
    assert_eq!(n.value("let mut total = 0;\nfor i in 0..4 { total += i; }\nlet double = total * 2;\nif double > 3 { total += 1 }\ntotal + double"), "19");
    let lets: String = (0..30).map(|i| format!("let v{i} = {i};\n")).collect();
    n.ok(&lets);
    assert_eq!(n.value("v0 + v29"), "29");
    assert_eq!(n.value("async fn later() -> u8 { 1 }\nstd::mem::size_of_val(&later()) > 0"), "true");
}

#[test]
fn threads_and_pools_work_before_and_after() {
    let mut n = Notebook::new();
    n.ok("use rayon::prelude::*; use std::sync::mpsc; use std::thread;");
    n.ok("let (send, receive) = mpsc::channel::<i32>(); let join = thread::spawn(|| 5);");
    assert_eq!(n.value("send.send(3).unwrap(); (receive.recv().unwrap(), join.join().unwrap())"), "(3, 5)");
    n.fails("(0..100).into_par_iter().for_each(|i| if i == 50 { panic!(\"at {i}\") });", "Panic", "at 50");
    assert_eq!(n.value("(0..100).into_par_iter().map(|i| i * 2).sum::<i32>()"), "9900");
    let ran = n.ok(
        "thread::Builder::new().name(\"mine\".into()).spawn(|| panic!(\"there\")).unwrap().join().is_err()",
    );
    assert!(ran.result() == "true" && ran.stderr().contains("thread 'mine' panicked"), "{ran:?}");
}

#[test]
fn a_compiler_waits_for_the_next_cell_which_does_without_it_if_need_be() {
    let mut n = Notebook::new();
    n.ok("let mut x = 0;");
    let folder = n.folder();
    let words =
        |process: &str| std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let waiting = || -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        numbers
            .filter(|number| {
                let words = words(&number.to_string());
                words.contains(&folder) && words.split('\0').any(|word| word == "head.rs")
            })
            .collect()
    };
    for cell in 1..4 {
        assert_eq!(n.value("x += 1; x"), cell.to_string());
        // It starts when the cell has been answered, and the one that compiled the cell may just be ending.
        let begin = std::time::Instant::now();
        let mut compilers = Vec::new();
        loop {
            let before = std::mem::replace(&mut compilers, waiting());
            if compilers.len() == 1 && compilers == before {
                break;
            }
            assert!(begin.elapsed().as_secs() < 30, "after cell {cell}: {compilers:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        std::process::Command::new("kill").args(["-KILL", &compilers[0].to_string()]).status().unwrap();
    }
    assert_eq!(n.value("x"), "3");
    // Another level of optimisation is not what it was started for.
    n.ok(":opt 1");
    assert_eq!(n.value("x"), "3");
}

#[test]
fn cells_are_linked_by_rustcs_own_means_where_the_kernels_cannot_be_run() {
    let mut n = Notebook::new();
    n.ok("let x = 2;");
    let link = Path::new(&n.folder()).join("link");
    if portable() {
        assert!(!link.exists(), "there they are the only ones");
        return;
    }
    // As by a process that was started while it was written, and has not got to its own program.
    let open = std::fs::OpenOptions::new().append(true).open(&link).unwrap();
    assert_eq!(n.value("x + 1"), "3");
    drop(open);
    std::fs::remove_file(&link).unwrap();
    assert_eq!(n.value("x + 2"), "4");
}

#[test]
fn many_cells_leave_files_handles_and_processes_as_they_were() {
    let mut n = Notebook::new();
    n.ok("let mut x = 0;");
    let supervisor = n.value("std::os::unix::process::parent_id()");
    let folder = n.folder();
    // A compiler removes its own when the cell runs already.
    let files = || {
        let count = || std::fs::read_dir(&folder).unwrap().count();
        let begin = std::time::Instant::now();
        while count() > 2 && begin.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        count()
    };
    let children =
        || std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let in_worker = "(std::fs::read_dir(\"/proc/self/fd\").unwrap().count(), std::fs::read_dir(\"/proc/self/task\").unwrap().count())";
    let before = (n.value(in_worker), files(), children());
    for i in 0..30 {
        n.ok(if i % 10 == 0 {
            "fn one() -> i32 { 1 }\nstatic ONE: i32 = 1;\nx += one() * ONE;"
        } else {
            "x += 1;"
        });
    }
    assert_eq!(n.value("x"), "30");
    assert_eq!((n.value(in_worker), files(), children()), before);
}

/// The crate that a cell is: `cell` links the items, `notebook` compiles them.
fn linked(n: &mut Notebook) -> bool {
    n.value("module_path!()") == "\"cell\""
}

/// Cells until the items are compiled.
fn wait_until_linked(n: &mut Notebook) {
    let start = Instant::now();
    while !linked(n) {
        assert!(start.elapsed() < Duration::from_secs(60), "the items are not linked");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Items that are not worth a library are compiled in every cell.
fn padding() -> String {
    format!(
        "mod padding {{\n{}}}\n",
        "    // A comment, to reach the size from which items are compiled once.\n".repeat(12)
    )
}

#[test]
fn cells_without_items_link_those_of_earlier_cells() {
    let mut n = Notebook::new();
    n.ok(&padding());
    n.ok("use std::fmt::Debug;\n#[derive(Debug, Clone, PartialEq)]\nstruct P { x: f64, y: Option<Box<P>> }\nstruct Pair(u8, String);\nenum Shape { Round, Square(P) }\nuse Shape::*;");
    n.ok("impl P { fn new(x: f64) -> P { P { x, y: None } } fn norm(&self) -> f64 { self.x.abs() } }\ntrait Area { const SIDES: u8; fn area(&self) -> f64; }\nimpl Area for P { const SIDES: u8 = 4; fn area(&self) -> f64 { self.x * self.x } }\nfn show<T: Debug>(t: T) -> String { format!(\"{t:?}\") }\nmod inner { fn secret() {} pub(crate) fn open() -> u8 { 3 } pub(super) struct Q(pub(crate) u8); }\nmacro_rules! make { ($x:expr) => { $crate::P::new($x) } }\nlet before = P::new(-2.0); let any: Box<dyn std::any::Any> = Box::new(P::new(1.0));");
    wait_until_linked(&mut n);
    assert_eq!(
        n.value("let p = make!(3.0); let pair = Pair(1, \"a\".into()); let shape = Square(P { x: 1.0, y: Some(Box::new(p.clone())) });\n(before.norm(), p.x, p.area(), P::SIDES, show(&p), pair.1.len(), inner::open(), inner::Q(4).0)"),
        "(2.0, 3.0, 9.0, 4, \"P { x: 3.0, y: None }\", 1, 3, 4)"
    );
    assert_eq!(
        n.value("(any.downcast_ref::<P>().is_some(), matches!(shape, Square(ref p) if p.x == 1.0))"),
        "(true, true)"
    );
    n.fails("inner::secret()", "E0603", "private");
    n.fails("p.missing()", "E0599", "missing");
    // An item anew: compiled with all others, and with values of their types.
    n.ok("impl Area for Pair { const SIDES: u8 = 0; fn area(&self) -> f64 { self.0.into() } }\nlet other = before.clone();");
    wait_until_linked(&mut n);
    assert_eq!(n.value("(other == before, pair.area())"), "(true, 1.0)");
    n.ok("fn breaks() { panic!(\"inside\") }");
    wait_until_linked(&mut n);
    n.fails("breaks()", "Panic", "inside (earlier cell:1:15)");
    n.fails("std::process::abort()", "WorkerDied", "it aborted");
    assert!(linked(&mut n));
    assert_eq!(n.value("(other == before, pair.area())"), "(true, 1.0)");
    // Declarations change without compiling the items anew.
    n.ok("use std::collections::BTreeMap as Map;\nlet m: Map<u8, u8> = Map::new();");
    assert_eq!(n.value("(m.len(), show(1))"), "(0, \"1\")");
    let told = n.ok("struct P { z: u8 }").stderr();
    assert!(told.contains("`before`"), "{told}");
    wait_until_linked(&mut n);
    assert_eq!(n.value("P { z: 1 }.z"), "1");
    assert_eq!(n.value("any.downcast_ref::<P>().is_some()"), "false");
}

#[test]
fn statics_keep_their_state() {
    let mut n = Notebook::new();
    n.ok("use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};\nuse std::sync::Mutex;\n/// Counts.\nstatic COUNT: AtomicUsize = AtomicUsize::new(5);\nstatic LIST: Mutex<Vec<String>> = Mutex::new(Vec::new());\nstatic mut RAW: i32 = 1;\nstatic NAME: &str = \"n\";\nstatic COW: Mutex<std::borrow::Cow<str>> = Mutex::new(std::borrow::Cow::Borrowed(\"c\"));");
    n.ok("thread_local! {\n    /// Mine.\n    static LOCAL: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(vec![]) };\n    pub static OTHER: std::cell::Cell<u8> = std::cell::Cell::new(7);\n}\nCOUNT.fetch_add(1, SeqCst);");
    n.ok("fn bump() -> usize { COUNT.fetch_add(1, SeqCst) }\nLIST.lock().unwrap().push(\"a\".into());\nunsafe { RAW += 1; }");
    n.ok("bump(); LOCAL.with_borrow_mut(|l| l.push(1)); OTHER.set(8);");
    let all = "(COUNT.load(SeqCst), LIST.lock().unwrap().len(), unsafe { RAW }, LOCAL.with_borrow(|l| l.len()), OTHER.get(), NAME, COW.lock().unwrap().len())";
    assert_eq!(n.value(all), "(7, 1, 2, 1, 8, \"n\", 1)");
    n.ok(&padding());
    wait_until_linked(&mut n);
    n.ok("bump();");
    assert_eq!(n.value(all), "(8, 1, 2, 1, 8, \"n\", 1)");
    // As before the cell, as variables are.
    n.fails(
        "bump(); static FRESH: AtomicUsize = AtomicUsize::new(1); std::process::abort();",
        "WorkerDied",
        "",
    );
    assert_eq!(n.value("bump(); FRESH.load(SeqCst)"), "1");
    // The thread of the cell died with the process, and its own statics with it.
    assert_eq!(n.value(all), "(9, 1, 2, 0, 7, \"n\", 1)");
    // A definition that runs again is a new static.
    n.ok("static COUNT: AtomicUsize = AtomicUsize::new(0);");
    assert_eq!(n.value("(bump(), bump(), COUNT.load(SeqCst))"), "(0, 1, 2)");
    // What a static is made of may change.
    n.ok("#[derive(Debug)]\nstruct S { a: u8 }\nstatic KEPT: Mutex<Option<S>> = Mutex::new(None);");
    n.ok("*KEPT.lock().unwrap() = Some(S { a: 1 });");
    assert_eq!(n.value("KEPT.lock().unwrap()"), "Some(S { a: 1 })");
    n.ok("#[derive(Debug)]\nstruct S { a: u8, b: [u64; 40] }");
    assert_eq!(n.value("KEPT.lock().unwrap().is_none()"), "true");
    n.fails("static BAD: std::cell::Cell<u8> = std::cell::Cell::new(1);", "E0277", "cannot be shared");
}

#[test]
fn futures_are_awaited_at_the_top() {
    let mut n = Notebook::new();
    n.ok("async fn double(x: i32) -> i32 { x * 2 }\nasync fn fails() -> Result<i32, String> { Err(\"no number\".into()) }\nlet log = std::sync::Arc::new(std::sync::Mutex::new(Vec::<u8>::new()));");
    n.ok("struct Later(std::sync::Arc<std::sync::atomic::AtomicBool>, bool);\nimpl Future for Later {\n    type Output = u8;\n    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context) -> std::task::Poll<u8> {\n        if self.0.load(std::sync::atomic::Ordering::SeqCst) { return std::task::Poll::Ready(9); }\n        if !self.1 {\n            self.1 = true;\n            let (done, waker) = (self.0.clone(), cx.waker().clone());\n            std::thread::spawn(move || { std::thread::sleep(std::time::Duration::from_millis(30)); done.store(true, std::sync::atomic::Ordering::SeqCst); waker.wake(); });\n        }\n        std::task::Poll::Pending\n    }\n}\nfn later() -> Later { Later(Default::default(), false) }");
    n.ok("let a = double(2).await;\nlet b = double(double(a).await).await; let c = later().await;");
    assert_eq!(n.value("double(a).await + b + i32::from(c)"), "33");
    assert_eq!(n.ok("println!(\"{}\", double(4).await);").stdout(), "8\n");
    n.fails(
        "log.lock().unwrap().push(1); let x = fails().await?;\nlog.lock().unwrap().push(2);",
        "Error",
        "no number",
    );
    assert_eq!(n.value("log.lock().unwrap().clone()"), "[1]");
    n.ok("let text = String::from(\"moved\"); let len = { let f = |s: String| async move { s.len() }; f(text).await };");
    n.fails("let g = 1; double(g).await; panic!(\"after\")", "Panic", "after");
    n.interrupted("let kept = 3;\nstd::future::pending::<()>().await;", "kept");
    assert_eq!(n.value("(kept, double(1).await)"), "(3, 2)");
    n.fails("std::process::abort()", "WorkerDied", "");
    assert_eq!(n.value("double(kept).await + i32::from(later().await)"), "15");
}

#[test]
fn a_full_stack_is_told_from_other_faults() {
    let mut n = Notebook::new();
    n.ok("use rayon::prelude::*;\nlet kept = 1;\nfn deep(n: u64) -> u64 { if n == u64::MAX { 0 } else { deep(n + 1) + 1 } }");
    n.fails("deep(0)", "WorkerDied", "stack overflow");
    n.fails("unsafe { (8 as *mut u8).write_volatile(1) }", "WorkerDied", "segmentation fault");
    n.fails("rayon::join(|| deep(0), || deep(1));", "WorkerDied", "stack overflow");
    assert_eq!(n.value("kept"), "1");
}

#[test]
fn closed_streams_threads_that_stay_and_drops_that_panic_do_no_harm() {
    let mut n = Notebook::new();
    n.ok("use std::os::fd::FromRawFd;\ndrop(unsafe { std::fs::File::from_raw_fd(1) }); drop(unsafe { std::fs::File::from_raw_fd(2) });");
    let ran = n.ok("println!(\"out\"); eprintln!(\"err\");");
    assert_eq!((ran.stdout().as_str(), ran.stderr().as_str()), ("out\n", "err\n"));
    n.ok("std::thread::spawn(|| for i in 0..3 { std::thread::sleep(std::time::Duration::from_millis(100)); println!(\"still {i}\"); });");
    assert!(n.ok("std::thread::sleep(std::time::Duration::from_millis(600));").stdout().contains("still 2"));
    n.ok("struct D(bool);\nimpl Drop for D { fn drop(&mut self) { if self.0 { panic!(\"in drop\") } } }\nlet d = D(true); let e = D(true);");
    n.fails("drop(d);", "Panic", "in drop");
    n.ok("let e = 5;");
    assert_eq!(n.value("e"), "5");
    n.fails("let v = vec![D(true), D(false)]; let w = 1;\ndrop(v);", "Panic", "in drop");
    let own = n.value("std::process::id()");
    n.fails(
        &format!("std::process::Command::new(\"kill\").args([\"-9\", \"{own}\"]).status().unwrap();"),
        "WorkerDied",
        "killed",
    );
    assert_eq!(n.value("e"), "5");
}

#[test]
fn errors_say_what_to_do_in_a_notebook() {
    let mut n = Notebook::new();
    n.ok("let v = vec![1]; let s = String::from(\"s\"); let list = [3, 1];");
    n.ok("println!(\"{}\", v.len());\nlet longer: Vec<i32> = v.into_iter().map(|x| x + 1).collect();\nlet other = 1;");
    let error = n.fails("v.len()", "E0425", "`v`");
    assert!(error.evalue.contains("by `let longer: Vec<i32> = v.into_iter()"), "{error:?}");
    for code in ["use no_such_crate::Thing;", "let x = no_such_crate::thing();"] {
        let error = n.run(code).error.unwrap();
        assert!(error.evalue.contains(":dep no_such_crate = \"*\""), "{error:#?}");
        assert!(!plain(&error.traceback).contains("cargo add"), "{error:#?}");
    }
    let error = n.fails("list.push(1);", "E0599", "push");
    assert!(plain(&error.traceback).contains("cell:1:6"), "{error:#?}");
    let error = n.fails("s.push('c');", "E0596", "");
    assert!(error.evalue.contains("let mut s = s;"), "{error:#?}");
    let error = n.fails("let w = vec![1];\nw.push(2);", "E0596", "");
    assert!(
        plain(&error.traceback).contains("`mut `") || plain(&error.traceback).contains("mutable"),
        "{error:#?}"
    );
    let error = n.fails(
        "let text = format!(\"{}\", 1);\nlet mut out = String::new();\nwrite!(out, \"{text}\")?;",
        "E0599",
        "",
    );
    assert!(plain(&error.traceback).contains("use std::fmt::Write;"), "{}", plain(&error.traceback));
    let error = n.fails("let e = Vec::new();", "E0282", "annotations");
    assert!(plain(&error.traceback).contains("1 | let e = Vec::new();"), "{}", plain(&error.traceback));
    let error = n.fails("use no_such_crate::Thing;", "E0432", "unresolved");
    assert!(plain(&error.traceback).contains("1 | use no_such_crate::Thing;"), "{}", plain(&error.traceback));
}

#[test]
fn a_cell_whose_process_and_copy_are_killed_ends_and_the_session_goes_on() {
    let mut n = Notebook::new();
    n.ok("let x = 1;");
    let kill = "let me = std::process::id();
        let kill = format!(\"kill -9 $(cat /proc/{me}/task/*/children | tr ' ' '\\n' | grep -v $$) {me}\");
        std::process::Command::new(\"sh\").args([\"-c\", &kill]).status()?;
        loop {}";
    n.fails(kill, "WorkerDied", "run the cells again that define variables");
    n.ok("let x = 2;");
    assert_eq!(n.value("x"), "2");
}

#[test]
fn a_supervisor_that_is_killed_takes_the_worker_with_it_and_another_follows() {
    let mut n = Notebook::new();
    n.ok("let x = 1;");
    let worker = n.value("std::process::id()");
    let supervisor = n.value("std::os::unix::process::parent_id()");
    std::process::Command::new("kill").args(["-9", &supervisor]).status().unwrap();
    n.fails(
        "std::thread::sleep(std::time::Duration::from_secs(1000)); x",
        "WorkerDied",
        "could not be restored",
    );
    let runs = || std::fs::read_to_string(format!("/proc/{worker}/stat")).is_ok_and(|s| !s.contains(") Z "));
    let since = Instant::now();
    while runs() {
        assert!(since.elapsed() < Duration::from_secs(20), "the worker goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(n.value("1 + 1"), "2");
}

#[test]
fn values_are_dropped_when_the_session_ends_or_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gone");
    let define = format!(
        "struct Loud(u8);\nimpl Drop for Loud {{ fn drop(&mut self) {{ println!(\"drop {{}}\", self.0); std::fs::write({file:?}, \"\").unwrap(); }} }}\nlet loud = Loud(1);"
    );
    let mut n = Notebook::new();
    n.ok(&define);
    assert_eq!(n.ok(":clear").stdout(), "drop 1\n");
    std::fs::remove_file(&file).unwrap();
    n.ok(&define);
    drop(n);
    assert!(file.exists());
    // One that never ends is not waited for.
    let mut n = Notebook::new();
    n.ok("struct Stuck;\nimpl Drop for Stuck { fn drop(&mut self) { loop { std::thread::park() } } }\nlet stuck = Stuck;");
    n.ok(":clear");
    assert_eq!(n.value("1"), "1");
}

#[test]
fn an_interrupt_ends_what_a_shell_command_has_started() {
    let mut n = Notebook::new();
    let interrupter = n.engine.interrupter();
    let mut on_output = |output| {
        if matches!(output, Output::Stdout(_)) {
            interrupter.interrupt();
        }
    };
    let error = n.engine.execute("!echo go; sleep 7654; echo", &mut on_output).unwrap_err();
    assert_eq!(error.ename, "KeyboardInterrupt");
    let sleeps = || {
        let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let state = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (line == "sleep\x007654\0" && !state.contains(") Z ")).then_some(line)
        });
        lines.count()
    };
    let since = Instant::now();
    while sleeps() > 0 {
        assert!(since.elapsed() < Duration::from_secs(20), "the command goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    // What goes on in the background on purpose is not waited for.
    n.ok("!sleep 5 & echo started");
}

#[test]
fn a_variable_that_holds_every_file_handle_can_be_dropped() {
    let mut n = Notebook::new();
    n.ok("let mut held = Vec::new();\nwhile let Ok(file) = std::fs::File::open(\"/dev/null\") { held.push(file); }");
    n.ok("drop(held);");
    assert_eq!(n.value("std::fs::read(\"/dev/null\")?.len()"), "0");
}
