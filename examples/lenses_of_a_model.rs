//! What closed-form lenses read off every residual stream of a language model: of streams as they are towards the last
//! one, and of streams at unit size towards the normalised last one; each layer's own lens, and one that has never seen
//! the layer.
//!
//! `cargo run -p onelens --example lenses_of_a_model -- MODEL TEXT [TOKENS] [HELD_OUT]`

use std::time::Instant;

use onelens::language::LanguageModel;
use onelens::lens::{Comparison, LayerMoments, Lens, LogitLens, Ridge, Scale, Target, compare};

mod texts;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("give a model and a text file".into());
    };
    let n_train: usize = arguments.next().map_or(Ok(20_480), |n| n.parse())?;
    let n_held_out: usize = arguments.next().map_or(Ok(1_536), |n| n.parse())?;
    let language = LanguageModel::open(&path)?;
    let model = &language.model;
    let (train, held_out) = texts::split(&language, &text, n_train, n_held_out)?;
    println!("{path}: {} tokens, {} held out", train.len(), held_out.len());

    // A penalty for dimensions that a few ten thousand tokens hardly move.
    let ridge = Ridge { lambda: 1e-3, ..Ridge::default() };
    let mut tables: Vec<(String, Comparison)> = Vec::new();
    let kinds = [
        ("as it is, pre-norm", Scale::AsItIs, Target::Residual),
        ("unit rms, pre-norm", Scale::UnitRms, Target::Residual),
        ("as it is, post-norm", Scale::AsItIs, Target::Normalised),
        ("unit rms, post-norm", Scale::UnitRms, Target::Normalised),
    ];
    for (name, scale, target) in kinds {
        let began = Instant::now();
        let moments = LayerMoments::collect_with(model, &train, scale, target)?;
        let collected = began.elapsed().as_secs_f64();
        let (own, left_out) = (ridge.own(&moments)?, ridge.left_out(&moments)?);
        let fitted = began.elapsed().as_secs_f64() - collected;
        let lenses: [&dyn Lens; 3] = [&own, &left_out, &LogitLens];
        let comparison = compare(model, &lenses, &moments, &held_out)?;
        let read = began.elapsed().as_secs_f64() - collected - fitted;
        println!("{name}: moments {collected:.1} s, fits {fitted:.1} s, reading three lenses {read:.1} s");
        tables.push((name.into(), comparison));
    }
    println!(
        "\nmean prediction: {:.3} nats; KL to the final prediction in nats, and the left-out share",
        tables[0].1.baseline
    );
    let names: Vec<String> = tables.iter().map(|(name, _)| format!("{name}: own, left out, share")).collect();
    println!("stream | logit lens | {}", names.join(" | "));
    for l in 0..=model.config.n_layers {
        print!("{l:>6} | {:>7.3}", tables[0].1.curves[2].kl[l]);
        for (_, c) in &tables {
            let (own, left_out) = (c.curves[0].kl[l], c.curves[1].kl[l]);
            print!(" | {own:.3} {left_out:.3} {:.2}", (c.baseline - left_out) / (c.baseline - own));
        }
        println!();
    }
    Ok(())
}
