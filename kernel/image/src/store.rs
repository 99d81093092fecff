//! Variables between cells: a value behind its name and the name of its type.

use crate::{channel, stage};
use onelens_wire::session::Report;
use std::any::{Any, TypeId, type_name};
use std::cell::RefCell;
use std::collections::BTreeMap;

struct Slot {
    value: Box<dyn Any>,
    ty: &'static str,
    /// Of the value's type; the one of `value` itself is the same, but is asked of the cell's code.
    id: TypeId,
}

struct Store(RefCell<BTreeMap<String, Slot>>);

// SAFETY: the thread that runs cells and the main thread take turns: the main thread touches the store only
// while no cell runs, and hands over through a channel. A woken copy starts with the main thread alone.
#[allow(unsafe_code)]
unsafe impl Sync for Store {}

static STORE: Store = Store(RefCell::new(BTreeMap::new()));

/// Takes the variable `name` out. The engine generated this call from the name of the type that [`put`] saw.
///
/// A type of crates must be the very same type: identity is what the compiler says, and two versions of a crate have
/// types of one name. A type of the user's is compiled anew in every cell, so its `TypeId` says nothing here: it stays
/// the same when what a field's type stands for changes, and changes when another type is redefined. What counts there
/// is the engine's promise.
pub fn take<T: 'static>(name: &str) -> T {
    take_as(name, type_name::<T>().contains("notebook::"))
}

/// Takes the variable `name` out, for a type that mixes the user's types with those of a crate of which there are
/// several: here only the very same type will do.
pub fn take_exact<T: 'static>(name: &str) -> T {
    take_as(name, false)
}

#[allow(unsafe_code)]
fn take_as<T: 'static>(name: &str, promised: bool) -> T {
    let id = TypeId::of::<T>();
    let value = take_any(name, type_name::<T>(), id, size_of::<T>(), align_of::<T>(), promised);
    // SAFETY: `put` boxed a value whose type has this very name, size and alignment. A type of crates alone has this
    // `TypeId`, too, so it is the same. For a type of the user's, the engine drops a variable when the text of the
    // definition changes, or what a word in it may stand for; the same text whose names lead to the same things, in a
    // crate of the same name with the same compiler and layout options, has the same layout. Where
    // a name could lead to another version of a crate, the engine calls `take_exact`.
    *unsafe { Box::from_raw(Box::into_raw(value).cast::<T>()) }
}

/// Whether the variable `name` is of this very type.
pub fn fits<T: 'static>(name: &str) -> bool {
    is_of(name, TypeId::of::<T>())
}

#[inline(never)]
fn is_of(name: &str, id: TypeId) -> bool {
    STORE.0.borrow().get(name).is_some_and(|slot| slot.id == id)
}

/// Keeps `value` as the variable `name`, in place of one that had that name.
pub fn put<T: 'static>(name: &str, value: T) {
    put_any(name, Box::new(value), type_name::<T>(), TypeId::of::<T>());
}

#[inline(never)]
fn take_any(
    name: &str,
    wanted: &'static str,
    id: TypeId,
    size: usize,
    align: usize,
    promised: bool,
) -> Box<dyn Any> {
    let mut store = STORE.0.borrow_mut();
    let fits = |slot: &Slot| {
        slot.ty == wanted
            && size_of_val(&*slot.value) == size
            && align_of_val(&*slot.value) == align
            && (slot.id == id || promised)
    };
    match store.remove(name) {
        Some(slot) if fits(&slot) => slot.value,
        _ => mismatch(name, wanted),
    }
}

#[inline(never)]
fn put_any(name: &str, value: Box<dyn Any>, ty: &'static str, id: TypeId) {
    let old = STORE.0.borrow_mut().insert(name.to_string(), Slot { value, ty, id });
    discard(old);
}

#[cold]
#[inline(never)]
fn mismatch(name: &str, wanted: &str) -> ! {
    let text = format!(
        "`{name}` cannot be used in a later cell: its type is another `{wanted}` than the one that is found under this name, as of another version of the crate\nhelp: keep what you need of it in a variable of another type, in the cell that makes it"
    );
    stage::end_with_error(&text);
    // The sleeping copy goes on, with all variables.
    channel::send(&Report::Lost);
    #[allow(unsafe_code)]
    // SAFETY: ends this process without running anything of the user's.
    unsafe {
        libc::_exit(0)
    }
}

/// Drops the variable `name`, by the code of the cell that put it.
pub fn forget(name: &str) {
    let old = STORE.0.borrow_mut().remove(name);
    discard(old);
}

/// Drops all variables.
pub fn forget_all() {
    let all = std::mem::take(&mut *STORE.0.borrow_mut());
    all.into_values().rev().for_each(|slot| discard(Some(slot)));
}

/// A `Drop` of the user's may panic; that must not end the process.
fn discard(old: Option<Slot>) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(old)));
}

/// Names and types of all variables.
pub fn variables() -> Vec<(String, String)> {
    STORE.0.borrow().iter().map(|(name, slot)| (name.clone(), slot.ty.into())).collect()
}
