//! Files of `torch.save` that are no plain state_dict: dictionaries in dictionaries, with numbers beside tensors; and
//! state_dicts written in that format.

use std::collections::BTreeMap;
use std::io::{BufReader, Cursor, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::pickle::{Object, Stack, TensorInfo};
use half::{bf16, f16};
use ndarray::ArrayD;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::tensors::refuse;
use crate::{Result, record};

/// What such a file holds, by the keys on the way to it with dots between them.
pub(crate) struct TorchFile {
    pub(crate) tensors: BTreeMap<String, ArrayD<f32>>,
    /// Whole numbers, and lists of them.
    pub(crate) counts: BTreeMap<String, Vec<i64>>,
}

impl TorchFile {
    /// Reads `path`. Only what describes tensors and numbers is taken from the pickle; no code in it is run.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let broken = |why: String| {
            refuse(
                &path.display().to_string(),
                format!("cannot be read as a PyTorch file: {why}"),
                "give a file that `torch.save` of PyTorch 1.6 or later has written",
            )
        };
        // Damaged pickles make the reader panic; that must not reach the user.
        match catch_unwind(AssertUnwindSafe(|| read(path))) {
            Ok(Ok(file)) => Ok(file),
            Ok(Err(why)) => Err(broken(why)),
            Err(_) => Err(broken("it is damaged".into())),
        }
    }

    /// The numbers of a tensor of this shape, row by row.
    pub(crate) fn numbers(&self, path: &Path, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let refused = |why: String, help| Err(refuse(&path.display().to_string(), why, help));
        let help = "give the file of the model at hand";
        let Some(tensor) = self.tensors.get(name) else {
            let known: Vec<&str> = self.tensors.keys().map(String::as_str).take(6).collect();
            return refused(format!("has no tensor `{name}`, but {known:?}"), help);
        };
        if tensor.shape() != shape {
            let own = tensor.shape();
            return refused(format!("has `{name}` of the shape {own:?}, where {shape:?} belongs"), help);
        }
        if let Some(x) = tensor.iter().find(|x| !x.is_finite()) {
            return refused(format!("has the number {x} in `{name}`"), "fit the lens anew");
        }
        Ok(tensor.iter().map(|&x| f64::from(x)).collect())
    }
}

fn read(path: &Path) -> Result<TorchFile, String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let bytes = std::fs::File::open(path).map_err(|e| said(&e))?;
    let mut left = bytes.metadata().map_err(|e| said(&e))?.len();
    let mut zip = ZipArchive::new(BufReader::new(bytes)).map_err(|e| said(&e))?;
    let mut names = zip.file_names().filter_map(|name| name.ok().map(|name| name.into_owned()));
    let pickle = names.find(|name| name.ends_with("data.pkl")).ok_or("it has no data.pkl")?;
    drop(names);
    let folder = PathBuf::from(pickle.trim_end_matches(".pkl"));
    let mut stack = Stack::empty();
    let file = zip.by_name(&pickle).map_err(|e| said(&e))?;
    stack.read_loop(&mut BufReader::new(file)).map_err(|e| said(&e))?;
    let (mut infos, mut counts) = (Vec::new(), BTreeMap::new());
    collect(stack.finalize().map_err(|e| said(&e))?, "", &folder, &mut infos, &mut counts)?;
    let mut tensors = BTreeMap::new();
    for info in infos {
        // PyTorch stores without compression, in two bytes or more: there are no more numbers than bytes.
        let n = info.layout.dims().iter().try_fold(1_u64, |n, &d| n.checked_mul(d as u64));
        left = n.and_then(|n| left.checked_sub(n)).ok_or_else(|| {
            format!("`{}` of the shape {:?} is larger than the file allows", info.name, info.layout.dims())
        })?;
        let mut file = zip.by_name(&info.path).map_err(|e| said(&e))?;
        let array = numbers_of(&info, &mut file)?;
        tensors.insert(info.name, array);
    }
    Ok(TorchFile { tensors, counts })
}

/// Everything below `object`, which is found at `name`.
fn collect(
    object: Object,
    name: &str,
    folder: &Path,
    tensors: &mut Vec<TensorInfo>,
    counts: &mut BTreeMap<String, Vec<i64>>,
) -> Result<(), String> {
    let below = |key: &str| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
    match object {
        Object::Dict(entries) => {
            for (key, value) in entries {
                let key = match key {
                    Object::Unicode(key) => key,
                    Object::Int(key) => key.to_string(),
                    Object::Long(key) => key.to_string(),
                    _ => continue,
                };
                collect(value, &below(&key), folder, tensors, counts)?;
            }
        }
        Object::Int(n) => drop(counts.insert(name.into(), vec![n.into()])),
        Object::Long(n) => drop(counts.insert(name.into(), vec![n])),
        Object::List(all) | Object::Tuple(all) => {
            let whole = |n: Object| n.int_or_long().ok();
            if let Some(all) = all.into_iter().map(whole).collect::<Option<_>>() {
                counts.insert(name.into(), all);
            }
        }
        tensor @ Object::Reduce { .. } => {
            let info = tensor.into_tensor_info(Object::Unicode(name.into()), folder);
            tensors.extend(info.map_err(|e| e.to_string())?);
        }
        Object::Class { .. }
        | Object::Float(_)
        | Object::Unicode(_)
        | Object::Bool(_)
        | Object::None
        | Object::Mark
        | Object::Build { .. }
        | Object::PersistentLoad(_) => {}
    }
    Ok(())
}

fn numbers_of(info: &TensorInfo, file: &mut impl Read) -> Result<ArrayD<f32>, String> {
    if !info.layout.is_contiguous() {
        return Err(format!("`{}` does not lie row by row; save it with `.contiguous()`", info.name));
    }
    let before = info.layout.start_offset() as u64;
    std::io::copy(&mut file.take(before), &mut std::io::sink()).map_err(|e| e.to_string())?;
    let n = info.layout.shape().elem_count();
    let mut bytes = vec![0; n * info.dtype.size_in_bytes()];
    file.read_exact(&mut bytes).map_err(|e| format!("`{}` is cut off: {e}", info.name))?;
    let numbers: Vec<f32> = match info.dtype {
        DType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        _ => return Err(format!("`{}` holds {:?}, which are no weights", info.name, info.dtype)),
    };
    Ok(ArrayD::from_shape_vec(info.layout.dims(), numbers).expect("as many numbers as the shape says"))
}

/// Writes a state_dict as `torch.save` does, for `torch.load`. The file appears whole or not at all.
///
/// The pickle is written by hand because it is thirty lines: a dictionary from names to calls of `_rebuild_tensor_v2`
/// (protocol 2, as PyTorch writes it).
pub(crate) fn save_state_dict(path: &Path, tensors: &[(String, ArrayD<f32>)]) -> Result<()> {
    let broken =
        |e: zip::result::ZipError| refuse(&path.display().to_string(), format!("cannot be written: {e}"), "");
    let io = |e: std::io::Error| broken(e.into());
    let mut pickle = b"\x80\x02}(".to_vec();
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(b"ctorch\nFloatStorage\n");
        text(&mut pickle, &key.to_string());
        text(&mut pickle, "cpu");
        integer(&mut pickle, tensor.len());
        // The storage; where the tensor begins in it; its shape and strides; no gradient; no hooks.
        pickle.extend(b"tQ");
        integer(&mut pickle, 0);
        for numbers in [tensor.shape().to_vec(), row_by_row(tensor.shape())] {
            pickle.push(b'(');
            numbers.into_iter().for_each(|n| integer(&mut pickle, n));
            pickle.push(b't');
        }
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    let mut write = |name: &str, bytes: &[u8]| -> Result<()> {
        zip.start_file(format!("archive/{name}"), options).map_err(broken)?;
        zip.write_all(bytes).map_err(io)
    };
    write("data.pkl", &pickle)?;
    write("byteorder", b"little")?;
    write("version", b"3\n")?;
    for (key, (_, tensor)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = tensor.iter().flat_map(|x| x.to_le_bytes()).collect();
        write(&format!("data/{key}"), &bytes)?;
    }
    record::write_atomic(path, zip.finish().map_err(broken)?.get_ref())
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn integer(pickle: &mut Vec<u8>, n: usize) {
    pickle.push(b'J');
    pickle.extend((n as i32).to_le_bytes());
}

fn row_by_row(shape: &[usize]) -> Vec<usize> {
    (1..=shape.len()).map(|axis| shape[axis..].iter().product()).collect()
}
