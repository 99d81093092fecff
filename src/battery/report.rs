//! Everything that was found, as data: saved, loaded and drawn again without any network.

use std::path::Path;

use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gradient::LiteralGradient;
use super::measure::{Fitting, Measured, measure};
use super::measure::{KINDS, place};
use super::summary::{Pair, Summary};
use super::verdict::{Verdict, decide};
use super::{Streams, Truth};
use crate::lens::LensKind;
use crate::num::{mantel, rng};
use crate::{Error, ErrorKind, Result, record};

/// One network with all its copies, measured with lenses from one half of its sequences and again from the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Which weights ([`Transformer::fingerprint`](crate::model::Transformer::fingerprint)), or 0.
    pub fingerprint: u64,
    /// Held-out loss in nats, or NaN.
    pub loss: f64,
    /// What lenses of either half see of the other.
    pub splits: [Copies; 2],
    /// Updates against gradients, where there is a loss.
    pub gradient: Option<LiteralGradient>,
    /// What is lost without blocks, where that was asked for.
    pub lesions: Option<Lesions>,
    /// Share of the gradient by length of its paths ([`path_lengths`](super::path_lengths)), where there are several.
    pub paths: Option<Vec<f64>>,
}

/// A network and its nulls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// As it is.
    pub network: Measured,
    /// [`Streams::rotated`]; without alignment, since its updates go from one basis to another.
    pub rotated: Measured,
    /// [`Streams::shuffled`].
    pub shuffled: Measured,
    /// [`Streams::gaussian`].
    pub gaussian: Measured,
    /// [`Streams::permuted_targets`], where the truth is known.
    pub permuted: Option<Measured>,
}

/// Loss after each lesion, nats per token; one per block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lesions {
    /// Of the whole network on the same tokens.
    pub whole: f64,
    /// Without this block.
    pub delete: Vec<f64>,
    /// This block and the next change places; one fewer.
    pub swap: Vec<f64>,
    /// This block twice.
    pub repeat: Vec<f64>,
    /// This block replaced by its best affine map.
    pub affine: Vec<f64>,
    /// All blocks in reverse.
    pub reverse: f64,
}

impl Cell {
    /// Measures `streams` and their copies. `lambda` is the ridge penalty of every lens, `seed` that of the copies.
    ///
    /// Fails where a lens cannot be fitted: too few rows for the width.
    pub fn measure(streams: &Streams, lambda: f64, seed: u64) -> Result<Self> {
        let mut all = vec![
            streams.clone(),
            streams.rotated(&mut rng(seed, 0xc001)),
            streams.shuffled(&mut rng(seed, 0xc002)),
            streams.gaussian(&mut rng(seed, 0xc003))?,
        ];
        all.extend(streams.permuted_targets(&mut rng(seed, 0xc004)));
        // Each copy with either half, on all threads; the order of the results does not depend on them.
        let measured = (0..2 * all.len())
            .into_par_iter()
            .map(|job| {
                let copy = job % all.len();
                measure(&all[copy], lambda, job >= all.len(), REFINED_OF[copy])
            })
            .collect::<Result<Vec<Measured>>>()?;
        Ok(Cell::of(measured))
    }

    /// The same in parts, for what is larger than memory: `part(i)` for `i` below the even number `n_parts` are the
    /// streams of some sequences after the other, made twice. Copies are made of one part at a time: updates are
    /// shuffled, and their covariances taken, within it.
    pub(super) fn measure_parts(
        n_parts: usize,
        part: &dyn Fn(usize) -> Result<Streams>,
        lambda: f64,
        seed: u64,
        on_part: &mut dyn FnMut(),
    ) -> Result<Self> {
        let n_copies = match part(0)?.truth {
            Truth::Known(_) => 5,
            Truth::Seen(_) | Truth::Unknown => 4,
        };
        let copy = |s: &Streams, kind: usize, i: usize| -> Result<Streams> {
            let mut rng = rng(seed ^ (i as u64) << 32, 0xc000 + kind as u64);
            Ok(match kind {
                0 => s.clone(),
                // One rotation for all parts.
                1 => s.rotated(&mut crate::num::rng(seed, 0xc001)),
                2 => s.shuffled(&mut rng),
                3 => s.gaussian(&mut rng)?,
                _ => s.permuted_targets(&mut rng).expect("the truth of the first part is known"),
            })
        };
        // Split 0 is fitted on the first half and reads the second; split 1 the other way round.
        let side = |i: usize| usize::from(2 * i >= n_parts);
        let mut fits: [Vec<Fitting>; 2] = [0, 1].map(|_| (0..n_copies).map(|_| Fitting::default()).collect());
        for i in 0..n_parts {
            let s = part(i)?;
            let fits = fits[side(i)].par_iter_mut().enumerate();
            fits.map(|(kind, fit)| fit.push(&copy(&s, kind, i)?)).collect::<Result<()>>()?;
            on_part();
        }
        let mut readings = Vec::new();
        for fit in fits {
            let fits = fit.into_par_iter().zip(REFINED_OF);
            readings.push(fits.map(|(fit, kinds)| fit.finish(lambda, kinds)).collect::<Result<Vec<_>>>()?);
        }
        for i in 0..n_parts {
            let s = part(i)?;
            let readings = readings[1 - side(i)].par_iter_mut().enumerate();
            readings
                .map(|(kind, reading)| {
                    reading.push(&copy(&s, kind, i)?);
                    Ok(())
                })
                .collect::<Result<()>>()?;
            on_part();
        }
        Ok(Cell::of(readings.into_iter().flatten().map(|reading| reading.finish()).collect()))
    }

    /// From what was measured of each copy, first by lenses of the first half.
    fn of(measured: Vec<Measured>) -> Self {
        let n_copies = measured.len() / 2;
        let mut measured = measured.into_iter();
        let mut split = || {
            let mut next = || measured.next().expect("one for each copy and half");
            let (network, mut rotated, shuffled, gaussian) = (next(), next(), next(), next());
            // Its updates would be differences between numbers in two bases; turned back, they are the network's.
            rotated.alignment.fill(f64::NAN);
            Copies { network, rotated, shuffled, gaussian, permuted: (n_copies > 4).then(&mut next) }
        };
        let splits = [split(), split()];
        Cell { fingerprint: 0, loss: f64::NAN, splits, gradient: None, lesions: None, paths: None }
    }
}

/// The kinds of lenses that are fitted at least KL for a network and each of its copies: what is compared with what.
const REFINED_OF: [&[LensKind]; 5] = {
    use LensKind::{LeftOutWithoutLast, Own, Shared};
    [&KINDS, &[Own, LeftOutWithoutLast], &[Own, Shared], &[Shared], &[Shared]]
};

/// Networks of one kind: what they say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The networks.
    pub summary: Summary,
    /// The answer about them.
    pub verdict: Verdict,
    /// The answer when lenses are fitted to the other half of the sequences.
    pub second_split: Verdict,
    /// Their nulls: rotated, shuffled, Gaussian, and with permuted targets where the truth is known.
    pub nulls: Vec<Summary>,
    /// Mean held-out loss, nats; NaN where it was not measured.
    pub loss: f64,
    /// Mean prediction depth of all tokens, and of those of the shuffled copies, in streams.
    pub depth: [f64; 2],
    /// How much transfer costs per layer between lens and stream, as a share of the target's variance.
    pub transfer_slope: f64,
    /// Rank correlation of what transfer costs (mean over networks) with the likeness of both streams' covariances, and
    /// its p value by Mantel's test; `None` with fewer than four streams.
    pub mantel: Option<[f64; 2]>,
    /// Mean over networks of `‖Δ_l‖ / ‖h_l‖`.
    pub update_size: Vec<f64>,
    /// Mean over networks: share of the updates' variance that is affine in the stream, whole and without the part
    /// along the stream.
    pub update_linear: Vec<[f64; 2]>,
    /// Of each network, where there is a loss.
    pub gradients: Vec<LiteralGradient>,
    /// Of each network, where that was asked for.
    pub lesions: Vec<Lesions>,
    /// Of each network that has paths: share of the gradient by their length.
    pub paths: Vec<Vec<f64>>,
    /// One per network.
    pub fingerprints: Vec<u64>,
}

/// What a battery found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The question, for the page's heading.
    pub title: String,
    /// The networks in question first, then the controls.
    pub groups: Vec<Group>,
    /// Name and value of everything that was chosen: tokens, seeds, penalty, versions.
    pub methods: Vec<(String, String)>,
}

const KIND: &str = "battery-report";
const VERSION: u32 = 3;

impl Report {
    /// Makes a report about the first of `groups`, each a name with its networks; those named in `controls` are what it
    /// has to beat.
    ///
    /// Controls should have been trained: one that has learned nothing beats nobody.
    ///
    /// Fails without networks, when those of a group differ in their number of layers, or on a control that is not
    /// there.
    pub fn new(
        title: &str,
        groups: &[(String, Vec<Cell>)],
        controls: &[&str],
        methods: Vec<(String, String)>,
    ) -> Result<Self> {
        for (name, cells) in groups {
            let layers = |c: &Cell| c.splits[0].network.alignment.ncols();
            if cells.is_empty() || cells.iter().any(|c| layers(c) != layers(&cells[0])) {
                return Err(Error::new(
                    ErrorKind::Shape,
                    format!("the group {name:?} has {} networks, not all with as many layers", cells.len()),
                    "give each group at least one network, and all of them the same number of layers",
                ));
            }
        }
        if groups.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "the report has no networks",
                "give it a group of networks",
            ));
        }
        if let Some(missing) =
            controls.iter().find(|control| !groups.iter().any(|(name, _)| name == *control))
        {
            let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::new(
                ErrorKind::Config,
                format!("no networks are called {missing:?}"),
                format!("name controls among {}", names.join(", ")),
            ));
        }
        let summarised: Vec<[Nulls; 2]> = groups
            .iter()
            .map(|(name, cells)| [Nulls::new(name, cells, 0), Nulls::new(name, cells, 1)])
            .collect();
        let groups = groups
            .iter()
            .zip(&summarised)
            .map(|((name, cells), both)| {
                let verdict = |split: usize| {
                    let beaten: Vec<&Summary> = groups
                        .iter()
                        .zip(&summarised)
                        .filter(|((other, _), _)| other != name && controls.contains(&other.as_str()))
                        .map(|(_, both)| &both[split].network)
                        .collect();
                    decide(&both[split].network, &both[split].copies[0], &beaten)
                };
                group(cells, &both[0], verdict(0), verdict(1))
            })
            .collect();
        Ok(Report { title: title.into(), groups, methods })
    }

    /// Returns the answer about the networks in question.
    pub fn verdict(&self) -> &Verdict {
        &self.groups[0].verdict
    }

    /// Saves the report; written under a temporary name first.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads a saved report. A file that is cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        record::load(path.as_ref(), KIND, VERSION)
    }
}

/// Summaries of one split.
struct Nulls {
    network: Summary,
    copies: Vec<Summary>,
}

impl Nulls {
    fn new(name: &str, cells: &[Cell], split: usize) -> Self {
        let of = |name: &str, pick: &dyn Fn(&Copies) -> Option<Measured>| -> Option<Summary> {
            let pairs: Option<Vec<Pair>> = cells
                .iter()
                .map(|c| {
                    let at = &c.splits[split];
                    Some(Pair { network: pick(at)?, shuffled: at.shuffled.clone() })
                })
                .collect();
            pairs.map(|pairs| Summary::new(name, &pairs, split as u64))
        };
        let copies = [
            of("rotated copy", &|c| Some(c.rotated.clone())),
            of("shuffled updates", &|c| Some(c.shuffled.clone())),
            of("Gaussian updates", &|c| Some(c.gaussian.clone())),
            of("permuted targets", &|c| c.permuted.clone()),
        ];
        Nulls {
            network: of(name, &|c| Some(c.network.clone())).expect("every cell has its network"),
            copies: copies.into_iter().flatten().collect(),
        }
    }
}

fn group(cells: &[Cell], nulls: &Nulls, verdict: Verdict, second_split: Verdict) -> Group {
    let n = cells.len() as f64;
    let networks = || cells.iter().map(|c| &c.splits[0].network);
    let layers = nulls.network.layers.len();
    let mean_depth = |of: &dyn Fn(&Cell) -> &Measured| {
        cells.iter().map(|c| of(c).depth.sum() / of(c).depth.len() as f64).sum::<f64>() / n
    };
    Group {
        verdict,
        second_split,
        loss: cells.iter().map(|c| c.loss).sum::<f64>() / n,
        depth: [mean_depth(&|c| &c.splits[0].network), mean_depth(&|c| &c.splits[0].shuffled)],
        mantel: mean_matrix(&|m| &m.transfer_penalty, cells)
            .zip(mean_matrix(&|m| &m.likeness, cells))
            .and_then(|(cost, likeness)| mantel(&cost, &likeness, 9999, &mut rng(0, 0xc005)).ok())
            .map(|test| [test.rho, test.p_value]),
        transfer_slope: networks().map(Measured::transfer_slope).sum::<f64>() / n,
        update_size: (0..layers)
            .map(|l| {
                networks().map(|m| m.update_size.column(l).sum() / m.update_size.nrows() as f64).sum::<f64>()
                    / n
            })
            .collect(),
        update_linear: (0..layers)
            .map(|l| [0, 1].map(|i| networks().map(|m| m.update_linear[l][i]).sum::<f64>() / n))
            .collect(),
        gradients: cells.iter().filter_map(|c| c.gradient.clone()).collect(),
        lesions: cells.iter().filter_map(|c| c.lesions.clone()).collect(),
        paths: cells.iter().filter_map(|c| c.paths.clone()).collect(),
        fingerprints: cells.iter().map(|c| c.fingerprint).collect(),
        summary: nulls.network.clone(),
        nulls: nulls.copies.clone(),
    }
}

/// Mean over networks; `None` without any.
fn mean_matrix(of: &dyn Fn(&Measured) -> &Array2<f64>, cells: &[Cell]) -> Option<Array2<f64>> {
    let all = cells.iter().map(|c| of(&c.splits[0].network).clone());
    all.reduce(|a, b| a + b).map(|sum| sum / cells.len() as f64)
}

impl Group {
    /// Returns the mean KL of a kind of lens at each stream, nats.
    ///
    /// Fails on a kind that is none of [`KINDS`].
    pub fn kl(&self, kind: &LensKind) -> Result<Vec<f64>> {
        let place = place(kind)?;
        Ok(self.summary.layers.iter().map(|l| l.kl[place]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Markov, Source};
    use crate::model::{Config, Transformer};

    #[test]
    fn parts_say_of_a_network_and_its_rotated_copy_what_the_whole_says() {
        let source = Markov::new(5, 0.3).unwrap();
        let config =
            Config { d_vocab: 5, n_ctx: 10, d_model: 8, n_layers: 3, n_heads: 2, ..Default::default() };
        let model = Transformer::new(config).unwrap();
        let tokens = source.sample(48, 10, &mut rng(1, 0)).unwrap();
        let of =
            |rows: ndarray::ArrayView2<u32>| Streams::of_transformer(&model, &rows.to_owned(), Some(&source));
        let whole = Cell::measure(&of(tokens.view()).unwrap(), 1e-4, 7).unwrap();
        for n_parts in [2, 6] {
            let part = |i: usize| of(tokens.slice(ndarray::s![i * 48 / n_parts..(i + 1) * 48 / n_parts, ..]));
            let mut told = 0;
            let parts = Cell::measure_parts(n_parts, &part, 1e-4, 7, &mut || told += 1).unwrap();
            assert_eq!(told, 2 * n_parts);
            for (a, b) in whole.splits.iter().zip(&parts.splits) {
                for (a, b) in [(&a.network, &b.network), (&a.rotated, &b.rotated)] {
                    let within = |a: &Array2<f64>, b: &Array2<f64>, bound: f64| {
                        assert_eq!(a.dim(), b.dim());
                        a.iter().zip(b).all(|(a, b)| a.is_nan() && b.is_nan() || (a - b).abs() < bound)
                    };
                    let close = |a: &Array2<f64>, b: &Array2<f64>| within(a, b, 1e-8);
                    let least_squares = a.least_squares.iter().zip(&b.least_squares);
                    assert!(least_squares.clone().all(|(a, b)| close(a, b)), "{n_parts} parts");
                    assert!(
                        close(&a.likeness, &b.likeness) && close(&a.transfer_penalty, &b.transfer_penalty)
                    );
                    // A search in f32 ends near the same lens, whatever the rows are added up in.
                    assert!(a.kl.iter().zip(&b.kl).all(|(a, b)| within(a, b, 2e-3)), "{n_parts} parts");
                    assert!(within(&a.alignment, &b.alignment, 0.05));
                    let linear = |m: &Measured| m.update_linear.iter().flatten().copied().collect::<Vec<_>>();
                    assert!(linear(a).iter().zip(linear(b)).all(|(a, b)| (a - b).abs() < 1e-8));
                    let deeper = (&a.depth - &b.depth).mapv(f64::abs).mean().unwrap();
                    assert!(deeper < 0.1 && a.baseline.len() == b.baseline.len(), "{deeper}");
                }
                // The others are drawn anew, of the same network.
                assert_eq!(a.permuted.is_some(), b.permuted.is_some());
                assert_eq!(a.shuffled.alignment.dim(), b.shuffled.alignment.dim());
            }
        }
    }
}
