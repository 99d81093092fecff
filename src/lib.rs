//! See how a transformer arrives at its prediction, layer by layer, in a Rust notebook.
//!
//! ```text
//! What SmolLM2 would say next, if it stopped after this block
//! next token   ·city    ·of    ·Paris    ,    ·the      ·capital    ·of    ·France
//! block 29     ·        ·of*   ·Paris*   ,*   ·France   ·capital*   ·of*   ·France*
//! block 28     ·same    ·of*   ·Paris*   ,*   ·a        ·capital*   ·of*   ·central
//! block 27     ·same    ·of*   ·Paris*   ,*   ·a        ·most       ·of*   ·France*
//! block 26     ·same    ·of*   ,         ,*   ·a        ·most       ·of*   ·the
//! token        ·the     ·city  ·of       ·Paris   ,     ·the     ·capital  ·of
//! ```
//!
//! The layers of a language model seem to sharpen one prediction step by step. Is that iterative inference, or would
//! any network look so? If it is, *one and the same lens* has to read every layer. This crate trains or loads a
//! transformer, fits lenses in closed form, and shows the answer with its controls.
//!
//! It is for anyone who wants to know what happens between the layers of a transformer, and for those who write Rust
//! and want a notebook for it: the program `onelens` is a Jupyter kernel, `onelens run NOTEBOOK` makes a page of a
//! notebook, and `onelens lab` opens JupyterLab. It needs Linux (for macOS it compiles, and was not yet run there),
//! Rust 1.95 or later with cargo, and a C compiler for linking, but no Python. It computes on the processor in `f32`;
//! the largest model tried here is SmolLM2 with 135 million parameters.
//!
//! In a clone of the repository:
//!
//! ```sh
//! cargo run -- run notebooks/01_one_lens.ipynb   # builds, then trains, fits, draws
//! cargo run -- lab notebooks                     # all notebooks in JupyterLab
//! ```
//!
//! The first command writes `notebooks/01_one_lens.html`: open that page in a browser.
//!
//! # The map
//!
//! Data flow one way:
//!
//! ```text
//!  source of tokens ──> Transformer ──> ActivationCache ──> Moments ──> Lens ──> Comparison, Transfer, Trajectory ──> Figure
//!    data                 model            model              lens       lens     lens                                  show
//! ```
//!
//! Modules in reading order; each imports only from those before it, and a test holds it to that:
//!
//! | module | what it is | what it never does |
//! |---|---|---|
//! | [`session`] | displays, progress, interrupts: where a computation meets who watches it | compute |
//! | [`num`] | products, factorisations, probability, seeded randomness | know what a token is |
//! | [`data`] | text, and sources whose true conditional is known | know what a model is |
//! | [`nn`] | one operation per file, forward next to backward | keep state |
//! | [`model`] | [`Config`](model::Config), [`Transformer`](model::Transformer), [`ActivationCache`](model::ActivationCache), hooks, interventions, training | draw |
//! | [`vision`] | image classifiers, plain and residual: the controls | read text |
//! | [`circuits`] | attribution, patching, what heads look at | train |
//! | [`lens`] | [`Moments`](lens::Moments) and everything fitted from them | keep activations |
//! | [`device`] | forward passes and moments on a graphics card | know an architecture that `model` does not |
//! | [`language`] | weights, tokenizer and conventions behind one door: text wherever tokens go | add a second way to compute |
//! | [`stream`] | the same from texts of any size, on any number of processes | hold more than a shard |
//! | [`dual`] | attention as gradient descent: small theory objects in `f64`, each with its identity | train a language model |
//! | [`battery`] | does one lens read every layer? Networks, nulls, statistics and the decision rule | change the rule |
//! | [`show`] | figures; the only place that writes HTML or SVG | compute |
//!
//! Weights and activations are `f32`; statistics and solves are `f64`. Public types are concrete and owned, so that a
//! notebook can keep them between cells.
//!
//! # From nothing to an answer
//!
//! ```no_run
//! use onelens::prelude::*;
//!
//! let corpus = Corpus::rust_source()?;
//! let mut model = Transformer::new(Config { d_vocab: corpus.d_vocab(), ..Default::default() })?;
//! model.train(&corpus, &Training::default())?;
//!
//! let moments = LayerMoments::collect(&model, &corpus.sample(512, 64, &mut rng(0, 0))?)?;
//! let ridge = Ridge::default();
//! let (own, shared) = (ridge.own(&moments)?, ridge.shared(&moments)?);
//! let held_out = corpus.sample_held_out(128, 64, &mut rng(0, 1))?;
//! let seen = compare(&model, &[&own, &shared, &LogitLens], &moments, &held_out)?;
//! seen.figure()?.save("one_lens.html")?;
//! # Ok::<(), onelens::Error>(())
//! ```
//!
//! # Coming from elsewhere
//!
//! | there | here |
//! |---|---|
//! | TransformerLens `HookedTransformer.run_with_cache` | [`Transformer::run_with_cache`](model::Transformer::run_with_cache) |
//! | TransformerLens `run_with_hooks(tokens, fwd_hooks=[("blocks.2.attn.hook_z", zero_head_1)])` | [`run_with(&tokens, &[Intervention::zero(Hook::Z(2)).head(1)])?`](model::Transformer::run_with) |
//! | TransformerLens `cache["resid_post", 3]` | [`cache.resid_post(3)?`](model::ActivationCache::resid_post) |
//! | TransformerLens `patching.get_act_patch_resid_pre` | [`patch_positions(.., Hook::ResidPre, ..)`](circuits::patch_positions) |
//! | TransformerLens `cache.logit_attrs` | [`LogitAttribution`](circuits::LogitAttribution) |
//! | transformers `AutoModelForCausalLM.from_pretrained(folder)` | [`Transformer::from_hugging_face(folder)?`](model::Transformer::from_hugging_face) |
//! | tuned-lens `TunedLens` trained by SGD | [`Ridge::own`](lens::Ridge::own), in closed form, then [`Refine`](lens::Refine) |
//! | tuned-lens `PredictionTrajectory` | [`Trajectory`](lens::Trajectory) |
//! | matplotlib `plt.plot(y)`, `scatter`, `bar`, `hist`, `imshow` | [`plot(&y)`](show::plot), [`scatter`](show::scatter), [`bar`](show::bar), [`histogram`](show::histogram), [`image`](show::image) |
//! | scikit-learn `Ridge(alpha)` | [`Ridge { lambda, towards: Zero }`](lens::Ridge), `alpha = λ s² n` |
//!
//! There is no adapter to linfa's `Fit` and `Predict`: linfa 0.8.1, the latest on 23 November 2026, takes arrays of
//! ndarray 0.16, and ours are ndarray 0.17's, which are other types.

// Named by notebook engines that write down the type of a `let`: without this path `let y = &x * 2.0;` does not compile
// in a cell.
pub use ndarray;

mod error;
mod memory;
mod record;

pub mod session;

pub mod num;

pub mod data;
pub mod nn;

pub mod model;

pub mod vision;

pub mod circuits;

pub mod lens;

pub mod device;
pub mod language;
pub mod stream;

pub mod dual;

pub mod battery;

pub mod show;

pub mod prelude;

pub use error::{Error, ErrorKind, Result};
