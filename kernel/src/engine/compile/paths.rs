//! From the name that `std::any::type_name` gives a type to one that Rust code can write.
//!
//! `type_name` goes through private modules (`ndarray::data_repr::OwnedRepr`), and into crates that another one
//! re-exports (`num_bigint::bigint::BigInt`, which is `num::BigInt`). A path's type is nearly always re-exported by
//! some of the modules on the way, or at the top of a crate that was asked for, so these are tried in one compilation
//! of `use` lines. Where none of them is it, rustc is asked, which reads off the metadata of crates what is public.
//! Answers about the image's own crates are kept on disk with it. Whether the type that is found is the very one is
//! checked where a value is taken, and where there are two versions of a crate, one after the other is.

use super::compiler::{Compiler, Prober};
use crate::engine::parse::types::{CRATE, crate_of, for_each_path, map_paths};
use crate::image::Image;
use crate::image::extension::SHOWN;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::thread::JoinHandle;

/// Names that code can write, for paths.
type Found = BTreeMap<String, Vec<String>>;

/// What is known about the public paths of types.
pub(in crate::engine) struct Paths {
    /// The first is the answer, if the type's crate is there once; else each is of another version, perhaps.
    known: Found,
    /// What was looked for, with or without success.
    tried: BTreeSet<String>,
    file: PathBuf,
    /// The crates for which answers hold in every session.
    lasting: BTreeSet<String>,
    /// Names of crates that several crates have, as of two versions.
    ambiguous: BTreeSet<String>,
    /// A probe under way, while the user reads what the last cell put out.
    pending: Option<JoinHandle<Option<Found>>>,
}

impl Paths {
    /// What earlier sessions found out about this image.
    pub(in crate::engine) fn load(image: &Image) -> Self {
        let file = image.deps().join("paths");
        let lasting = image.crates().iter().map(|one| one.name.clone());
        let lasting = lasting.chain(["std", "core", "alloc"].map(String::from)).collect();
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let known = text.lines().filter_map(|line| line.split_once(' '));
        let known = known.map(|(from, to)| (from.to_string(), vec![to.to_string()])).collect();
        Paths { known, tried: BTreeSet::new(), file, lasting, ambiguous: BTreeSet::new(), pending: None }
    }

    /// Begins to find public paths for everything in `types` that is new.
    pub(in crate::engine) fn learn_later<'t>(
        &mut self,
        types: impl Iterator<Item = &'t str>,
        compiler: &Compiler,
    ) {
        self.finish();
        let mut unknown = BTreeSet::new();
        for ty in types {
            for_each_path(ty, &mut |path| {
                let new = !self.known.contains_key(path) && !self.tried.contains(path);
                if new && !path.starts_with("notebook::") {
                    unknown.insert(path.to_string());
                }
            });
        }
        if !unknown.is_empty() {
            self.tried.extend(unknown.iter().cloned());
            let prober = compiler.prober();
            // A compiler that something has ended is asked once more.
            self.pending =
                Some(std::thread::spawn(move || find(&unknown, &prober).or_else(|| find(&unknown, &prober))));
        }
    }

    /// There are further crates, in which may be found what was not; `ambiguous` names stand for several by now.
    pub(in crate::engine) fn try_again(&mut self, ambiguous: BTreeSet<String>) {
        self.tried.clear();
        self.known.retain(|path, _| !ambiguous.contains(crate_of(path)));
        self.ambiguous = ambiguous;
    }

    /// In how many ways a type can be written that may be several types: one for each version of a crate.
    pub(in crate::engine) fn ways(&self, ty: &str) -> usize {
        let mut ways = 1;
        for_each_path(ty, &mut |path| {
            if self.ambiguous.contains(crate_of(path)) {
                ways = ways.max(self.known.get(path).map_or(1, Vec::len));
            }
        });
        ways
    }

    /// The name in a type that mixes the user's types with those of a crate of which there are several.
    pub(in crate::engine) fn ambiguous_in(&self, ty: &str) -> Option<String> {
        let (mut own, mut found) = (false, None);
        for_each_path(ty, &mut |path| match crate_of(path) {
            CRATE => own = true,
            name => found = self.ambiguous.get(name).cloned().or(found.take()),
        });
        found.filter(|_| own)
    }

    /// Waits for what [`learn_later`](Self::learn_later) began.
    pub(in crate::engine) fn finish(&mut self) {
        let Some(asked) = self.pending.take() else { return };
        let Ok(Some(found)) = asked.join() else {
            self.tried.clear();
            return;
        };
        // In another session `:dep` may give the same names to other crates.
        let lasts =
            |path: &str| self.lasting.contains(crate_of(path)) && !self.ambiguous.contains(crate_of(path));
        let lines = found.iter().filter_map(|(from, to)| {
            let to = to.first().filter(|to| lasts(from) && lasts(to))?;
            Some(format!("{from} {to}\n"))
        });
        let lines: String = lines.collect();
        self.known.extend(found);
        // A lost line costs a later session one probe.
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&self.file);
        let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes()));
    }

    /// The type as code, or the path in it that has no public name. `way` counts from 0 to [`ways`](Self::ways).
    pub(in crate::engine) fn nameable(&self, ty: &str, way: usize) -> Result<String, String> {
        let mut unknown = None;
        let text = map_paths(ty, &mut |path| {
            if let Some(own) = path.strip_prefix("notebook::") {
                return format!("crate::{own}");
            }
            // From the root, because the user may have a module that is called like a crate.
            let known = self.known.get(path).and_then(|known| known.get(way).or(known.last()));
            known.map(|known| format!("::{known}")).unwrap_or_else(|| {
                unknown = Some(path.to_string());
                path.to_string()
            })
        });
        match unknown {
            Some(path) => Err(path),
            None => Ok(text),
        }
    }
}

/// Names that code can write for these paths: likely ones are tried first, and then what rustc calls those that are left.
/// `None` if rustc did not run to its end.
fn find(unknown: &BTreeSet<String>, prober: &Prober) -> Option<Found> {
    let likely = unknown.iter().map(|path| (path, path.clone())).collect::<Vec<_>>();
    let mut found = tried(&likely, prober)?;
    let left: Vec<&String> = unknown.iter().filter(|path| !found.contains_key(*path)).collect();
    if !left.is_empty() {
        found.extend(tried(&public(&left, prober)?, prober)?);
    }
    Some(found)
}

/// Tries all candidates at once for paths that are known as others: a `use` line that compiles is an answer. The first
/// is taken of each crate that they begin with.
fn tried(paths: &[(&String, String)], prober: &Prober) -> Option<Found> {
    let candidates: Vec<(&String, String)> = paths
        .iter()
        .flat_map(|(path, known_as)| {
            candidates(known_as, prober.crates()).into_iter().map(move |candidate| (*path, candidate))
        })
        .collect();
    let mut probe = HEAD.to_string();
    for (i, (_, candidate)) in candidates.iter().enumerate() {
        probe.push_str(&format!("use {candidate} as _P{i};\n"));
    }
    let bad_lines = prober.lines_with_errors(&probe)?;
    let mut found = Found::new();
    for (i, (path, candidate)) in candidates.iter().enumerate() {
        if !bad_lines.contains(&(FIRST_LINE + i)) {
            let known = found.entry((*path).clone()).or_default();
            if known.iter().all(|other| crate_of(other) != crate_of(candidate)) {
                known.push(candidate.clone());
            }
        }
    }
    Some(found)
}

/// What a probe begins with, on one line, and the number of the next.
const HEAD: &str = "#![allow(warnings)] extern crate alloc; extern crate onelens_image;\n";
const FIRST_LINE: usize = 2;

/// How often names are asked for again that rustc has cut.
const MOST_ROUNDS: usize = 3;

/// The paths under which crates hand on types whose own paths are private, whatever modules and last name those have.
///
/// An error says that a path is private, and does not keep rustc from going on to the next, which names the type as it
/// can be named. Of a name that nothing else has it says the last part alone, so something else has it here.
fn public<'p>(paths: &[&'p String], prober: &Prober) -> Option<Vec<(&'p String, String)>> {
    let last = |path: &str| path.rsplit("::").next().unwrap_or_default().to_string();
    let mut taken: BTreeSet<String> = paths.iter().map(|path| last(path)).collect();
    let places: Vec<(&String, String)> = paths
        .iter()
        .flat_map(|path| {
            let rest = path.strip_prefix(crate_of(path)).unwrap_or_default();
            roots(crate_of(path), prober.crates())
                .into_iter()
                .map(move |root| (*path, format!("{root}{rest}")))
        })
        .collect();
    let mut found = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let mut probe = HEAD.to_string();
        // A type of its own, or what is in front of a trait's methods.
        for (i, (_, place)) in places.iter().enumerate() {
            probe.push_str(&format!(
                "fn f{i}() {{ ::{place}::{NOTHING} }} fn g{i}() {{ <dyn ::{place}>::{NOTHING} }}\n"
            ));
        }
        let taken_here: String = taken.iter().map(|name| format!("pub struct {name};")).collect();
        probe.push_str(&format!("mod taken {{ {taken_here} }}\n"));
        let errors = prober.errors(&probe)?;
        let named = errors.iter().filter_map(|(line, message)| {
            let (path, _) = places.get(line.checked_sub(FIRST_LINE)?)?;
            Some((*path, named_in(message["message"].as_str()?)?.to_string()))
        });
        let (whole, cut): (Vec<_>, Vec<_>) = named.partition(|(_, name)| name.contains("::"));
        let before = taken.len();
        taken.extend(cut.into_iter().map(|(_, name)| name));
        found = whole;
        if taken.len() == before {
            break;
        }
    }
    Some(found)
}

/// What no type has.
const NOTHING: &str = "__onelens_nothing";

/// The type's name in an error that says that the type has not what is asked of it.
fn named_in(message: &str) -> Option<&str> {
    let (_, after) = message.split_once(&format!("`{NOTHING}` found for "))?;
    let name = after.split('`').nth(1)?;
    let name = name.strip_prefix("(dyn ").or(name.strip_prefix("dyn ")).unwrap_or(name);
    let end = name.find(|c: char| !(c.is_alphanumeric() || "_:#".contains(c))).unwrap_or(name.len());
    Some(&name[..end])
}

/// Most modules of a path that are tried with and without each other.
const MOST_MODULES: usize = 5;

/// The path itself, then without some of its modules, the longest first; then the same in each of `crates` (name, and
/// name of its library), if that is what the path's own is called there, or what re-exports it.
fn candidates(path: &str, crates: &[(String, String)]) -> Vec<String> {
    let segments: Vec<&str> = path.split("::").collect();
    let [own, modules @ .., last] = &segments[..] else { return vec![] };
    let modules = &modules[..modules.len().min(MOST_MODULES)];
    let mut shortened: Vec<Vec<&str>> = (0..1_usize << modules.len())
        .map(|kept| (0..modules.len()).filter(|i| kept >> i & 1 == 1).map(|i| modules[i]).collect())
        .collect();
    // Of the same length those first that begin alike.
    shortened.sort_by_key(|kept| {
        let alike = kept.iter().zip(modules).take_while(|(a, b)| a == b).count();
        (std::cmp::Reverse(kept.len()), std::cmp::Reverse(alike))
    });
    let mut all = Vec::new();
    for root in roots(own, crates) {
        all.extend(shortened.iter().map(|kept| joined(&root, kept, last)));
    }
    let is_std = ["std", "core", "alloc"].contains(own);
    for (name, _) in crates.iter().filter(|(_, library)| library != own && !is_std) {
        all.push(joined(name, &[], last));
        all.push(joined(name, &["prelude"], last));
        all.extend(shortened.iter().filter(|kept| !kept.is_empty()).map(|kept| joined(name, kept, last)));
    }
    all
}

/// What a crate may be called in code: its own name, or those that the user gave it.
fn roots(own: &str, crates: &[(String, String)]) -> Vec<String> {
    let same = || crates.iter().filter(|(_, library)| library == own).map(|(name, _)| name.clone());
    let is_given = same().any(|name| name == own);
    let own_name = [own.to_string()].into_iter().filter(|_| !is_given);
    // The image hands on those of its own that a crate of the user's may have the name of.
    let handed_on = (is_given && SHOWN.contains(&own)).then(|| format!("onelens_image::{own}"));
    own_name.chain(same()).chain(handed_on).collect()
}

fn joined(root: &str, modules: &[&str], last: &str) -> String {
    let modules: String = modules.iter().map(|module| format!("{module}::")).collect();
    format!("{root}::{modules}{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_looked_for_under_the_name_that_it_was_given_and_in_those_that_hold_it() {
        let crates = [("mine", "a"), ("holder", "holder")].map(|(a, b)| (a.to_string(), b.to_string()));
        let found = candidates("a::b::T", &crates);
        assert_eq!(
            found,
            ["a::b::T", "a::T", "mine::b::T", "mine::T", "holder::T", "holder::prelude::T", "holder::b::T"]
        );
    }

    #[test]
    fn the_name_of_a_type_is_read_off_an_error_of_rustc() {
        let says = |what: &str| {
            format!(
                "no function or associated item named `__onelens_nothing` found for {what} in the current scope"
            )
        };
        let name = |what: &str| named_in(&says(what)).map(str::to_string);
        assert_eq!(name("struct `a::api::Wr<T, N>`").as_deref(), Some("a::api::Wr"));
        assert_eq!(name("trait `dyn a::api::Tr`").as_deref(), Some("a::api::Tr"));
        assert_eq!(name("trait `(dyn a::api::Tr<u8> + 'static)`").as_deref(), Some("a::api::Tr"));
        assert_eq!(name("enum `Either<'a, T>`").as_deref(), Some("Either"));
        assert_eq!(named_in("module `detail` is private"), None);
    }

    #[test]
    fn candidates_come_longest_first() {
        assert_eq!(candidates("a::b::T", &[]), ["a::b::T", "a::T"]);
        assert_eq!(
            candidates("a::b::c::T", &[]),
            ["a::b::c::T", "a::b::T", "a::c::T", "a::T"],
            "a module may be left out anywhere"
        );
    }
}
