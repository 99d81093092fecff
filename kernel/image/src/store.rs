//! Variables between cells: a value behind its name and the name of its type.

use std::any::{Any, type_name};
use std::cell::RefCell;
use std::collections::BTreeMap;

struct Slot {
    value: Box<dyn Any>,
    ty: &'static str,
}

struct Store(RefCell<BTreeMap<String, Slot>>);

// SAFETY: the thread that runs cells and the main thread take turns: the main thread touches the store only
// while no cell runs, and hands over through a channel. A woken copy starts with the main thread alone.
#[allow(unsafe_code)]
unsafe impl Sync for Store {}

static STORE: Store = Store(RefCell::new(BTreeMap::new()));

/// Takes the variable `name` out. The engine generated this call from the type that [`put`] saw, so another
/// type here means that the kernel is wrong; the process ends and its sleeping copy goes on.
///
/// A type of the user's is compiled anew in every cell, so its `TypeId` says nothing here: it stays the same when
/// the definition changes and changes when another type is redefined. What counts is the engine's promise.
#[allow(unsafe_code)]
pub fn take<T: 'static>(name: &str) -> T {
    let value = take_any(name, type_name::<T>(), size_of::<T>(), align_of::<T>());
    // SAFETY: `put` boxed a value whose type has this very name. Types of crates are then the same type. For a
    // type of the user's, the engine drops a variable when the text of the definition, or of anything that the
    // definition names, changes; the same text in a crate of the same name with the same compiler and layout
    // options has the same layout.
    *unsafe { Box::from_raw(Box::into_raw(value).cast::<T>()) }
}

/// Keeps `value` as the variable `name`, in place of one that had that name.
pub fn put<T: 'static>(name: &str, value: T) {
    put_any(name, Box::new(value), type_name::<T>());
}

#[inline(never)]
fn take_any(name: &str, wanted: &'static str, size: usize, align: usize) -> Box<dyn Any> {
    let slot = STORE.0.borrow_mut().remove(name);
    let fits = |slot: &Slot| {
        slot.ty == wanted && size_of_val(&*slot.value) == size && align_of_val(&*slot.value) == align
    };
    match slot {
        Some(slot) if fits(&slot) => slot.value,
        _ => mismatch(name, wanted),
    }
}

#[inline(never)]
fn put_any(name: &str, value: Box<dyn Any>, ty: &'static str) {
    let old = STORE.0.borrow_mut().insert(name.to_string(), Slot { value, ty });
    discard(old);
}

#[cold]
#[inline(never)]
fn mismatch(name: &str, wanted: &str) -> ! {
    eprintln!("onelens: the variable `{name}` is not a `{wanted}`");
    std::process::abort()
}

/// Drops the variable `name`, by the code of the cell that put it.
pub fn forget(name: &str) {
    let old = STORE.0.borrow_mut().remove(name);
    discard(old);
}

/// A `Drop` of the user's may panic; that must not end the process.
fn discard(old: Option<Slot>) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(old)));
}

/// Names and types of all variables.
pub fn variables() -> Vec<(String, &'static str)> {
    STORE.0.borrow().iter().map(|(name, slot)| (name.clone(), slot.ty)).collect()
}
