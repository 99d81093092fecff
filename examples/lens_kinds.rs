//! What every kind of lens reads off every residual stream of a language model, in closed form and at least KL, with
//! what each cost. Streams at unit rms towards the normalised last one. The comparison is saved, as `notebooks/reports`
//! has it; refined lenses are kept beside it, and a run that was stopped goes on after the last of them.
//!
//! `cargo run -p onelens --example lens_kinds -- MODEL TEXT REPORT [TOKENS] [REFINED_ON] [HELD_OUT] [EPOCHS]
//! [KINDS]`, where `KINDS` are some of the names in the table, with `+` between them.

use std::path::PathBuf;
use std::time::Instant;

use ndarray::s;
use onelens::language::LanguageModel;
use onelens::lens::{
    Comparison, HiddenLayer, LayerLenses, LayerMoments, Lens, LensKind, LogitLens, Refine, Ridge, Scale,
    Target, TunedLens, compare,
};

mod texts;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(text), Some(report)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("give a model, a text file and where to save the comparison".into());
    };
    let mut number =
        |usual: usize| arguments.next().map_or(Ok::<_, std::num::ParseIntError>(usual), |n| n.parse());
    let (n_train, n_refined, n_held_out, epochs) =
        (number(32_768)?, number(16_384)?, number(2048)?, number(1)?);
    let wanted = arguments.next();
    let wanted = |name: &str| wanted.as_ref().is_none_or(|names| names.split('+').any(|some| some == name));
    let language = LanguageModel::open(&path)?;
    let model = &language.model;
    let (train, held_out) = texts::split(&language, &text, n_train, n_held_out)?;
    let rows = n_refined.div_ceil(train.ncols()).min(train.nrows());
    let refined_on = train.slice(s![..rows, ..]).to_owned();
    println!(
        "{path}: closed form from {} tokens, least KL on {} of them in {epochs} epochs, {} held out",
        train.len(),
        refined_on.len(),
        held_out.len()
    );

    let ridge = Ridge { lambda: 1e-3, ..Ridge::default() };
    let began = Instant::now();
    let moments = LayerMoments::collect_with(model, &train, Scale::UnitRms, Target::Normalised)?;
    println!("moments {:.1} s", began.elapsed().as_secs_f64());
    // Each lens with the other fold's streams; of many streams, leaving out each costs as much as all lenses of its
    // own.
    let left_out = if moments.layers.len() > 12 { LensKind::Folds(2) } else { LensKind::LeftOutWithoutLast };
    let rank = model.config.d_model / 8;
    let low = format!("own, rank {rank}");
    let kinds = [
        ("own", LensKind::Own),
        (low.as_str(), LensKind::LowRank(rank)),
        ("every third", LensKind::Every(3)),
        ("own gain", LensKind::OwnGain),
        ("own bias", LensKind::OwnBias),
        ("shared", LensKind::Shared),
        ("left out", left_out),
    ];
    // Without a penalty lenses of a few ten thousand tokens come to know those too well.
    let how = Refine { epochs, lbfgs_steps: 0, lambda: 1e-3, ..Refine::default() };
    let mut lenses: Vec<Box<dyn Lens>> = vec![Box::new(LogitLens)];
    let mut affine: Option<LayerLenses> = None;
    for (name, kind) in kinds.iter().filter(|(name, _)| wanted(name)) {
        let closed = ridge.lenses(&moments, kind)?;
        let kept = PathBuf::from(format!("{report}.{}", name.replace(", ", "-").replace(' ', "-")));
        let tuned = match TunedLens::load(&kept) {
            Ok(tuned) => tuned,
            Err(_) => {
                let tuned = how.fit(model, &closed, &moments, &refined_on)?;
                tuned.save(&kept)?;
                tuned
            }
        };
        println!(
            "{name}: {:.1} s in closed form, {:.0} s to the least KL",
            closed.fit_seconds(),
            tuned.seconds
        );
        if *kind == LensKind::Own {
            affine = Some(tuned.lenses.clone());
        }
        lenses.push(Box::new(closed.named(name)));
        lenses.push(Box::new(Named(format!("{name}, least KL"), tuned)));
    }
    if let Some(affine) = affine.filter(|_| wanted("own, hidden layer")) {
        let hidden = HiddenLayer { epochs, ..HiddenLayer::default() };
        let hidden = hidden.fit(model, &affine, &moments, &refined_on)?;
        println!("{hidden:?}");
        lenses.push(Box::new(Named("own, hidden layer".into(), hidden)));
    }
    let lenses: Vec<&dyn Lens> = lenses.iter().map(|lens| &**lens).collect();
    let began = Instant::now();
    let seen: Comparison = compare(model, &lenses, &moments, &held_out)?;
    println!("reading {} lenses {:.0} s", lenses.len(), began.elapsed().as_secs_f64());
    seen.save(&report)?;
    let streams: Vec<usize> = (0..moments.layers.len()).step_by(moments.layers.len().div_ceil(10)).collect();
    println!("{}", seen.table_at(&streams)?.figure()?.text());
    Ok(())
}

/// A lens under a short name.
struct Named<L>(String, L);

impl<L: Lens> Lens for Named<L> {
    fn name(&self) -> String {
        self.0.clone()
    }

    fn transport(&self, layer: usize, h: ndarray::ArrayView2<f32>) -> onelens::Result<ndarray::Array2<f32>> {
        self.1.transport(layer, h)
    }

    fn logits(
        &self,
        model: &onelens::model::Transformer,
        z: ndarray::ArrayView2<f32>,
    ) -> onelens::Result<ndarray::Array2<f32>> {
        self.1.logits(model, z)
    }

    fn normalised(
        &self,
        model: &onelens::model::Transformer,
        z: ndarray::ArrayView2<f32>,
    ) -> onelens::Result<Option<ndarray::Array2<f32>>> {
        self.1.normalised(model, z)
    }

    fn check_model(&self, model: &onelens::model::Transformer) -> onelens::Result<()> {
        self.1.check_model(model)
    }

    fn fit_seconds(&self) -> f64 {
        self.1.fit_seconds()
    }
}
