//! The crate that a cell becomes.
//!
//! ```text
//! uses and items
//! extern "C" fn __onelens_cell1() {
//!     let mut x = rt::take::<f64>("x");                    // variables that occur in the cell
//!     let stage = rt::stage("a", || { <statements> let a = ..; Ok((a,)) });
//!     let Some((a,)) = stage else { rt::put("x", x); return; };
//!     let stage = rt::stage("", || { <statements> <show the last value> Ok(()) });
//!     rt::put("x", x); rt::put("a", a);                    // also when the stage failed
//! }
//! ```
//! Stages borrow what they use, so a panic or a `?` in one leaves every variable alive. A variable that a stage
//! moves cannot be put back, which rustc says (E0382, E0505) at the place of the `put`: [`Site`] leads from there
//! to the variable, [`Fates`] remembers, and the cell is generated once more.
//!
//! A stage that waits is `async`, and the cell's own thread drives it. With tokio in the session all of the cell runs
//! inside one runtime of it, entered but not blocked on: so tasks can be spawned anywhere, and `block_on` is no error.

use super::scope::{Formats, Scope};
use crate::cells::commands::Format;
use crate::engine::parse::cell::{Attribute, Cell, Stage};
use crate::engine::parse::items::{Items, Kind};
use crate::engine::parse::mentions;
use crate::engine::parse::source::{Quote, Source};
use crate::engine::parse::statics::Homes;
use crate::engine::parse::types::CRATE;
use crate::engine::parse::uses::Uses;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A variable that exists before the cell and occurs in it.
pub(in crate::engine) struct Taken {
    pub(in crate::engine) name: String,
    pub(in crate::engine) mutable: bool,
    /// As Rust code can write it.
    pub(in crate::engine) ty: String,
    /// Whether a type of the same name may come from another version of a crate.
    pub(in crate::engine) exact: bool,
    /// Whether `ty` may be another type, so that it has to be asked first.
    pub(in crate::engine) asks: bool,
    /// The user's annotation, if `ty` turns out to be private.
    pub(in crate::engine) annotation: Option<String>,
}

/// Which of the variables of one name: the n-th that the cell has, counting the taken one.
pub(super) type Binding = usize;

/// What becomes of variables that a stage moves.
#[derive(Default)]
pub(super) struct Fates {
    /// Gone from this stage on.
    pub(super) gone: BTreeMap<Binding, usize>,
    /// Moved in this stage, but assigned again: the stage returns it.
    pub(super) returned: BTreeSet<(Binding, usize)>,
}

/// Generated code that hands a variable on; a complaint of rustc's about it is about the variable.
pub(super) struct Site {
    pub(super) range: Range<usize>,
    pub(super) name: String,
    pub(super) binding: Binding,
    pub(super) stage: usize,
    /// In the tuple that the stage returns.
    pub(super) in_tuple: bool,
}

/// A cell ready to be compiled.
#[derive(Default)]
pub(super) struct Generated {
    pub(super) source: Source,
    /// How many bytes of it are the [`head`].
    pub(super) head: usize,
    pub(super) sites: Vec<Site>,
    /// The code that takes each variable from before the cell.
    pub(super) takes: Vec<(Range<usize>, String)>,
    /// The code that shows the last expression, where a missing `Debug` is reported.
    pub(super) shown: Option<Range<usize>>,
    /// The last expression.
    pub(super) tail: Option<Quote>,
    /// The code that enters the runtime.
    pub(super) runtime: Option<Range<usize>>,
    /// The code of each stage.
    pub(super) stages: Vec<Range<usize>>,
}

/// What every generated crate starts with, around the attributes of the session. Unused results are the one warning a
/// notebook should see.
const LINTS: &str = "#![allow(unused, nonstandard_style)]\n#![warn(unused_must_use)]\n";
const CRATES: &str = "extern crate alloc;\nextern crate onelens_image;\n";

/// What a cell's crate starts with, whatever the cell is: `links` declare what `:dep` brought.
pub(in crate::engine) fn head(attributes: &[Attribute], links: &str) -> Source {
    let mut source = Source::default();
    source.push(LINTS);
    write_attributes(attributes, &mut source);
    source.push(CRATES);
    source.push(links);
    source
}

/// The crate of the items in force, for cells to link that define none.
pub(in crate::engine) fn library(scope: &Scope, homes: &Homes, links: &str) -> Source {
    let mut source = Source::default();
    source.push("#![allow(warnings)]\n");
    write_attributes(&scope.attributes, &mut source);
    source.push(CRATES);
    source.push(links);
    write_items(&scope.uses, &scope.items, homes, "pub ", &mut source);
    source
}

fn write_attributes(attributes: &[Attribute], source: &mut Source) {
    for one in attributes {
        source.quote(&one.quote);
        source.push("\n");
    }
}

/// `visibility` is that of the declarations.
fn write_items(uses: &Uses, items: &Items, homes: &Homes, visibility: &str, source: &mut Source) {
    write_macros(items, homes, source);
    for one in uses.iter() {
        source.push(visibility);
        one.write(source);
    }
    for item in items.iter().filter(|item| item.kind != Kind::Macro) {
        item.write(homes, source);
    }
}

fn write_macros(items: &Items, homes: &Homes, source: &mut Source) {
    for item in items.iter().filter(|item| item.kind == Kind::Macro) {
        item.write(homes, source);
    }
}

/// A variable in scope.
#[derive(Clone)]
struct Live {
    name: String,
    mutable: bool,
    binding: Binding,
}

pub(super) struct Generator<'a> {
    /// The attributes of the session's crates.
    pub(super) attributes: &'a [Attribute],
    /// Declarations of the libraries that hold what `:dep` brought.
    pub(super) links: &'a str,
    pub(super) uses: &'a Uses,
    pub(super) items: &'a Items,
    pub(super) cell: &'a Cell,
    pub(super) taken: &'a [Taken],
    pub(super) fates: &'a Fates,
    /// Whether some `use` of the session already brings an `evcxr_display` for everything that has `Debug`.
    pub(super) displays_itself: bool,
    /// Statics that live in the worker already.
    pub(super) homes: &'a Homes,
    /// The declarations that come with the library of items, if the cell links that.
    pub(super) linked: Option<&'a BTreeSet<String>>,
    /// How things are shown.
    pub(super) formats: &'a Formats,
    /// Whether the cell runs inside the runtime of tokio.
    pub(super) in_tokio: bool,
    /// Stages that wait though no `.await` is written there, as in `join!(..)`.
    pub(super) waiting: &'a BTreeSet<usize>,
}

const FAILURE: &str = "::onelens_image::rt::Failure";
const OWN_FAILURE: &str = "__OnelensFailure";

/// One runtime of tokio's for the whole session, so that spawned tasks go on between cells.
const ENTER_TOKIO: &str = "\
let __onelens_runtime = ::onelens_image::rt::stage(\"\", || ::onelens_image::rt::once_per_process(\"tokio\", ::tokio::runtime::Runtime::new));
let ::core::option::Option::Some(__onelens_runtime) = __onelens_runtime else { return };
let __onelens_entered = __onelens_runtime.enter();
";

impl Generator<'_> {
    pub(super) fn generate(&self) -> Generated {
        let source = head(self.attributes, self.links);
        let mut out = Generated { head: source.code.len(), source, ..Generated::default() };
        self.write_items(&mut out.source);
        self.write_formats(&mut out.source);
        // A function of its own for each cell, so that types defined inside have `TypeId`s of their own.
        let number = self.cell.number;
        out.source.push(&format!(
            "#[unsafe(export_name = \"onelens_cell\")]\nextern \"C\" fn __onelens_cell{number}() {{\n"
        ));
        if self.in_tokio {
            let start = out.source.code.len();
            out.source.push(ENTER_TOKIO);
            out.runtime = Some(start..out.source.code.len());
        }
        for taken in self.taken.iter().filter(|taken| taken.asks) {
            let (ty, name) = (&taken.ty, &taken.name);
            let start = out.source.code.len();
            out.source.push(&format!(
                "if !::onelens_image::rt::fits::<{ty}>({name:?}) {{ ::onelens_image::rt::unfit({name:?}); return; }}\n"
            ));
            out.takes.push((start..out.source.code.len(), name.clone()));
        }
        let mut live = Vec::new();
        for (binding, taken) in self.taken.iter().enumerate() {
            let pattern = pattern(&taken.name, taken.mutable);
            let start = out.source.code.len();
            out.source.push(&format!(
                "let {pattern} = ::onelens_image::rt::{}::<{}>({:?});\n",
                if taken.exact { "take_exact" } else { "take" },
                taken.ty,
                taken.name
            ));
            out.takes.push((start..out.source.code.len(), taken.name.clone()));
            let (name, mutable) = (taken.name.clone(), taken.mutable);
            live.push(Live { name, mutable, binding });
        }
        let mut next = live.len();
        for (k, stage) in self.cell.stages.iter().enumerate() {
            self.write_stage(k, stage, &mut live, &mut next, &mut out);
        }
        self.put_all(self.cell.stages.len().wrapping_sub(1), live.iter(), &mut out);
        out.source.push("}\n");
        out
    }

    /// What shows values and errors as the user wants it, in place of the library's own.
    fn write_formats(&self, source: &mut Source) {
        if let Some(Format { text, of }) = &self.formats.value {
            source.push(&format!(
                "trait __OnelensShow {{ fn evcxr_display(&self); }}
impl<T: ::core::fmt::{of} + ?Sized> __OnelensShow for T {{
    fn evcxr_display(&self) {{
        if ::core::any::type_name::<T>() != \"()\" {{
            ::onelens_image::rt::Show::evcxr_display(&::core::format_args!(\"{text}\", self));
        }}
    }}
}}
"
            ));
        }
        if let Some(Format { text, of }) = &self.formats.error {
            source.push(&format!(
                "struct __OnelensFailure(::onelens_image::rt::Failure);
impl<E: ::core::fmt::{of}> ::core::convert::From<E> for __OnelensFailure {{
    fn from(error: E) -> Self {{
        __OnelensFailure(::core::convert::From::from(::alloc::format!(\"{text}\", error)))
    }}
}}
"
            ));
        }
    }

    fn write_items(&self, source: &mut Source) {
        let Some(linked) = self.linked else {
            return write_items(self.uses, self.items, self.homes, "", source);
        };
        write_macros(self.items, self.homes, source);
        source.push(&format!("use ::{CRATE}::*;\n"));
        for one in self.uses.iter().filter(|one| !linked.contains(one.whole())) {
            one.write(source);
        }
    }

    fn write_stage(
        &self,
        k: usize,
        stage: &Stage,
        live: &mut Vec<Live>,
        next: &mut Binding,
        out: &mut Generated,
    ) {
        // What the stage hands out: the variables it defines, and those it moved and assigned again.
        let mut handed: Vec<Live> = Vec::new();
        for bind in &stage.binds {
            handed.push(Live { name: bind.name.clone(), mutable: bind.mutable, binding: *next });
            *next += 1;
        }
        let is_new = |name: &str| stage.binds.iter().any(|bind| bind.name == name);
        let returned = |l: &&Live| self.fates.returned.contains(&(l.binding, k)) && !is_new(&l.name);
        handed.extend(live.iter().filter(returned).cloned());

        let names: Vec<&str> = handed.iter().map(|l| l.name.as_str()).collect();
        let waits = self.waiting.contains(&k) || mentions::awaits(&stage.tokens);
        // What stands around the statements: what drives them, and what turns their error into one that the library
        // knows.
        let own_error = self.formats.error.is_some();
        let (begin, failure, end) = match (waits, own_error) {
            (false, false) => ("", FAILURE, ""),
            (true, false) => ("::onelens_image::rt::block_on(async ", FAILURE, ")"),
            (false, true) => ("::core::result::Result::map_err((|| ", OWN_FAILURE, ")(), |e| e.0)"),
            (true, true) => (
                "::onelens_image::rt::block_on(async { ::core::result::Result::map_err(async ",
                OWN_FAILURE,
                ".await, |e| e.0) })",
            ),
        };
        let start = out.source.code.len();
        out.source.push(&format!(
            "let __onelens_stage = ::onelens_image::rt::stage({:?}, || {begin}{{\n",
            names.join(",")
        ));
        for statement in &stage.statements {
            out.at(&statement.quote);
            out.source.quote(&statement.quote);
            out.source.push(if statement.needs_semicolon { ";\n" } else { "\n" });
        }
        if let Some(tail) = &stage.tail {
            self.show(tail, out);
        }
        out.source.push(&format!("::core::result::Result::Ok::<_, {failure}>(("));
        handed.retain(|l| !self.is_gone(l.binding, k));
        for l in &handed {
            out.site(l, k, true, &format!("{}, ", l.name));
        }
        out.source.push(&format!("))\n}}{end});\n"));
        out.stages.push(start..out.source.code.len());

        let is_last = k + 1 == self.cell.stages.len();
        if !is_last || !handed.is_empty() || !stage.binds.is_empty() {
            let patterns: String = handed.iter().map(|l| pattern(&l.name, l.mutable) + ", ").collect();
            out.source
                .push(&format!("let ::core::option::Option::Some(({patterns})) = __onelens_stage else {{\n"));
            if self.loses(k, live) {
                out.source.push("::onelens_image::rt::lost();\n");
            }
            self.put_all(k, live.iter().filter(|l| !self.fates.returned.contains(&(l.binding, k))), out);
            out.source.push("return;\n};\n");
        } else if self.loses(k, live) {
            out.source.push("if __onelens_stage.is_none() { ::onelens_image::rt::lost(); }\n");
        }
        live.retain(|old| !is_new(&old.name));
        live.extend(handed.into_iter().filter(|l| is_new(&l.name)));
    }

    /// The last expression, whose value is the cell's result. It is only looked at: `x` at the end of a cell
    /// does not move `x`.
    fn show(&self, tail: &Quote, out: &mut Generated) {
        out.at(tail);
        out.source.push("match (");
        let start = out.source.code.len();
        out.source.quote(tail);
        out.source.push("\n) { ref __onelens_value => { ");
        if !self.displays_itself {
            out.source.push(match &self.formats.value {
                Some(_) => "use __OnelensShow as _; ",
                None => "use ::onelens_image::rt::Show as _; ",
            });
        }
        out.source.push(
            "::onelens_image::rt::result_begins(); (*__onelens_value).evcxr_display(); \
             ::onelens_image::rt::result_ends(); } }\n",
        );
        out.tail = Some(tail.clone());
        out.shown = Some(start..out.source.code.len());
    }

    fn is_gone(&self, binding: Binding, stage: usize) -> bool {
        self.fates.gone.get(&binding).is_some_and(|since| *since <= stage)
    }

    /// Whether a failure of this stage would lose a variable from before the cell.
    fn loses(&self, k: usize, live: &[Live]) -> bool {
        self.taken.iter().any(|taken| {
            // The one of that name that a failure would put back; a new one may stand for the old one.
            let kept = |l: &Live| {
                l.name == taken.name
                    && !self.is_gone(l.binding, k)
                    && !self.fates.returned.contains(&(l.binding, k))
            };
            !live.iter().any(kept)
        })
    }

    fn put_all<'l>(&self, k: usize, live: impl Iterator<Item = &'l Live>, out: &mut Generated) {
        for l in live.filter(|l| !self.is_gone(l.binding, k)) {
            out.site(l, k, false, &format!("::onelens_image::rt::put({:?}, {});\n", l.name, l.name));
        }
    }
}

impl Generated {
    /// Says which line of the cell runs next.
    fn at(&mut self, quote: &Quote) {
        let (line, _) = quote.position(quote.range.start);
        self.source.push(&format!("::onelens_image::rt::at({line});\n"));
    }

    /// Code that hands a variable on.
    fn site(&mut self, variable: &Live, stage: usize, in_tuple: bool, code: &str) {
        let start = self.source.code.len();
        self.source.push(code);
        let range = start..self.source.code.len();
        let (name, binding) = (variable.name.clone(), variable.binding);
        self.sites.push(Site { range, name, binding, stage, in_tuple });
    }
}

fn pattern(name: &str, mutable: bool) -> String {
    format!("{}{name}", if mutable { "mut " } else { "" })
}
