//! What is in force between cells, and how a cell changes it.

use super::commands::{self, Command};
use super::compile::{Compiled, Compiler};
use super::diagnostics::{self, spans};
use super::generate::{Fates, Generated, Generator, Site, Taken};
use super::interrupt::Control;
use super::items::Items;
use super::parse::{self, Cell};
use super::process::Process;
use super::source::Text;
use super::streams::Blocks;
use super::types::{self, Paths};
use super::uses::Uses;
use super::{CellError, Output};
use crate::image::Image;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A variable, as the engine knows it.
#[derive(Clone)]
pub(super) struct Variable {
    /// As `std::any::type_name` gives it.
    pub(super) ty: String,
    pub(super) mutable: bool,
}

/// Declarations and items of the session.
#[derive(Clone, Default)]
struct Scope {
    uses: Uses,
    items: Items,
}

pub(super) struct Session {
    pub(super) control: Arc<Control>,
    pub(super) process: Process,
    pub(super) variables: BTreeMap<String, Variable>,
    pub(super) blocks: Blocks,
    image: Image,
    program: PathBuf,
    folder: PathBuf,
    compiler: Compiler,
    paths: Paths,
    scope: Scope,
    number: usize,
    /// What became of variables that are no more.
    gone: BTreeMap<String, String>,
    displays_itself: bool,
}

/// A cell that compiled.
pub(super) struct Ready {
    pub(super) library: PathBuf,
    pub(super) text: Text,
    pub(super) generated: Generated,
    /// Variables the cell defines, and whether as `mut`.
    pub(super) binds: BTreeMap<String, bool>,
}

impl Session {
    pub(super) fn start(image: &Image, program: &Path, folder: PathBuf) -> Result<Self, String> {
        let control = Arc::new(Control::default());
        let process = Process::start(image, program, &folder)?;
        let mut session = Session {
            compiler: Compiler::new(image, folder.clone(), Arc::clone(&control)),
            paths: Paths::load(image.deps().join("paths")),
            image: image.clone(),
            program: program.to_path_buf(),
            control,
            process,
            folder,
            variables: BTreeMap::new(),
            blocks: Blocks::default(),
            scope: Scope::default(),
            number: 0,
            gone: BTreeMap::new(),
            displays_itself: false,
        };
        session.wait_until_ready()?;
        Ok(session)
    }

    /// Starts a worker anew after everything of the old one was lost.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.variables.clear();
        // The old supervisor removes the folder when it ends.
        self.process = Process::start(&self.image, &self.program, &self.folder)?;
        std::fs::create_dir_all(&self.folder).map_err(|e| e.to_string())?;
        self.wait_until_ready()
    }

    pub(super) fn types_for_display(&self) -> BTreeMap<String, String> {
        self.variables.iter().map(|(name, v)| (name.clone(), types::for_display(&v.ty))).collect()
    }

    pub(super) fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        let (commands, code) = commands::split(code);
        for command in commands {
            self.command(command, on_output)?;
        }
        if code.trim().is_empty() {
            return Ok(());
        }
        self.number += 1;
        let text = Text { cell: self.number, code: code.into() };
        let cell = parse::parse(&text)?;
        let Some(ready) = self.prepare(cell, text, on_output)? else { return Ok(()) };
        let result = self.run(&ready, on_output);
        // It stays mapped in the worker for as long as values may need it.
        let _ = std::fs::remove_file(&ready.library);
        result
    }

    fn command(&mut self, command: Command, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        let error = |text: String| diagnostics::plain("CommandError", &text);
        let mut say = |text: String| on_output(Output::Result(vec![("text/plain".into(), text)]));
        match command {
            Command::Vars => {
                let types = self.types_for_display();
                let lines: Vec<String> = types.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
                say(if lines.is_empty() { "no variables yet".into() } else { lines.join("\n") });
                Ok(())
            }
            Command::Help => {
                say(commands::HELP.into());
                Ok(())
            }
            Command::Opt(level) => {
                self.compiler.opt_level = commands::opt_level(&level).map_err(error)?;
                Ok(())
            }
            Command::Dep(asked) => commands::dep(&asked, self.compiler.image()).map_err(error),
            Command::Unknown(name) => {
                Err(error(format!("`{name}` is not a command of this kernel\nhelp: `:help` lists the commands")))
            }
        }
    }

    /// Compiles a cell and puts its declarations and items in force; `None` if nothing is left to run.
    fn prepare(
        &mut self,
        cell: Cell,
        text: Text,
        on_output: &mut dyn FnMut(Output),
    ) -> Result<Option<Ready>, CellError> {
        let (mut scope, changed, reshaped) = self.scope_with(&cell);
        let dropped: BTreeSet<String> = self
            .variables
            .iter()
            .filter(|(_, v)| types::own_names(&v.ty).iter().any(|name| changed.contains(name)))
            .map(|(name, _)| name.clone())
            .collect();
        let taken = self.taken(&cell, &dropped)?;
        if reshaped {
            self.compiler.generation += 1;
        }
        let mut fates = Fates::default();
        let mut retired: BTreeMap<String, String> = BTreeMap::new();
        let (library, warnings, generated) = loop {
            let generator = Generator {
                uses: &scope.uses,
                items: &scope.items,
                cell: &cell,
                taken: &taken,
                fates: &fates,
                displays_itself: self.displays_itself,
            };
            let generated = generator.generate();
            let compiled = self.compiler.compile(self.number, &generated.source.code);
            let errors = match compiled.map_err(|text| diagnostics::plain("CompileError", &text))? {
                Compiled::Library { path, warnings } => break (path, warnings, generated),
                Compiled::Interrupted => {
                    return Err(diagnostics::plain("KeyboardInterrupt", "interrupted before the cell ran"));
                }
                Compiled::Errors(errors) => errors,
            };
            if let Some(name) = borrowed(&errors, &generated) {
                let at = bound_at(&cell, &name).unwrap_or_else(|| text.whole());
                let what = diagnostics::borrowed_sentence(&name);
                return Err(diagnostics::refusal(&what, diagnostics::borrowed_help(), &at));
            }
            let retry = learn_moves(&errors, &generated, &cell, &mut fates)
                || self.learn_display(&errors, &generated)
                || retire(&errors, &generated, &mut scope.items, self.number, &mut retired);
            if !retry {
                return Err(diagnostics::compile_error(&errors, &generated, self.number, &self.hints(&dropped)));
            }
        };
        for warning in &warnings {
            if let Some(text) = diagnostics::warning(warning, &generated.source, self.number) {
                on_output(Output::Stderr(text));
            }
        }
        self.scope = scope;
        self.drop_variables(&dropped, &changed, on_output);
        for (title, why) in retired {
            on_output(Output::Stderr(format!(
                "`{title}` of an earlier cell was removed, because it no longer compiles: {why}\n"
            )));
        }
        let mut binds = BTreeMap::new();
        for bind in cell.stages.iter().flat_map(|stage| &stage.binds) {
            binds.insert(bind.name.clone(), bind.mutable);
        }
        if cell.stages.is_empty() {
            let _ = std::fs::remove_file(library);
            return Ok(None);
        }
        Ok(Some(Ready { library, text, generated, binds }))
    }

    /// The scope with the cell's declarations and items, the names whose meaning changes, and whether that
    /// changes a definition there was before.
    fn scope_with(&self, cell: &Cell) -> (Scope, BTreeSet<String>, bool) {
        let mut scope = self.scope.clone();
        let used: BTreeSet<String> = cell.uses.iter().filter_map(|one| self.scope.uses.rebinds(one)).collect();
        let changed = self.scope.items.changes(&cell.items, &used);
        let reshaped = self.scope.items.iter().any(|item| item.names.iter().any(|name| changed.contains(name)));
        for name in cell.uses.iter().filter_map(|one| one.name.as_ref()) {
            scope.items.remove(name);
        }
        for name in cell.items.iter().filter(|item| item.kind == super::items::Kind::Other).flat_map(|i| &i.names) {
            scope.uses.remove(name);
        }
        scope.uses.add(cell.uses.clone());
        scope.items.add(cell.items.clone());
        (scope, changed, reshaped)
    }

    /// The variables that occur in the cell, with types that code can name.
    fn taken(&mut self, cell: &Cell, dropped: &BTreeSet<String>) -> Result<Vec<Taken>, CellError> {
        let wanted: Vec<(String, Variable)> = self
            .variables
            .iter()
            .filter(|(name, _)| cell.mentions.contains(*name) && !dropped.contains(*name))
            .map(|(name, variable)| (name.clone(), variable.clone()))
            .collect();
        self.paths.learn(wanted.iter().map(|(_, variable)| variable.ty.as_str()), &self.compiler);
        let mut taken = Vec::new();
        for (name, variable) in wanted {
            let ty = self.paths.nameable(&variable.ty).map_err(|path| {
                diagnostics::plain("CompileError", &format!(
                    "`{name}` cannot be used in a later cell: its type, {}, is private ({path})\nhelp: keep what you need of it in a variable of another type, in the cell that makes it",
                    types::for_display(&variable.ty)
                ))
            })?;
            taken.push(Taken { name, mutable: variable.mutable, ty });
        }
        Ok(taken)
    }

    /// A `use` of the session may bring its own `evcxr_display` for everything that has `Debug`.
    fn learn_display(&mut self, errors: &[Value], generated: &Generated) -> bool {
        let Some(shown) = &generated.shown else { return false };
        let ambiguous = |error: &Value| {
            error["code"]["code"] == "E0034"
                && spans(error).any(|span| shown.contains(&diagnostics::byte(span, "byte_start")))
        };
        if !self.displays_itself && errors.iter().any(ambiguous) {
            self.displays_itself = true;
            return true;
        }
        if self.displays_itself && errors.iter().any(|error| diagnostics::cannot_show(error, generated)) {
            self.displays_itself = false;
            return true;
        }
        false
    }

    fn drop_variables(
        &mut self,
        dropped: &BTreeSet<String>,
        changed: &BTreeSet<String>,
        on_output: &mut dyn FnMut(Output),
    ) {
        for name in dropped {
            let Some(variable) = self.variables.remove(name) else { continue };
            self.process.send(&["forget", name]);
            let ty = types::for_display(&variable.ty);
            let culprit = types::own_names(&variable.ty).into_iter().find(|own| changed.contains(own));
            let culprit = culprit.unwrap_or_default();
            on_output(Output::Stderr(format!(
                "the variable `{name}` ({ty}) was dropped: this cell changes what `{culprit}` means\n"
            )));
            let hint = format!("`{name}` was dropped when a cell changed what `{culprit}` means; make it again");
            self.gone.insert(name.clone(), hint);
        }
    }

    /// What to say when a name is not found or cannot be changed.
    fn hints(&self, dropped: &BTreeSet<String>) -> BTreeMap<String, String> {
        let mut hints = self.gone.clone();
        for (name, _) in self.variables.iter().filter(|(_, variable)| !variable.mutable) {
            hints.insert(name.clone(), format!("`{name}` was defined without `mut`; begin with `let mut {name} = {name};`"));
        }
        for name in dropped {
            hints.insert(name.clone(), format!("this cell changes the type of `{name}`, which is dropped by that; make it again"));
        }
        hints
    }

    /// Takes over the variables that the worker has after a cell.
    pub(super) fn set_variables(&mut self, pairs: &[String], binds: &BTreeMap<String, bool>, failed: bool) {
        let old = std::mem::take(&mut self.variables);
        for pair in pairs.chunks_exact(2) {
            let (name, ty) = (&pair[0], &pair[1]);
            let before = old.get(name).is_some_and(|variable| variable.mutable);
            // After a failure one does not know which of two variables of that name it is.
            let mutable = match binds.get(name) {
                Some(mutable) if failed => *mutable || before,
                Some(mutable) => *mutable,
                None => before,
            };
            self.gone.remove(name);
            self.variables.insert(name.clone(), Variable { ty: ty.clone(), mutable });
        }
        for name in old.keys().filter(|name| !self.variables.contains_key(*name)) {
            let hint = format!("`{name}` was moved by an earlier cell; use `{name}.clone()` or `&{name}` there to keep it");
            self.gone.insert(name.clone(), hint);
        }
    }
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
        let comes_back = || super::mentions::assigns(cell.stages[site.stage].tokens.clone(), &site.name);
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
    let byte = diagnostics::byte(span, "byte_start");
    (span["file_name"] == "cell.rs").then(|| generated.sites.iter().find(|site| site.range.contains(&byte))).flatten()
}

/// The variable that cannot be kept because it borrows.
fn borrowed(errors: &[Value], generated: &Generated) -> Option<String> {
    let about_lifetimes = |error: &&Value| {
        let code = error["code"]["code"].as_str();
        let message = error["message"].as_str().unwrap_or_default();
        matches!(code, Some("E0597" | "E0716" | "E0310" | "E0521" | "E0373" | "E0515" | "E0499" | "E0502" | "E0506"))
            || message.contains("lifetime may not live long enough")
            || message.contains("captured variable cannot escape")
    };
    for error in errors.iter().filter(about_lifetimes) {
        if let Some(site) = spans(error).find_map(|span| site_at(span, generated)) {
            return Some(site.name.clone());
        }
    }
    // Putting back what a kept borrow still needs.
    for error in errors.iter().filter(|error| error["code"]["code"] == "E0505") {
        let Some(put) = primary_site(error, generated) else { continue };
        let user = spans(error).filter(|span| span["is_primary"] != true).find_map(|span| site_at(span, generated));
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
        let primary = spans(error).find(|span| span["is_primary"] == true);
        let Some(quote) = primary.and_then(|span| diagnostics::origin(span, &generated.source)) else { return false };
        let Some(title) = (quote.text.cell != cell).then(|| items.title_at(&quote)).flatten() else { return false };
        let message = error["message"].as_str().unwrap_or_default().to_string();
        titles.insert(title, message);
    }
    items.remove_titled(&titles.keys().cloned().collect());
    let any = !titles.is_empty();
    retired.extend(titles);
    any
}

fn bound_at(cell: &Cell, name: &str) -> Option<super::source::Quote> {
    let stage = cell.stages.iter().rev().find(|stage| stage.binds.iter().any(|bind| bind.name == name))?;
    Some(stage.statements.last()?.quote.clone())
}
