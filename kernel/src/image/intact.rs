//! Whether a folder still holds what was put there: a list of its files with their sizes.
//!
//! Sizes find what happens to caches in practice (a disk that was full, a copy that was cut, a cleaner of old files)
//! and cost no reading. They do not find bytes that were changed in place.

use std::fs;
use std::io;
use std::path::Path;

const LIST: &str = "files";

/// Writes down what lies in `folder` and one level below.
pub fn write_list(folder: &Path) -> io::Result<()> {
    let mut text = String::new();
    for entry in fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            for inner in fs::read_dir(entry.path())?.collect::<io::Result<Vec<_>>>()? {
                let size = inner.metadata()?.len();
                text.push_str(&format!("{size} {name}/{}\n", inner.file_name().to_string_lossy()));
            }
        } else {
            text.push_str(&format!("{} {name}\n", entry.metadata()?.len()));
        }
    }
    fs::write(folder.join(LIST), text)
}

/// What is wrong with `folder`: a part of a sentence. `None` if all that was written down is there.
pub fn damage(folder: &Path) -> Option<String> {
    let Ok(text) = fs::read_to_string(folder.join(LIST)) else {
        return Some(format!("the list of its files, {LIST}, is missing"));
    };
    if text.is_empty() {
        return Some(format!("the list of its files, {LIST}, is empty"));
    }
    text.lines().find_map(|line| {
        let (size, name) = line.split_once(' ')?;
        match fs::metadata(folder.join(name)) {
            Err(_) => Some(format!("{name} is missing")),
            Ok(about) if about.len().to_string() != size => {
                Some(format!("{name} has {} bytes instead of {size}", about.len()))
            }
            Ok(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deps")).unwrap();
        fs::write(folder.path().join("a"), "1234").unwrap();
        fs::write(folder.path().join("deps/b"), "12").unwrap();
        assert!(damage(folder.path()).unwrap().contains("missing"));
        write_list(folder.path()).unwrap();
        assert_eq!(damage(folder.path()), None);
        fs::write(folder.path().join("later"), "is no damage").unwrap();
        assert_eq!(damage(folder.path()), None);
        fs::write(folder.path().join("deps/b"), "1").unwrap();
        assert_eq!(damage(folder.path()).unwrap(), "deps/b has 1 bytes instead of 2");
        fs::remove_file(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("deps/b"), "12").unwrap();
        assert_eq!(damage(folder.path()).unwrap(), "a is missing");
    }
}
