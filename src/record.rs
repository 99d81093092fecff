//! Files that are either whole or refused.
//!
//! A record is the line `onelens KIND VERSION`, the payload's length and CRC-32, and the payload (postcard). It is
//! written under a temporary name and renamed, so that a file half written is never read back as whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// What tells one thing from another by a number of 64 bits (FNV-1a, Fowler, Noll & Vo 1991), a word at a time.
pub(crate) struct Fnv(u64);

impl Fnv {
    /// Of a kind of thing in a version.
    pub(crate) fn new(kind: &str) -> Self {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.text(kind);
        hash
    }

    pub(crate) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }

    /// Many words, the bits of numbers: eight chains side by side, so that a processor need not wait for the product of
    /// one word before it takes the next. For weights by the hundred million.
    pub(crate) fn numbers(&mut self, numbers: &[f32]) {
        let mut chains = std::array::from_fn::<Fnv, 8, _>(|_| Fnv(self.0));
        let (eights, rest) = numbers.as_chunks::<8>();
        for eight in eights {
            chains.iter_mut().zip(eight).for_each(|(chain, x)| chain.word(u64::from(x.to_bits())));
        }
        chains.into_iter().for_each(|chain| self.word(chain.finish()));
        rest.iter().for_each(|x| self.word(u64::from(x.to_bits())));
    }

    pub(crate) fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.word(u64::from(byte)));
    }

    /// The settings that differ from `usual`, serialized: a setting that is new changes nothing where it is not used.
    pub(crate) fn settings<T: Serialize>(&mut self, settings: &T, usual: &T) {
        let json = |x: &T| serde_json::to_value(x).expect("settings are made of what JSON has");
        let (settings, usual) = (json(settings), json(usual));
        match settings.as_object() {
            // By name, whichever order this build of serde_json keeps.
            Some(all) => {
                let by_name: BTreeMap<&String, &Value> = all.iter().collect();
                for (name, value) in by_name {
                    if usual.get(name) != Some(value) {
                        self.text(&format!("{name}={};", in_order(value)));
                    }
                }
            }
            None => self.text(&in_order(&settings)),
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}

/// JSON with the names of every object in order.
fn in_order(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(all) => format!("[{}]", all.iter().map(in_order).collect::<Vec<_>>().join(",")),
        Value::Object(all) => {
            let by_name: BTreeMap<&String, &Value> = all.iter().collect();
            let parts: Vec<String> =
                by_name.into_iter().map(|(name, value)| format!("{name}={}", in_order(value))).collect();
            format!("{{{}}}", parts.join(","))
        }
    }
}

/// Writes `bytes` to `path`: under a temporary name first, then renamed.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |file| file.write_all(bytes))
}

/// A name beside `path` for a file that is to become it.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    // The keys of a `RandomState` are the system's random bytes.
    name.push(format!(".{:016x}.tmp", RandomState::new().hash_one(std::process::id())));
    path.with_file_name(name)
}

/// Has `write` fill a file with a temporary name, which then gets this one.
///
/// The name cannot be foretold, and the file is a new one: where others write, too, nobody can have put a link there.
fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let whole = || {
        let mut file = File::create_new(&temporary)?;
        // What was private is so at every moment.
        if let Ok(old) = path.metadata() {
            file.set_permissions(old.permissions())?;
        }
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    whole().map_err(|e| {
        // Nothing can be done if even removing fails; the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        Error::of_file(
            format!("cannot write {}", path.display()),
            e,
            "check that the folder exists, can be written to, and that the disk is not full",
        )
    })
}

/// Writes `value` as a record, piece by piece: its bytes are never all in memory.
pub(crate) fn save<T: Serialize>(path: &Path, kind: &str, version: u32, value: &T) -> Result<()> {
    write_whole(path, |file| {
        let line = format!("onelens {kind} {version}\n");
        file.write_all(line.as_bytes())?;
        // Length and checksum are known at the end.
        file.write_all(&[0; 12])?;
        let (len, crc) = write_payload(file, value)?;
        file.seek(SeekFrom::Start(line.len() as u64))?;
        file.write_all(&len.to_le_bytes())?;
        file.write_all(&crc.to_le_bytes())
    })
}

/// Writes the payload of a record; its length and checksum.
fn write_payload<T: Serialize>(file: &mut File, value: &T) -> io::Result<(u64, u32)> {
    let (to, crc) = (BufWriter::new(file), crc32fast::Hasher::new());
    let mut payload = Payload { to, len: 0, crc, failed: None };
    let written = postcard::to_io(value, &mut payload).map(|_| ());
    written.map_err(|e| payload.failed.take().unwrap_or_else(|| io::Error::other(e)))?;
    payload.flush()?;
    Ok((payload.len, payload.crc.finalize()))
}

/// The payload of a record on its way to a file.
struct Payload<W> {
    to: W,
    len: u64,
    crc: crc32fast::Hasher,
    /// What postcard does not tell.
    failed: Option<io::Error>,
}

impl<W: Write> Write for Payload<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to.write(bytes) {
            Ok(n) => {
                self.len += n as u64;
                self.crc.update(&bytes[..n]);
                Ok(n)
            }
            Err(e) => {
                let kind = e.kind();
                self.failed = Some(e);
                Err(kind.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The bytes of a record.
pub(crate) fn to_bytes<T: Serialize>(shown: &str, kind: &str, version: u32, value: &T) -> Result<Vec<u8>> {
    let payload = postcard::to_stdvec(value).map_err(|e| {
        Error::new(
            ErrorKind::File,
            format!("cannot encode {kind} for {shown}: {e}"),
            "please report this: it should not happen",
        )
    })?;
    let mut bytes = format!("onelens {kind} {version}\n").into_bytes();
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// Reads a record of this kind and version, or says why the file is not one.
pub(crate) fn load<T: DeserializeOwned>(path: &Path, kind: &str, version: u32) -> Result<T> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| Error::unread(path, e))?;
    from_bytes(&shown, &bytes, kind, version)
}

/// Reads the bytes of a record, which come from what is `shown`.
pub(crate) fn from_bytes<T: DeserializeOwned>(
    shown: &str,
    bytes: &[u8],
    kind: &str,
    version: u32,
) -> Result<T> {
    let refuse = |why: String| {
        Err(Error::new(
            ErrorKind::File,
            format!("{shown} {why}"),
            format!("give a file that this version saved as {kind}, or save it anew"),
        ))
    };
    // The first line is short; looking no further keeps a large foreign file from being searched.
    let Some(end) = bytes.iter().take(64).position(|&b| b == b'\n') else {
        return refuse("is not an onelens file".into());
    };
    let line = String::from_utf8_lossy(&bytes[..end]);
    if line != format!("onelens {kind} {version}") {
        return match line.strip_prefix("onelens ") {
            Some(other) => refuse(format!("holds `{other}`, not `{kind} {version}`")),
            None => refuse("is not an onelens file".into()),
        };
    }
    let rest = &bytes[end + 1..];
    let (Some(len), Some(crc), Some(payload)) = (rest.first_chunk::<8>(), rest.get(8..12), rest.get(12..))
    else {
        return refuse("is cut off in its header".into());
    };
    let len = u64::from_le_bytes(*len);
    if len != payload.len() as u64 {
        return refuse(format!("should hold {len} bytes of {kind} and holds {}", payload.len()));
    }
    if crc32fast::hash(payload).to_le_bytes() != crc {
        return refuse("is damaged: its checksum does not fit its content".into());
    }
    postcard::from_bytes(payload).or_else(|e| refuse(format!("cannot be decoded: {e}")))
}

/// Matrices of `f64` as shape and bytes: `#[serde(with = "record::matrix")]`. Number by number they would take longer
/// to write than to gather.
pub(crate) mod matrix {
    use std::fmt;

    use ndarray::{ArrayBase, Data, DataOwned, Ix2};
    use serde::de::{Error, SeqAccess, Visitor};
    use serde::ser::SerializeTuple;
    use serde::{Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Data<Elem = f64>, T: Serializer>(
        m: &ArrayBase<S, Ix2>,
        to: T,
    ) -> Result<T::Ok, T::Error> {
        let mut bytes = vec![0; size_of::<f64>() * m.len()];
        let numbers = m.as_standard_layout();
        let numbers = numbers.as_slice().expect("stored row by row");
        bytes.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(b, x)| *b = x.to_le_bytes());
        let mut tuple = to.serialize_tuple(3)?;
        tuple.serialize_element(&(m.nrows() as u64))?;
        tuple.serialize_element(&(m.ncols() as u64))?;
        tuple.serialize_element(&Bytes(&bytes))?;
        tuple.end()
    }

    pub(crate) fn deserialize<'de, S: DataOwned<Elem = f64>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<ArrayBase<S, Ix2>, D::Error> {
        from.deserialize_tuple(3, Matrix(std::marker::PhantomData))
    }

    struct Bytes<'a>(&'a [u8]);

    impl Serialize for Bytes<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_bytes(self.0)
        }
    }

    struct Matrix<S>(std::marker::PhantomData<S>);

    impl<'de, S: DataOwned<Elem = f64>> Visitor<'de> for Matrix<S> {
        type Value = ArrayBase<S, Ix2>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("rows, columns, and as many numbers of 8 bytes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let cut_off = || A::Error::custom("a matrix is cut off");
            let rows: u64 = seq.next_element()?.ok_or_else(cut_off)?;
            let columns: u64 = seq.next_element()?.ok_or_else(cut_off)?;
            let Numbers(numbers) = seq.next_element()?.ok_or_else(cut_off)?;
            let shape = (rows as usize, columns as usize);
            ArrayBase::from_shape_vec(shape, numbers)
                .map_err(|e| A::Error::custom(format!("a matrix of {rows} x {columns}: {e}")))
        }
    }

    struct Numbers(Vec<f64>);

    impl<'de> serde::Deserialize<'de> for Numbers {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Eights;
            impl Visitor<'_> for Eights {
                type Value = Numbers;

                fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                    f.write_str("numbers of 8 bytes")
                }

                fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Numbers, E> {
                    let (eights, rest) = bytes.as_chunks();
                    if !rest.is_empty() {
                        return Err(E::invalid_length(bytes.len(), &self));
                    }
                    Ok(Numbers(eights.iter().map(|b| f64::from_le_bytes(*b)).collect()))
                }
            }
            from.deserialize_bytes(Eights)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_changes_or_moves_changes_the_hash() {
        let hash = |numbers: &[f32]| {
            let mut hash = Fnv::new("numbers");
            hash.numbers(numbers);
            hash.finish()
        };
        // Two eights and three more.
        let numbers: Vec<f32> = (0..19_u8).map(f32::from).collect();
        let whole = hash(&numbers);
        for i in 0..numbers.len() {
            let mut other = numbers.clone();
            // Its last bit alone.
            other[i] = f32::from_bits(other[i].to_bits() ^ 1);
            assert_ne!(hash(&other), whole, "{i} changed");
            for j in 0..i {
                let mut other = numbers.clone();
                other.swap(i, j);
                assert_ne!(hash(&other), whole, "{i} and {j} changed places");
            }
            assert_ne!(hash(&numbers[..i]), whole, "{i} of them");
        }
        assert_eq!(hash(&numbers), whole);
        assert_ne!(hash(&[0.0]), hash(&[-0.0]));
    }

    #[test]
    fn a_record_written_piece_by_piece_is_the_record_made_at_once() {
        let path = std::env::temp_dir().join(format!("onelens-record-{}", std::process::id()));
        let value: (Vec<f64>, String) = ((0..50_000).map(f64::from).collect(), "text".into());
        save(&path, "numbers", 3, &value).unwrap();
        assert!(std::fs::read(&path).unwrap() == to_bytes("here", "numbers", 3, &value).unwrap());
        assert!(load::<(Vec<f64>, String)>(&path, "numbers", 3).unwrap() == value);
        std::fs::remove_file(&path).unwrap();
        let nowhere = Path::new("/no/such/folder/file");
        assert!(
            save(nowhere, "numbers", 3, &value).unwrap_err().to_string().contains("/no/such/folder/file")
        );
    }

    #[cfg(unix)]
    #[test]
    fn no_link_is_followed_and_what_was_private_stays_so() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [path, victim] = ["lens", "victim"].map(|name| folder.path().join(name));
        std::fs::write(&victim, "whole").unwrap();
        // The name that the file had when it could be foretold.
        let foretold = folder.path().join(format!("lens.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&victim, &foretold).unwrap();
        write_atomic(&path, b"first").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        write_whole(&path, |file| {
            assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
            file.write_all(b"second")
        })
        .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&victim).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
