//! Evidence about pictures in one line: whatever holds numbers is drawn alike, counts are counts, bars have the height
//! of their values, and numbers that cannot be drawn give a sentence.

use ndarray::{Array2, Array3, Axis, array, s};
use onelens::ErrorKind;
use onelens::num::{normal, rng};
use onelens::show::{Figure, Heatmap, LineChart, Plot, Series, bar, histogram, image, plot, scatter};

fn csv(plot: Plot) -> String {
    plot.figure().unwrap().to_csv().unwrap()
}

/// Every rectangle of the drawing in pixels: left, top, width, height.
fn rectangles(figure: &Figure) -> Vec<[f64; 4]> {
    let svg = figure.svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let number =
        |node: roxmltree::Node, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap() / 10.0;
    let of_data = |node: &roxmltree::Node| node.has_tag_name("rect") && node.attribute("x").is_some();
    let all = document.descendants().filter(of_data);
    // The first one may be the paper.
    let all = all.map(|n| ["x", "y", "width", "height"].map(|name| number(n, name)));
    all.filter(|[_, _, width, _]| *width < 600.0).collect()
}

#[test]
fn the_same_numbers_give_the_same_figure_whatever_holds_them() {
    let list = [0.5, 0.25, 2.0];
    let expected = csv(plot(list));
    assert_eq!(expected, "x,y\n0,0.5\n1,0.25\n2,2\n");
    let single = list.map(|x| x as f32);
    let matrix = array![[9.0_f32, 0.5], [9.0, 0.25], [9.0, 2.0]];
    let all = [
        plot(list.to_vec()),
        plot(&list[..]),
        plot(single),
        plot(single.to_vec()),
        plot(array![0.5, 0.25, 2.0]),
        plot(array![0.5, 0.25, 2.0].into_dyn()),
        // A view whose numbers do not lie side by side.
        plot(matrix.column(1)),
        plot(matrix.slice(s![.., 1..]).index_axis(Axis(1), 0)),
    ];
    for one in all {
        assert_eq!(csv(one), expected);
    }
    assert_eq!(csv(bar([3_usize, 1])), csv(bar([3.0, 1.0])));
    assert_eq!(Series::new("a", matrix.column(1)).y, list);
    assert_eq!(Heatmap::new("a", matrix.view()).unwrap().values, matrix.mapv(f64::from));
}

#[test]
fn a_row_is_a_curve() {
    let two = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
    assert_eq!(csv(plot(&two)), "x,0,1\n0,1,4\n1,2,5\n2,3,6\n");
    let series = vec![Series::new("0", two.row(0)).bars(), Series::new("1", two.row(1)).bars()];
    assert_eq!(
        bar(&two).figure().unwrap().svg(),
        LineChart { series, ..Default::default() }.figure().unwrap().svg()
    );
}

/// By comparing every value with both ends of every bar.
#[test]
fn a_histogram_counts_every_value_once_in_the_bar_it_lies_in() {
    for (n, scale, shift) in [(1, 1.0, 0.0), (7, 1e-5, 0.0), (400, 1.0, 3.0), (20_000, 250.0, -1e4)] {
        let mut rng = rng(5, n as u64);
        let values: Vec<f64> = (0..n).map(|_| shift + scale * normal(&mut rng)).collect();
        let rows: Vec<(f64, usize)> = csv(histogram(&values))
            .lines()
            .skip(1)
            .map(|line| line.split_once(',').unwrap())
            .map(|(middle, count)| (middle.parse().unwrap(), count.parse().unwrap()))
            .collect();
        assert!(rows.len() <= 101, "{} bars", rows.len());
        assert_eq!(rows.iter().map(|(_, count)| count).sum::<usize>(), n);
        if let [first, second, ..] = rows[..] {
            let half = (second.0 - first.0) / 2.0;
            for (middle, count) in &rows {
                let inside = values.iter().filter(|v| (middle - half..middle + half).contains(*v)).count();
                assert_eq!(inside, *count, "around {middle}");
            }
        }
    }
    let with_gaps = histogram([1.0, f64::NAN, 2.0]).figure().unwrap();
    assert!(with_gaps.text().contains("2 values. Not counted, because not finite: 1 value."), "{with_gaps}");
    // All values of an array, whatever its shape; each whole number has a bar.
    assert_eq!(csv(histogram(array![[2, 2], [4, 2]])), "value,count\n2,3\n3,0\n4,1\n");
    assert_eq!(csv(histogram([7.0; 3])), "value,count\n7,3\n");
    assert_eq!(csv(histogram([0.3; 5])).lines().count(), 2, "all the same is one bar");
}

#[test]
fn bars_are_as_high_as_their_values_and_stand_on_zero() {
    let bars = rectangles(&bar([1.0, 3.0, -2.0]).figure().unwrap());
    let [one, three, minus_two] = bars[..] else { panic!("{bars:?}") };
    assert!((three[3] / one[3] - 3.0).abs() < 0.02 && (minus_two[3] / one[3] - 2.0).abs() < 0.02, "{bars:?}");
    let zero = one[1] + one[3];
    assert!((three[1] + three[3] - zero).abs() < 0.2 && (minus_two[1] - zero).abs() < 0.2, "{bars:?}");
    // Neighbours of a histogram touch but for a hairline; bars do not.
    let gap = |all: &[[f64; 4]]| all[1][0] - (all[0][0] + all[0][2]);
    let counts = rectangles(&histogram([1, 1, 2, 3]).figure().unwrap());
    assert!((gap(&counts) - 1.0).abs() < 0.2, "{counts:?}");
    assert!(gap(&bars) > 10.0, "{bars:?}");
    // Two groups share what one bar has.
    let groups = rectangles(&bar(array![[1.0, 1.0], [2.0, 2.0]]).figure().unwrap());
    assert_eq!(groups.len(), 4 + 2, "four bars and two of the legend");
}

#[test]
fn pixels_are_square() {
    for (rows, columns) in [(5, 20), (20, 5), (28, 28), (3, 300), (300, 3)] {
        let a = Array2::from_shape_fn((rows, columns), |(i, j)| ((i * 7 + j * 3) % 11) as f32);
        let figure = image(&a).figure().unwrap();
        // Neighbours of one colour are one rectangle where cells are small.
        let single =
            rectangles(&figure).into_iter().filter(|[x, _, width, height]| width == height && *x > 0.0);
        let n = single.count();
        assert!(n * 3 > rows.min(100) * columns.min(100) / 4, "{rows} x {columns}: {n} square cells");
    }
}

#[test]
fn many_points_are_thinned_and_the_caption_says_so() {
    let mut rng = rng(1, 0);
    let (x, y): (Vec<f64>, Vec<f64>) = (0..50_000).map(|_| (normal(&mut rng), normal(&mut rng))).unzip();
    let figure = scatter(&x, &y).figure().unwrap();
    assert!(figure.html().len() < 200_000, "{figure:?}");
    assert!(figure.text().contains("1200 of 50000 points are drawn, evenly picked."), "{figure}");
    assert_eq!(figure.to_csv().unwrap().lines().count(), 50_001, "the numbers are all there");
    let few = scatter([1.0, 2.0, f64::NAN], [1.0, f64::INFINITY, 2.0]).figure().unwrap();
    assert!(few.text().contains("Not drawn, because not finite: 2 values."), "{few}");
    assert_eq!(
        few.svg().matches("<circle").count() + few.svg().matches("<polygon").count(),
        1,
        "{}",
        few.svg()
    );
}

#[test]
fn numbers_that_cannot_be_drawn_give_a_sentence_in_place_of_the_figure() {
    let nothing: [f64; 0] = [];
    let cube = Array3::<f64>::ones((2, 3, 4));
    let many = Array2::<f64>::zeros((64, 5));
    let cases = [
        (plot(nothing), ErrorKind::Data, "there are no values"),
        (
            plot([f64::NAN, f64::INFINITY]),
            ErrorKind::Data,
            "none of the values is a finite number (2 values)",
        ),
        (plot(&cube), ErrorKind::Shape, "[2, 3, 4]"),
        (plot(array![1.0].index_axis(Axis(0), 0)), ErrorKind::Shape, "[]"),
        (plot(&many), ErrorKind::Shape, "64 rows"),
        (bar(nothing), ErrorKind::Data, "there are no values"),
        (bar(&cube), ErrorKind::Shape, "[2, 3, 4]"),
        (scatter(nothing, nothing), ErrorKind::Data, "there are no values"),
        (scatter([1.0, 2.0], [1.0]), ErrorKind::Shape, "2 values for x, but 1 value for y"),
        (scatter(&many, &many), ErrorKind::Shape, "[64, 5]"),
        // A point needs both.
        (scatter([f64::NAN, 1.0], [1.0, f64::NAN]), ErrorKind::Data, "none of the values is a finite number"),
        (histogram(nothing), ErrorKind::Data, "there are no values"),
        (histogram([f32::NAN]), ErrorKind::Data, "none of the values is a finite number (1 value)"),
        (image(array![[f64::NAN]]), ErrorKind::Data, "none of the values is a finite number"),
        (image(&cube), ErrorKind::Shape, "[2, 3, 4]"),
        (image([1.0, 2.0]), ErrorKind::Shape, "[2]"),
        (image(Array2::<f32>::zeros((0, 3))), ErrorKind::Data, "there are no values"),
    ];
    for (plot, kind, part) in cases {
        let error = plot.titled("A title changes nothing").labelled("x", "y").figure().unwrap_err();
        assert!(error.kind() == kind && error.what().contains(part), "{error}, not {part}");
        assert!(!error.help().is_empty());
    }
    let error = bar([1.0, 2.0]).ticks(["one"]).figure().unwrap_err();
    assert!(error.what().contains('1') && error.what().contains('2'), "{error}");
}
