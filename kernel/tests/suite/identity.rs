//! A value is what it was, or gone: a type's meaning is handed on through routes of every kind, changed somewhere on
//! the way, and what the next cell reads is compared with what a model expects.

use std::path::Path;
use std::sync::OnceLock;

use onelens_kernel::cells::Output;
use onelens_kernel::engine::Engine;
use onelens_kernel::image::Image;
use proptest::prelude::*;

/// How one name comes to mean what another means. `{to}` is the new name, `{from}` the old one.
const ROUTES: [&str; 12] = [
    "type {to} = {from};",
    "mod m_{to} { pub type {to} = super::{from}; } use m_{to}::{to};",
    "mod m_{to} { pub type {to} = super::{from}; } use m_{to}::*;",
    "mod m_{to} { pub(crate) use super::{from} as {to}; } use m_{to}::*;",
    "mod m_{to} { pub mod inner { pub(crate) use super::super::{from} as {to}; } pub(crate) use inner::*; } use m_{to}::*;",
    "mod m_{to} { pub type Other = super::{from}; } use m_{to}::Other as {to};",
    "mod m_{to} { pub type {to} = super::{from}; } use m_{to} as n_{to}; use n_{to}::{to};",
    "trait Tr{to} { type Out; } struct St{to}; impl Tr{to} for St{to} { type Out = {from}; } type {to} = <St{to} as Tr{to}>::Out;",
    "trait Tr{to} { type Out; } impl<X> Tr{to} for X { type Out = {from}; } type {to} = <u8 as Tr{to}>::Out;",
    "struct St{to}; impl Iterator for St{to} { type Item = {from}; fn next(&mut self) -> Option<{from}> { None } } type {to} = <St{to} as Iterator>::Item;",
    "macro_rules! mac_{to} { () => { {from} } } type {to} = mac_{to}!();",
    "macro_rules! def_{to} { ($name:ident) => { pub type $name = {from}; } } mod m_{to} { use super::*; def_{to}!({to}); } use m_{to}::*;",
];

/// What holds a value of the type, and how it is read.
const HOLDERS: [(&str, &str, &str); 6] = [
    ("struct P { x: {t} }", "P { x: {one} as {t} }", "p.x as f64"),
    ("struct P({t}, u8);", "vec![P({one} as {t}, 2)]", "p[0].0 as f64"),
    (
        "enum P { Is({t}), Not }",
        "P::Is({one} as {t})",
        "match p { P::Is(ref x) => *x as f64, P::Not => 0.0 }",
    ),
    (
        "struct G<T>(T, {t}); struct P(Box<G<{t}>>);",
        "P(Box::new(G({one} as {t}, {one} as {t})))",
        "p.0.1 as f64",
    ),
    (
        "trait Give { fn give(&self, x: {t}) -> {t}; } struct S({t}); impl Give for S { fn give(&self, x: {t}) -> {t} { self.0 } }",
        "Box::new(S({one} as {t})) as Box<dyn Give>",
        "p.give({one} as {t}) as f64",
    ),
    (
        "macro_rules! hold { ($n:ident) => { pub struct $n { pub x: {t} } } } mod held { use super::*; hold!(P); } use held::P;",
        "P { x: {one} as {t} }",
        "p.x as f64",
    ),
];

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::ensure(&mut |line| eprintln!("{line}")).unwrap_or_else(|e| panic!("{e}")))
}

fn link(route: usize, from: &str, level: usize) -> String {
    ROUTES[route].replace("{to}", &format!("T{level}")).replace("{from}", from)
}

/// Runs a cell: its result, or its error.
fn run(engine: &mut Engine, code: &str) -> Result<String, String> {
    let mut shown = String::new();
    let ran = engine.execute(code, &mut |output| {
        if let Output::Result(bundle) = output {
            let plain = bundle.into_iter().filter(|(mime, _)| mime == "text/plain");
            shown.extend(plain.map(|(_, text)| text));
        }
    });
    engine.settle();
    ran.map(|()| shown).map_err(|error| format!("{} {}", error.evalue, error.traceback.join("\n")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_value_is_what_it_was_or_gone_through_every_route(
        routes in prop::collection::vec(0..ROUTES.len(), 1..4),
        holder in 0..HOLDERS.len(),
        at in any::<prop::sample::Index>(),
        changes in any::<bool>(),
        at_once in any::<bool>(),
    ) {
        let mut engine = Engine::start_with(image(), Path::new(env!("CARGO_BIN_EXE_onelens"))).unwrap();
        let (definition, value, read) = HOLDERS[holder];
        let last = format!("T{}", routes.len());
        let fill = |text: &str| text.replace("{t}", &last).replace("{one}", "1");
        let mut links = vec!["type T0 = f32;".to_string()];
        for (i, route) in routes.iter().enumerate() {
            links.push(link(*route, &format!("T{i}"), i + 1));
        }
        for one in &links {
            run(&mut engine, one).unwrap();
        }
        let make = format!("{}\nstruct Apart(u8);\nlet p = {}; let apart = Apart(3);", fill(definition), fill(value));
        run(&mut engine, &make).unwrap();

        let k = at.index(links.len());
        let redefined = match (changes, k) {
            (false, _) => links[k].clone(),
            (true, 0) => "type T0 = u32;".to_string(),
            (true, k) => link(routes[k - 1], "u32", k).replace("super::super::u32", "u32").replace("super::u32", "u32"),
        };
        let read = fill(read);
        let then = if at_once {
            run(&mut engine, &format!("{redefined}\n{read}"))
        } else {
            run(&mut engine, &redefined).unwrap();
            run(&mut engine, &read)
        };
        match (changes, then) {
            (false, there) => prop_assert_eq!(there.as_deref(), Ok("1.0"), "{:?}", links),
            (true, Ok(read)) => prop_assert!(false, "read {} after {}\n{:?}", read, redefined, links),
            (true, Err(said)) => prop_assert!(said.contains("dropped"), "{}", said),
        }
        prop_assert_eq!(run(&mut engine, "apart.0"), Ok("3".to_string()), "{} after {:?}", redefined, links);
    }
}
