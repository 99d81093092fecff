//! A cell on its way through rustc: compiled again until it is known which variables it moves.

use super::compiler::{Compiled, Compiler};
use super::diagnostics::{self, spans};
use super::generate::{Fates, Generated, Generator, Site, Taken};
use super::scope::{Formats, Scope};
use crate::cells::CellError;
use crate::engine::parse::cell::Cell;
use crate::engine::parse::items::Items;
use crate::engine::parse::source::{Quote, Source, Text};
use crate::engine::parse::statics::Homes;
use crate::engine::parse::{mentions, report};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A cell with everything that its crate is generated from.
pub(in crate::engine) struct Draft {
    pub(in crate::engine) cell: Cell,
    pub(in crate::engine) text: Text,
    pub(in crate::engine) scope: Scope,
    taken: Vec<Taken>,
    fates: Fates,
    /// What is known about names that may be asked for in vain.
    hints: BTreeMap<String, String>,
    /// Where the items are, if the cell need not compile them.
    linked: Option<Linked>,
    homes: Homes,
    /// Stages that turned out to wait.
    waiting: BTreeSet<usize>,
    formats: Formats,
    /// Items of earlier cells that had to go, and why.
    pub(in crate::engine) retired: BTreeMap<String, String>,
}

/// A library of items that the cell links.
pub(in crate::engine) struct Linked {
    pub(in crate::engine) path: PathBuf,
    pub(in crate::engine) uses: BTreeSet<String>,
}

/// A cell that compiled.
pub(in crate::engine) struct Settled {
    pub(in crate::engine) library: PathBuf,
    pub(in crate::engine) source: Source,
    /// Whether it compiled the items itself.
    pub(in crate::engine) has_items: bool,
    pub(in crate::engine) warnings: Vec<String>,
}

impl Draft {
    pub(in crate::engine) fn new(
        cell: Cell,
        text: Text,
        scope: Scope,
        taken: Vec<Taken>,
        hints: BTreeMap<String, String>,
        linked: Option<Linked>,
        homes: Homes,
    ) -> Self {
        let (fates, waiting, retired) = (Fates::default(), BTreeSet::new(), BTreeMap::new());
        let formats = scope.formats.clone();
        Draft { cell, text, scope, taken, fates, hints, linked, homes, waiting, formats, retired }
    }

    /// Compiles until rustc has nothing to say that another way of generating the crate would answer.
    pub(in crate::engine) fn settle(
        &mut self,
        compiler: &Compiler,
        displays_itself: &mut bool,
    ) -> Result<Settled, CellError> {
        let number = self.text.cell;
        // Each variable is learnt of at most twice in each stage, each item retired once, the display changed once,
        // each stage made to wait once, the runtime left out once, and the format once.
        let (variables, stages) = (self.taken.len() + self.binds(), self.cell.stages.len());
        let mut rounds = 2 * variables * stages.max(1)
            + self.scope.items.iter().count()
            + 2 * self.taken.len()
            + stages
            + 4;
        let displayed_itself = *displays_itself;
        loop {
            let generated = self.generate(*displays_itself, compiler);
            let linked = self.linked.as_ref().map(|linked| linked.path.as_path());
            let compiled = compiler.compile(number, &generated, linked);
            let errors = match compiled.map_err(|failure| CellError::failed("CompileError", &failure))? {
                Compiled::Library { path, warnings } => {
                    let source = generated.source;
                    let warnings =
                        warnings.iter().filter_map(|w| diagnostics::warning(w, &source, number)).collect();
                    let has_items = self.linked.is_none();
                    return Ok(Settled { library: path, source, has_items, warnings });
                }
                Compiled::Interrupted => {
                    return Err(CellError::plain("KeyboardInterrupt", "interrupted before the cell ran"));
                }
                Compiled::Errors(errors) => errors,
            };
            if let Some(name) = borrowed(&errors, &generated) {
                let at = bound_at(&self.cell, &name).unwrap_or_else(|| self.text.whole());
                let what = diagnostics::borrowed_sentence(&name);
                return Err(report::refusal(&what, diagnostics::borrowed_help(), &at));
            }
            rounds = rounds.saturating_sub(1);
            let another_way = rounds > 0
                && (learn_runtime(&errors, &generated, compiler)
                    || learn_waits(&errors, &generated, &mut self.waiting)
                    || self.learn_format(&errors, &generated)
                    || learn_types(&errors, &generated, &mut self.taken, &mut self.hints)
                    || learn_moves(&errors, &generated, &self.cell, &mut self.fates)
                    || (*displays_itself == displayed_itself
                        && learn_display(&errors, &generated, displays_itself))
                    || retire(&errors, &generated, &mut self.scope.items, number, &mut self.retired));
            if another_way {
                continue;
            }
            // What is wrong with the crate apart may be right in the crate with everything.
            if self.linked.take().is_some() {
                self.fates = Fates::default();
                *displays_itself = displayed_itself;
            } else {
                *displays_itself = displayed_itself;
                compiler.failed(&errors);
                return Err(diagnostics::compile_error(&errors, &generated, number, &self.hints));
            }
        }
    }

    /// How many variables the cell defines.
    fn binds(&self) -> usize {
        self.cell.stages.iter().map(|stage| stage.binds.len()).sum()
    }

    /// The variables from before the cell that it moves, with what moves them.
    pub(in crate::engine) fn moved(&self) -> BTreeMap<String, String> {
        let moved = self.fates.gone.iter().filter_map(|(binding, stage)| {
            let name = &self.taken.get(*binding)?.name;
            let stage = self.cell.stages.get(*stage)?;
            let mut statements = stage.statements.iter().map(|statement| &statement.quote).chain(&stage.tail);
            let mentions = |quote: &&Quote| {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                quote.as_str().split(|c| !is_word(c)).any(|word| word == name)
            };
            Some((name.clone(), first_line(statements.rfind(mentions)?.as_str())))
        });
        moved.collect()
    }

    fn generate(&self, displays_itself: bool, compiler: &Compiler) -> Generated {
        let generator = Generator {
            attributes: &self.scope.attributes,
            links: compiler.links(),
            uses: &self.scope.uses,
            items: &self.scope.items,
            cell: &self.cell,
            taken: &self.taken,
            fates: &self.fates,
            displays_itself,
            homes: &self.homes,
            linked: self.linked.as_ref().map(|linked| &linked.uses),
            formats: &self.formats,
            in_tokio: compiler.has_tokio() && self.may_need_tokio(),
            waiting: &self.waiting,
        };
        generator.generate()
    }

    /// What has no such format as the user wants is shown as usual.
    fn learn_format(&mut self, errors: &[Value], generated: &Generated) -> bool {
        errors.iter().any(|error| diagnostics::cannot_show(error, generated))
            && self.formats.value.take().is_some()
    }

    /// Whether the cell waits, or may call something of tokio's, be it through an item.
    fn may_need_tokio(&self) -> bool {
        !self.waiting.is_empty()
            || self.cell.mentions.contains("tokio")
            || self.cell.stages.iter().any(|stage| mentions::awaits(&stage.tokens))
            || self.scope.items.may_name(&self.scope.uses, "tokio")
    }
}

/// The first line of a statement, for a message.
fn first_line(statement: &str) -> String {
    const MOST: usize = 60;
    let line = statement.lines().next().unwrap_or_default();
    if line.len() == statement.len() && line.chars().count() <= MOST {
        return line.to_string();
    }
    format!("{} ..", line.chars().take(MOST).collect::<String>().trim_end())
}

/// A type that cannot be written as it was is written as the user did. If there is no such way, the variable stays
/// where it is, as a name that occurs need not be the variable's.
fn learn_types(
    errors: &[Value],
    generated: &Generated,
    taken: &mut Vec<Taken>,
    hints: &mut BTreeMap<String, String>,
) -> bool {
    let wrong: BTreeSet<&String> = errors
        .iter()
        .flat_map(spans)
        .filter(|span| span["is_primary"] == true && diagnostics::is_cells(span))
        .filter_map(|span| {
            let at = diagnostics::byte(span, "byte_start");
            generated.takes.iter().find(|(range, _)| range.contains(&at)).map(|(_, name)| name)
        })
        .collect();
    taken.retain_mut(|taken| {
        if !wrong.contains(&taken.name) {
            return true;
        }
        let Some(annotation) = taken.annotation.take() else {
            let ty = std::mem::take(&mut taken.ty);
            hints.insert(taken.name.clone(), diagnostics::private_hint(&taken.name, &ty));
            return false;
        };
        (taken.ty, taken.asks) = (annotation, false);
        true
    });
    !wrong.is_empty()
}

/// The session's tokio may have been built without a runtime.
fn learn_runtime(errors: &[Value], generated: &Generated, compiler: &Compiler) -> bool {
    let Some(runtime) = &generated.runtime else { return false };
    let of_runtime = |span: &Value| {
        diagnostics::is_cells(span) && runtime.contains(&diagnostics::byte(span, "byte_start"))
    };
    let missing = errors.iter().flat_map(spans).any(of_runtime);
    if missing {
        compiler.forget_tokio();
    }
    missing
}

/// A macro may wait, as `join!` and `select!` do: then so does the stage that calls it.
fn learn_waits(errors: &[Value], generated: &Generated, waiting: &mut BTreeSet<usize>) -> bool {
    let outside_async = errors.iter().filter(|error| error["code"]["code"] == "E0728");
    let primary = outside_async.flat_map(spans).filter(|span| span["is_primary"] == true).map(called);
    let stages: BTreeSet<usize> = primary
        .filter(|span| diagnostics::is_cells(span))
        .filter_map(|span| {
            let at = diagnostics::byte(span, "byte_start");
            generated.stages.iter().position(|stage| stage.contains(&at))
        })
        .collect();
    let before = waiting.len();
    waiting.extend(stages);
    waiting.len() > before
}

/// A `use` of the session may bring its own `evcxr_display` for everything that has `Debug`.
fn learn_display(errors: &[Value], generated: &Generated, displays_itself: &mut bool) -> bool {
    let Some(shown) = &generated.shown else { return false };
    let ambiguous = |error: &Value| {
        // In the code that shows the value, not in the value's own.
        error["code"]["code"] == "E0034"
            && spans(error).any(|span| {
                shown.contains(&diagnostics::byte(span, "byte_start"))
                    && diagnostics::origin(span, &generated.source).is_none()
            })
    };
    let another_way = match *displays_itself {
        false => errors.iter().any(ambiguous),
        true => errors.iter().any(|error| diagnostics::cannot_show(error, generated)),
    };
    *displays_itself ^= another_way;
    another_way
}

/// Reads from rustc's complaints which variables a stage moves. False if there are other errors too.
fn learn_moves(errors: &[Value], generated: &Generated, cell: &Cell, fates: &mut Fates) -> bool {
    let mut found: BTreeMap<usize, &Site> = BTreeMap::new();
    for error in errors.iter().filter(|error| spans(error).next().is_some()) {
        let moved = matches!(error["code"]["code"].as_str(), Some("E0382" | "E0505" | "E0381" | "E0507"));
        let Some(site) = primary_site(error, generated).filter(|_| moved) else { return false };
        let earliest = found.entry(site.binding).or_insert(site);
        if site.stage < earliest.stage {
            *earliest = site;
        }
    }
    for (binding, site) in &found {
        let comes_back = || mentions::assigns(cell.stages[site.stage].tokens.clone(), &site.name);
        let returned = (*binding, site.stage);
        if !site.in_tuple && !fates.returned.contains(&returned) && comes_back() {
            fates.returned.insert(returned);
        } else {
            fates.returned.remove(&returned);
            fates.gone.insert(*binding, site.stage);
        }
    }
    !found.is_empty()
}

fn primary_site<'g>(error: &Value, generated: &'g Generated) -> Option<&'g Site> {
    spans(error).filter(|span| span["is_primary"] == true).find_map(|span| site_at(span, generated))
}

fn site_at<'g>(span: &Value, generated: &'g Generated) -> Option<&'g Site> {
    sites_at(span, generated).next()
}

/// The sites that a span touches: the whole tuple, if it is about returning that.
fn sites_at<'g>(span: &Value, generated: &'g Generated) -> impl Iterator<Item = &'g Site> {
    let (start, end) = (diagnostics::byte(span, "byte_start"), diagnostics::byte(span, "byte_end"));
    let ours = diagnostics::is_cells(span) && diagnostics::origin(span, &generated.source).is_none();
    generated.sites.iter().filter(move |site| ours && site.range.start < end && start < site.range.end)
}

/// The variable that cannot be kept because it borrows.
fn borrowed(errors: &[Value], generated: &Generated) -> Option<String> {
    let about_lifetimes = |error: &&Value| {
        let code = error["code"]["code"].as_str();
        let message = error["message"].as_str().unwrap_or_default();
        matches!(
            code,
            Some("E0597" | "E0716" | "E0310" | "E0521" | "E0373" | "E0515" | "E0499" | "E0502" | "E0506")
        ) || message.contains("lifetime may not live long enough")
            || message.contains("captured variable cannot escape")
    };
    for error in errors.iter().filter(about_lifetimes) {
        let names: Vec<&str> =
            spans(error).flat_map(|span| sites_at(span, generated)).map(|site| site.name.as_str()).collect();
        if let Some(first) = names.first() {
            return Some(first.to_string());
        }
    }
    // Putting back what a kept borrow still needs.
    for error in errors.iter().filter(|error| error["code"]["code"] == "E0505") {
        let Some(put) = primary_site(error, generated) else { continue };
        let user =
            spans(error).filter(|span| span["is_primary"] != true).find_map(|span| site_at(span, generated));
        if let Some(user) = user.filter(|user| user.binding != put.binding) {
            return Some(user.name.clone());
        }
    }
    None
}

/// Removes items of earlier cells that fail only because of what this cell defines.
fn retire(
    errors: &[Value],
    generated: &Generated,
    items: &mut Items,
    cell: usize,
    retired: &mut BTreeMap<String, String>,
) -> bool {
    let mut titles = BTreeMap::new();
    for error in errors.iter().filter(|error| spans(error).next().is_some()) {
        let quotes = |primary: bool| {
            let spans = spans(error).filter(move |span| (span["is_primary"] == true) == primary);
            spans.filter_map(|span| diagnostics::origin(called(span), &generated.source))
        };
        let earlier = |quote: &Quote| (quote.text.cell != cell).then(|| items.title_at(quote)).flatten();
        let Some(title) = quotes(true).next().and_then(|quote| earlier(&quote)).or_else(|| {
            // What is there twice, once by an earlier cell, is the new one's.
            let twice = matches!(error["code"]["code"].as_str(), Some("E0119" | "E0428" | "E0592"));
            quotes(false).find_map(|quote| earlier(&quote)).filter(|_| twice)
        }) else {
            return false;
        };
        // A lifetime that a definition may leave out.
        if error["code"]["code"] == "E0106" && items.forget_state(&title) {
            return true;
        }
        let message = error["message"].as_str().unwrap_or_default().to_string();
        titles.insert(title, message);
    }
    items.remove_titled(&titles.keys().cloned().collect());
    let any = !titles.is_empty();
    retired.extend(titles);
    any
}

/// Where the macro was called that a span is in, if it is in one.
fn called(span: &Value) -> &Value {
    let mut span = span;
    while span["expansion"]["span"].is_object() {
        span = &span["expansion"]["span"];
    }
    span
}

fn bound_at(cell: &Cell, name: &str) -> Option<Quote> {
    let stage = cell.stages.iter().rev().find(|stage| stage.binds.iter().any(|bind| bind.name == name))?;
    Some(stage.statements.last()?.quote.clone())
}
