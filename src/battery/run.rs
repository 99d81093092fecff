//! The battery: trains the networks, measures each, keeps what is finished.

use std::path::PathBuf;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::gradient::LiteralGradient;
use super::kept::{CELL, check_seeds, go_on, kept};
use super::lesions::{Lesion, affine_replacement};
use super::measure::KINDS;
use super::paths::{has_paths, path_lengths};
use super::report::{Cell, Lesions, Report};
use super::streams::Streams;
use crate::data::Source;
use crate::dual::{PredictiveCoding, PredictiveConfig};
use crate::lens::LensKind;
use crate::model::{Blocks, Config, Residual, Supervision, Training, TrainingLog, Transformer};
use crate::num::rng;
use crate::session::{Progress, quietly};
use crate::{Error, ErrorKind, Result};

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The network in question: `config` as it is.
    Trained,
    /// The same at its initial weights.
    Untrained,
    /// Without skip connections.
    Plain,
    /// One block for all layers.
    Looped,
    /// Every layer trained to predict through the one read-out: the positive control.
    DeepSupervised,
    /// A predictive-coding network of as many corrections: one lens, the identity, by construction.
    Predictive,
}

impl Network {
    /// Every kind.
    pub const ALL: [Network; 6] = [
        Network::Trained,
        Network::Untrained,
        Network::Plain,
        Network::Looped,
        Network::DeepSupervised,
        Network::Predictive,
    ];

    /// Says how the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Network::Trained => "trained",
            Network::Untrained => "untrained",
            Network::Plain => "plain (no skips)",
            Network::Looped => "one block looped",
            Network::DeepSupervised => "every layer supervised",
            Network::Predictive => "predictive coding",
        }
    }

    fn config(self, config: &Config, seed: u64) -> Config {
        let config = Config { seed, ..config.clone() };
        match self {
            Network::Trained | Network::Untrained | Network::Predictive => config,
            Network::Plain => Config { residual: Residual::None, ..config },
            Network::Looped => Config { blocks: Blocks::Looped { inject: false }, ..config },
            Network::DeepSupervised => Config { supervision: Supervision::EveryLayer, ..config },
        }
    }
}

/// Which networks, how trained, on how much data. Everything has a default; the defaults were not tuned on anything.
///
/// ```no_run
/// use onelens::{battery::Battery, data::Copies};
/// let report = Battery::default().run(&Copies::new(20, 4, 8)?)?;
/// println!("{}", report.verdict().sentence);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Battery {
    /// The network in question; `d_vocab` is the source's, `seed` each of `seeds`.
    pub config: Config,
    /// How each network is trained; its seed is each of `seeds`.
    pub training: Training,
    /// Which networks. The first is the one in question.
    pub networks: Vec<Network>,
    /// One network of each kind for every seed. The network is the unit of the statistics: at least two.
    pub seeds: Vec<u64>,
    /// Held-out sequences per network; half fit the lenses, half are read.
    pub n_seqs: usize,
    /// Ridge penalty of every lens, relative to the mean variance of a feature.
    pub lambda: f64,
    /// Where finished networks are kept, so that an interrupted battery can continue; `None`: nowhere.
    pub folder: Option<PathBuf>,
}

impl Default for Battery {
    /// Eight seeds of six blocks of width 16, with all controls: about a quarter of an hour on two cores. A source of
    /// 17 tokens or more determines their streams.
    fn default() -> Self {
        Battery {
            config: Config {
                n_ctx: 32,
                d_model: 16,
                n_layers: 6,
                n_heads: 4,
                d_head: 8,
                d_mlp: 64,
                ..Default::default()
            },
            training: Training { steps: 1000, batch_size: 32, ..Default::default() },
            networks: Network::ALL.to_vec(),
            seeds: (0..8).collect(),
            n_seqs: 128,
            lambda: 1e-4,
            folder: None,
        }
    }
}

impl Battery {
    /// Trains and measures every network, with progress, and reports. An interrupt stops between two networks; with a
    /// `folder`, running it again continues from there.
    ///
    /// Fails on fewer than two seeds, fewer than two layers, no networks, or where training or a lens does.
    pub fn run(&self, source: &dyn Source) -> Result<Report> {
        self.check()?;
        let total = self.networks.len() * self.seeds.len();
        let mut progress = Progress::new("battery", total);
        let mut groups: Vec<(String, Vec<Cell>)> = Vec::new();
        let mut done = 0;
        for &network in &self.networks {
            let mut cells = Vec::new();
            for &seed in &self.seeds {
                go_on(self.folder.as_deref(), done, total)?;
                cells.push(self.cell(source, network, seed)?);
                done += 1;
                progress.update(done, || format!("{}, seed {seed}", network.name()));
            }
            groups.push((network.name().into(), cells));
        }
        progress.finish(&format!("{done} networks"));
        let title = "Does one lens read every layer?";
        // Untrained networks have learned nothing, and stand in the report as they are.
        let plain = Network::Plain;
        let controls: &[&str] = if self.networks.contains(&plain) { &[plain.name()] } else { &[] };
        Report::new(title, &groups, controls, self.methods(source))
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: String, help: &str| Err(Error::new(ErrorKind::Config, what, help));
        check_seeds(&self.seeds)?;
        if self.networks.is_empty() {
            return refuse("the battery has no networks".into(), "name at least `Network::Trained`");
        }
        if self.config.n_layers < 2 {
            return refuse(
                format!("n_layers is {}", self.config.n_layers),
                "set n_layers to 2 or more: one lens for all layers is a question for two layers or more",
            );
        }
        Ok(())
    }

    /// One network: read from the folder, or made.
    fn cell(&self, source: &dyn Source, network: Network, seed: u64) -> Result<Cell> {
        let depends_on = format!(
            "{:?} {:?} {} {} {}",
            self.config,
            self.training,
            self.n_seqs,
            self.lambda,
            source.describe()
        );
        let label = format!("{network:?}-{seed}");
        kept(self.folder.as_deref(), CELL, &depends_on, &label, || self.make(source, network, seed))
    }

    /// One network, trained and measured.
    fn make(&self, source: &dyn Source, network: Network, seed: u64) -> Result<Cell> {
        let config = Config { d_vocab: source.d_vocab(), ..network.config(&self.config, seed) };
        let how = Training { seed, ..self.training.clone() };
        let tokens = source.sample_held_out(self.n_seqs, config.n_ctx, &mut rng(seed, 0xe7a1))?;
        let whole = |log: TrainingLog| match log.interrupted {
            false => Ok(()),
            // Half trained is not what was asked for.
            true => Err(Error::new(
                ErrorKind::Interrupted,
                format!("interrupted while training {}, seed {seed}", network.name()),
                "run it again; with a `folder`, finished networks are kept",
            )),
        };
        if network == Network::Predictive {
            let mut model = PredictiveCoding::new(PredictiveConfig {
                d_vocab: config.d_vocab,
                n_ctx: config.n_ctx,
                d_model: config.d_model,
                d_key: config.n_heads * config.d_head,
                n_layers: config.n_layers,
                seed,
                ..Default::default()
            })?;
            whole(quietly(|| model.train(source, &how))?)?;
            let streams = Streams::of_predictive(&model, &tokens, Some(source))?;
            let mut cell = Cell::measure(&streams, self.lambda, seed)?;
            cell.fingerprint = model.fingerprint();
            cell.loss = model.loss(&tokens)?;
            return Ok(cell);
        }
        let mut model = Transformer::new(config)?;
        if network != Network::Untrained {
            whole(quietly(|| model.train(source, &how))?)?;
        }
        cell_of(&model, &tokens, Some(source), self.lambda, seed)
    }

    fn methods(&self, source: &dyn Source) -> Vec<(String, String)> {
        let c = &self.config;
        let row = |name: &str, value: String| (name.to_string(), value);
        vec![
            row("source", source.describe()),
            row(
                "network",
                format!(
                    "{} blocks, d_model {}, {} heads; {}",
                    c.n_layers,
                    c.d_model,
                    c.n_heads,
                    c.describe()
                ),
            ),
            row(
                "training",
                format!(
                    "{} steps of {} sequences of {} tokens, AdamW at {}",
                    self.training.steps, self.training.batch_size, c.n_ctx, self.training.lr
                ),
            ),
            row("seeds", format!("{:?}, of weights, batches and held-out sequences", self.seeds)),
            row(
                "held out",
                format!(
                    "{} sequences of {} tokens per network; half fit the lenses, half are read",
                    self.n_seqs, c.n_ctx
                ),
            ),
            row(
                "lenses",
                lenses(self.lambda),
            ),
            row(
                "intervals",
                "95 %, studentised bootstrap over networks, each with all of its sequences; the range of fewer than six".into(),
            ),
            row(
                "what KL sees",
                if source.d_vocab() > c.d_model {
                    format!(
                        "{} tokens determine all {} dimensions of the stream",
                        source.d_vocab(),
                        c.d_model
                    )
                } else {
                    format!(
                        "{} tokens determine {} of {} dimensions of the stream; in the rest several predictions could hide",
                        source.d_vocab(),
                        source.d_vocab() - 1,
                        c.d_model
                    )
                },
            ),
            row("version", format!("onelens {}", env!("CARGO_PKG_VERSION"))),
        ]
    }
}

/// How lenses are made, for the methods.
pub(super) fn lenses(lambda: f64) -> String {
    let kinds: Vec<String> = KINDS.iter().map(LensKind::name).collect();
    format!(
        "of streams at unit size where a final norm is, to what the norm makes of the last stream; ridge towards zero, lambda {lambda:e}; then the least \
         KL for: {}",
        kinds.join("; ")
    )
}

/// Measures one transformer with everything that there is to measure.
pub(super) fn cell_of(
    model: &Transformer,
    tokens: &Array2<u32>,
    source: Option<&dyn Source>,
    lambda: f64,
    seed: u64,
) -> Result<Cell> {
    let streams = Streams::of_transformer(model, tokens, source)?;
    let cell = Cell::measure(&streams, lambda, seed)?;
    with_the_rest(cell, model, tokens, source)
}

/// Adds what is measured in the network itself.
fn with_the_rest(
    mut cell: Cell,
    model: &Transformer,
    tokens: &Array2<u32>,
    source: Option<&dyn Source>,
) -> Result<Cell> {
    cell.fingerprint = model.fingerprint();
    cell.loss = model.loss(tokens)?;
    cell.gradient = Some(LiteralGradient::measure(model, tokens, source)?);
    if model.config.blocks == Blocks::Distinct && model.config.residual != Residual::None {
        cell.lesions = Some(lesions(model, tokens)?);
    }
    if has_paths(model) {
        cell.paths = Some(path_lengths(model, tokens)?);
    }
    Ok(cell)
}

/// Sequences of a part, so that each has some rows per dimension of the stream: a whole number of them, at least eight.
fn sequences_of_a_part(model: &Transformer, n_pos: usize) -> usize {
    (4 * model.config.d_model).max(2048).div_ceil(n_pos.max(1)).max(8)
}

/// The same in memory that does not grow with the number of tokens. Gradients and lesions are measured on the first and
/// the last of them.
fn cell_in_parts(
    model: &Transformer,
    tokens: &Array2<u32>,
    lambda: f64,
    on_part: &mut dyn FnMut(),
) -> Result<Cell> {
    let (n, each) = (tokens.nrows(), sequences_of_a_part(model, tokens.ncols()));
    let n_parts = n_parts(n, each);
    let part = |i: usize| {
        let rows = tokens.slice(ndarray::s![i * n / n_parts..(i + 1) * n / n_parts, ..]).to_owned();
        Streams::of_transformer(model, &rows, None)
    };
    let cell = Cell::measure_parts(n_parts, &part, lambda, 0, on_part)?;
    let ends: Vec<usize> = (0..n).filter(|&i| i < 2 * each || i + 2 * each >= n).collect();
    let cell = with_the_rest(cell, model, &tokens.select(ndarray::Axis(0), &ends), None)?;
    Ok(Cell { loss: model.loss(tokens)?, ..cell })
}

/// Parts of about `each` sequences, an even number of them.
fn n_parts(n: usize, each: usize) -> usize {
    (n / each / 2 * 2).max(2)
}

fn lesions(model: &Transformer, tokens: &Array2<u32>) -> Result<Lesions> {
    let n = model.config.n_layers;
    // The half on which affine maps are not fitted.
    let read = tokens.slice(ndarray::s![tokens.nrows() / 2.., ..]).to_owned();
    let loss = |lesion: Lesion| -> Result<f64> {
        let mut lesioned = lesion.apply(model)?;
        // Only what the last layer predicts counts, also where all were supervised.
        lesioned.config.supervision = Supervision::Final;
        lesioned.loss(&read)
    };
    let mut plain = model.clone();
    plain.config.supervision = Supervision::Final;
    let (affine, whole) = affine_replacement(&plain, tokens)?;
    Ok(Lesions {
        whole,
        delete: (0..n).map(|l| loss(Lesion::Delete(l))).collect::<Result<_>>()?,
        swap: (0..n - 1).map(|l| loss(Lesion::Swap(l))).collect::<Result<_>>()?,
        repeat: (0..n).map(|l| loss(Lesion::Repeat(l))).collect::<Result<_>>()?,
        affine,
        reverse: loss(Lesion::Permute((0..n).rev().collect()))?,
    })
}

impl Report {
    /// Makes the report about one network that is there already, such as a checkpoint, on `tokens: [sequence, pos]` of
    /// its own; the control is the same network at initial weights. Intervals are over sequences: they speak of this
    /// network, not of its kind. Streams are made some sequences at a time: the memory is that of a few thousand
    /// tokens, however many there are.
    ///
    /// Fails on fewer than 16 sequences, and where measuring does.
    pub fn of_transformer(name: &str, model: &Transformer, tokens: &Array2<u32>) -> Result<Self> {
        let lambda = Battery::default().lambda;
        let untrained = Transformer::new(model.config.clone())?;
        if tokens.nrows() < 16 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("{} sequences are too few for a report", tokens.nrows()),
                "give at least 16: half fit lenses and half are read, in parts of four and more",
            ));
        }
        let each = sequences_of_a_part(model, tokens.ncols());
        // Each part is made twice, for each of both networks.
        let total = 4 * n_parts(tokens.nrows(), each);
        let mut progress = Progress::new("battery", total);
        let mut done = 0;
        let mut one = |model: &Transformer, name: &str| {
            cell_in_parts(model, tokens, lambda, &mut || {
                done += 1;
                progress.update(done, || name.to_string());
            })
        };
        let network = one(model, name)?;
        let control = one(&untrained, Network::Untrained.name())?;
        progress.finish("1 network and its untrained twin");
        let groups =
            [(name.to_string(), vec![network]), (Network::Untrained.name().to_string(), vec![control])];
        let row = |name: &str, value: String| (name.to_string(), value);
        let methods = vec![
            row("network", format!("{model:?}; {}", model.config.describe())),
            row(
                "tokens",
                format!("{} sequences of {}; half fit the lenses, half are read", tokens.nrows(), tokens.ncols()),
            ),
            row(
                "copies",
                format!("updates are shuffled, and their covariances taken, among {each} sequences or more"),
            ),
            row(
                "gradients, lesions, paths",
                format!("on {} of the sequences, from both halves", tokens.nrows().min(4 * each)),
            ),
            row("lenses", lenses(lambda)),
            row("truth", "what came next; alignment is with the network's own final prediction, above that of shuffled updates".into()),
            row("intervals", "95 %, studentised bootstrap over sequences of this one network".into()),
            row("version", format!("onelens {}", env!("CARGO_PKG_VERSION"))),
        ];
        Report::new("Does one lens read every layer?", &groups, &[], methods)
    }
}
