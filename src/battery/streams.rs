//! What the battery looks at: the residual streams of one network on many tokens, in `f64`, with the way its last one
//! is read.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, concatenate};

use super::measure::TruthRead;
use super::temperature::Temperature;
use crate::data::{Images, Source, Tokens};
use crate::dual::PredictiveCoding;
use crate::lens::{NOTHING, Scale};
use crate::model::{Hook, Norm, Transformer};
use crate::nn::{rms_norm, rms_norm_backward};
use crate::num::{SymmetricEigen, log_softmax_rows, matmul};
use crate::vision::{ImageClassifier, MnistCnn};
use crate::{Error, ErrorKind, Result};

/// The streams of one network. Rows are tokens, `n_pos` of one sequence after the other.
///
/// The network may be any that has streams of one width: a transformer, an image classifier, numbers made up for a
/// test.
#[derive(Clone, Debug)]
pub struct Streams {
    /// `h_0 ..= h_L`, each `[row, d]`.
    pub streams: Vec<Array2<f64>>,
    /// What lenses are to predict, `[row, d_z]`: the last stream, or centred log-probabilities.
    pub target: Array2<f64>,
    /// How a prediction of the target becomes log-probabilities.
    pub readout: Readout,
    /// The final prediction, log-probabilities `[row, d_vocab]`.
    pub log_p: Array2<f64>,
    /// What is known of what really comes next.
    pub truth: Truth,
    /// At which lenses read the streams: at unit size where a final norm takes the size away before anything is
    /// predicted.
    pub scale: Scale,
    /// Rows of one sequence. Those of different sequences are independent.
    pub n_pos: usize,
}

/// What is known of what really comes next, for each row.
#[derive(Clone, Debug)]
pub enum Truth {
    /// The true conditional, log-probabilities `[row, d_vocab]`.
    Known(Array2<f64>),
    /// The class that came, `[row]`; `None` where that is not known, as after the last token of a sequence.
    Seen(Vec<Option<u32>>),
    /// Nothing.
    Unknown,
}

impl Truth {
    /// What readings, log-probabilities `[row, d_vocab]` of each stream, say of the truth, beside the final prediction
    /// `log_p` and the constant one `log_mean`. `None` if nothing is known.
    pub(super) fn read(
        &self,
        n_pos: usize,
        readings: &[Array2<f64>],
        log_p: &Array2<f64>,
        log_mean: &Array1<f64>,
    ) -> Option<TruthRead> {
        // What is wanted of each row, less the entropy of that; rows of which nothing is known want nothing.
        let (p, entropy): (Array2<f64>, Array1<f64>) = match self {
            Truth::Known(log_truth) => {
                let p = log_truth.mapv(f64::exp);
                let entropy = -(&p * log_truth).sum_axis(Axis(1));
                (p, entropy)
            }
            Truth::Seen(classes) => {
                let mut p = Array2::zeros(log_p.dim());
                let seen = classes.iter().enumerate().filter_map(|(row, class)| Some((row, (*class)?)));
                seen.for_each(|(row, class)| p[(row, class as usize)] = 1.0);
                (p, Array1::zeros(classes.len()))
            }
            Truth::Unknown => return None,
        };
        let weight = p.sum_axis(Axis(1));
        let by_sequence = |cross_entropy: &dyn Fn(usize) -> f64| -> Array1<f64> {
            let of_rows = |rows: std::ops::Range<usize>| {
                let known: f64 = rows.clone().map(|row| weight[row]).sum();
                rows.map(|row| cross_entropy(row) - entropy[row]).sum::<f64>() / known.max(1.0)
            };
            (0..log_p.nrows() / n_pos).map(|i| of_rows(i * n_pos..(i + 1) * n_pos)).collect()
        };
        let tempered = |log_q: &Array2<f64>| {
            let log_q = Temperature::best_of(p.view(), log_q.clone());
            by_sequence(&|row| -p.row(row).dot(&log_q.row(row)))
        };
        let mut shared = Array2::zeros((log_p.nrows() / n_pos, readings.len()));
        for (mut column, log_q) in shared.columns_mut().into_iter().zip(readings) {
            column.assign(&tempered(log_q));
        }
        Some(TruthRead {
            known: matches!(self, Truth::Known(_)),
            baseline: tempered(&log_mean.broadcast(log_p.dim()).expect("a row of it for each").to_owned()),
            last: tempered(log_p),
            shared,
        })
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> Truth {
        match self {
            Truth::Known(log_truth) => Truth::Known(log_truth.slice(ndarray::s![rows, ..]).to_owned()),
            Truth::Seen(classes) => Truth::Seen(classes[rows].to_vec()),
            Truth::Unknown => Truth::Unknown,
        }
    }
}

/// The orthogonal matrix nearest to `m`: `U Vᵀ` of `m = U S Vᵀ`.
fn nearest_turn(m: ArrayView2<f64>) -> Result<Array2<f64>> {
    let (right, left) = (matmul(m.t(), m), matmul(m, m.t()));
    let (right, left) = (SymmetricEigen::new(right.view())?, SymmetricEigen::new(left.view())?);
    let largest = right.values.iter().fold(0.0_f64, |most, s| most.max(*s));
    let mut turn = Array2::zeros(m.dim());
    for ((&square, v), other) in right.values.iter().zip(right.vectors.columns()).zip(left.vectors.columns())
    {
        // Where `m` says nothing, any direction that is left over goes onto any other.
        let u = if square > 1e-10 * largest { m.dot(&v) / square.sqrt() } else { other.to_owned() };
        for (mut row, u) in turn.rows_mut().into_iter().zip(u) {
            row.scaled_add(u, &v);
        }
    }
    Ok(turn)
}

/// The read-out of a network, `logits = (gain ∘ N(z) + bias) W_U + b_U`.
#[derive(Clone, Debug, PartialEq)]
pub struct Readout {
    /// The final norm.
    pub norm: Norm,
    /// Inside the norm's root.
    pub eps: f64,
    /// Gain of the norm, `[d_z]`; ones without a norm.
    pub gain: Array1<f64>,
    /// Bias of the norm, `[d_z]`.
    pub bias: Array1<f64>,
    /// Unembedding, `[d_z, d_vocab]`.
    pub w_u: Array2<f64>,
    /// Bias of the logits, `[d_vocab]`.
    pub b_u: Array1<f64>,
    /// No logit is larger than this, `c tanh(x / c)`.
    pub cap: Option<f64>,
}

impl Readout {
    /// Makes a read-out that is one matrix, `logits = z W_U`.
    pub fn linear(w_u: Array2<f64>) -> Self {
        let (d, v) = w_u.dim();
        Readout {
            norm: Norm::None,
            eps: 0.0,
            gain: Array1::ones(d),
            bias: Array1::zeros(d),
            w_u,
            b_u: Array1::zeros(v),
            cap: None,
        }
    }

    fn of(model: &Transformer) -> Self {
        let wide = |x: &Array1<f32>, d: usize, otherwise: f64| {
            if x.is_empty() { Array1::from_elem(d, otherwise) } else { x.mapv(f64::from) }
        };
        let (p, c) = (&model.params, &model.config);
        Readout {
            norm: c.final_norm(),
            eps: c.eps,
            gain: wide(&p.ln_final_w, c.d_model, 1.0),
            bias: wide(&p.ln_final_b, c.d_model, 0.0),
            w_u: p.unembedding().mapv(|w| c.logit_scale * f64::from(w)),
            b_u: wide(&p.b_u, c.d_vocab, 0.0) * c.logit_scale,
            cap: c.logit_cap,
        }
    }

    /// Applies the final norm to `z: [row, d_z]`.
    pub fn normalised(&self, z: ArrayView2<f64>) -> Array2<f64> {
        self.norm.forward(z, self.eps).0 * &self.gain + &self.bias
    }

    /// Computes the log-probabilities `[row, d_vocab]` of `z: [row, d_z]`.
    pub fn decode(&self, z: ArrayView2<f64>) -> Array2<f64> {
        self.read(self.normalised(z).view())
    }

    /// Computes the log-probabilities `[row, d_vocab]` of `y: [row, d_z]`, what the final norm has made of something.
    pub fn read(&self, y: ArrayView2<f64>) -> Array2<f64> {
        let mut logits = matmul(y, self.w_u.view()) + &self.b_u;
        if let Some(cap) = self.cap {
            logits.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        log_softmax_rows(logits.view())
    }
}

/// Rows with their mean subtracted: log-probabilities become centred log ratios (Aitchison 1982).
pub(crate) fn centred(mut rows: Array2<f64>) -> Array2<f64> {
    for mut row in rows.rows_mut() {
        let mean = row.sum() / row.len() as f64;
        row.mapv_inplace(|x| x - mean);
    }
    rows
}

/// Sequences of a transformer run at a time.
const CHUNK: usize = 64;

impl Streams {
    /// Collects the streams of a transformer on `tokens: [sequence, pos]`, with `p*` if `source` knows it.
    ///
    /// Fails if the tokens do not fit the model, on fewer than two layers, or fewer than four sequences: half are for
    /// fitting lenses, half for reading.
    pub fn of_transformer(
        model: &Transformer,
        tokens: &Array2<u32>,
        source: Option<&dyn Source>,
    ) -> Result<Self> {
        let n_layers = model.config.n_layers;
        let mut streams: Vec<Vec<Array2<f64>>> = vec![Vec::new(); n_layers + 1];
        let keep = |h: Hook| h == Hook::ResidPre(0) || matches!(h, Hook::ResidPost(_));
        for chunk in tokens.axis_chunks_iter(Axis(0), CHUNK) {
            let (_, cache) = model.run_with_cache_of(&chunk.to_owned(), &[], &keep)?;
            let rows = |h: ndarray::Array3<f32>| {
                let shape = (h.len_of(Axis(0)) * h.len_of(Axis(1)), h.len_of(Axis(2)));
                h.mapv(f64::from).into_shape_with_order(shape).expect("a row per token")
            };
            streams[0].push(rows(cache.resid_pre(0)?));
            for l in 0..n_layers {
                streams[l + 1].push(rows(cache.resid_post(l)?));
            }
        }
        let streams: Vec<Array2<f64>> = streams.into_iter().map(|parts| stack(&parts)).collect();
        let truth = truth_of(tokens, source);
        let readout = Readout::of(model);
        let target = streams[n_layers].clone();
        let log_p = readout.decode(target.view());
        let scale = if readout.norm == Norm::None { Scale::AsItIs } else { Scale::UnitRms };
        Streams { streams, target, readout, log_p, truth, scale, n_pos: tokens.ncols() }.checked()
    }

    /// Collects the predictions of a predictive-coding network on `tokens: [sequence, pos]`, before its first
    /// correction and after each.
    ///
    /// Fails on tokens that do not fit.
    pub fn of_predictive(
        model: &PredictiveCoding,
        tokens: &Array2<u32>,
        source: Option<&dyn Source>,
    ) -> Result<Self> {
        let (_, cache) = model.run_with_cache(tokens)?;
        let rows = |p: Array3<f64>| {
            p.into_shape_with_order((tokens.len(), model.config.d_model)).expect("a row per token")
        };
        let streams: Vec<Array2<f64>> =
            (0..=model.config.n_layers).map(|l| Ok(rows(cache.predictions(l)?))).collect::<Result<_>>()?;
        let mut readout = Readout::linear(model.params.unembedding().t().to_owned());
        readout.b_u.assign(&model.params.b_u);
        let target = streams[model.config.n_layers].clone();
        let log_p = readout.decode(target.view());
        let truth = truth_of(tokens, source);
        // Without a norm the size of a prediction is part of what it says.
        let scale = Scale::AsItIs;
        Streams { streams, target, readout, log_p, truth, scale, n_pos: tokens.ncols() }.checked()
    }

    /// Collects the three convolutions of the ready MNIST network, each averaged over `cells[l] = (rows, columns)`
    /// parts of its image so that all have one width: 8, 16 and 24 channels make 48 features of `[(2, 3), (1, 3), (1,
    /// 2)]`, and 192 of `[(4, 6), (3, 4), (2, 4)]`.
    ///
    /// Fails if the widths differ, and on images that are not 28x28.
    pub fn of_mnist_cnn(model: &MnistCnn, images: &Images, cells: [(usize, usize); 3]) -> Result<Self> {
        let (log_p, layers) = model.run_with_cache(images)?;
        let pooled = layers.iter().zip([26, 24, 22]).zip(cells);
        let streams = pooled.map(|((h, side), cells)| pool(h, (side, side), cells)).collect::<Result<_>>()?;
        Self::of_probabilities(streams, log_p.mapv(f64::from))
    }

    /// Collects the streams of an image classifier on `pixels: [image, pixel]`, each image a sequence of one. A
    /// convolutional network's streams are averaged over `cells` x `cells` parts of the image (at most its height and
    /// width); lenses then predict centred log-probabilities.
    pub fn of_images(model: &ImageClassifier, pixels: &Array2<f32>, cells: usize) -> Result<Self> {
        model.check_pixels(pixels)?;
        let c = &model.config;
        let pooled = |h: &Array2<f32>| match h.ncols() == c.d_model {
            true => Ok(h.mapv(f64::from)),
            false => pool(h, (c.height, c.width), (cells, cells)),
        };
        let mut log_p = Array2::zeros((0, c.n_classes));
        let mut streams: Vec<Array2<f64>> = Vec::new();
        // A part of the images at a time: before they are averaged, streams of convolutional networks are large.
        for pixels in pixels.axis_chunks_iter(Axis(0), 256) {
            let (part, of_part) = model.run_with_cache(&pixels.to_owned())?;
            log_p.append(Axis(0), part.mapv(f64::from).view()).expect("a number for each class");
            for (l, h) in of_part.iter().enumerate() {
                let h = pooled(h)?;
                match streams.get_mut(l) {
                    Some(all) => all.append(Axis(0), h.view()).expect("one width"),
                    None => streams.push(h),
                }
            }
        }
        Self::of_probabilities(streams, log_p)
    }

    /// Takes streams whose lenses predict centred log-probabilities, such as pooled streams of an image network; each
    /// row a sequence of one.
    ///
    /// Fails if the widths differ between layers.
    pub fn of_probabilities(streams: Vec<Array2<f64>>, log_p: Array2<f64>) -> Result<Self> {
        let target = centred(log_p.clone());
        let readout = Readout::linear(Array2::eye(log_p.ncols()));
        let scale = Scale::UnitRms;
        Streams { streams, target, readout, log_p, truth: Truth::Unknown, scale, n_pos: 1 }.checked()
    }

    /// Refuses what the battery cannot look at.
    pub(crate) fn checked(self) -> Result<Self> {
        let refuse = |what: String, help: &str| Err(Error::new(ErrorKind::Shape, what, help));
        if self.streams.len() < 3 {
            return refuse(
                format!("a network with {} residual streams has fewer than two layers", self.streams.len()),
                "one lens for all layers is a question for two layers or more",
            );
        }
        let widths: Vec<usize> = self.streams.iter().map(Array2::ncols).collect();
        if widths.iter().any(|w| *w != widths[0]) {
            return refuse(
                format!("residual streams have the widths {widths:?}"),
                "one lens needs one width: pool every layer to the same number of features, and say how",
            );
        }
        let n = self.target.nrows();
        if self.n_pos == 0 || n / self.n_pos < 4 || self.streams.iter().any(|h| h.nrows() != n) {
            return refuse(
                format!("{n} rows make {} sequences", n / self.n_pos.max(1)),
                "give at least four sequences: half are for fitting lenses, half for reading",
            );
        }
        if self.streams.iter().flatten().any(|x| !x.is_finite()) {
            return refuse("a residual stream is not finite".into(), "train with a smaller `lr`");
        }
        Ok(self)
    }

    /// The streams as lenses read them.
    pub(super) fn scaled(&self) -> Vec<Array2<f64>> {
        self.scale.of_all(self.streams.clone())
    }

    /// How streams as lenses read them change, to first order, when `dh` is added to `h`: at unit size what only makes
    /// a stream longer is not seen.
    pub(super) fn scaled_change(&self, h: &Array2<f64>, dh: &Array2<f64>) -> Array2<f64> {
        match self.scale {
            Scale::AsItIs => dh.clone(),
            // The derivative of a norm is symmetric: forward and backward it is one.
            Scale::UnitRms => {
                let (x, rstd) = rms_norm(h.view(), NOTHING);
                rms_norm_backward(dh.view(), x.view(), rstd.view())
            }
        }
    }

    /// Adds the classes that came: `labels[i]` after row `i`.
    ///
    /// Fails unless there is a class for every row.
    pub fn with_labels(self, labels: impl Tokens) -> Result<Self> {
        let labels = labels.tokens();
        let (n, n_classes) = self.log_p.dim();
        if labels.len() != n || labels.iter().any(|&class| class as usize >= n_classes) {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{} labels for {n} rows of {n_classes} classes", labels.len()),
                "give one class for each row, below the number of classes",
            ));
        }
        Ok(Streams { truth: Truth::Seen(labels.iter().copied().map(Some).collect()), ..self })
    }

    /// Turns each of the streams as a whole so that it comes as near as a turn can to the last one: `h_l Q_l` with the
    /// orthogonal `Q_l` of least `‖H_l Q - H_L‖²` (Procrustes; Schönemann 1966), on the first half of the sequences.
    /// That layers have bases of their own no longer keeps one lens from reading them, as far as a turn can mend that.
    ///
    /// ```
    /// use onelens::{battery::Streams, ndarray::{Array2, array}};
    /// let h = Array2::from_shape_fn((12, 2), |(i, j)| ((5 * i + 3 * j) % 7) as f64);
    /// let quarter_turn = array![[0.0, 1.0], [-1.0, 0.0]];
    /// let log_p = Array2::from_elem((12, 3), (1.0_f64 / 3.0).ln());
    /// let streams = Streams::of_probabilities(vec![h.dot(&quarter_turn), h.clone(), h.clone()], log_p)?.aligned()?;
    /// assert!((&streams.streams[0] - &h).iter().all(|off| off.abs() < 1e-9));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    ///
    /// Fails where a stream is so large that its products are not finite.
    pub fn aligned(self) -> Result<Self> {
        let half = self.half();
        let fitted = |h: &Array2<f64>| h.slice(ndarray::s![..half, ..]).to_owned();
        let last = fitted(self.streams.last().expect("a network has streams"));
        let turned = |h: &Array2<f64>| -> Result<Array2<f64>> {
            let turn = nearest_turn(matmul(fitted(h).t(), last.view()).view())?;
            Ok(matmul(h.view(), turn.view()))
        };
        let streams = self.streams.iter().map(turned).collect::<Result<_>>()?;
        Ok(Streams { streams, ..self })
    }

    /// Returns the number of blocks `L`.
    pub fn n_layers(&self) -> usize {
        self.streams.len() - 1
    }

    /// Returns the number of sequences.
    pub fn n_seqs(&self) -> usize {
        self.target.nrows() / self.n_pos
    }

    /// Some rows, of whole sequences.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let part = |x: &Array2<f64>| x.slice(ndarray::s![rows.clone(), ..]).to_owned();
        Streams {
            streams: self.streams.iter().map(part).collect(),
            target: part(&self.target),
            readout: self.readout.clone(),
            log_p: part(&self.log_p),
            truth: self.truth.rows(rows.clone()),
            scale: self.scale,
            n_pos: self.n_pos,
        }
    }

    /// Rows of the first half of the sequences.
    pub(crate) fn half(&self) -> usize {
        self.n_seqs() / 2 * self.n_pos
    }
}

/// Probabilities of zero are taken for this: centred log ratios need a logarithm.
const SMALLEST: f64 = 1e-6;

/// What the source says comes next at every token; if it does not know, what came.
fn truth_of(tokens: &Array2<u32>, source: Option<&dyn Source>) -> Truth {
    let truths: Option<Vec<Array2<f64>>> = source
        .and_then(|source| tokens.rows().into_iter().map(|row| source.true_conditional(&row)).collect());
    match truths {
        Some(parts) => Truth::Known(stack(&parts).mapv(|p| p.max(SMALLEST).ln())),
        None => {
            let next = |row: ndarray::ArrayView1<u32>| -> Vec<Option<u32>> {
                row.iter().skip(1).map(|&token| Some(token)).chain([None]).collect()
            };
            Truth::Seen(tokens.rows().into_iter().flat_map(next).collect())
        }
    }
}

/// Means over `rows` x `columns` parts of images of `[pixel · channel]` numbers, the channel last:
/// `[image, cell · channel]`.
fn pool(
    h: &Array2<f32>,
    (height, width): (usize, usize),
    (rows, columns): (usize, usize),
) -> Result<Array2<f64>> {
    if rows == 0 || columns == 0 || rows > height || columns > width {
        return Err(Error::new(
            ErrorKind::Config,
            format!("pooling to {rows}x{columns} cells of {height}x{width} pixels is impossible"),
            "use 1, 2 or 4 cells a side",
        ));
    }
    let channels = h.ncols() / (height * width);
    let mut out = Array2::zeros((h.nrows(), rows * columns * channels));
    let mut counts = vec![0.0; rows * columns];
    for y in 0..height {
        for x in 0..width {
            let cell = y * rows / height * columns + x * columns / width;
            counts[cell] += 1.0;
            let pixel = (y * width + x) * channels;
            for (mut out, h) in out.rows_mut().into_iter().zip(h.rows()) {
                for k in 0..channels {
                    out[cell * channels + k] += f64::from(h[pixel + k]);
                }
            }
        }
    }
    for (cell, n) in counts.iter().enumerate() {
        out.slice_mut(ndarray::s![.., cell * channels..(cell + 1) * channels]).mapv_inplace(|s| s / n);
    }
    Ok(out)
}

fn stack(parts: &[Array2<f64>]) -> Array2<f64> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).expect("parts of one width")
}
