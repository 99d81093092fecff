//! Factorisations and what rests on them, with those of LAPACK: the same files as in `suite`, whose other tests know nothing of
//! them.

#[path = "suite/closed_form.rs"]
mod closed_form;
#[path = "suite/factorisations.rs"]
mod factorisations;
#[path = "suite/lens_kinds.rs"]
mod lens_kinds;
#[path = "suite/moments.rs"]
mod moments;
#[path = "suite/ridge_path.rs"]
mod ridge_path;
#[path = "suite/tuned.rs"]
mod tuned;

mod common;
