//! Where tests find data that is not in the repository.

use std::path::{Path, PathBuf};

/// The folder `name` of the data: in `ONELENS_DATA`, else in `../shared/data`. Where it is missing the test that asks says so
/// and passes.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("ONELENS_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let folder = root.join(name);
    if !folder.exists() {
        println!("skipped: {} is not there; set ONELENS_DATA to the folder of the data", folder.display());
        return None;
    }
    Some(folder)
}
