//! Mathematics that has never heard of tokens: products, factorisations, probability, seeded randomness.

mod adam;
mod bf16;
mod eigen;
mod factor;
mod gram;
#[cfg(feature = "lapack")]
mod lapack;
mod outlier;
mod probability;
mod product;
#[cfg(not(feature = "lapack"))]
mod pure;
mod random;
mod rank;
mod real;
mod student;
mod tiles;
mod turn;
mod wide;

#[cfg(feature = "lapack")]
use lapack as back_end;
#[cfg(not(feature = "lapack"))]
use pure as back_end;

pub(crate) use adam::{Adam, clipped};
pub use eigen::SymmetricEigen;
pub use factor::Cholesky;
pub(crate) use gram::{Centred, Part, Strips, add_matrix, add_products, mirror};
pub use outlier::{auroc, local_outlier_factor, mahalanobis};
pub use probability::{entropy, kl_divergence, log_softmax_rows, mean_and_standard_error};
pub(crate) use product::matmul_into;
pub use product::{Precision, add_matmul, matmul};
pub use random::{Rng, normal, rng, sample_index, uniform, uniform_index};
pub(crate) use random::{random_rotation, standard_normal, uniform_f32};
pub use rank::{Mantel, mantel, spearman};
pub use real::Real;
pub(crate) use student::{student_cdf, student_quantile};
pub(crate) use tiles::{RowBounds, Strided, tiled_product};
pub(crate) use turn::{ROWS_TURNED_TOGETHER, turn};
pub use wide::wide;
pub(crate) use wide::{dot, largest, push_all, sum, wide_fn};
