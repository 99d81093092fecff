//! What is in force between cells, and how a cell changes it.

use crate::base::failure::Failure;
use crate::cells::commands::{self, Command};
use crate::cells::{Ask, CellError, Output};
use crate::engine::compile::compiler::Compiler;
use crate::engine::compile::dependencies::{Added, Dependencies};
use crate::engine::compile::diagnostics;
use crate::engine::compile::draft::{Draft, Linked};
use crate::engine::compile::generate::{self, Taken};
use crate::engine::compile::library::Libraries;
use crate::engine::compile::paths::Paths;
use crate::engine::compile::scope::Scope;
use crate::engine::parse::cell::{self, Bind, Cell};
use crate::engine::parse::files;
use crate::engine::parse::items::{Changes, Item, Kind};
use crate::engine::parse::source::{Source, Text};
use crate::engine::parse::statics::Homes;
use crate::engine::parse::types;
use crate::engine::parse::uses::Use;
use crate::engine::worker::interrupt::Control;
use crate::engine::worker::process::Process;
use crate::engine::worker::shell;
use crate::engine::worker::streams::Blocks;
use crate::image::Image;
use crate::image::extension::{Extension, Trouble};
use onelens_wire::session::Order;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A variable, as the engine knows it.
#[derive(Clone)]
pub(super) struct Variable {
    /// As `std::any::type_name` gives it.
    pub(super) ty: String,
    pub(super) mutable: bool,
    /// The type that the user gave it.
    pub(super) annotation: Option<String>,
    /// Of the ways to write its type the one that has not been found wrong.
    pub(super) way: usize,
}

pub(super) struct Session {
    pub(super) control: Arc<Control>,
    pub(super) process: Process,
    pub(super) variables: BTreeMap<String, Variable>,
    pub(super) blocks: Blocks,
    pub(super) ask: Option<Ask>,
    pub(super) image: Image,
    program: PathBuf,
    folder: PathBuf,
    compiler: Compiler,
    dependencies: Dependencies,
    pub(super) paths: Paths,
    pub(super) libraries: Libraries,
    /// Statics that live in the worker.
    pub(super) homes: Homes,
    pub(super) scope: Scope,
    number: usize,
    /// What became of variables that are no more.
    gone: BTreeMap<String, String>,
    displays_itself: bool,
    /// The code of rustc's for the last error.
    last_code: Option<String>,
    /// Whether to say how long each cell took.
    timing: bool,
}

/// A cell that compiled.
pub(super) struct Ready {
    pub(super) library: PathBuf,
    pub(super) text: Text,
    pub(super) source: Source,
    /// Variables the cell defines.
    pub(super) binds: BTreeMap<String, Bind>,
    /// Variables from before it that it moves, with what moves them.
    pub(super) moved: BTreeMap<String, String>,
    /// Statics that live in this cell once it is loaded.
    pub(super) homes: Homes,
}

/// How running a cell went.
pub(super) enum Ran {
    /// It ran, be it with an error.
    Ended(Result<(), CellError>),
    /// It did not, as this variable is not of the type that it was taken for.
    Unfit(String),
}

impl Session {
    pub(super) fn start(image: &Image, program: &Path, folder: PathBuf) -> Result<Self, Failure> {
        let control = Arc::new(Control::default());
        let process = Process::start(image, program, &folder)?;
        let mut session = Session {
            compiler: Compiler::new(image, folder.clone(), Arc::clone(&control)),
            paths: Paths::load(image),
            dependencies: Dependencies::default(),
            image: image.clone(),
            program: program.to_path_buf(),
            control,
            process,
            folder,
            variables: BTreeMap::new(),
            blocks: Blocks::default(),
            ask: None,
            libraries: Libraries::default(),
            homes: Homes::new(),
            scope: Scope::default(),
            number: 0,
            gone: BTreeMap::new(),
            displays_itself: false,
            last_code: None,
            timing: false,
        };
        session.wait_until_ready()?;
        session.get_ready();
        Ok(session)
    }

    /// Starts a worker anew after everything of the old one was lost.
    pub(super) fn restart(&mut self) -> Result<(), Failure> {
        self.variables.clear();
        self.homes.clear();
        self.libraries = Libraries::default();
        // The old supervisor removes the folder when it ends.
        self.process.end();
        std::fs::create_dir_all(&self.folder).map_err(|e| Failure::of(e.to_string()))?;
        self.process = Process::start(&self.image, &self.program, &self.folder)?;
        self.compiler.folder_is_new();
        self.wait_until_ready()
    }

    pub(super) fn types_for_display(&self) -> BTreeMap<String, String> {
        self.variables.iter().map(|(name, v)| (name.clone(), types::for_display(&v.ty))).collect()
    }

    pub(super) fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        let begin = std::time::Instant::now();
        let result = self.execute_all(code, on_output);
        if let Err(error) = &result
            && is_code(&error.ename)
        {
            self.last_code = Some(error.ename.clone());
        }
        if self.timing {
            on_output(Output::Stderr(format!("onelens: {:.0} ms\n", begin.elapsed().as_secs_f64() * 1e3)));
        }
        result
    }

    fn execute_all(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        if self.image.compiler_was_replaced() {
            self.renew(on_output)?;
        }
        let (commands, code) = commands::split(code);
        // All `:dep` lines of a cell are built together.
        let asked = commands.iter().filter_map(|command| match command {
            Command::Dep(asked) => Some(asked.clone()),
            _ => None,
        });
        self.depend(&asked.collect::<Vec<_>>(), on_output)?;
        for command in commands {
            self.command(command, on_output)?;
        }
        self.cell(&code, on_output)
    }

    /// Runs the code of a cell.
    fn cell(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        if code.trim().is_empty() {
            return Ok(());
        }
        loop {
            self.number += 1;
            let text = Text::of_cell(self.number, &files::with_whole_paths(code, &files::beside()));
            let cell = cell::parse(&text, &self.scope.items.item_macros())?;
            let main_waits = cell.items.iter().any(|item| item.names == ["main"] && item.word() == "fn")
                && !cell.mentions.contains("main");
            let prepared = self.prepare(cell, text, on_output)?;
            if main_waits {
                on_output(Output::Stderr(
                    "onelens: `main` is defined, and waits to be called: `main()`; what stands outside of functions runs by itself\n".into(),
                ));
            }
            let Some(ready) = prepared else { return Ok(()) };
            let ran = self.run(&ready, on_output);
            self.libraries.renew(&self.scope, &self.homes, &self.compiler);
            self.learn_paths();
            // It stays mapped in the worker for as long as values may need it.
            let _ = std::fs::remove_file(&ready.library);
            match ran {
                Ran::Ended(result) => return result,
                // Nothing of the cell has run. Each way is tried once.
                Ran::Unfit(name) => {
                    if let Some(variable) = self.variables.get_mut(&name) {
                        variable.way += 1;
                    }
                }
            }
        }
    }

    /// Has a compiler wait for the next cell.
    pub(super) fn get_ready(&mut self) {
        let head = generate::head(&self.scope.attributes, self.compiler.links());
        let library = self.libraries.usable(&self.scope, &self.compiler);
        self.compiler.get_ready(self.number + 1, &head.code, library.map(|library| library.path.as_path()));
    }

    fn learn_paths(&mut self) {
        self.paths.learn_later(self.variables.values().map(|variable| variable.ty.as_str()), &self.compiler);
    }

    /// Goes on with the library for the compiler that has taken the place of the one there was. If that is another
    /// version, nothing that the old one compiled can be kept.
    fn renew(&mut self, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        let error = |failure: Failure| CellError::failed("EnvironmentError", &failure);
        let mut say = |text: &str| on_output(Output::Stderr(format!("onelens: {text}\n")));
        say(&format!("the Rust compiler {} was replaced", self.image.rustc().display()));
        let image = Image::ensure(&mut say).map_err(error)?;
        let same = image.library() == self.image.library();
        self.image = image;
        if same {
            return Ok(());
        }
        say(
            "the variables are gone, as code of two compilers does not mix; repeat `:dep` lines, and run the cells that make the variables again",
        );
        for name in self.variables.keys() {
            let hint = format!("`{name}` was dropped when the Rust compiler was replaced; make it again");
            self.gone.insert(name.clone(), hint);
        }
        self.begin_anew();
        self.dependencies = Dependencies::default();
        self.restart().map_err(error)
    }

    /// Makes the crates of `:dep` lines available.
    fn depend(&mut self, asked: &[String], on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        if asked.is_empty() {
            return Ok(());
        }
        let say = &mut |line: &str| on_output(Output::Stderr(format!("onelens: {line}\n")));
        let scope = &self.scope;
        let is_in_use = |name: &str| scope.items.may_name(&scope.uses, name);
        match self.dependencies.add(asked, &self.image, &self.control, &is_in_use, say) {
            Ok(Added::Nothing) => Ok(()),
            Ok(Added::Beside(extension)) => {
                self.extend(&extension);
                Ok(())
            }
            Ok(Added::Anew(extension, edited)) => {
                let names: Vec<String> = edited.iter().map(|name| format!("`{name}`")).collect();
                let names = names.join(", ");
                on_output(Output::Stderr(format!(
                    "onelens: {names} had been edited and was built again; the variables are gone, as values of the old code may be among them\n"
                )));
                for name in self.variables.keys() {
                    let hint = format!("`{name}` was dropped when {names} was built again; make it again");
                    self.gone.insert(name.clone(), hint);
                }
                self.leave(on_output);
                self.begin_anew();
                self.extend(&extension);
                self.restart().map_err(|failure| CellError::failed("DependencyError", &failure))
            }
            Err(Trouble::Interrupted) => {
                let text = "interrupted while crates were built; what is finished is not built again";
                Err(CellError::plain("KeyboardInterrupt", text))
            }
            Err(Trouble::Failed(failure)) => Err(CellError::failed("DependencyError", &failure)),
        }
    }

    /// Lets cells name the crates of an extension.
    fn extend(&mut self, extension: &Extension) {
        self.compiler.extend(extension);
        self.paths.finish();
        self.paths.try_again(self.compiler.ambiguous_crates());
        // What was found out about the values of before may have been about another version.
        self.variables.values_mut().for_each(|variable| variable.way = 0);
        self.learn_paths();
    }

    /// A compiler without further crates, and nothing known about their types.
    fn begin_anew(&mut self) {
        self.paths.finish();
        self.paths = Paths::load(&self.image);
        let opt_level = std::mem::take(&mut self.compiler.opt_level);
        let generation = self.compiler.generation + 1;
        self.compiler = Compiler::new(&self.image, self.folder.clone(), Arc::clone(&self.control));
        self.compiler.opt_level = opt_level;
        self.compiler.generation = generation;
    }

    fn command(&mut self, command: Command, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        let error = |failure: Failure| CellError::failed("CommandError", &failure);
        let mut say = |text: String| on_output(Output::Result(vec![("text/plain".into(), text)]));
        match command {
            Command::Vars => {
                on_output(Output::Result(commands::variables(&self.types_for_display())));
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
            Command::Dep(_) => Ok(()),
            Command::Type(name) => match self.variables.get(&name) {
                Some(variable) => {
                    say(types::for_display(&variable.ty));
                    Ok(())
                }
                None => Err(error(commands::no_variable(&name, self.variables.keys()))),
            },
            Command::Explain(code) => {
                let code = if code.is_empty() { self.last_code.clone() } else { Some(code) };
                let text = commands::explanation(code.as_deref(), self.image.rustc()).map_err(error)?;
                say(text);
                Ok(())
            }
            Command::LastErrorJson => {
                say(self.compiler.last_errors());
                Ok(())
            }
            Command::Toolchain(asked) => {
                if !asked.is_empty() {
                    return Err(error(commands::other_toolchain(&asked)));
                }
                say(format!("{} ({})", self.image.compiler_version(), self.image.rustc().display()));
                Ok(())
            }
            Command::ShowDeps => {
                say(self.dependencies.lines());
                Ok(())
            }
            Command::Timing => {
                self.timing = !self.timing;
                Ok(())
            }
            Command::Env(setting) => {
                let (name, value) = commands::setting_of_environment(&setting).map_err(error)?;
                self.compiler.environment.insert(name.clone(), value.clone());
                self.cell(&format!("unsafe {{ ::std::env::set_var({name:?}, {value:?}) }}"), on_output)
            }
            Command::Fmt(asked) => {
                self.scope.formats.value = commands::format(":fmt", &asked).map_err(error)?;
                Ok(())
            }
            Command::ErrorFmt(asked) => {
                self.scope.formats.error = commands::format(":efmt", &asked).map_err(error)?;
                Ok(())
            }
            Command::Clear => {
                self.scope = Scope::default();
                self.gone.clear();
                self.leave(on_output);
                self.restart().map_err(error)
            }
            Command::Version => {
                let rustc = self.image.compiler_version();
                say(format!("onelens {}, {rustc}", env!("CARGO_PKG_VERSION")));
                Ok(())
            }
            Command::Shell(line) => shell::run(&line, &self.control, on_output),
            Command::Setting(name) => {
                on_output(Output::Stderr(format!("onelens: `{name}` sets nothing in this kernel\n")));
                Ok(())
            }
            Command::Unknown(name) => Err(error(commands::unknown(&name))),
        }
    }

    /// Compiles a cell and puts its declarations and items in force; `None` if nothing is left to run.
    fn prepare(
        &mut self,
        mut cell: Cell,
        mut text: Text,
        on_output: &mut dyn FnMut(Output),
    ) -> Result<Option<Ready>, CellError> {
        self.paths.finish();
        let brought = self.brought_by_globs(&cell);
        let generation = self.compiler.generation;
        // Items that do not compile beside what the cell defines; each round finds further ones.
        let mut retired: BTreeMap<String, String> = BTreeMap::new();
        let (draft, settled, dropped) = loop {
            let (scope, changes) = self.scope_with(&cell, &retired, &brought);
            let dropped = self.touched(&changes);
            let taken = self.taken(&cell, &dropped);
            let linked = self.linked(&cell, &scope);
            let hints = self.hints(&dropped);
            let mut draft = Draft::new(cell, text, scope, taken, hints, linked, self.homes.clone());
            self.compiler.generation = generation + usize::from(changes.reshaped);
            if changes.reshaped {
                draft.scope.items.forget_former();
            }
            let settled = match draft.settle(&self.compiler, &mut self.displays_itself) {
                Ok(settled) => settled,
                Err(error) => {
                    self.compiler.generation = generation;
                    // What is wrong may be with items that do not come back yet.
                    let back: Vec<String> =
                        self.coming_back(&draft.cell, &retired).map(|i| i.title.clone()).collect();
                    if back.is_empty() {
                        return Err(error);
                    }
                    retired.extend(back.into_iter().map(|title| (title, String::new())));
                    (cell, text) = (draft.cell, draft.text);
                    continue;
                }
            };
            retired.append(&mut draft.retired);
            let (_, after) = self.scope_with(&draft.cell, &retired, &brought);
            if after.reshaped == changes.reshaped && self.touched(&after) == dropped {
                break (draft, settled, dropped);
            }
            let _ = std::fs::remove_file(settled.library);
            (cell, text) = (draft.cell, draft.text);
        };
        for warning in settled.warnings {
            on_output(Output::Stderr(warning));
        }
        let moved = draft.moved();
        let back: Vec<String> =
            self.coming_back(&draft.cell, &retired).map(|item| item.title.clone()).collect();
        let before = std::mem::replace(&mut self.scope, draft.scope);
        self.drop_variables(&dropped, on_output);
        let was_shelved = |title: &String| before.shelved.iter().any(|item| item.title == *title);
        for (title, why) in retired.iter().filter(|(title, _)| !was_shelved(title)) {
            on_output(Output::Stderr(format!(
                "`{title}` of an earlier cell was removed, because it no longer compiles: {why}\n"
            )));
        }
        for title in back {
            on_output(Output::Stderr(format!("`{title}` of an earlier cell compiles again, and is back\n")));
        }
        let shelf = before.shelved.into_iter().chain(before.items.titled(&retired));
        let scope = &self.scope;
        let shelved = shelf.filter(|item| scope.items.has_room_for(item, &scope.uses)).collect();
        self.scope.shelved = shelved;
        let homes = match settled.has_items {
            true => self.scope.items.homeless(&self.homes),
            false => Homes::new(),
        };
        if draft.cell.stages.is_empty() && homes.is_empty() {
            self.libraries.renew(&self.scope, &self.homes, &self.compiler);
            let _ = std::fs::remove_file(settled.library);
            return Ok(None);
        }
        let binds = draft.cell.stages.iter().flat_map(|stage| &stage.binds);
        let binds = binds.map(|bind| (bind.name.clone(), bind.clone())).collect();
        let (library, source) = (settled.library, settled.source);
        Ok(Some(Ready { library, text: draft.text, source, binds, moved, homes }))
    }

    /// The library of items, for a cell that defines none.
    fn linked(&mut self, cell: &Cell, scope: &Scope) -> Option<Linked> {
        if !cell.items.is_empty() {
            return None;
        }
        let library = self.libraries.usable(scope, &self.compiler)?;
        Some(Linked { path: library.path.clone(), uses: library.uses.clone() })
    }

    /// The scope with the cell's declarations and items and without the `retired` ones, and what that changes.
    fn scope_with(
        &self,
        cell: &Cell,
        retired: &BTreeMap<String, String>,
        brought: &BTreeSet<String>,
    ) -> (Scope, Changes) {
        let mut scope = self.scope.clone();
        let mut renamed: BTreeSet<String> =
            cell.uses.iter().filter_map(|one| self.scope.uses.rebinds(one)).collect();
        renamed.extend(brought.iter().cloned());
        let gone: BTreeSet<String> = retired.keys().cloned().collect();
        for name in cell.uses.iter().filter_map(|one| one.name.as_ref()) {
            scope.items.remove(name);
        }
        for name in cell.items.iter().filter(|item| item.kind == Kind::Other).flat_map(|i| &i.names) {
            scope.uses.remove(name);
        }
        for one in &cell.attributes {
            scope.attributes.retain(|old| old.key != one.key);
            scope.attributes.push(one.clone());
        }
        scope.uses.add(cell.uses.clone());
        // With both what was declared and what is: a name leads through either.
        let mut uses = self.scope.uses.clone();
        uses.add_beside(&scope.uses);
        let mut new: Vec<Item> = self.coming_back(cell, retired).cloned().collect();
        new.extend(cell.items.iter().cloned());
        let changes = self.scope.items.changes(&uses, &new, &gone, &renamed);
        scope.items.remove_titled(&gone);
        scope.items.renew_statics(&changes);
        scope.items.add(new);
        (scope, changes)
    }

    /// The items that no longer compiled, and may beside what the cell defines.
    fn coming_back<'s>(
        &'s self,
        cell: &'s Cell,
        retired: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'s Item> {
        let uses = |name: &String| cell.uses.iter().any(|one| one.name.as_ref() == Some(name));
        self.scope.shelved.iter().filter(move |item| {
            !cell.items.is_empty()
                && !retired.contains_key(&item.title)
                && self.scope.items.has_room_for(item, &self.scope.uses)
                && cell.items.iter().all(|new| new.key() != item.key())
                && !item.names.iter().any(uses)
        })
    }

    /// The names that a cell's new globs bring in, among those that earlier items look up. The compiler says it.
    fn brought_by_globs(&self, cell: &Cell) -> BTreeSet<String> {
        let is_new = |one: &&Use| self.scope.uses.iter().all(|old| old.whole() != one.whole());
        let globs: Vec<&str> = cell.uses.iter().filter(is_new).filter_map(Use::glob).collect();
        let open = self.scope.items.open_names(&self.scope.uses);
        if globs.is_empty() || open.is_empty() {
            return BTreeSet::new();
        }
        let (scope, _) = self.scope_with(cell, &BTreeMap::new(), &BTreeSet::new());
        let mut source = generate::library(&scope, &self.homes, self.compiler.links());
        source.push("\n");
        let first_line = source.code.lines().count() + 1;
        let mut lines = Vec::new();
        for glob in globs {
            for name in &open {
                source.push(&format!("use {glob}{name} as __OnelensProbe{};\n", lines.len()));
                lines.push(name);
            }
        }
        let wrong = self.compiler.prober().lines_with_errors(&source.code).unwrap_or_default();
        let there = lines.iter().enumerate().filter(|(i, _)| !wrong.contains(&(first_line + i)));
        there.map(|(_, name)| (*name).clone()).collect()
    }

    /// The variables that a change reaches, each with the name for which its type may not mean what it meant.
    fn touched(&self, changes: &Changes) -> BTreeMap<String, String> {
        // Where only a `TypeId` tells two types of one name apart, another one leaves nothing to go by.
        let by_id = |v: &Variable| self.paths.ambiguous_in(&v.ty).filter(|_| changes.reshaped);
        let culprit = |(name, v): (&String, &Variable)| {
            Some((name.clone(), changes.culprit(&v.ty).or_else(|| by_id(v))?))
        };
        self.variables.iter().filter_map(culprit).collect()
    }

    /// The variables that occur in the cell, with types that code can name. The others stay where they are: a name that
    /// occurs need not be the variable's.
    fn taken(&self, cell: &Cell, dropped: &BTreeMap<String, String>) -> Vec<Taken> {
        let wanted: Vec<(String, Variable)> = self
            .variables
            .iter()
            .filter(|(name, _)| cell.mentions.contains(*name) && !dropped.contains_key(*name))
            .map(|(name, variable)| (name.clone(), variable.clone()))
            .collect();
        let named = |(name, variable): (String, Variable)| {
            let exact = self.paths.ambiguous_in(&variable.ty).is_some();
            let Variable { mutable, way, .. } = variable;
            let asks = way + 1 < self.paths.ways(&variable.ty);
            let annotation = variable.annotation;
            if let Ok(ty) = self.paths.nameable(&variable.ty, way) {
                return Some(Taken { name, mutable, ty, exact, asks, annotation });
            }
            Some(Taken { name, mutable, ty: annotation?, exact, asks: false, annotation: None })
        };
        wanted.into_iter().filter_map(named).collect()
    }

    fn drop_variables(&mut self, dropped: &BTreeMap<String, String>, on_output: &mut dyn FnMut(Output)) {
        for (name, culprit) in dropped {
            let Some(variable) = self.variables.remove(name) else { continue };
            self.process.send(&Order::Forget(name.clone()));
            let ty = types::for_display(&variable.ty);
            on_output(Output::Stderr(format!(
                "the variable `{name}` ({ty}) was dropped: this cell changes what `{culprit}` means\n"
            )));
            let hint =
                format!("`{name}` was dropped when a cell changed what `{culprit}` means; make it again");
            self.gone.insert(name.clone(), hint);
        }
    }

    /// What to say when a name is not found or cannot be changed.
    fn hints(&self, dropped: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut hints = self.gone.clone();
        for (name, _) in self.variables.iter().filter(|(_, variable)| !variable.mutable) {
            hints.insert(
                name.clone(),
                format!("`{name}` was defined without `mut`; begin with `let mut {name} = {name};`"),
            );
        }
        for (name, variable) in &self.variables {
            if let Err(path) = self.paths.nameable(&variable.ty, variable.way) {
                let ty = format!("{} ({path})", types::for_display(&variable.ty));
                hints.insert(name.clone(), diagnostics::private_hint(name, &ty));
            }
        }
        for name in dropped.keys() {
            hints.insert(
                name.clone(),
                format!("this cell changes the type of `{name}`, which is dropped by that; make it again"),
            );
        }
        hints
    }

    /// Takes over the variables that the worker has after a cell.
    pub(super) fn set_variables(&mut self, there: Vec<(String, String)>, ready: &Ready, failed: bool) {
        let old = std::mem::take(&mut self.variables);
        for (name, ty) in there {
            let old = old.get(&name);
            let before = old.is_some_and(|variable| variable.mutable);
            let bind = ready.binds.get(&name);
            // After a failure one does not know which of two variables of that name it is.
            let mutable = match bind {
                Some(bind) if failed => bind.mutable || before,
                Some(bind) => bind.mutable,
                None => before,
            };
            let (annotation, way) = match (bind, old) {
                (Some(bind), _) => (bind.annotation.clone(), 0),
                (None, Some(old)) => (old.annotation.clone(), old.way),
                (None, None) => (None, 0),
            };
            self.gone.remove(&name);
            self.variables.insert(name, Variable { ty, mutable, annotation, way });
        }
        for name in old.keys().filter(|name| !self.variables.contains_key(*name)) {
            let mover = ready.moved.get(name).map_or(String::new(), |code| format!(", by `{code}`"));
            let hint = format!(
                "`{name}` was moved by an earlier cell{mover}; use `{name}.clone()` or `&{name}` there to keep it"
            );
            self.gone.insert(name.clone(), hint);
        }
    }
}

/// Whether an error's class is a code of rustc's.
fn is_code(ename: &str) -> bool {
    let digits = ename.strip_prefix('E').filter(|digits| digits.len() == 4);
    digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

impl Drop for Session {
    /// A probe under way still writes to the session's folder, which goes with the process.
    fn drop(&mut self) {
        self.paths.finish();
        self.leave(&mut |_| {});
    }
}
