//! Products of numbers rounded to `bf16`, summed in `f32`: on AMD's processors with instructions for it, twice as many
//! multiplications a cycle.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::product::matmul_into;

/// The nearest `bf16`, of two as near the even one, as the upper half of an `f32`. A NaN stays one.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if x.is_nan() { bits | 1 << 22 } else { up }) & 0xffff_0000
}

/// `c ← a b` of what `a` and `b` are when rounded. Panics if the sizes do not fit.
pub(super) fn product_into(c: ArrayViewMut2<f32>, a: ArrayView2<f32>, b: ArrayView2<f32>) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() && x86::is_faster() {
        return x86::product_into(c, a, b);
    }
    portable_product_into(c, a, b);
}

fn portable_product_into(c: ArrayViewMut2<f32>, a: ArrayView2<f32>, b: ArrayView2<f32>) {
    let near = |x: f32| f32::from_bits(rounded(x));
    matmul_into(c, a.mapv(near).view(), b.mapv(near).view());
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __cpuid, __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_permutexvar_epi16,
        _mm512_set1_epi32, _mm512_setzero_ps,
    };
    use std::sync::LazyLock;

    use ndarray::{Array2, ArrayView2, ArrayViewMut2};

    /// Rows of a tile, and its columns: what fits the registers.
    const HEIGHT: usize = 14;
    const WIDTH: usize = 2 * LINE;
    /// Panels of as many columns as a tile that are filled together.
    const TOGETHER: usize = 8;
    /// Pairs in a register, and in a line of the cache.
    const LINE: usize = 16;

    pub(super) fn is_there() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Whether that is more multiplications a second than in `f32`. Where it was measured, AMD's processors do twice as
    /// many, and Intel's half as many.
    pub(super) fn is_faster() -> bool {
        // Asked once: in a virtual machine the answer takes microseconds.
        static IS_INTEL: LazyLock<bool> = LazyLock::new(|| {
            let vendor = __cpuid(0);
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
        });
        !*IS_INTEL
    }

    /// How many rows the tiles have that `m` rows are cut into.
    fn heights(m: usize) -> impl Iterator<Item = usize> {
        let mut left = m;
        std::iter::from_fn(move || {
            let height = match left {
                0 => return None,
                HEIGHT.. => HEIGHT,
                8.. => 8,
                4.. => 4,
                _ => 1,
            };
            left -= height;
            Some(height)
        })
    }

    /// The rows of `a` as pairs, tile by tile, and in a tile pair by pair: what is multiplied together lies together.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn in_tiles(a: &[&[f32]], n_pairs: usize, line: &mut [[u32; LINE]]) -> Vec<u32> {
        let mut pairs = vec![0; a.len() * n_pairs];
        let mut i = 0;
        for height in heights(a.len()) {
            let tile = &mut pairs[i * n_pairs..][..height * n_pairs];
            for (r, row) in a[i..i + height].iter().enumerate() {
                pairs_of(row, line);
                tile[r..]
                    .iter_mut()
                    .step_by(height)
                    .zip(line.as_flattened())
                    .for_each(|(to, &pair)| *to = pair);
            }
            i += height;
        }
        pairs
    }

    /// Numbers beside each other as pairs, and zeros beyond them to the end of a line.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pairs_of(row: &[f32], to: &mut [[u32; LINE]]) {
        let (whole, rest) = row.as_chunks::<{ 2 * LINE }>();
        let mut last = [0.0; 2 * LINE];
        last[..rest.len()].copy_from_slice(rest);
        for (to, x) in to.iter_mut().zip(whole.iter().chain((!rest.is_empty()).then_some(&last))) {
            let ([first, second], []) = x.as_chunks::<LINE>() else { unreachable!("two lines of numbers") };
            *to = as_pairs(rounded_to(second, first));
        }
    }

    /// Both as `bf16`, `low` first.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn rounded_to(high: &[f32; LINE], low: &[f32; LINE]) -> __m512i {
        // SAFETY: as many bytes, and numbers on both sides; what is rounded is read as the integers of its bits.
        unsafe {
            let (high, low) = (std::mem::transmute_copy(high), std::mem::transmute_copy(low));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[allow(unsafe_code)]
    fn as_pairs(bits: __m512i) -> [u32; LINE] {
        // SAFETY: as many bytes, and integers on both sides.
        unsafe { std::mem::transmute::<__m512i, [u32; LINE]>(bits) }
    }

    /// The right factor, by what lies in one piece.
    enum Right<'a> {
        Rows(Vec<&'a [f32]>),
        /// As a tied embedding lies.
        Columns(Vec<&'a [f32]>),
    }

    impl Right<'_> {
        /// Panels of the columns from `j` on, as many as there are and fit, pairs of rows beside each other; zeros
        /// beyond. Row by row: rows are pages apart.
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        fn fill(&self, panels: &mut [[u32; WIDTH]], n_pairs: usize, j: usize, line: &mut [[u32; LINE]]) {
            let n_panels = panels.len() / n_pairs.max(1);
            match self {
                Right::Columns(columns) => {
                    panels.fill([0; WIDTH]);
                    for (at, column) in columns[j..].iter().take(n_panels * WIDTH).enumerate() {
                        pairs_of(column, line);
                        let panel = panels[at / WIDTH * n_pairs..].iter_mut();
                        panel.zip(line.as_flattened()).for_each(|(to, &pair)| to[at % WIDTH] = pair);
                    }
                }
                Right::Rows(rows) => {
                    let order = in_turn();
                    for (p, two) in rows.chunks(2).enumerate() {
                        for panel in 0..n_panels {
                            let from = j + panel * WIDTH;
                            let first = columns_of(two[0], from);
                            let second = two.get(1).map_or([0.0; WIDTH], |row| columns_of(row, from));
                            let halves = first.as_chunks::<LINE>().0.iter().zip(second.as_chunks::<LINE>().0);
                            let to = panels[panel * n_pairs + p].as_chunks_mut::<LINE>().0.iter_mut();
                            for (to, (first, second)) in to.zip(halves) {
                                *to = as_pairs(_mm512_permutexvar_epi16(order, rounded_to(second, first)));
                            }
                        }
                    }
                }
            }
        }
    }

    /// As many numbers of a row as a panel is wide, and zeros beyond its end.
    #[inline(always)]
    fn columns_of(row: &[f32], from: usize) -> [f32; WIDTH] {
        let row = row.get(from..).unwrap_or_default();
        row.first_chunk().copied().unwrap_or_else(|| {
            let mut columns = [0.0; WIDTH];
            columns[..row.len()].copy_from_slice(row);
            columns
        })
    }

    /// For each place of 32 the one it comes from: 0, 16, 1, 17 and so on.
    #[allow(unsafe_code)]
    fn in_turn() -> __m512i {
        let order: [u16; 2 * LINE] = std::array::from_fn(|i| (i / 2 + i % 2 * LINE) as u16);
        // SAFETY: as many bytes, and integers on both sides.
        unsafe { std::mem::transmute::<[u16; 2 * LINE], __m512i>(order) }
    }

    #[allow(unsafe_code)]
    pub(super) fn product_into(mut c: ArrayViewMut2<f32>, a: ArrayView2<f32>, b: ArrayView2<f32>) {
        let (k, n) = b.dim();
        assert_eq!(a.ncols(), k, "inner sizes of a product differ: {} and {k}", a.ncols());
        let m = a.nrows();
        assert_eq!((m, n), c.dim(), "a product of {m} x {n} cannot go into {:?}", c.dim());
        let a = a.as_standard_layout();
        let a: Vec<&[f32]> =
            a.rows().into_iter().map(|row| row.to_slice().expect("standard layout")).collect();
        let own_b;
        let right = if let Some(rows) = b.rows().into_iter().map(|row| row.to_slice()).collect() {
            Right::Rows(rows)
        } else if let Some(columns) = b.columns().into_iter().map(|column| column.to_slice()).collect() {
            Right::Columns(columns)
        } else {
            own_b = b.as_standard_layout();
            Right::Rows(
                own_b.rows().into_iter().map(|row| row.to_slice().expect("standard layout")).collect(),
            )
        };
        let mut own_c = Array2::zeros(if c.strides()[1] == 1 || n == 1 { (0, 0) } else { (m, n) });
        let rows = if own_c.is_empty() { c.rows_mut() } else { own_c.rows_mut() };
        let mut rows: Vec<&mut [f32]> = rows.into_iter().filter_map(|row| row.into_slice()).collect();
        // SAFETY: `is_there` has seen the instructions; all else is checked.
        unsafe { panel_by_panel(&mut rows, &a, &right, (k, n)) };
        if !own_c.is_empty() {
            c.assign(&own_c);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn panel_by_panel(c: &mut [&mut [f32]], a: &[&[f32]], b: &Right, (k, n): (usize, usize)) {
        let n_pairs = k.div_ceil(2);
        let mut panels = vec![[0; WIDTH]; n_pairs * TOGETHER.min(n.div_ceil(WIDTH))];
        let mut line = vec![[0; LINE]; n_pairs.div_ceil(LINE)];
        let tiles = in_tiles(a, n_pairs, &mut line);
        for first in (0..n).step_by(TOGETHER * WIDTH) {
            b.fill(&mut panels, n_pairs, first, &mut line);
            let last = n.min(first + TOGETHER * WIDTH);
            for (panel, j) in (first..last).step_by(WIDTH).enumerate() {
                let panel = &panels[panel * n_pairs..][..n_pairs];
                let mut i = 0;
                for height in heights(a.len()) {
                    let (c, a) = (&mut c[i..i + height], &tiles[i * n_pairs..][..height * n_pairs]);
                    match height {
                        HEIGHT => tile::<HEIGHT>(c, j, a, panel),
                        8 => tile::<8>(c, j, a, panel),
                        4 => tile::<4>(c, j, a, panel),
                        _ => tile::<1>(c, j, a, panel),
                    }
                    i += height;
                }
            }
        }
    }

    /// The `R` rows of a tile, summed in registers. A function of its own, so that the sums have them to themselves.
    #[allow(unsafe_code)]
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn tile<const R: usize>(c: &mut [&mut [f32]], j: usize, a: &[u32], b: &[[u32; WIDTH]]) {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (a, b) in a.as_chunks::<R>().0.iter().zip(b) {
            // SAFETY: as many bytes, and whatever bits they hold are pairs of numbers.
            let b = unsafe { std::mem::transmute::<[u32; WIDTH], [__m512bh; 2]>(*b) };
            for r in 0..R {
                // SAFETY: as above.
                let a = unsafe {
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a[r].cast_signed()))
                };
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, b[0]);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], a, b[1]);
            }
        }
        for r in 0..R {
            // SAFETY: as above, and these are numbers.
            let sums = unsafe { std::mem::transmute::<[__m512; 2], [f32; WIDTH]>(sums[r]) };
            let to = &mut c[r][j..];
            match to.first_chunk_mut() {
                Some(to) => *to = sums,
                None => to.copy_from_slice(&sums[..to.len()]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn numbers_are_rounded_to_the_nearest_bf16_and_of_two_as_near_to_the_even_one() {
        // Those of the specification: 8 bits of significand.
        for (x, expected) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (-1.0 - 1.01 / 256.0, -1.0 - 2.0 / 256.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
        ] {
            assert_eq!(f32::from_bits(rounded(x)), expected, "{x}");
        }
        assert!(f32::from_bits(rounded(f32::NAN)).is_nan());
        assert!(f32::from_bits(rounded(f32::from_bits(0x7f80_0001))).is_nan());
    }

    type Product = fn(ArrayViewMut2<f32>, ArrayView2<f32>, ArrayView2<f32>);

    /// All that this machine can do, whichever is faster.
    fn ways() -> Vec<Product> {
        let mut ways: Vec<Product> = vec![portable_product_into];
        #[cfg(target_arch = "x86_64")]
        if x86::is_there() {
            ways.push(x86::product_into);
        }
        ways
    }

    #[test]
    fn a_product_of_any_size_and_layout_is_the_sum_of_products_of_what_is_rounded() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 31), (14, 8, 32), (27, 33, 65), (40, 2, 7), (2, 0, 3)] {
            // Small integers are `bf16` as they are; what is added to them is lost.
            let (whole_a, whole_b) =
                (|i, p| ((i * 7 + p * 3) % 11) as f64 - 5.0, |p, j| ((p * 5 + j) % 9) as f64);
            let a = Array2::from_shape_fn((m, k), |(i, p)| (whole_a(i, p) * (1.0 + 1e-4)) as f32);
            let b = Array2::from_shape_fn((k, n), |(p, j)| (whole_b(p, j) * (1.0 - 1e-4)) as f32);
            let turned = |x: &Array2<f32>| x.t().as_standard_layout().into_owned();
            let (a_turned, b_turned) = (turned(&a), turned(&b));
            for a in [a.view(), a_turned.t()] {
                for b in [b.view(), b_turned.t()] {
                    for way in ways() {
                        let mut c = Array2::from_elem((m, n), f32::NAN);
                        way(c.view_mut(), a, b);
                        for ((i, j), &c) in c.indexed_iter() {
                            let sum: f64 = (0..k).map(|p| whole_a(i, p) * whole_b(p, j)).sum();
                            assert_eq!(f64::from(c), sum, "{m} x {k} x {n} at {i}, {j}");
                        }
                    }
                }
            }
        }
    }
}
