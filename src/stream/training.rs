//! Data-parallel training: each process has its share of every batch, and gradients are added along the tree.

use ndarray::{Array2, Axis};

use super::Peers;
use super::tree::Tree;
use crate::data::Source;
use crate::model::{Params, TrainingLog, TrainingRun, Transformer};
use crate::{Error, ErrorKind, Result};

/// Sequences of a leaf of the tree: a batch keeps as many processes busy as it has leaves.
const LEAF: usize = 4;

/// Takes `run` to its end among processes that all call this with the same run; see [`TrainingRun::finish`]. Rank 0
/// draws the batches (the only one to read `source`), takes the steps, and returns the log; at the end every process
/// has the trained model.
///
/// A batch is cut into leaves of four sequences, whose gradients are added in a binary tree. Its shape depends on the
/// batch alone, so the weights have the same bits on any number of processes whose processors have the same
/// instructions; from those of `finish` they differ by rounding.
///
/// Fails where `finish` does, if a run on another process is of another shape, or if a process ends early.
///
/// ```
/// use onelens::{data::Markov, model::{Config, Training, TrainingRun, Transformer}};
/// use onelens::stream::{Alone, Threads, train_among};
/// let source = Markov::new(4, 0.5)?;
/// let model = Transformer::new(Config { d_vocab: 4, n_ctx: 8, n_layers: 1, ..Default::default() })?;
/// let how = Training { steps: 2, batch_size: 12, ..Default::default() };
///
/// let models = Threads::run(3, |peers| {
///     let mut run = TrainingRun::new(model.clone(), &how)?;
///     train_among(peers, &mut run, &Markov::new(4, 0.5)?)?;
///     Ok(run.into_model())
/// })?;
/// let mut alone = TrainingRun::new(model, &how)?;
/// train_among(&Alone, &mut alone, &source)?;
/// assert!(models.iter().all(|model| model == alone.model()));
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn train_among(
    peers: &dyn Peers,
    run: &mut TrainingRun,
    source: &dyn Source,
) -> Result<Option<TrainingLog>> {
    if peers.rank() > 0 {
        serve(peers, run.model_mut())?;
        return Ok(None);
    }
    let finished = run.finish_by(source, &mut |model, tokens| {
        tell(peers, &Order::Step { tokens: tokens.clone(), params: numbers(&model.params) }.pack())?;
        let sum = share(peers, model, tokens)?;
        Ok(sum.map(|sum| (sum.loss, sum.grad)).expect("the root of the tree is at rank 0"))
    });
    match finished {
        Ok(log) => {
            tell(peers, &Order::End { params: numbers(&run.model().params) }.pack()).map(|()| Some(log))
        }
        Err(e) => {
            // There is no telling which of them have ended; the first error is the one to return.
            let _ = tell(peers, &Order::Failed.pack());
            Err(e)
        }
    }
}

/// Computes for rank 0 until it says that training is over.
fn serve(peers: &dyn Peers, model: &mut Transformer) -> Result<()> {
    loop {
        let bytes = peers.receive((peers.rank() - 1) / 2)?;
        tell(peers, &bytes)?;
        match Order::unpack(&bytes).ok_or_else(not_understood)? {
            Order::Step { tokens, params } => {
                take_over(&mut model.params, &params)?;
                share(peers, model, &tokens)?;
            }
            Order::End { params } => return take_over(&mut model.params, &params),
            Order::Failed => {
                return Err(Error::new(
                    ErrorKind::Data,
                    "peer 0 has ended before its work was done",
                    "its own error says why",
                ));
            }
        }
    }
}

/// What rank 0 tells all others.
enum Order {
    /// The gradient of a share of this batch at these weights.
    Step { tokens: Array2<u32>, params: Vec<u8> },
    /// Training is over, with these weights.
    End { params: Vec<u8> },
    /// Training has failed.
    Failed,
}

impl Order {
    fn pack(&self) -> Vec<u8> {
        match self {
            Order::Failed => vec![0],
            Order::End { params } => [&[1], params.as_slice()].concat(),
            Order::Step { tokens, params } => {
                let shape = [tokens.nrows() as u32, tokens.ncols() as u32];
                let head = shape.iter().chain(tokens).flat_map(|x| x.to_le_bytes());
                [2].into_iter().chain(head).chain(params.iter().copied()).collect()
            }
        }
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match kind {
            0 => Some(Order::Failed),
            1 => Some(Order::End { params: rest.to_vec() }),
            _ => {
                let (rows, rest) = rest.split_first_chunk::<4>()?;
                let (columns, rest) = rest.split_first_chunk::<4>()?;
                let shape = (u32::from_le_bytes(*rows) as usize, u32::from_le_bytes(*columns) as usize);
                let (tokens, params) = rest.split_at_checked(4 * shape.0 * shape.1)?;
                let tokens = tokens.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
                Some(Order::Step {
                    tokens: Array2::from_shape_vec(shape, tokens).ok()?,
                    params: params.to_vec(),
                })
            }
        }
    }
}

/// Passes an order on: process `r` to `2 r + 1` and `2 r + 2`.
fn tell(peers: &dyn Peers, order: &[u8]) -> Result<()> {
    let first = 2 * peers.rank() + 1;
    (first..(first + 2).min(peers.size())).try_for_each(|child| peers.send(child, order))
}

/// A part of a batch's loss and gradient.
struct Sum {
    loss: f64,
    grad: Params,
}

/// This process's part of a batch; the whole at rank 0.
fn share(peers: &dyn Peers, model: &Transformer, tokens: &Array2<u32>) -> Result<Option<Sum>> {
    let leaves: Vec<_> = tokens.axis_chunks_iter(Axis(0), LEAF).collect();
    let mut leaf = |i: usize| {
        let tokens_here = leaves[i].to_owned();
        let (loss, mut grad) = model.loss_and_grad(&tokens_here)?;
        let weight = tokens_here.nrows() as f64 / tokens.nrows() as f64;
        grad.slices_mut().into_iter().flatten().for_each(|g| *g *= weight as f32);
        Ok(Sum { loss: loss * weight, grad })
    };
    let join = |mut left: Sum, right: Sum| {
        left.loss += right.loss;
        let pairs = left.grad.slices_mut().into_iter().zip(right.grad.slices());
        pairs.for_each(|(a, b)| a.iter_mut().zip(b.iter()).for_each(|(a, b)| *a += b));
        Ok(left)
    };
    let pack = |sum: &Sum| Ok([sum.loss.to_le_bytes().as_slice(), &numbers(&sum.grad)].concat());
    let unpack = |bytes: &[u8]| {
        let (loss, numbers) = bytes.split_first_chunk::<8>().ok_or_else(not_understood)?;
        let mut grad = Params::zeros(&model.config);
        take_over(&mut grad, numbers)?;
        Ok(Sum { loss: f64::from_le_bytes(*loss), grad })
    };
    Tree { n: leaves.len() }.fold(peers, &mut leaf, &join, &pack, &unpack)
}

fn numbers(params: &Params) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * params.count());
    params.for_each(|numbers| bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes())));
    bytes
}

fn take_over(params: &mut Params, bytes: &[u8]) -> Result<()> {
    if bytes.len() != 4 * params.count() {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("a peer trains {} parameters, this process {}", bytes.len() / 4, params.count()),
            "start the same run on every process",
        ));
    }
    let all = params.slices_mut().into_iter().flatten();
    all.zip(bytes.as_chunks::<4>().0).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
    Ok(())
}

fn not_understood() -> Error {
    Error::new(ErrorKind::Data, "a peer's message is cut off", "start the same version on every process")
}
