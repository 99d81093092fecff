//! `:dep`, with crates that lie in folders, so that no network is needed; they stand for crates of every kind.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use onelens_kernel::cells::{CellError, Output};
use onelens_kernel::engine::Engine;
use onelens_kernel::image::Image;

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::ensure(&mut |line| eprintln!("{line}")).unwrap_or_else(|e| panic!("{e}")))
}

fn session() -> Engine {
    Engine::start_with(image(), Path::new(env!("CARGO_BIN_EXE_onelens"))).unwrap_or_else(|e| panic!("{e}"))
}

/// Results and what the kernel said, or the error.
fn run(engine: &mut Engine, code: &str) -> Result<(String, String), CellError> {
    let (mut result, mut said) = (String::new(), String::new());
    let ran = engine.execute(code, &mut |output| match output {
        Output::Result(bundle) => result.push_str(&bundle[0].1),
        Output::Stderr(text) => said.push_str(&text),
        _ => {}
    });
    engine.settle();
    ran.map(|()| (result, said))
}

#[track_caller]
fn value(engine: &mut Engine, code: &str) -> String {
    run(engine, code).unwrap_or_else(|e| panic!("{code}\n{}", e.traceback.join("\n"))).0
}

#[track_caller]
fn fails(engine: &mut Engine, code: &str, words: &[&str]) {
    let e = run(engine, code).expect_err(code);
    for word in words {
        assert!(e.evalue.contains(word), "{code}: no {word:?} in\n{}", e.evalue);
    }
}

/// A crate in a folder.
fn package(folder: &Path, name: &str, manifest: &str, files: &[(&str, &str)]) {
    let folder = folder.join(name);
    fs::create_dir_all(folder.join("src")).unwrap();
    let head =
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n");
    fs::write(folder.join("Cargo.toml"), head + manifest).unwrap();
    for (file, text) in files {
        fs::write(folder.join(file), text).unwrap();
    }
}

#[test]
fn a_crate_comes_into_a_session_with_variables_and_is_there_at_once_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    package(
        root,
        "words-of",
        "[dependencies]\nserde = { version = \"1\", features = [\"derive\"] }\nrayon = \"1\"\n[features]\nloud = []\n",
        &[(
            "src/lib.rs",
            "use serde::Serialize;\n#[derive(Serialize, Debug, Clone)] pub struct Words { pub list: Vec<String> }\n\
             impl Words { pub fn of(text: &str) -> Self { Words { list: text.split(' ').map(shape).collect() } } }\n\
             fn shape(word: &str) -> String { if cfg!(feature = \"loud\") { word.to_uppercase() } else { word.into() } }\n\
             pub fn largest<T: PartialOrd + Copy + Send + Sync>(xs: &[T]) -> Option<T> { use rayon::prelude::*; xs.par_iter().copied().reduce_with(|a, b| if a > b { a } else { b }) }\n",
        )],
    );
    let dep = format!(
        ":dep words-of = {{ path = \"{}\", features = [\"loud\"] }}",
        root.join("words-of").display()
    );
    let mut engine = session();
    run(&mut engine, "let before = vec![1, 2, 3];").unwrap();
    // With code in the same cell; `Words` implements the very trait `Serialize` that cells have.
    let code =
        format!("{dep}\nuse words_of::Words;\nlet w = Words::of(\"a bc\");\nserde_json::to_string(&w)?");
    let (shown, said) = run(&mut engine, &code).unwrap();
    assert!(shown.contains("{\\\"list\\\":[\\\"A\\\",\\\"BC\\\"]}"), "{shown}");
    assert!(said.contains("Compiling words-of"), "{said}");
    assert!(!said.contains("warning"), "no crate of the image is built again: {said}");
    // Generic code of the crate, in a later cell, with variables from before and of its types.
    assert_eq!(value(&mut engine, "(words_of::largest(&before), w.list.len())"), "(Some(3), 2)");
    // Asked again it is there; asked otherwise it is not silently another.
    assert_eq!(run(&mut engine, &dep).unwrap().1, "");
    fails(&mut engine, ":dep words-of = \"9.9\"", &["restart the kernel"]);
    // In another session nothing is compiled.
    let mut other = session();
    let (shown, said) =
        run(&mut other, &format!("{dep}\nwords_of::Words::of(\"x\").list[0].clone()")).unwrap();
    assert_eq!((shown.as_str(), said.as_str()), ("\"X\"", ""));
}

#[test]
fn tokio_runs_what_is_awaited_before_and_after_a_cell_that_fails() {
    let mut engine = session();
    let tokio = ":dep tokio = { version = \"1\", features = [\"rt-multi-thread\", \"time\", \"sync\"] }";
    assert!(run(&mut engine, tokio).is_ok());
    value(
        &mut engine,
        "use std::time::Duration;\nuse tokio::sync::mpsc;\nlet log = std::sync::Arc::new(std::sync::Mutex::new(vec![0_u64]));",
    );
    let sum = "let (sender, mut receiver) = mpsc::channel(4);\n\
               for i in 1..=3 { let sender = sender.clone(); tokio::spawn(async move { tokio::time::sleep(Duration::from_millis(i)).await; sender.send(i).await }); }\n\
               drop(sender);\n\
               let mut sum = 0;\n\
               while let Some(i) = receiver.recv().await { sum += i; }\n\
               log.lock().unwrap().push(sum);\n\
               sum";
    assert_eq!(value(&mut engine, sum), "6");
    fails(
        &mut engine,
        "tokio::time::sleep(Duration::from_millis(1)).await;\npanic!(\"in between\")",
        &["in between"],
    );
    assert_eq!(value(&mut engine, sum), "6");
    fails(&mut engine, "tokio::spawn(async { std::process::abort() }).await?;", &["aborted"]);
    assert_eq!(value(&mut engine, sum), "6");
    assert_eq!(value(&mut engine, "log.lock().unwrap().len()"), "4");
}

#[test]
fn a_cell_runs_as_a_whole_in_one_runtime_of_tokio() {
    let mut engine = session();
    let features = "[\"rt-multi-thread\", \"time\", \"macros\"]";
    run(&mut engine, &format!(":dep tokio = {{ version = \"1\", features = {features} }}")).unwrap();
    // The first statement spawns, the second waits; the handle is kept.
    let code = "use tokio::time::{Duration, sleep};\nlet kept = tokio::spawn(async { sleep(Duration::from_millis(5)).await; 20 });\nlet waited = 1;\nsleep(Duration::from_millis(1)).await;\nwaited";
    assert_eq!(value(&mut engine, code), "1");
    assert_eq!(value(&mut engine, "kept.await? + 1"), "21");
    // Macros that wait, though no `.await` is written.
    let code =
        "let (a, b) = tokio::join!(async { 1 }, async { sleep(Duration::from_millis(1)).await; 2 });\na + b";
    assert_eq!(value(&mut engine, code), "3");
    let code = "tokio::select! { _ = sleep(Duration::from_secs(60)) => 0, x = async { 7 } => x }";
    assert_eq!(value(&mut engine, code), "7");
    // Nothing waits, and a function spawns.
    let code =
        "fn spawns() -> tokio::task::JoinHandle<u8> { tokio::spawn(async { 5 }) }\nlet five = spawns();";
    assert_eq!(value(&mut engine, code), "");
    assert_eq!(value(&mut engine, "let six = spawns(); five.await? + six.await?"), "10");
    // `block_on`, beside an `.await` and without.
    let block_on = "tokio::runtime::Handle::current().block_on(async { 2 })";
    assert_eq!(value(&mut engine, block_on), "2");
    assert_eq!(value(&mut engine, &format!("async {{ 1 }}.await + {block_on}")), "3");
    assert_eq!(value(&mut engine, "tokio::runtime::Runtime::new()?.block_on(async { 4 })"), "4");
    // A mistake is told as one.
    fails(&mut engine, "{ let f = || async { 1 }.await; f() }", &["only allowed inside `async`"]);
}

#[test]
fn a_tokio_without_a_runtime_does_no_harm() {
    let mut engine = session();
    run(&mut engine, ":dep tokio = { version = \"1\", default-features = false, features = [\"sync\"] }")
        .unwrap();
    let code = "let (sender, receiver) = tokio::sync::oneshot::channel();\nsender.send(3).unwrap();\nreceiver.await?";
    assert_eq!(value(&mut engine, code), "3");
    assert_eq!(value(&mut engine, "async { 4 }.await"), "4");
}

#[test]
fn procedural_macros_build_scripts_and_renamed_crates_work() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    package(
        root,
        "answering",
        "[lib]\nproc-macro = true\n",
        &[(
            "src/lib.rs",
            "use proc_macro::TokenStream;\n#[proc_macro] pub fn answer(_: TokenStream) -> TokenStream { \"42\".parse().unwrap() }\n",
        )],
    );
    package(
        root,
        "built",
        "",
        &[
            ("build.rs", "fn main() { println!(\"cargo::rustc-env=BUILT_AS=by a script\"); }\n"),
            ("src/lib.rs", "pub const HOW: &str = env!(\"BUILT_AS\");\n"),
        ],
    );
    let mut engine = session();
    let code = format!(
        ":dep answering = {{ path = {:?} }}\n:dep other = {{ package = \"built\", path = {:?} }}\n(answering::answer!(), other::HOW)",
        root.join("answering"),
        root.join("built")
    );
    assert_eq!(value(&mut engine, &code), "(42, \"by a script\")");
    // A second extension, on top of the first.
    package(root, "third", "", &[("src/lib.rs", "pub fn three() -> i32 { 3 }\n")]);
    let code =
        format!(":dep third = {{ path = {:?} }}\nthird::three() + answering::answer!()", root.join("third"));
    assert_eq!(value(&mut engine, &code), "45");
}

#[test]
fn two_versions_of_a_crate_side_by_side_are_never_taken_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (version, fields) in [("1", "pub a: u32, pub b: u32"), ("2", "pub b: u32, pub a: u32")] {
        let place = root.join(version);
        fs::create_dir_all(place.join("src")).unwrap();
        let manifest = format!(
            "[package]\nname = \"swapped\"\nversion = \"{version}.0.0\"\nedition = \"2024\"\n[workspace]\n"
        );
        fs::write(place.join("Cargo.toml"), manifest).unwrap();
        fs::write(place.join("src/lib.rs"), format!("#[repr(C)] pub struct S {{ {fields} }}\n")).unwrap();
    }
    let mut engine = session();
    let deps = format!(
        ":dep swapped = {{ path = {:?} }}\n:dep newer = {{ package = \"swapped\", path = {:?} }}",
        root.join("1"),
        root.join("2")
    );
    run(&mut engine, &deps).unwrap();
    let make = "struct P(u8);\nlet s1 = swapped::S { a: 1, b: 2 }; let s2 = newer::S { a: 1, b: 2 };\n\
                let p1 = (P(1), swapped::S { a: 1, b: 2 }); let p2 = (P(1), newer::S { a: 1, b: 2 });\n\
                let o1 = [Some(swapped::S { a: 1, b: 2 })]; let o2 = [Some(newer::S { a: 1, b: 2 })];";
    run(&mut engine, make).unwrap();
    let reads =
        ["s1.a", "s2.a", "p1.1.a", "p2.1.a", "o1[0].as_ref().unwrap().a", "o2[0].as_ref().unwrap().a"];
    for code in reads {
        assert_eq!(value(&mut engine, code), "1", "{code}");
    }
    assert_eq!(value(&mut engine, "(s1.a, s2.a, o1.len(), o2.len(), s2.b)"), "(1, 1, 1, 1, 2)");
    // A type with both in it, in the same place of each.
    run(&mut engine, "let both = (swapped::S { a: 1, b: 2 }, newer::S { a: 1, b: 2 });").unwrap();
    match run(&mut engine, "(both.0.a, both.1.a)") {
        Ok((read, _)) => assert_eq!(read, "(1, 1)"),
        Err(e) => {
            assert!(e.evalue.contains("another version") && e.evalue.contains("help:"), "{}", e.evalue)
        }
    }
    // Another definition of the user's own, after which `TypeId`s are others.
    let (_, said) = run(&mut engine, "struct Q(u8);\nlet q = Q(1);")
        .and_then(|_| run(&mut engine, "struct Q(u16);"))
        .unwrap();
    assert!(said.contains("`p1`") && said.contains("`p2`") && said.contains("swapped"), "{said}");
    assert_eq!(value(&mut engine, "s1.a"), "1");
}

#[test]
fn a_type_is_kept_that_another_crate_re_exports_or_that_has_no_name_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    package(
        root,
        "inner",
        "",
        &[(
            "src/lib.rs",
            "mod deep { pub struct Big(pub u8); }\nmod hidden { pub struct Secret(pub u8); }\npub use deep::Big;\n\
             pub mod far { pub mod away { pub(crate) mod a { pub struct T(pub u8); } } pub use away::a::T; }\n\
             pub fn secret() -> impl Sized { hidden::Secret(1) }\n\
             mod own { pub struct Thing(pub u8); pub struct Pair<'a, T>(pub &'a T); pub trait Says { fn says(&self) -> u8; }\n\
             impl Says for Thing { fn says(&self) -> u8 { self.0 } } pub mod low { pub enum Either<T> { A(T), B } } }\n\
             pub mod elsewhere { pub use crate::own::Thing; pub mod more { pub use crate::own::low::Either as OneOf; pub use crate::own::Says as Speaks; } }\n\
             pub use own::Pair as Two;\n\
             pub fn speaks() -> Box<dyn elsewhere::more::Speaks> { Box::new(own::Thing(6)) }\n\
             pub fn two() -> Two<'static, u8> { own::Pair(&7) }\n",
        )],
    );
    let manifest = format!("[dependencies]\ninner = {{ path = {:?} }}\n", root.join("inner"));
    package(root, "outer", &manifest, &[("src/lib.rs", "pub use inner::*;\n")]);
    let mut engine = session();
    run(&mut engine, &format!(":dep renamed = {{ package = \"outer\", path = {:?} }}", root.join("outer")))
        .unwrap();
    run(&mut engine, "let b = renamed::Big(3); let t = vec![renamed::far::T(4)]; let x = renamed::secret();")
        .unwrap();
    assert_eq!(value(&mut engine, "b.0"), "3");
    assert_eq!(value(&mut engine, "t[0].0"), "4");
    // Of the crate itself, what is public under another name or in another place than its own.
    run(&mut engine, &format!(":dep inner = {{ path = {:?} }}", root.join("inner"))).unwrap();
    run(
        &mut engine,
        "let thing = inner::elsewhere::Thing(5); let one = vec![inner::elsewhere::more::OneOf::A(8u8)];\n\
         let speaker = inner::speaks(); let two = inner::two();",
    )
    .unwrap();
    assert_eq!(value(&mut engine, "(thing.0, speaker.says(), *two.0)"), "(5, 6, 7)");
    assert_eq!(value(&mut engine, "matches!(one[0], inner::elsewhere::more::OneOf::A(8))"), "true");
    // A name that cannot be written spoils only what needs it.
    assert_eq!(value(&mut engine, "[1, 2].iter().map(|x| x + 1).sum::<i32>()"), "5");
    fails(&mut engine, "let y = x;", &["x"]);
    let e = run(&mut engine, "let y = x;").unwrap_err();
    assert!(e.traceback.join("\n").contains("private"), "{}", e.traceback.join("\n"));
}

#[test]
fn what_the_kernel_holds_is_not_built() {
    let mut engine = session();
    assert_eq!(value(&mut engine, "itoa::Buffer::new().format(3).to_string()"), "\"3\"");
    for held in [
        // Earlier cells use it. It has no features at all, so that the one held is the one asked for.
        ":dep itoa = \"1\"",
        ":dep onelens = { path = \"..\" }",
        ":dep ndarray = \"0.17\"",
        ":dep serde = { version = \"1\", features = [\"derive\", \"rc\"] }",
    ] {
        assert_eq!(run(&mut engine, held).unwrap(), (String::new(), String::new()), "{held}");
    }
    fails(
        &mut engine,
        ":dep serde = { version = \"1\", features = [\"unstable\"] }",
        &["without the feature unstable", "derive"],
    );
    assert_eq!(value(&mut engine, "serde_json::to_string(&std::rc::Rc::new(3))?"), "\"3\"");
}

#[test]
fn a_crate_that_the_kernel_holds_with_fewer_features_or_twice_comes_as_asked_for() {
    let mut engine = session();
    // The library for cells has it without its defaults; without them it is taken from there.
    let bare = ":dep num-integer = { version = \"*\", default-features = false }";
    run(&mut engine, &format!("{bare}\nlet gcd = num_integer::gcd(12, 18);")).unwrap();
    assert_eq!(value(&mut session(), ":dep num-integer\nnum_integer::gcd(12, 18)"), "6");
    // Three versions are held, so that none could be named.
    assert_eq!(value(&mut session(), ":dep base64 = \"0.13\"\nbase64::encode(\"a\")"), "\"YQ==\"");
    let newer = ":dep base64 = \"0.22\"\nuse base64::prelude::*;\nBASE64_STANDARD.encode(\"a\")";
    assert_eq!(value(&mut session(), newer), "\"YQ==\"");
    // Another `serde_json`, with the `serde` that cells derive.
    let exact = ":dep serde_json = { version = \"1\", features = [\"raw_value\"] }\n\
                 #[derive(serde::Serialize)] struct P { x: Box<serde_json::value::RawValue> }\n\
                 serde_json::to_string(&P { x: serde_json::from_str(\"1.0e2\")? })?";
    assert_eq!(value(&mut session(), exact), r#""{\"x\":1.0e2}""#);
}

#[test]
fn another_version_of_a_crate_that_the_kernel_holds_stands_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    package(root, "ndarray", "", &[("src/lib.rs", "pub struct Array(pub u8);\n")]);
    package(root, "rand", "", &[("src/lib.rs", "pub fn random() -> u8 { 7 }\n")]);
    let [ndarray, rand] =
        ["ndarray", "rand"].map(|name| format!(":dep {name} = {{ path = {:?} }}", root.join(name)));
    let mut engine = session();
    run(&mut engine, "let old = vec![onelens::ndarray::arr1(&[1.0, 2.0])];").unwrap();
    let (seven, said) = run(&mut engine, &format!("{rand}\nrand::random()")).unwrap();
    assert_eq!((seven.as_str(), said.contains("onelens itself")), ("7", false), "{said}");
    let (_, said) = run(&mut engine, &ndarray).unwrap();
    assert!(said.contains("`onelens_image::ndarray`"), "{said}");
    run(
        &mut engine,
        "let own = ndarray::Array(7); let mixed = (ndarray::Array(8), onelens::ndarray::arr1(&[1.0]));",
    )
    .unwrap();
    assert_eq!(value(&mut engine, "(own.0, old[0].sum(), mixed.0.0, mixed.1.len())"), "(7, 3.0, 8, 1)");
    // What is there already goes on to mean what it did.
    let mut engine = session();
    run(&mut engine, "use ndarray::Array1;\nstruct P(Array1<f64>);\nlet p = P(Array1::zeros(2));").unwrap();
    fails(&mut engine, &ndarray, &["earlier cells", "help:"]);
    assert_eq!(value(&mut engine, "p.0.len()"), "2");
    assert_eq!(value(&mut engine, &format!("{rand}\nrand::random()")), "7");
}

#[test]
fn a_crate_that_brings_another_copy_of_one_that_cells_have_says_so_where_the_two_meet_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    package(
        folder.path(),
        "taker",
        "[dependencies]\nserde_json = { version = \"1\", features = [\"unbounded_depth\"] }\n",
        &[(
            "src/lib.rs",
            "pub use serde_json;\npub fn take(v: &serde_json::Value) -> String { v.to_string() }\n",
        )],
    );
    let mut engine = session();
    let dep = format!(":dep taker = {{ path = {:?} }}", folder.path().join("taker"));
    let (_, said) = run(&mut engine, &dep).unwrap();
    assert!(said.contains("Compiling taker") && !said.contains("warning"), "{said}");
    assert_eq!(value(&mut engine, "taker::take(&taker::serde_json::json!([1]))"), "\"[1]\"");
    let e = run(&mut engine, "taker::take(&serde_json::json!([1]))").unwrap_err();
    let told = e.traceback.join("\n");
    assert!(
        told.contains("`serde_json` is in this notebook twice") && !told.contains("cargo tree"),
        "{told}"
    );
}

#[test]
fn a_crate_that_an_earlier_one_brought_is_the_same_crate() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    package(
        root,
        "inside",
        "",
        &[("src/lib.rs", "#[derive(Clone)] pub struct Big(pub u8);\npub fn read(b: &Big) -> u8 { b.0 }\n")],
    );
    let manifest = format!("[dependencies]\ninside = {{ path = {:?} }}\n", root.join("inside"));
    package(
        root,
        "around",
        &manifest,
        &[("src/lib.rs", "pub fn make() -> inside::Big { inside::Big(3) }\n")],
    );
    package(
        root,
        "beside",
        &manifest,
        &[("src/lib.rs", "pub fn more(b: inside::Big) -> inside::Big { inside::Big(b.0 + 1) }\n")],
    );
    let dep = |name: &str| format!(":dep {name} = {{ path = {:?} }}\n", root.join(name));
    let mut engine = session();
    run(&mut engine, &format!("{}let big = around::make();", dep("around"))).unwrap();
    assert_eq!(value(&mut engine, &format!("{}inside::read(&big)", dep("inside"))), "3");
    assert_eq!(value(&mut engine, "big.0"), "3");
    assert_eq!(value(&mut engine, &format!("{}beside::more(big.clone()).0", dep("beside"))), "4");
}

#[test]
fn an_edited_crate_is_built_again_and_its_values_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let write =
        |name: &str, manifest: &str, text: &str| package(root, name, manifest, &[("src/lib.rs", text)]);
    write("below", "", "pub const N: u8 = 1;\n");
    let manifest = format!("[dependencies]\nbelow = {{ path = {:?} }}\n", root.join("below"));
    write("edited", &manifest, "pub struct S(pub u8);\npub fn make() -> S { S(below::N) }\n");
    let dep = format!(":dep edited = {{ path = {:?} }}\n", root.join("edited"));
    let mut engine = session();
    assert_eq!(
        value(&mut engine, &format!("{dep}fn twice(x: u8) -> u8 {{ 2 * x }}\nlet s = edited::make();\ns.0")),
        "1"
    );
    assert_eq!(run(&mut engine, &format!("{dep}s.0")).unwrap(), ("1".into(), String::new()));
    write("edited", &manifest, "pub struct S(pub u16, pub u8);\npub fn make() -> S { S(300, below::N) }\n");
    let (shown, said) = run(&mut engine, &format!("{dep}edited::make().0")).unwrap();
    assert!(shown == "300" && said.contains("had been edited"), "{shown} {said}");
    fails(&mut engine, "s.0", &["dropped when `edited` was built again"]);
    assert_eq!(value(&mut engine, "let s = edited::make();\n(s.0, twice(2))"), "(300, 4)");
    // So is one that it is made of.
    write("below", "", "pub const N: u8 = 22;\n");
    assert_eq!(value(&mut engine, &format!("{dep}edited::make().1")), "22");
    // What does not compile leaves everything as it was.
    write("edited", &manifest, "pub struct S(;\n");
    run(&mut engine, "let x = 5;").unwrap();
    fails(&mut engine, &dep, &["help:"]);
    assert_eq!(value(&mut engine, "(x, edited::make().1)"), "(5, 22)");
}

/// What is commonest in notebooks; each crate is fetched and built.
#[test]
#[ignore = "needs the network, and minutes"]
fn crates_of_the_registry_come_in_the_versions_asked_for() {
    let cells = [
        (
            ":dep rand = \"0.8\"\nuse rand::{Rng, SeedableRng};\nlet mut r = rand::rngs::StdRng::seed_from_u64(1);",
            "r.gen_range(3..4)",
            "3",
        ),
        (":dep ndarray = \"0.16\"\nuse ndarray::Array1;\nlet a = Array1::<f64>::ones(3);", "a.sum()", "3.0"),
        (
            ":dep thiserror = \"1\"\n#[derive(thiserror::Error, Debug)]\n#[error(\"bad {0}\")]\nstruct Bad(u8);\nlet b = Bad(3);",
            "b.to_string()",
            "\"bad 3\"",
        ),
        (":dep num = \"0.4\"\nlet b = num::BigInt::from(2);", "b.pow(70)", "1180591620717411303424"),
        (
            ":dep plotters = { version = \"0.3\", default-features = false, features = [\"evcxr\", \"all_series\"] }\nuse plotters::prelude::*;\nlet c = RGBColor(1, 2, 3);",
            "c.0",
            "1",
        ),
        (":dep regex = \"1\"\nlet r = regex::Regex::new(\"a+\")?;", "r.is_match(\"caat\")", "true"),
        (
            ":dep chrono\nlet d = chrono::NaiveDate::from_ymd_opt(2020, 1, 2).unwrap();",
            "d.to_string()",
            "\"2020-01-02\"",
        ),
    ];
    each_in_its_own_session(&cells);
}

/// The heaviest of those that notebooks ask for, at their newest.
#[test]
#[ignore = "needs the network, and half an hour"]
fn heavy_crates_come_as_they_are_asked_for() {
    let cells = [
        (
            ":dep serde = { version = \"1\", features = [\"derive\", \"rc\"] }\n#[derive(serde::Serialize, Debug)]\nstruct P { x: std::rc::Rc<u8> }\nlet p = P { x: 3.into() };",
            "p.x",
            "3",
        ),
        (":dep rand\nlet x: u8 = rand::random_range(3..4);", "x", "3"),
        (
            ":dep tokio = { version = \"1\", features = [\"full\"] }\nlet h = tokio::spawn(async { 3 });",
            "h.await?",
            "3",
        ),
        (":dep nalgebra\nlet m = nalgebra::Matrix2::new(1.0, 2.0, 3.0, 4.0);", "m.determinant()", "-2.0"),
        (":dep image\nlet picture = image::RgbImage::new(3, 2);", "picture.dimensions()", "(3, 2)"),
        (
            ":dep candle-core\nuse candle_core::{Device, Tensor};\nlet t = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;",
            "t.sum_all()?.to_scalar::<f32>()?",
            "3.0",
        ),
        (
            ":dep plotly\nuse plotly::{Plot, Scatter};\nlet mut plot = Plot::new();\nplot.add_trace(Scatter::new(vec![1, 2], vec![3, 4]));",
            "plot.to_json().contains(\"scatter\")",
            "true",
        ),
        (
            ":dep polars = { version = \"*\", features = [\"lazy\"] }\nuse polars::prelude::*;\nlet table = df!(\"a\" => [1, 2, 3])?;",
            "table.clone().lazy().filter(col(\"a\").gt(lit(1))).collect()?.height()",
            "2",
        ),
    ];
    each_in_its_own_session(&cells);
}

/// Runs cells that define and then one that reads, and says how long that took.
fn each_in_its_own_session(cells: &[(&str, &str, &str)]) {
    let mut wrong = Vec::new();
    for (define, read, expected) in cells {
        let begin = std::time::Instant::now();
        let mut engine = session();
        let got = run(&mut engine, define)
            .and_then(|(_, said)| run(&mut engine, read).map(|(value, _)| (value, said)));
        eprintln!("{:>7.1} s  {}", begin.elapsed().as_secs_f64(), define.lines().next().unwrap());
        match got {
            Ok((value, said)) if value == *expected && !said.contains("warning") => {}
            Ok(other) => wrong.push(format!("{define}\n{other:?}")),
            Err(e) => wrong.push(format!("{define}\n{}", e.traceback.join("\n"))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_cannot_be_had_is_a_sentence_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), "broken", "", &[("src/lib.rs", "pub fn f() -> i32 { \"no number\" }\n")]);
    package(folder.path(), "program", "", &[("src/main.rs", "fn main() {}\n")]);
    let mut engine = session();
    run(&mut engine, "let x = 1;").unwrap();
    let path = |name: &str| format!("{{ path = {:?} }}", folder.path().join(name));
    fails(&mut engine, &format!(":dep broken = {}", path("broken")), &["mismatched types", "help:"]);
    fails(&mut engine, &format!(":dep program = {}", path("program")), &["library"]);
    fails(&mut engine, ":dep gone = { path = \"/no/such/folder\" }", &["/no/such/folder", "help:"]);
    fails(&mut engine, ":dep x = 3", &["in quotes"]);
    fails(&mut engine, ":nonsense", &["`:nonsense`", ":help"]);
    assert_eq!(value(&mut engine, "x"), "1");
}

#[test]
fn the_shell_is_called_and_its_failures_are_errors() {
    let mut engine = session();
    let mut printed = Vec::new();
    engine.execute("!printf 'a\\nb'; echo c >&2", &mut |output| printed.push(output)).unwrap();
    assert!(printed.contains(&Output::Stdout("a\n".into())) && printed.contains(&Output::Stdout("b".into())));
    assert!(printed.contains(&Output::Stderr("c\n".into())));
    fails(&mut engine, "!exit 3", &["exit 3", "3"]);
    assert_eq!(value(&mut engine, "let x = 1;\n!true || x == 1"), "true");
}

#[test]
fn clear_forgets_everything() {
    let mut engine = session();
    run(&mut engine, "let x = 1;\nfn f() {}").unwrap();
    run(&mut engine, ":clear").unwrap();
    assert!(engine.variables().is_empty());
    fails(&mut engine, "x", &["x"]);
    assert_eq!(value(&mut engine, "let x = 2;\nx"), "2");
}

#[test]
fn a_crate_of_the_library_without_its_defaults_says_so_where_nobody_named_features() {
    let mut engine = session();
    let (_, said) = run(&mut engine, ":dep plotters\n:dep rayon\n:dep ndarray\n1").unwrap();
    assert!(said.contains("`plotters` is the 0.3.") && said.contains("without its defaults"), "{said}");
    assert!(said.contains("line_series") && said.contains("features = [..]"), "{said}");
    assert!(!said.contains("rayon") && !said.contains("ndarray"), "{said}");
}
