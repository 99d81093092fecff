//! The crate that a cell becomes.
//!
//! ```text
//! uses and items
//! extern "C" fn onelens_cell() {
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

use super::items::{Items, Kind};
use super::parse::{Bind, Cell, Stage};
use super::source::{Quote, Source};
use super::uses::Uses;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A variable that exists before the cell and occurs in it.
pub(super) struct Taken {
    pub(super) name: String,
    pub(super) mutable: bool,
    /// As Rust code can write it.
    pub(super) ty: String,
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
pub(super) struct Generated {
    pub(super) source: Source,
    pub(super) sites: Vec<Site>,
    /// The code that shows the last expression, where a missing `Debug` is reported.
    pub(super) shown: Option<Range<usize>>,
    /// The last expression.
    pub(super) tail: Option<Quote>,
}

/// What every generated crate starts with. Unused results are the one warning a notebook should see.
const HEAD: &str = "#![allow(unused, nonstandard_style)]\n#![warn(unused_must_use)]\nextern crate alloc;\nextern crate onelens_image;\n";

struct Live {
    name: String,
    mutable: bool,
    binding: Binding,
}

pub(super) struct Generator<'a> {
    pub(super) uses: &'a Uses,
    pub(super) items: &'a Items,
    pub(super) cell: &'a Cell,
    pub(super) taken: &'a [Taken],
    pub(super) fates: &'a Fates,
    /// Whether some `use` of the session already brings an `evcxr_display` for everything that has `Debug`.
    pub(super) displays_itself: bool,
}

impl Generator<'_> {
    pub(super) fn generate(&self) -> Generated {
        let mut out = Generated { source: Source::default(), sites: vec![], shown: None, tail: None };
        out.source.push(HEAD);
        self.write_items(&mut out.source);
        out.source.push("#[unsafe(no_mangle)]\nextern \"C\" fn onelens_cell() {\n");
        let mut live = Vec::new();
        for (binding, taken) in self.taken.iter().enumerate() {
            let pattern = pattern(&taken.name, taken.mutable);
            out.source.push(&format!(
                "let {pattern} = ::onelens_image::rt::take::<{}>({:?});\n",
                taken.ty, taken.name
            ));
            let (name, mutable) = (taken.name.clone(), taken.mutable);
            live.push(Live { name, mutable, binding });
        }
        let mut next = live.len();
        for (k, stage) in self.cell.stages.iter().enumerate() {
            self.write_stage(k, stage, &mut live, &mut next, &mut out);
        }
        self.put_back(self.cell.stages.len().wrapping_sub(1), &live, &mut out);
        out.source.push("}\n");
        out
    }

    fn write_items(&self, source: &mut Source) {
        for item in self.items.iter().filter(|item| item.kind == Kind::Macro) {
            item.write(source);
        }
        for one in self.uses.iter() {
            let (before, leaf, after) = one.parts();
            source.push(before);
            source.quote(leaf);
            source.push(after);
        }
        for item in self.items.iter().filter(|item| item.kind != Kind::Macro) {
            item.write(source);
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
        let returned: Vec<Bind> = live
            .iter()
            .filter(|l| self.fates.returned.contains(&(l.binding, k)))
            .filter(|l| stage.binds.iter().all(|bind| bind.name != l.name))
            .map(|l| Bind { name: l.name.clone(), mutable: l.mutable })
            .collect();
        let names: Vec<&str> = stage.binds.iter().chain(&returned).map(|bind| bind.name.as_str()).collect();
        out.source.push(&format!(
            "let __onelens_stage = ::onelens_image::rt::stage({:?}, || {{\n",
            names.join(",")
        ));
        for statement in &stage.statements {
            let (line, _) = statement.quote.position(statement.quote.range.start);
            out.source.push(&format!("::onelens_image::rt::at({line});\n"));
            out.source.quote(&statement.quote);
            out.source.push(if statement.needs_semicolon { ";\n" } else { "\n" });
        }
        if let Some(tail) = &stage.tail {
            let (line, _) = tail.position(tail.range.start);
            out.source.push(&format!("::onelens_image::rt::at({line});\nmatch ("));
            let start = out.source.code.len();
            out.source.quote(tail);
            out.source.push("\n) { ref __onelens_value => { ");
            if !self.displays_itself {
                out.source.push("use ::onelens_image::rt::Show as _; ");
            }
            out.source.push("::onelens_image::rt::result_begins(); (*__onelens_value).evcxr_display(); ::onelens_image::rt::result_ends(); } }\n");
            out.tail = Some(tail.clone());
            out.shown = Some(start..out.source.code.len());
        }
        // New bindings get their numbers before the tuple is written, so that sites can name them.
        let first_new = *next;
        *next += stage.binds.len();
        out.source.push("::core::result::Result::Ok((");
        for (i, bind) in stage.binds.iter().enumerate() {
            let binding = first_new + i;
            let gone = self.fates.gone.contains_key(&binding) && self.fates.gone[&binding] <= k;
            if !gone {
                self.site(bind, binding, k, true, out, |name| format!("{name}, "));
            }
        }
        for bind in &returned {
            let binding = live.iter().rev().find(|l| l.name == bind.name).map_or(0, |l| l.binding);
            if !self.is_gone(binding, k) {
                self.site(bind, binding, k, true, out, |name| format!("{name}, "));
            }
        }
        out.source.push("))\n});\n");
        self.bind_results(k, stage, &returned, live, first_new, out);
    }

    /// After a stage: its variables, or else everything put back and the end.
    fn bind_results(
        &self,
        k: usize,
        stage: &Stage,
        returned: &[Bind],
        live: &mut Vec<Live>,
        first_new: Binding,
        out: &mut Generated,
    ) {
        let is_last = k + 1 == self.cell.stages.len();
        if !is_last || !stage.binds.is_empty() || !returned.is_empty() {
            let mut patterns = String::new();
            for (i, bind) in stage.binds.iter().enumerate() {
                if !self.is_gone(first_new + i, k) {
                    patterns.push_str(&format!("{}, ", pattern(&bind.name, bind.mutable)));
                }
            }
            for bind in returned {
                let binding = live.iter().rev().find(|l| l.name == bind.name).map_or(0, |l| l.binding);
                if !self.is_gone(binding, k) {
                    patterns.push_str(&format!("{}, ", pattern(&bind.name, bind.mutable)));
                }
            }
            out.source
                .push(&format!("let ::core::option::Option::Some(({patterns})) = __onelens_stage else {{\n"));
            self.mark_lost(k, live, out);
            let kept: Vec<&Live> =
                live.iter().filter(|l| !self.fates.returned.contains(&(l.binding, k))).collect();
            self.put_all(k, kept.into_iter(), out);
            out.source.push("return;\n};\n");
        } else if self.loses(k, live) {
            out.source.push("if __onelens_stage.is_none() { ::onelens_image::rt::lost(); }\n");
        }
        live.retain(|old| stage.binds.iter().all(|bind| bind.name != old.name));
        for (i, bind) in stage.binds.iter().enumerate() {
            let (name, mutable) = (bind.name.clone(), bind.mutable);
            live.push(Live { name, mutable, binding: first_new + i });
        }
    }

    fn is_gone(&self, binding: Binding, stage: usize) -> bool {
        self.fates.gone.get(&binding).is_some_and(|since| *since <= stage)
    }

    /// Whether a failure of this stage would lose a variable from before the cell.
    fn loses(&self, k: usize, live: &[Live]) -> bool {
        self.taken.iter().enumerate().any(|(binding, taken)| {
            let shadowed = live.iter().all(|l| l.binding != binding);
            let returned =
                live.iter().any(|l| l.name == taken.name && self.fates.returned.contains(&(l.binding, k)));
            returned
                || (!shadowed && self.is_gone(binding, k))
                || (shadowed && !live.iter().any(|l| l.name == taken.name && !self.is_gone(l.binding, k)))
        })
    }

    fn mark_lost(&self, k: usize, live: &[Live], out: &mut Generated) {
        if self.loses(k, live) {
            out.source.push("::onelens_image::rt::lost();\n");
        }
    }

    fn put_back(&self, k: usize, live: &[Live], out: &mut Generated) {
        self.put_all(k, live.iter(), out);
    }

    fn put_all<'l>(&self, k: usize, live: impl Iterator<Item = &'l Live>, out: &mut Generated) {
        for l in live.filter(|l| !self.is_gone(l.binding, k)) {
            let bind = Bind { name: l.name.clone(), mutable: l.mutable };
            self.site(&bind, l.binding, k, false, out, |name| {
                format!("::onelens_image::rt::put({name:?}, {name});\n")
            });
        }
    }

    fn site(
        &self,
        bind: &Bind,
        binding: Binding,
        stage: usize,
        in_tuple: bool,
        out: &mut Generated,
        code: impl Fn(&str) -> String,
    ) {
        let start = out.source.code.len();
        out.source.push(&code(&bind.name));
        let range = start..out.source.code.len();
        out.sites.push(Site { range, name: bind.name.clone(), binding, stage, in_tuple });
    }
}

fn pattern(name: &str, mutable: bool) -> String {
    format!("{}{name}", if mutable { "mut " } else { "" })
}
