//! PyTorch's own files and tensors, through `candle-core`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::pickle::{PthTensors, TensorInfo};
use candle_core::{DType, Device, Tensor};
use ndarray::ArrayD;

use super::tensors::{Tensors, refuse};
use crate::{Error, ErrorKind, Result};

/// The tensors of PyTorch files (`.pth`, `.pt`, `.bin`) together, widened to `f32`. `shown` is the folder, for errors.
///
/// Only what describes tensors is taken from a pickle; no code in it is run.
pub(super) fn open_pickles(shown: &Path, paths: &[PathBuf]) -> Result<Tensors> {
    let mut tensors = Tensors::none(shown);
    for path in paths {
        let shown = path.display().to_string();
        let broken = |why: String| {
            refuse(
                &shown,
                format!("cannot be read as a PyTorch file: {why}"),
                "give a state_dict that `torch.save` of PyTorch 1.6 or later has written, or a safetensors file",
            )
        };
        // Damaged pickles make the reader panic; that must not reach the user.
        let quiet = |read: &mut dyn FnMut() -> candle_core::Result<()>| -> Result<()> {
            match catch_unwind(AssertUnwindSafe(read)) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(e)) => Err(broken(e.to_string())),
                Err(_) => Err(broken("it is damaged".into())),
            }
        };
        let bytes = std::fs::metadata(path).map_err(|e| broken(e.to_string()))?.len();
        let mut file = None;
        quiet(&mut || {
            file = Some(PthTensors::new(path, None)?);
            Ok(())
        })?;
        let Some(file) = file else { return Err(broken("it is damaged".into())) };
        if file.tensor_infos().is_empty() {
            return Err(broken("it holds no state_dict".into()));
        }
        let mut infos: Vec<(&String, &TensorInfo)> = file.tensor_infos().iter().collect();
        infos.sort_by_key(|(name, _)| *name);
        // PyTorch stores without compression, in two bytes or more, and the only tensor that shares another's numbers
        // is a tied unembedding: there are no more numbers than bytes.
        let mut left = bytes;
        for (name, info) in infos {
            let n = info.layout.dims().iter().try_fold(1_u64, |n, &d| n.checked_mul(d as u64));
            left = n.and_then(|n| left.checked_sub(n)).ok_or_else(|| {
                broken(format!(
                    "`{name}` of the shape {:?} is larger than the file allows",
                    info.layout.dims()
                ))
            })?;
            let mut tensor = None;
            quiet(&mut || {
                tensor = file.get(name)?;
                Ok(())
            })?;
            let Some(tensor) = tensor else { return Err(broken(format!("`{name}` is not in it"))) };
            let array = from_candle(&tensor)?;
            let shape = array.shape().to_vec();
            tensors.add(name.clone(), shape, array.as_slice().expect("a new array is contiguous"))?;
        }
    }
    Ok(tensors)
}

/// Turns a candle tensor of any type and device into an array.
///
/// ```
/// use onelens::{model::{from_candle, to_candle}, ndarray::array};
/// let x = array![[1.0_f32, 2.0]].into_dyn();
/// assert_eq!(from_candle(&to_candle(&x)?)?, x);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn from_candle(tensor: &Tensor) -> Result<ArrayD<f32>> {
    let read = || -> candle_core::Result<Vec<f32>> {
        tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()
    };
    let numbers = read().map_err(|e| not_taken("out of", tensor.dims(), &e))?;
    Ok(ArrayD::from_shape_vec(tensor.dims(), numbers).expect("as many numbers as the shape says"))
}

/// Turns an array into a candle tensor on the CPU.
pub fn to_candle(array: &ArrayD<f32>) -> Result<Tensor> {
    let numbers: Vec<f32> = array.iter().copied().collect();
    Tensor::from_vec(numbers, array.shape(), &Device::Cpu).map_err(|e| not_taken("into", array.shape(), &e))
}

fn not_taken(way: &str, shape: &[usize], e: &candle_core::Error) -> Error {
    let what = format!("numbers of the shape {shape:?} cannot be taken {way} a candle tensor: {e}");
    Error::new(ErrorKind::Data, what, "is it on a device that this build of candle knows?")
}
