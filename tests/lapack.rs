//! Factorisations and what rests on them in closed form, with those of LAPACK: the same files as in `suite`. Refinement asks for
//! the same factorisations and takes its time between them; its tests are in `suite` alone.

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

mod common;
