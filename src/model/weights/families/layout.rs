//! How a stored tensor becomes ours. Ours are `[in, out]`.

use std::ops::Range;

use super::super::Loaded;
use super::super::tensors::Tensors;
use crate::Result;
use crate::model::{Config, Experts};
use crate::num::matmul;

/// How a stored tensor becomes ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As it is.
    AsIs,
    /// From `[out, in]`.
    Transposed,
    /// A gain that is stored less 1.
    PlusOne,
    /// Ones, which are not stored: a norm without gain.
    Ones,
    /// As it is, after the first rows, this many, which no position reads.
    After(usize),
    /// A part of the rows of `[all, in]`, or of a bias `[all]`.
    Rows(Part),
    /// A part of the columns of `[in, all]`, or of a bias `[all]`.
    Columns(Part),
    /// From `[out, in]` for each expert: `{e}` in the name is its number.
    OfExperts,
    /// The embedding `[d_vocab, d]`, or that of fewer dimensions times `project_in`, where the file has one (OPT-350m).
    ProjectedIn,
    /// The unembedding from `[d_vocab, d]`, after `project_out` where the file has one.
    ProjectedOut,
}

/// Which outputs of a matrix that makes several things at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All queries, then all keys, then all values.
    Stacked(Qkv),
    /// For each key/value head its queries, its key and its value.
    Grouped(Qkv),
    /// The first half (0) or the second one (1).
    Half(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qkv {
    Q,
    K,
    V,
}

impl Part {
    /// How many outputs there are altogether, where ours are `n`.
    fn all(self, c: &Config, n: usize) -> usize {
        match self {
            Part::Stacked(_) | Part::Grouped(_) => (c.n_heads + 2 * c.n_kv_heads()) * c.d_head,
            Part::Half(_) => 2 * n,
        }
    }

    /// Which output our output `j` of `n` is.
    fn at(self, c: &Config, n: usize, j: usize) -> usize {
        let (heads, kv_heads) = (c.n_heads * c.d_head, c.n_kv_heads() * c.d_head);
        let (head, i) = (j / c.d_head, j % c.d_head);
        let group = c.n_heads / c.n_kv_heads();
        match self {
            Part::Stacked(Qkv::Q) => j,
            Part::Stacked(Qkv::K) => heads + j,
            Part::Stacked(Qkv::V) => heads + kv_heads + j,
            Part::Grouped(Qkv::Q) => (head / group * (group + 2) + head % group) * c.d_head + i,
            Part::Grouped(Qkv::K) => (head * (group + 2) + group) * c.d_head + i,
            Part::Grouped(Qkv::V) => (head * (group + 2) + group + 1) * c.d_head + i,
            Part::Half(half) => half * n + j,
        }
    }

    /// The outputs that are ours, if they lie together in order.
    fn range(self, c: &Config, n: usize) -> Option<Range<usize>> {
        match self {
            Part::Stacked(_) | Part::Half(_) => Some(self.at(c, n, 0)..self.at(c, n, 0) + n),
            Part::Grouped(_) => None,
        }
    }
}

impl How {
    /// Our tensor of `shape`, stored under `name`: a matrix stays as it is stored, a vector becomes ours.
    pub(super) fn load(
        self,
        tensors: &mut Tensors,
        name: &str,
        shape: &[usize],
        c: &Config,
    ) -> Result<Loaded> {
        match *shape {
            [rows, columns] => self.matrix(tensors, name, (rows, columns), c),
            _ => self.vector(tensors, name, shape, c).map(Loaded::Numbers),
        }
    }

    fn vector(self, tensors: &mut Tensors, name: &str, shape: &[usize], c: &Config) -> Result<Vec<f32>> {
        let n = shape.iter().product();
        Ok(match self {
            How::AsIs
            | How::Transposed
            | How::OfExperts
            | How::After(_)
            | How::ProjectedIn
            | How::ProjectedOut => tensors.take(name, shape)?,
            How::PlusOne => tensors.take(name, shape)?.into_iter().map(|gain| 1.0 + gain).collect(),
            How::Ones => vec![1.0; n],
            How::Rows(part) | How::Columns(part) => {
                let stored = tensors.take(name, &[part.all(c, n)])?;
                (0..n).map(|j| stored[part.at(c, n, j)]).collect()
            }
        })
    }

    fn matrix(
        self,
        tensors: &mut Tensors,
        name: &str,
        (rows, columns): (usize, usize),
        c: &Config,
    ) -> Result<Loaded> {
        let matrix = match self {
            How::AsIs | How::PlusOne | How::Ones => tensors.take_matrix(name, &[rows, columns], false)?,
            How::Transposed => tensors.take_matrix(name, &[columns, rows], true)?,
            How::After(n) => {
                let all = tensors.take_matrix(name, &[n + rows, columns], false)?;
                all.with_rows((n..n + rows).map(|row| row as u32).collect())
            }
            How::Rows(part) => {
                let all = tensors.take_matrix(name, &[part.all(c, columns), rows], true)?;
                all.with_rows((0..columns).map(|j| part.at(c, columns, j) as u32).collect())
            }
            How::Columns(part) => {
                let all = tensors.take_matrix(name, &[rows, part.all(c, columns)], false)?;
                let range = part.range(c, columns).expect("columns that are stored together lie in order");
                all.with_columns(range)
            }
            How::OfExperts => {
                let Experts { n, .. } = c.experts.expect("asked only for experts");
                let rows = rows / n;
                let mut all = Vec::with_capacity(n * rows * columns);
                for e in 0..n {
                    let stored = tensors.take(&name.replace("{e}", &e.to_string()), &[columns, rows])?;
                    all.extend(
                        (0..rows)
                            .flat_map(|i| (0..columns).map(move |j| (i, j)))
                            .map(|(i, j)| stored[j * rows + i]),
                    );
                }
                return Ok(Loaded::Numbers(all));
            }
            How::ProjectedIn => match tensors.ending("project_in.weight") {
                None => tensors.take_matrix(name, &[rows, columns], false)?,
                Some((by, shape)) => {
                    let (by, narrow) = (by.to_string(), shape.last().copied().unwrap_or(0));
                    let embedding = tensors.take_matrix(name, &[rows, narrow], false)?;
                    let project = tensors.take_matrix(&by, &[columns, narrow], true)?;
                    matmul(embedding.view(), project.view()).into()
                }
            },
            How::ProjectedOut => match tensors.ending("project_out.weight") {
                None => tensors.take_matrix(name, &[columns, rows], true)?,
                Some((by, shape)) => {
                    let (by, narrow) = (by.to_string(), shape.first().copied().unwrap_or(0));
                    let project = tensors.take_matrix(&by, &[narrow, rows], true)?;
                    let unembedding = tensors.take_matrix(name, &[columns, narrow], true)?;
                    matmul(project.view(), unembedding.view()).into()
                }
            },
        };
        Ok(Loaded::Stored(matrix))
    }
}
