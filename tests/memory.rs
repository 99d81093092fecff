//! What a pass holds in memory, counted by the allocator. One test in this file: a second one would be counted with it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use ndarray::Array2;
use onelens::data::Markov;
use onelens::model::{Config, Hook, Training, TrainingRun, Transformer};
use onelens::session;

/// Counts the bytes that are held, and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches nothing but two atomics.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(HELD.fetch_add(layout.size(), SeqCst) + layout.size(), SeqCst);
        // SAFETY: the caller's promises about the layout are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), SeqCst);
        // SAFETY: `at` came from `alloc` above, which took it from the system's allocator with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of `run`, the most bytes it held beyond those before, and what it left held.
fn measured<T>(run: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = HELD.load(SeqCst);
    MOST.store(before, SeqCst);
    let result = run();
    (result, MOST.load(SeqCst) - before, HELD.load(SeqCst).saturating_sub(before))
}

#[test]
fn a_cached_forward_holds_the_cache_and_one_block_and_training_nothing_that_grows() {
    let model = |n_layers| Transformer::new(Config { n_layers, ..Default::default() }).unwrap();
    let (two, twelve) = (model(2), model(12));
    let tokens = Array2::from_shape_fn((16, 64), |(i, j)| ((i * 31 + j * 7 + i * j) % 96) as u32);
    // One thread runs one part after another, so that what is held does not depend on chance.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        model(1).forward(&tokens).unwrap(); // what is set up once
        let (_, of_two, _) = measured(|| two.forward(&tokens).unwrap());
        let (_, of_twelve, _) = measured(|| twelve.forward(&tokens).unwrap());
        // Six times as many blocks, and the list of hooks.
        assert!(of_twelve < of_two + 20_000, "{of_two} bytes with 2 blocks, {of_twelve} with 12");

        let keep = |h: Hook| matches!(h, Hook::ResidPost(_) | Hook::Pattern(_));
        let ((_, cache), most, _) = measured(|| twelve.run_with_cache_of(&tokens, &[], &keep).unwrap());
        let kept: usize = cache.hooks().iter().map(|h| 4 * cache.get(*h).unwrap().len()).sum();
        // And the lists of what each of eight parts keeps of 24 hooks.
        assert!(
            most < kept + of_two + 120_000,
            "{most} bytes for a cache of {kept}, {of_two} for a pass without"
        );

        let step = || two.loss_and_grad(&tokens).unwrap();
        let _warm = step();
        let (_, first, left) = measured(|| drop(step()));
        assert_eq!(left, 0, "a step leaves nothing behind");
        for _ in 0..3 {
            let (_, most, left) = measured(|| drop(step()));
            assert_eq!((most, left), (first, 0));
        }

        // Whole steps: a batch, its gradient, clipping, AdamW, the log.
        let source = Markov::new(96, 0.3).unwrap();
        let how = Training { steps: 20, batch_size: 16, ..Default::default() };
        let mut run = TrainingRun::new(two.clone(), &how).unwrap();
        session::quietly(|| run.train_to(&source, 3)).unwrap(); // what is set up once
        let mut steps = |to| {
            let (_, most, left) = measured(|| session::quietly(|| run.train_to(&source, to)).unwrap());
            (most, left)
        };
        let all = [6, 9, 12, 15, 20].map(&mut steps);
        // The log of losses alone: 8 bytes a step, in a list that doubles, last from 16 to 32.
        assert!(all.iter().all(|&(most, left)| left <= 128 && most <= all[0].0 + 128), "{all:?}");
        assert_eq!((all[2].1, all[3].1), (0, 0), "{all:?}");
    });
}
