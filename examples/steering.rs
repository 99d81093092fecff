//! Does a language model say what a lens puts into its streams? One lens for all streams beside each stream's own, the
//! logit lens, and two controls, a rotated and a random direction of the same length; all at unit rms towards the
//! normalised last stream, in closed form. Then what it costs to run a block twice or three times with damped steps.
//!
//! `cargo run -p onelens --example steering -- MODEL TEXT [TOKENS] [SEQUENCES]`

use std::time::Instant;

use onelens::battery::Lesion;
use onelens::language::LanguageModel;
use onelens::lens::{Aim, LayerMoments, Lens, LogitLens, Ridge, Scale, Steering, Target};
use onelens::ndarray::{Array2, s};
use onelens::num::mean_and_standard_error;

mod texts;

/// Positions of a sequence that is steered.
const N_POS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("give a model and a text file".into());
    };
    let mut number =
        |usual: usize| arguments.next().map_or(Ok::<_, std::num::ParseIntError>(usual), |n| n.parse());
    let (n_train, n_seqs) = (number(8192)?, number(16)?);
    let language = LanguageModel::open(&path)?;
    let model = &language.model;
    let (train, held_out) = texts::split(&language, &text, n_train, 128 * n_seqs)?;
    let held_out = held_out.slice(s![..n_seqs, ..N_POS.min(held_out.ncols())]).to_owned();
    println!(
        "{path}: lenses from {} tokens, {n_seqs} sequences of {} steered",
        train.len(),
        held_out.ncols()
    );

    let began = Instant::now();
    let moments = LayerMoments::collect_with(model, &train, Scale::UnitRms, Target::Normalised)?;
    let ridge = Ridge { lambda: 1e-3, ..Ridge::default() };
    let (own, shared) = (ridge.own(&moments)?, ridge.shared(&moments)?);
    println!("moments and lenses {:.0} s", began.elapsed().as_secs_f64());
    let lenses: [(&str, &dyn Lens); 3] = [("shared", &shared), ("own", &own), ("logit lens", &LogitLens)];
    let n_layers = model.config.n_layers;
    for aim in [Aim::RunnersUp, Aim::Unigram] {
        let began = Instant::now();
        let how = Steering { streams: (0..=n_layers).step_by(5).collect(), aim, ..Steering::default() };
        let seen = how.run(model, &lenses, &held_out)?;
        println!("\n{aim:?}: {:.0} s", began.elapsed().as_secs_f64());
        println!("{}", seen.table()?.figure()?.text());
        println!("{}", seen.disturbances()?.figure()?.text());
        println!("shared beside the others on the same sequences, nats at dose 0.25");
        for &l in &seen.streams {
            let beside = ["own", "logit lens", "rotated", "random"].map(|other| {
                let (more, half) = seen.advantage("shared", other, l, 0.25)?;
                Ok::<_, onelens::Error>(format!("{other} {more:+.3} ± {half:.3}"))
            });
            let beside: Vec<String> = beside.into_iter().collect::<Result<_, _>>()?;
            println!("stream {l:>2}: {}", beside.join(", "));
        }
    }
    damped(model, &held_out)?;
    Ok(())
}

/// The loss with every third block run with damped steps, beside the whole step twice and without the block.
fn damped(model: &onelens::model::Transformer, tokens: &Array2<u32>) -> onelens::Result<()> {
    let losses = |lesion: Option<Lesion>| -> onelens::Result<Vec<f64>> {
        let lesioned = lesion.map(|lesion| lesion.apply(model)).transpose()?;
        lesioned.as_ref().unwrap_or(model).sequence_losses(tokens)
    };
    let whole = losses(None)?;
    println!("\nloss of the whole network {:.3} nats; more of it with", mean_and_standard_error(&whole).0);
    println!(
        "block | two halves | three thirds | twice whole | without it (± standard error over sequences)"
    );
    for block in (0..model.config.n_layers).step_by(3) {
        let damped = |times| Lesion::Damped { block, times };
        let cells = [damped(2), damped(3), Lesion::Repeat(block), Lesion::Delete(block)].map(|lesion| {
            let more: Vec<f64> = losses(Some(lesion))?.iter().zip(&whole).map(|(a, b)| a - b).collect();
            let (mean, error) = mean_and_standard_error(&more);
            Ok::<_, onelens::Error>(format!("{mean:+.3} ± {error:.3}"))
        });
        let cells: Vec<String> = cells.into_iter().collect::<Result<_, _>>()?;
        println!("{block:>5} | {}", cells.join(" | "));
    }
    Ok(())
}
