//! A kernel that waits after a failed cell, so that `--resume` finds its variables.
//!
//! What is needed to find it again lies in the user's data folder, readable by its owner only, as it holds the key
//! of the kernel. The kernel itself ends when nobody has been connected to it for [`LINGER`].

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::base::failure::Failure;
use crate::base::paths;
use crate::jupyter::connection::{Connection, write_private};
use crate::run::child::KernelProcess;

/// How long a kernel waits for the next run.
pub(super) const LINGER: Duration = Duration::from_secs(3600);

/// A cell that has run, with its result.
#[derive(Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) source: String,
    pub(super) outputs: Vec<Value>,
    pub(super) count: Option<u64>,
    pub(super) times: Map<String, Value>,
}

/// The file about a kernel that waits.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    connection: Connection,
    done: Vec<Done>,
}

impl Kept {
    /// Lets the kernel go on without us, and notes how to find it.
    pub(super) fn leave(kernel: KernelProcess, notebook: &Path, done: Vec<Done>) -> Result<(), Failure> {
        let file = file_for(notebook)?;
        let kept = Kept { connection: kernel.connection().clone(), done };
        let text = serde_json::to_string(&kept).unwrap_or_default();
        // Only when it can be found again it may go on.
        write_private(&file, &text).map_err(|e| {
            Failure::new(
                format!("cannot write {}, so the kernel ends: {e}", file.display()),
                "check that the folder is writable and the disk is not full",
            )
        })?;
        kernel.leave();
        Ok(())
    }

    /// The kernel that waits for this notebook, if one does and still answers. It is no longer noted down then.
    pub(super) fn take(notebook: &Path) -> Result<Option<(KernelProcess, Vec<Done>)>, Failure> {
        let file = file_for(notebook)?;
        let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
        let _ = fs::remove_file(&file);
        let Ok(kept) = serde_json::from_str::<Kept>(&text) else { return Ok(None) };
        Ok(KernelProcess::attach(kept.connection).map(|kernel| (kernel, kept.done)))
    }
}

fn file_for(notebook: &Path) -> Result<PathBuf, Failure> {
    let whole = fs::canonicalize(notebook).unwrap_or_else(|_| notebook.to_path_buf());
    let name: String = Sha256::digest(whole.as_os_str().as_encoded_bytes())
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = paths::onelens_data()?.join("kept");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|e| {
        Failure::new(
            format!("cannot create {}: {e}", folder.display()),
            "set XDG_DATA_HOME to a folder you can write to",
        )
    })?;
    Ok(folder.join(name + ".json"))
}
