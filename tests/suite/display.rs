//! Evidence about figures: safe, bounded, the same every time, complete in every form. What they look like is for eyes.

use std::time::Instant;

use ndarray::{Array2, array};
use onelens::ErrorKind;
use onelens::lens::{Comparison, LensCurve};
use onelens::show::{
    Card, Figure, Heatmap, LineChart, Series, Table, TableCell, TrajectoryCell, TrajectoryTable, bar,
    histogram, image, scatter,
};

const HOSTILE: &str = "<script>alert(\"1\")</script>&'\u{0}\u{202E}";

fn chart(names: &[&str]) -> LineChart {
    let curve = |k: usize| [1.0 + k as f64, 0.5, 0.125];
    LineChart {
        title: "Held-out KL".into(),
        x_label: "layer".into(),
        y_label: "nats".into(),
        series: names.iter().enumerate().map(|(k, name)| Series::new(*name, curve(k))).collect(),
        ..Default::default()
    }
}

fn heatmap() -> Heatmap {
    Heatmap { title: "Transfer".into(), values: array![[0.0, 0.75], [0.25, 0.0]], ..Default::default() }
}

/// `word(layer, pos, place)` names the listed tokens.
fn trajectory(
    layers: usize,
    positions: usize,
    word: impl Fn(usize, usize, usize) -> String,
) -> TrajectoryTable {
    let cell = |layer: usize, pos: usize| TrajectoryCell {
        top: (0..5).map(|place| (word(layer, pos, place), 0.4 / (place + 1) as f32)).collect(),
        value: (layer * 7 + pos * 3) as f32 % 11.0 / 4.0,
        target_rank: Some(1 + (layer + pos) % 3),
    };
    TrajectoryTable {
        title: "How the prediction forms".into(),
        tokens: (0..positions).map(|pos| format!("in{pos}")).collect(),
        targets: (0..positions).map(|pos| format!("out{pos}")).collect(),
        layers: (0..layers).map(|layer| format!("layer {layer}")).collect(),
        cells: Array2::from_shape_fn((layers, positions), |(layer, pos)| cell(layer, pos)),
        value_label: "KL".into(),
        ..Default::default()
    }
}

fn small_trajectory() -> TrajectoryTable {
    trajectory(3, 4, |layer, pos, place| format!("t{layer}{pos}{place}"))
}

#[test]
fn of_many_layers_a_range_can_be_looked_at_alone_without_a_script() {
    let word = |layer: usize, pos: usize, place: usize| format!("t{layer}{pos}{place}");
    assert!(
        !trajectory(7, 3, word).figure().unwrap().html().contains("<form"),
        "seven layers are seen at once"
    );
    let html = trajectory(12, 3, word).figure().unwrap().html().to_string();
    // Two ranges of six layers; every row of a layer is in one of them, and those of tokens in none.
    assert_eq!(html.matches("type=radio").count(), 3);
    assert_eq!((html.matches("<tr class=z1 ").count(), html.matches("<tr class=z2 ").count()), (6, 6));
    assert!(html.contains("</form>") && html.contains("method=dialog") && !html.contains("<script"));
    // The style sheet has a rule for each range there can be.
    let many = trajectory(64, 2, word).figure().unwrap().html().to_string();
    assert_eq!(many.matches("type=radio").count(), 7);
    assert!((1..=6).all(|range| many.contains(&format!("tr:not(.z{range})"))));
    // A large figure keeps to its limit.
    let large = trajectory(30, 500, word).figure().unwrap();
    assert!(large.html().len() <= 1_000_000 && large.html().contains("type=radio"));
}

fn table() -> Table {
    Table {
        title: "Lenses".into(),
        header: vec!["lens".into(), "KL".into()],
        rows: vec![vec!["own".into(), 0.5.into()], vec!["shared".into(), 12.25.into()]],
        ..Default::default()
    }
}

fn card() -> Card {
    Card {
        title: "Model".into(),
        rows: vec![("layers".into(), "6".into())],
        table: Some(table()),
        ..Default::default()
    }
}

fn one_of_each() -> Vec<Figure> {
    let figures = [
        chart(&["own", "shared"]).figure(),
        heatmap().figure(),
        small_trajectory().figure(),
        table().figure(),
        card().figure(),
        bar([1.0, -0.5]).ticks(["own", "shared"]).titled("KL").figure(),
        scatter([0.5, 2.0], [1.0, 3.0]).titled("Pairs").labelled("entropy", "KL").figure(),
        histogram([0.5, 0.75, 2.0]).titled("Counts").figure(),
        image(array![[0.0, 1.0, 2.0]]).titled("Cells").figure(),
    ];
    figures.into_iter().map(Result::unwrap).collect()
}

/// The elements of the drawing, without its style sheet, which names every colour.
fn drawn(figure: &Figure) -> String {
    figure.svg().split("</style>").nth(1).unwrap().to_string()
}

/// Left, top, right and bottom of the drawing, without the margin of 12 pixels around it.
fn bounds(document: &roxmltree::Document) -> [f64; 4] {
    let frame: Vec<f64> = document
        .root_element()
        .attribute("viewBox")
        .unwrap()
        .split(' ')
        .map(|v| v.parse().unwrap())
        .collect();
    [frame[0] + 120.0, frame[1] + 120.0, frame[0] + frame[2] - 120.0, frame[1] + frame[3] - 120.0]
}

/// The corners of all curves and areas.
fn corners(document: &roxmltree::Document) -> Vec<Vec<[f64; 2]>> {
    let pair = |p: &str| p.split(',').map(|v| v.parse().unwrap()).collect::<Vec<f64>>().try_into().unwrap();
    let paths = document.descendants().filter_map(|n| n.attribute("points"));
    paths.map(|points| points.split(' ').map(pair).collect()).collect()
}

/// The text between tags, where `needle` may stand; what is inside a tag or a style sheet does not count.
fn visible_text(html: &str) -> String {
    let (mut out, mut rest) = (String::new(), html);
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        let skip = if rest[open..].starts_with("<style") { "</style>" } else { ">" };
        let close = rest[open..].find(skip).expect("every tag is closed");
        rest = &rest[open + close + skip.len()..];
    }
    out + rest
}

#[test]
fn hostile_text_is_escaped_wherever_a_user_can_put_it() {
    let h = || HOSTILE.to_string();
    let lines = LineChart {
        title: h(),
        x_label: h(),
        y_label: h(),
        x_ticks: vec![h(), h()],
        series: vec![Series::new(h(), [1.0, f64::NAN])],
        note: h(),
        ..Default::default()
    };
    let map = Heatmap {
        title: h(),
        x_label: h(),
        y_label: h(),
        x_ticks: vec![h()],
        y_ticks: vec![h()],
        values: array![[1.0]],
        unit: h(),
        note: h(),
        ..Default::default()
    };
    let mut trajectory = trajectory(1, 1, |_, _, _| h());
    trajectory.title = h();
    trajectory.tokens = vec![h()];
    trajectory.targets = vec![h()];
    trajectory.layers = vec![h()];
    trajectory.value_label = h();
    trajectory.note = h();
    let table = Table { title: h(), header: vec![h()], rows: vec![vec![h().into()]], note: h() };
    let card = Card { title: h(), rows: vec![(h(), h())], table: Some(table.clone()), note: h() };
    for figure in [lines.figure(), map.figure(), trajectory.figure(), table.figure(), card.figure()] {
        let figure = figure.unwrap();
        assert!(!figure.html().contains("<script"), "{figure:?}");
        assert!(figure.html().contains("&lt;script&gt;"), "{figure:?} does not show the text at all");
        for forbidden in ['\u{0}', '\u{202E}'] {
            assert!(!figure.html().contains(forbidden), "{figure:?} holds {forbidden:?}");
            assert!(!figure.text().contains(forbidden), "the text of {figure:?} holds {forbidden:?}");
        }
        assert!(!figure.svg().contains("<script"), "{figure:?}");
        roxmltree::Document::parse(&figure.svg()).unwrap();
    }
}

#[test]
fn a_quote_in_a_token_does_not_end_the_hover_text() {
    let mut table = small_trajectory();
    table.cells[(0, 0)].top = vec![("\" onmouseover=\"x".into(), 1.0)];
    let figure = table.figure().unwrap();
    assert!(figure.html().contains("&quot;·onmouseover=&quot;x"));
    assert!(!figure.html().contains("\" onmouseover"));
}

#[test]
fn white_space_tokens_can_be_seen() {
    let tokens = [" ", "\n", "\t", "", "\r", "\u{7}", "a b"];
    let mut table = trajectory(1, tokens.len(), |_, pos, _| tokens[pos].into());
    table.tokens = tokens.iter().map(|t| t.to_string()).collect();
    let figure = table.figure().unwrap();
    let html = visible_text(figure.html());
    for shown in ["·", "⏎", "⇥", "∅", "␍", "‹7›", "a·b"] {
        assert!(html.contains(shown), "no {shown} in the table");
        assert!(figure.text().contains(shown), "no {shown} in the text");
    }
}

#[test]
fn the_same_data_give_the_same_bytes() {
    for (a, b) in one_of_each().iter().zip(&one_of_each()) {
        assert_eq!(a.html(), b.html());
        assert_eq!(a.text(), b.text());
        assert_eq!(a.svg(), b.svg());
    }
    let other = chart(&["own", "other"]).figure().unwrap();
    assert_ne!(other.html(), one_of_each()[0].html());
}

#[test]
fn nothing_is_fetched_and_nothing_runs() {
    for figure in one_of_each() {
        let html = figure.html().replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["http:", "https:", "//", "url(", "@import", "<script", " onload", " src=", " href="]
        {
            assert!(!html.contains(forbidden), "{figure:?} holds {forbidden}");
        }
    }
}

#[test]
fn thirty_layers_by_five_hundred_short_tokens_fit_a_megabyte_complete() {
    let figure =
        trajectory(30, 500, |layer, pos, place| format!("{}", (layer + pos + place) % 10)).figure().unwrap();
    assert!(figure.html().len() <= 1_000_000, "{figure:?}");
    assert!(visible_text(figure.html()).contains("in499"), "the last position is missing");
    assert!(!figure.html().contains("positions are shown"), "nothing had to be left out");
    // The fifth token of the last cell is still listed.
    assert!(figure.html().contains("8.0%"), "the fifth token is missing");
}

#[test]
fn what_does_not_fit_a_megabyte_is_left_out_and_said() {
    let long = trajectory(30, 500, |layer, pos, place| format!("token{layer}<&>{pos}·{place}{HOSTILE}"));
    let figure = long.figure().unwrap();
    assert!(figure.html().len() <= 1_000_000, "{figure:?}");
    assert!(figure.html().len() > 900_000, "{figure:?} leaves out more than it must");
    let shown = (0..500).filter(|pos| visible_text(figure.html()).contains(&format!("in{pos}"))).count();
    assert!(shown < 500);
    let said = format!(
        "The first {shown} of 500 positions are shown; {} more would take this figure over 1 MB.",
        500 - shown
    );
    assert!(figure.html().contains(&said), "not said: {said}");
    assert!(figure.html().contains("Hover lists three tokens only"));
}

#[test]
fn large_charts_maps_and_tables_are_bounded_and_say_so() {
    let curve: Vec<f64> = (0..200_000).map(|i| (i as f64 * 0.7).sin()).collect();
    let lines =
        LineChart { series: vec![Series::new("long", curve)], ..Default::default() }.figure().unwrap();
    assert!(lines.html().len() < 100_000, "{lines:?}");
    assert!(lines.text().len() < 10_000);
    assert!(lines.text().contains("(40 of 200000 rows, evenly spread)"), "{lines}");
    let map =
        Heatmap { values: Array2::from_shape_fn((700, 900), |(i, j)| (i * j) as f64), ..Default::default() };
    let map = map.figure().unwrap();
    assert!(map.html().len() < 1_000_000, "{map:?}");
    assert!(visible_text(map.html()).contains("Each cell is the mean of 7 x 9 of the 700 x 900 values."));
    let rows = (0..5000).map(|i| vec![TableCell::from(i)]).collect();
    let table = Table { header: vec!["n".into()], rows, ..Default::default() }.figure().unwrap();
    assert!(table.html().len() < 100_000, "{table:?}");
    assert!(table.html().contains("4500 rows are left out."));
}

#[test]
fn a_long_chart_keeps_its_one_spike() {
    let mut curve = vec![0.0; 100_000];
    curve[54_321] = 100.0;
    let figure =
        LineChart { series: vec![Series::new("loss", curve)], ..Default::default() }.figure().unwrap();
    let svg = figure.svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let curve = corners(&document).into_iter().max_by_key(Vec::len).unwrap();
    let heights = || curve.iter().map(|[_, y]| *y);
    let height = heights().fold(f64::MIN, f64::max) - heights().fold(f64::MAX, f64::min);
    assert!(height > 2000.0, "the spike of 100 is drawn {height} units high");
}

fn shape_error(result: onelens::Result<Figure>, numbers: [&str; 2]) {
    let error = result.expect_err("lengths differ");
    assert_eq!(error.kind(), ErrorKind::Shape);
    for number in numbers {
        assert!(error.what().contains(number), "{error} does not name {number}");
    }
    assert!(!error.help().is_empty());
}

#[test]
fn lengths_that_differ_are_named_with_both_numbers() {
    let mut lines = chart(&["own", "shared"]);
    lines.series[1].y.push(0.0);
    let message = lines.figure().unwrap_err().to_string();
    assert!(
        message.starts_with("values in series \"shared\": 4, but values in series \"own\": 3\nhelp: "),
        "{message}"
    );
    shape_error(LineChart { x: vec![0.0; 5], ..chart(&["own"]) }.figure(), ["3", "5"]);
    shape_error(LineChart { x_ticks: vec!["a".into(); 7], ..chart(&["own"]) }.figure(), ["3", "7"]);
    let banded = Series::new("own", [1.0, 2.0]).band([0.0, 1.0], [2.0]);
    shape_error(LineChart { series: vec![banded], ..Default::default() }.figure(), ["1", "2"]);
    shape_error(Heatmap { x_ticks: vec!["a".into(); 3], ..heatmap() }.figure(), ["3", "2"]);
    shape_error(Heatmap { y_ticks: vec!["a".into(); 4], ..heatmap() }.figure(), ["4", "2"]);
    shape_error(TrajectoryTable { layers: vec!["a".into()], ..small_trajectory() }.figure(), ["1", "3"]);
    shape_error(TrajectoryTable { tokens: vec!["a".into()], ..small_trajectory() }.figure(), ["1", "4"]);
    shape_error(TrajectoryTable { targets: vec!["a".into()], ..small_trajectory() }.figure(), ["1", "4"]);
    let mut ragged = table();
    ragged.rows[1].push(TableCell::from(7));
    shape_error(ragged.figure(), ["3", "2"]);
    assert!(small_trajectory().figure().is_ok() && table().figure().is_ok(), "the unspoilt ones are fine");
}

#[test]
fn empty_figures_are_errors_with_a_remedy() {
    let all = [
        LineChart { title: "Empty one".into(), ..Default::default() }.figure(),
        LineChart { series: vec![Series::new("a", [0.0; 0])], ..Default::default() }.figure(),
        Heatmap::default().figure(),
        TrajectoryTable::default().figure(),
        Table::default().figure(),
        Card::default().figure(),
    ];
    for result in &all {
        let error = result.as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.what().contains("is empty") && error.help().starts_with("give it"), "{error}");
    }
    assert!(all[0].as_ref().unwrap_err().what().contains("\"Empty one\""));
}

#[test]
fn values_that_are_not_finite_leave_gaps_and_are_counted() {
    let series = Series::new("own", [1.0, f64::NAN, 3.0, f64::INFINITY, 5.0, 6.0]);
    let figure = LineChart { series: vec![series], ..Default::default() }.figure().unwrap();
    assert!(figure.text().contains("Not drawn, because not finite: 2 values in \"own\"."), "{figure}");
    assert!(!figure.svg().contains("NaN"));
    // Points 0 and 2 stand alone; only 4 and 5 are joined. The other line of two points is the legend's.
    let svg = figure.svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    assert_eq!(corners(&document).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2], "{}", drawn(&figure));
    assert_eq!(drawn(&figure).matches("<circle").count(), 5, "four points and the legend's");

    let log = LineChart { series: vec![Series::new("own", [0.0, 1.0])], y_log: true, ..Default::default() };
    assert!(log.figure().unwrap().text().contains("not finite or not positive: 1 value in \"own\""));
    // Who knows what gaps mean says that instead, and where there is none, nothing.
    let told = LineChart { gaps: "nobody asked".into(), ..log };
    let text = told.figure().unwrap().text().to_owned();
    assert!(text.contains("Gaps: nobody asked.") && !text.contains("Not drawn"), "{text}");
    let whole = LineChart { series: vec![Series::new("own", [2.0, 1.0])], ..told };
    assert!(!whole.figure().unwrap().text().contains("Gaps"));

    let map = Heatmap { values: array![[f64::NAN, 1.0], [2.0, f64::NEG_INFINITY]], ..Default::default() };
    let map = map.figure().unwrap();
    assert!(map.text().contains("Hatched: 2 values, not finite."), "{map}");
    assert!(map.text().contains("- ") && map.text().contains("-inf?"), "{map}");
    assert!(!map.text().contains("NaN") && !map.svg().contains("NaN"), "{map}");
    assert!(drawn(&map).contains("#A6ACB4"), "no hatching");
    assert!(!drawn(&heatmap().figure().unwrap()).contains("#A6ACB4"), "hatching without a gap");
    let told =
        Heatmap { values: array![[f64::NAN, 1.0]], hatched: "nobody asked".into(), ..Default::default() };
    assert!(told.figure().unwrap().text().contains("Hatched: nobody asked."));

    let mut trajectory = small_trajectory();
    trajectory.cells[(0, 0)].value = f32::NAN;
    trajectory.cells[(0, 1)].top[0].1 = f32::NAN;
    let figure = trajectory.figure().unwrap();
    assert!(figure.html().contains("Hatched: one value, not finite."));
    assert!(figure.html().contains("<td class=n"));
}

#[test]
fn figures_without_a_single_finite_or_with_extreme_values_still_draw() {
    let extremes: [&[f64]; 7] = [
        &[f64::NAN, f64::NAN],
        &[0.0, 0.0],
        &[f64::MAX, f64::MIN],
        &[1e-300, 2e-300],
        &[1e15, 1e15 + 1.0],
        &[-5.0],
        &[1e-12, 1e12],
    ];
    for values in extremes {
        for (log, diverging) in [(false, false), (true, false), (false, true)] {
            let series = vec![Series::new("s", values)];
            let figure = LineChart { series, y_log: log, ..Default::default() }.figure().unwrap();
            let svg = figure.svg();
            let document = roxmltree::Document::parse(&svg).unwrap();
            let [left, top, right, bottom] = bounds(&document);
            for [x, y] in corners(&document).into_iter().flatten() {
                assert!(
                    (left..=right).contains(&x) && (top..=bottom).contains(&y),
                    "{values:?} drawn at {x}, {y}"
                );
            }
            let values = Array2::from_shape_vec((1, values.len()), values.to_vec()).unwrap();
            let figure = Heatmap { values, log, diverging, ..Default::default() }.figure().unwrap();
            roxmltree::Document::parse(&figure.svg()).unwrap();
        }
    }
}

#[test]
fn numbers_too_large_to_subtract_are_left_out_and_said() {
    let series = vec![Series::new("s", [f64::MAX, f64::MIN, 1.0])];
    let lines = LineChart { series, ..Default::default() }.figure().unwrap();
    assert!(
        lines.text().contains("Not drawn, because not finite or too large: 2 values in \"s\"."),
        "{lines}"
    );
    let map = Heatmap { values: array![[f64::MAX, f64::MIN, 1.0]], ..Default::default() }.figure().unwrap();
    assert!(map.text().contains("Hatched: 2 values, not finite or too large."), "{map}");
}

#[test]
fn composed_figures_contain_both() {
    let (a, b) = (chart(&["own"]).figure().unwrap(), heatmap().figure().unwrap());
    for both in [a.beside(&b), a.above(&b)] {
        for part in ["Held-out KL", "Transfer", "0.75", "own"] {
            assert!(visible_text(both.html()).contains(part), "{part} is missing in {both:?}");
            assert!(both.text().contains(part), "{part} is missing in the text of {both:?}");
            assert!(both.svg().contains(part), "{part} is missing in the SVG of {both:?}");
        }
        assert_eq!(both.html().matches("<style").count(), 1, "one style sheet is enough");
        roxmltree::Document::parse(&both.svg()).unwrap();
    }
    assert_ne!(a.beside(&b).html(), a.above(&b).html());
    let with_table = a.beside(&table().figure().unwrap()).above(&b);
    assert!(with_table.svg().contains("Lenses"), "the table is drawn, too");
    assert_eq!(with_table.html().matches("<svg").count(), 2);
    // Side by side, the first lines of both stand on one line.
    let text = card().figure().unwrap().beside(&table().figure().unwrap());
    let first = text.text().lines().next().unwrap();
    assert!(first.starts_with("Model") && first.ends_with("Lenses"), "{text}");
}

#[test]
fn the_text_twin_holds_the_numbers() {
    let figures = one_of_each();
    for (figure, numbers) in figures.iter().zip([
        ["0.500", "0.125"],
        ["0.75", "0.25"],
        ["layer 2", "t200"],
        ["0.50", "12.25"],
        ["6", "12.25"],
    ]) {
        for number in numbers {
            assert!(figure.text().contains(number), "no {number} in\n{figure}");
        }
        assert!(figure.text().lines().all(|line| line.chars().count() <= 100), "{figure}");
        assert!(figure.text().ends_with('\n') && !figure.text().contains('<'));
    }
    let wide = trajectory(3, 80, |_, pos, _| format!("w{pos}")).figure().unwrap();
    let columns = wide.text().lines().map(|line| line.chars().count()).max().unwrap();
    assert!((90..=100).contains(&columns), "{wide}");
    let shown = wide.text().lines().find(|l| l.starts_with("token")).unwrap().split_whitespace().count() - 1;
    assert!(
        wide.text()
            .contains(&format!("({} more positions to the right do not fit in 100 characters)", 80 - shown)),
        "{wide}"
    );
}

#[test]
fn the_last_layer_stands_on_top_and_tokens_below() {
    let figure = small_trajectory().figure().unwrap();
    for form in [visible_text(figure.html()), figure.text().to_string()] {
        let places: Vec<usize> =
            ["out0", "layer 2", "layer 1", "layer 0", "in0"].iter().map(|w| form.find(w).unwrap()).collect();
        assert!(places.is_sorted(), "{places:?} in {form}");
    }
}

#[test]
fn colours_follow_the_value() {
    let mut trajectory = small_trajectory();
    trajectory.cells.iter_mut().for_each(|c| c.value = 0.0);
    trajectory.cells[(0, 0)].value = 4.0;
    let html = trajectory.figure().unwrap().html().to_string();
    assert_eq!(html.matches("<td class=k").count(), 1, "the greatest value gets the strongest shade, once");
    assert_eq!(html.matches("<td title").count(), 11, "the others are bare");
    let map =
        Heatmap { values: array![[-1.0, 0.0, 1.0]], diverging: true, ..Default::default() }.figure().unwrap();
    for colour in ["#2166AC", "#F7F7F7", "#B2182B"] {
        assert!(map.svg().contains(colour), "no {colour}");
    }
}

#[test]
fn dark_and_light_stand_in_the_figure_itself() {
    for figure in one_of_each() {
        for rule in
            ["prefers-color-scheme:dark", "[data-jp-theme-light=\"false\"]", "[data-jp-theme-light=\"true\"]"]
        {
            assert!(figure.html().contains(rule), "{rule} is missing in {figure:?}");
        }
        // Every rule is about figures of this library and about nothing else on the page.
        let css = figure.html().split("</style>").next().unwrap();
        for rule in css.trim_start_matches("<style>").split('}').filter(|r| r.contains('{')) {
            let selectors = rule.rsplit_once('{').unwrap().0;
            let selectors = selectors.strip_prefix("@media(prefers-color-scheme:dark){").unwrap_or(selectors);
            assert!(selectors.split(',').all(|s| s.contains(".onelens")), "{selectors}");
        }
    }
}

#[test]
fn labels_stand_inside_the_drawing() {
    let long = "a name that is quite long, as names in experiments tend to be".to_string();
    let lines = LineChart {
        title: long.repeat(3),
        note: long.repeat(5),
        y_label: long.clone(),
        ..chart(&[&long, "own", "shared"])
    };
    let map = Heatmap {
        x_ticks: vec![long.clone(), "b".into()],
        y_ticks: vec![long.clone(), "b".into()],
        note: long.repeat(4),
        ..heatmap()
    };
    for figure in [lines.figure().unwrap(), map.figure().unwrap()] {
        let svg = figure.svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let [left, top, right, bottom] = bounds(&document);
        for node in document.descendants().filter(|n| n.has_tag_name("text")) {
            let number = |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
            let words = node.text().unwrap().trim();
            // Helvetica and Arial average half an em a character.
            let length = words.chars().count() as f64 * 0.5 * number("font-size");
            let upright = node.attribute("transform").is_some();
            let (from, to) = match (node.attribute("text-anchor").unwrap(), upright) {
                (_, true) => (0.0, 0.0),
                ("start", _) => (0.0, length),
                ("middle", _) => (-length / 2.0, length / 2.0),
                _ => (-length, 0.0),
            };
            assert!(number("x") + from >= left && number("x") + to <= right, "cut: {words}");
            let down = if upright { length } else { 0.0 };
            assert!(number("y") >= top && number("y") + down <= bottom, "cut: {words}");
        }
    }
}

#[test]
fn saved_files_are_whole_and_of_the_kind_their_name_says() {
    let folder = tempfile::tempdir().unwrap();
    let figure = chart(&["own"]).figure().unwrap();
    // A second name of the older file keeps the older content, because the new one replaces it and is not written into
    // it.
    std::fs::write(folder.path().join("a.html"), "an older file").unwrap();
    std::fs::hard_link(folder.path().join("a.html"), folder.path().join("second name")).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["a.html", "a.svg", "a.txt", "a.png", "a.csv"] {
        figure.save(folder.path().join(name)).unwrap();
    }
    assert!(read("a.html").starts_with("<!DOCTYPE html>") && read("a.html").contains(figure.html()));
    assert!(read("a.html").trim_end().ends_with("</html>"));
    // Whoever puts something into a figure's page by its texts, that is not run.
    assert!(
        read("a.html").contains("Content-Security-Policy\" content=\"default-src 'none'; img-src data:;")
    );
    assert_eq!(read("a.svg"), figure.svg());
    roxmltree::Document::parse(&read("a.svg")).unwrap();
    assert_eq!(read("a.txt"), figure.text());
    assert_eq!(read("a.csv"), "layer,own\n0,1\n1,0.5\n2,0.125\n");
    assert_eq!(std::fs::read(folder.path().join("a.png")).unwrap(), figure.png());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "drafts are left behind");
    assert_eq!(read("second name"), "an older file");
    let hostile = LineChart { title: HOSTILE.into(), ..chart(&["own"]) }.figure().unwrap();
    hostile.save(folder.path().join("a.html")).unwrap();
    assert!(!read("a.html").contains("<script"), "in the title of the page");
}

#[test]
fn files_that_cannot_be_saved_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let figure = table().figure().unwrap();
    for name in ["a.jpeg", "a", "a.html.gz"] {
        let error = figure.save(folder.path().join(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.what().contains(name) && error.help().contains(".html, .png, .svg"), "{error}");
    }
    let error = figure.beside(&figure).save(folder.path().join("a.csv")).unwrap_err();
    assert!(error.what().contains("2 figures in one") && error.help().contains("each figure"), "{error}");
    let error = figure.save(folder.path().join("missing/a.html")).unwrap_err();
    assert!(error.what().contains("cannot write") && error.help().contains("folder exists"), "{error}");
    // A folder in the way makes the last step fail, after the draft was written.
    std::fs::create_dir(folder.path().join("b.html")).unwrap();
    assert!(figure.save(folder.path().join("b.html")).is_err());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["b.html"], "drafts are left behind");
}

#[test]
fn the_bundle_is_html_then_a_picture_then_text() {
    for figure in one_of_each() {
        let bundle = figure.bundle();
        let kinds: Vec<&str> = bundle.iter().map(|(mime, _)| mime.as_str()).collect();
        assert_eq!(kinds, ["text/html", "image/png", "text/plain"]);
        assert_eq!(bundle[2].1, figure.text());
        // Stock evcxr reads a display up to this line; a figure must not contain it.
        assert!(!bundle[0].1.contains("EVCXR_END_CONTENT"));
        assert_eq!(format!("{figure:?}").lines().count(), 1);
        assert_eq!(figure.to_string(), figure.text());
    }
}

/// `[y][x]` of a PNG, read by somebody else's decoder.
fn pixels(file: &[u8]) -> Vec<Vec<[u8; 3]>> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(file));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    let row = |row: &[u8]| row.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    bytes[..info.buffer_size()].chunks_exact(info.line_size).map(row).collect()
}

#[test]
fn the_picture_is_the_drawing() {
    // Two cells, of the least and the greatest value: a drawing whose colours and places are known.
    let map = Heatmap { values: array![[0.0], [1.0]], ..Default::default() }.figure().unwrap();
    let document = map.svg();
    let document = roxmltree::Document::parse(&document).unwrap();
    let picture = pixels(&map.png());
    let [left, top, right, bottom] = bounds(&document);
    // Two pixels for one, ten units for one, and the margin of twelve on each side.
    let sides = [(right - left) / 10.0 * 2.0 + 48.0, (bottom - top) / 10.0 * 2.0 + 48.0];
    assert_eq!([picture[0].len() as f64, picture.len() as f64], sides);
    assert_eq!(picture[0][0], [255; 3], "the paper is white");
    for (colour, rgb) in [("#440154", [0x44, 0x01, 0x54]), ("#FDE725", [0xFD, 0xE7, 0x25])] {
        let cell = document.descendants().find(|n| n.attribute("fill") == Some(colour)).unwrap();
        let number = |name: &str| cell.attribute(name).unwrap().parse::<f64>().unwrap() / 10.0 + 12.0;
        let at = [number("x") + 2.0, number("y") + 2.0].map(|v| (2.0 * v) as usize);
        assert_eq!(picture[at[1]][at[0]], rgb, "the cell in {colour}");
    }
    // A curve has its colour where its first point is.
    let chart = chart(&["own"]).figure().unwrap();
    let document = chart.svg();
    let document = roxmltree::Document::parse(&document).unwrap();
    let first = document.descendants().find(|n| n.has_tag_name("circle")).unwrap();
    let at = ["cx", "cy"]
        .map(|name| (2.0 * (first.attribute(name).unwrap().parse::<f64>().unwrap() / 10.0 + 12.0)) as usize);
    assert_eq!(pixels(&chart.png())[at[1]][at[0]], [0x00, 0x72, 0xB2]);
}

/// The font of pictures has no Chinese and no emoji: their code points stand in a box, so that two of them differ.
#[test]
fn letters_that_the_font_lacks_are_told_apart() {
    let picture = |title: &str| LineChart { title: title.into(), ..chart(&["own"]) }.figure().unwrap().png();
    assert_ne!(picture("中"), picture("国"));
    assert_ne!(picture("🦀"), picture("🐍"));
    assert_eq!(picture("中"), picture("中"));
}

#[test]
fn pictures_are_small_and_say_what_they_leave_out() {
    let long = trajectory(30, 500, |layer, pos, place| format!("token{layer}<&>{pos}·{place}"));
    let rows = (0..500).map(|i| (0..30).map(|j| TableCell::from((i * j) as f64 / 7.0)).collect()).collect();
    let header = (0..30).map(|j| format!("column {j}")).collect();
    let curve = |k: usize| (0..50_000).map(|i| ((i * (k + 3)) as f64).sin()).collect::<Vec<_>>();
    let large = [
        long.figure(),
        Table { header, rows, ..Default::default() }.figure(),
        LineChart { series: (0..12).map(|k| Series::new("s", curve(k))).collect(), ..Default::default() }
            .figure(),
        Heatmap {
            values: Array2::from_shape_fn((100, 100), |(i, j)| ((i * j) as f64).sin()),
            ..Default::default()
        }
        .figure(),
    ];
    for figure in large {
        let figure = figure.unwrap();
        let four = figure.beside(&figure).above(&figure.beside(&figure));
        for figure in [&figure, &four] {
            assert!(figure.png().len() <= 60_000, "{figure:?}: {} bytes", figure.png().len());
            pixels(&figure.png());
        }
    }
    let figure = long.figure().unwrap();
    assert!(figure.svg().contains("Not in this picture: 48"), "{}", figure.svg());
}

/// What a site that lets only some elements and attributes through leaves of HTML. `style` and `script` go with what is
/// in them, of other elements what is in them stays.
fn sanitized(html: &str, elements: &[&str], attributes: &[&str]) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        let (mut at, mut quoted) = (open, false);
        while quoted || rest.as_bytes()[at] != b'>' {
            quoted ^= rest.as_bytes()[at] == b'"';
            at += 1;
        }
        let tag = &rest[open + 1..at];
        rest = &rest[at + 1..];
        let name = tag.trim_start_matches('/').split([' ', '>']).next().unwrap();
        if let ("style" | "script", false) = (name, tag.starts_with('/')) {
            let close = format!("</{name}>");
            rest = &rest[rest.find(&close).unwrap() + close.len()..];
        } else if elements.contains(&name) {
            let kept = attributes.iter().filter_map(|attribute| {
                let start = tag.find(&format!(" {attribute}"))?;
                // One without a value does not come through JupyterLab, not even `hidden`.
                let value = tag[start + 1 + attribute.len()..].strip_prefix("=\"")?;
                let value = &value[..value.find('"').unwrap()];
                Some(format!(" {attribute}=\"{value}\""))
            });
            let slash = if tag.starts_with('/') { "/" } else { "" };
            out += &format!("<{slash}{name}{}>", kept.collect::<String>());
        }
    }
    out + rest
}

#[test]
fn where_styles_are_stripped_there_is_a_picture_and_nothing_else() {
    let all = one_of_each();
    let composed = [all[0].beside(&all[1]), all[3].above(&all[2])];
    for figure in all.iter().chain(&composed) {
        let html = &figure.bundle()[0].1;
        let expected = &figure.bundle()[1].1;
        // GitHub lets `rp` through, which no browser shows, but neither `hidden` nor `class`; JupyterLab, with a
        // notebook that it does not trust, lets `hidden` and `class` through but no `rp`.
        let github = sanitized(
            html,
            &["div", "span", "img", "rp", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "b", "i"],
            &["alt", "src", "width", "title", "scope"],
        );
        let lab = sanitized(
            html,
            &[
                "div", "span", "img", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "b", "i", "form",
                "label",
            ],
            &["alt", "src", "width", "title", "class", "hidden"],
        );
        assert!(!lab.contains("data-ol"), "the style sheet of another figure would hide the picture");
        for (left, hiding) in [(&github, "<rp>"), (&lab, "<div class=\"ol-live\" hidden=\"hidden\">")] {
            let (shown, hidden) = left.split_once(hiding).unwrap_or_else(|| panic!("{left}"));
            assert!(shown.contains(&format!("src=\"data:image/png;base64,{expected}\"")), "{figure:?}");
            assert_eq!(visible_text(shown).trim(), "", "words without their places: {figure:?}");
            assert!(!hidden.contains("<img"), "one picture, and where it is seen: {figure:?}");
            // Nothing comes after what is hidden.
            let end = if hiding == "<rp>" { hidden.split_once("</rp>").unwrap().1 } else { "" };
            assert_eq!(visible_text(end).trim(), "");
        }
        // With styles, the reverse: the style sheet names both.
        assert!(html.contains(".onelens>.ol-still[data-ol]{display:none!important}"));
        assert!(
            html.contains(
                ".onelens>.ol-live[data-ol],.onelens>.ol-live[data-ol]>rp{display:block!important}"
            )
        );
    }
}

/// What GitHub leaves of the outputs of every notebook: neither styles nor scripts, neither `style` nor `class`.
#[test]
fn every_figure_of_the_notebooks_is_a_picture_where_styles_are_stripped() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("notebooks");
    let text_of = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        lines => lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect(),
    };
    let mut n_notebooks = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "ipynb") {
            continue;
        }
        n_notebooks += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = std::fs::read_to_string(&path).unwrap();
        assert!(file.len() <= 4_000_000, "{name}: {} bytes, more than a page shows readily", file.len());
        let notebook: serde_json::Value = serde_json::from_str(&file).unwrap();
        let outputs =
            notebook["cells"].as_array().unwrap().iter().flat_map(|cell| cell["outputs"].as_array());
        let mut n_figures = 0;
        for data in outputs.flatten().map(|output| &output["data"]) {
            let html = data.get("text/html").map(text_of).unwrap_or_default();
            if !html.contains("class=\"onelens\"") {
                assert!(
                    !html.contains("<svg") && !html.contains("<table"),
                    "{name}: a figure without a picture"
                );
                continue;
            }
            n_figures += 1;
            assert!(data.get("text/plain").is_some(), "{name}: no text");
            let picture =
                data.get("image/png").map(text_of).unwrap_or_else(|| panic!("{name}: no image/png"));
            assert!(picture.trim_end().len() <= 80_000, "{name}: a picture of over 60 kB");
            let left =
                sanitized(&html, &["div", "img", "rp", "table", "tr", "th", "td"], &["alt", "src", "width"]);
            let shown = left.split("<rp>").next().unwrap();
            let source = format!("src=\"data:image/png;base64,{}\"", picture.trim_end());
            assert!(shown.contains(&source), "{name}: the picture is not in what is left");
            assert_eq!(visible_text(shown).trim(), "", "{name}: words without their places");
        }
        assert!(n_figures >= 4, "{name} shows {n_figures} figures");
    }
    assert_eq!(n_notebooks, 9);
}

#[test]
fn what_does_not_fit_beside_goes_below_and_is_drawn_whole() {
    let chart = chart(&["own"]).figure().unwrap();
    let size = |figure: &Figure| {
        let svg = figure.svg();
        let [left, top, right, bottom] = bounds(&roxmltree::Document::parse(&svg).unwrap());
        (right - left, bottom - top)
    };
    let (width, height) = size(&chart);
    // Two charts would be 1428 pixels wide: a page shows them one above the other, and so does the picture.
    assert_eq!(size(&chart.beside(&chart)), (width, 2.0 * height + 280.0));
    let small = heatmap().figure().unwrap();
    let (width, height) = size(&small);
    assert_eq!(size(&small.beside(&small)), (2.0 * width + 280.0, height));
    let five = (0..4).fold(small.clone(), |all, _| all.beside(&small));
    // Three in the first row, two in the second.
    assert!(3.0 * width + 560.0 <= 13_000.0 && 4.0 * width + 840.0 > 13_000.0, "{width}");
    assert_eq!(size(&five), (3.0 * width + 560.0, 2.0 * height + 280.0));
}

/// The colour and the strokes of each name in the legend of a chart, which is drawn last.
fn legend(names: &[&str]) -> Vec<(String, usize)> {
    let svg = chart(names).figure().unwrap().svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let lines: Vec<_> = document.descendants().filter(|n| n.has_tag_name("polyline")).collect();
    // A dash is two points, a curve of the charts here three.
    let short = lines.iter().rev().take_while(|n| n.attribute("points").unwrap().split(' ').count() == 2);
    let mut strokes: Vec<(String, String)> = short
        .map(|n| {
            let y = n.attribute("points").unwrap().rsplit(',').next().unwrap().to_string();
            (n.attribute("stroke").unwrap().to_string(), y)
        })
        .collect();
    strokes.reverse();
    strokes.chunk_by(|a, b| a == b).map(|one| (one[0].0.clone(), one.len())).collect()
}

#[test]
fn a_name_has_the_same_colour_in_every_chart() {
    let colour = |names: &[&str], i: usize| legend(names)[i].0.clone();
    let own = colour(&["own lens", "shared lens"], 0);
    assert_eq!(own, "#0072B2");
    for (names, i) in [
        (&["logit lens", "own lens"][..], 1),
        (&["something else", "own lens"], 1),
        (&["own, least squares", "left out"], 0),
        (&["own"], 0),
    ] {
        assert_eq!(colour(names, i), own, "{names:?}");
    }
    // What stands for one thing under two names, and what only begins alike.
    for (a, b) in [
        ("tuned lens", "own, least KL"),
        ("the model", "trained"),
        ("chance weights", "untrained"),
        ("updates shuffled", "shuffled updates"),
        ("left-out lens", "left out, least squares"),
        ("all there is to read", "mean prediction"),
    ] {
        assert_eq!(colour(&[a], 0), colour(&["left", b], 1), "{a} and {b}");
    }
    assert_ne!(colour(&["owner", "own"], 0), own);
    // Names that mean nothing never have the colour of one that does.
    let others: Vec<String> = (0..20).map(|i| format!("curve {i}")).collect();
    let names: Vec<&str> = std::iter::once("trained").chain(others.iter().map(String::as_str)).collect();
    let meant: Vec<String> = ["own", "shared", "left out", "logit lens", "baseline", "trained", "untrained"]
        .map(|name| colour(&[name], 0))
        .to_vec();
    assert!(legend(&names)[1..].iter().all(|(colour, _)| !meant.contains(colour)));
}

#[test]
fn of_curves_in_one_colour_all_but_the_first_have_dashes() {
    let drawn = legend(&["own lens", "shared lens", "own lens of rank 2", "own lens of rank 8"]);
    assert_eq!(drawn.iter().map(|(_, strokes)| *strokes > 1).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(drawn[2].0, drawn[0].0);
}

#[test]
fn a_narrow_page_says_below_a_chart_what_its_curves_are_and_its_caption_once() {
    let mut lines = chart(&["own lens", "a < b"]);
    lines.note = "Means of 3 seeds.".into();
    let figure = lines.figure().unwrap();
    let (above, narrow) = figure.html().split_once("<div class=\"ol-narrow\">").unwrap();
    for part in ["background:var(--ol-s0)\"></i>own lens<", "a &lt; b<", "Means of 3 seeds."] {
        assert!(narrow.contains(part), "{part} in {narrow}");
    }
    // Where there is room they stand in the drawing, and the caption only there.
    let (style, drawing) = above.split_once("</style>").unwrap();
    let (curves, under) = drawing.split_once("<g class=\"ol-under\">").unwrap();
    assert!(under.contains("Means of 3 seeds.") && !curves.contains("Means of 3 seeds."));
    let (wide, when_narrow) = style.split_once("@media(max-width:640px){").unwrap();
    assert!(wide.contains(".ol-narrow{display:none}") && !wide.contains(".ol-under"));
    assert!(when_narrow.split_once("}}").unwrap().0.contains(".ol-under{display:none"));
}

#[test]
fn lines_stand_out_three_to_one_from_light_and_dark_paper() {
    // WCAG 2.2: relative luminance, and the contrast of two.
    let luminance = |hex: &str| -> f64 {
        let channel = |at: usize| {
            let c = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    };
    let svg = chart(&["own"]).figure().unwrap().svg();
    let (light, dark) = svg.split_once("@media(prefers-color-scheme:dark)").unwrap();
    for sheet in [light, dark] {
        let variable =
            |name: &str| sheet.split_once(&format!("--ol-{name}:")).map(|(_, rest)| rest[..7].to_string());
        let paper = luminance(&variable("bg").unwrap());
        let lines: Vec<String> = (0..).map_while(|i| variable(&format!("s{i}"))).collect();
        assert!(lines.len() >= 9);
        for colour in lines.iter().chain(&[variable("ink").unwrap(), variable("muted").unwrap()]) {
            let (a, b) = (luminance(colour).max(paper), luminance(colour).min(paper));
            assert!((a + 0.05) / (b + 0.05) >= 3.0, "{colour} on {paper}");
        }
    }
}

#[test]
fn values_below_the_axis_are_arrows_in_the_drawing_and_themselves_in_text_and_csv() {
    let mut lines = chart(&["own"]);
    lines.series[0].y = vec![-12.5, 0.5, 0.75];
    lines.y_lowest = Some(-0.5);
    let figure = lines.figure().unwrap();
    assert!(figure.text().contains("-12.5") && figure.to_csv().unwrap().contains("0,-12.5\n"), "{figure}");
    assert!(figure.text().contains("Arrows: values below -0.5."), "{figure}");
    // An axis that reached down to it would have a tick there.
    assert!(!figure.svg().contains(">-10<") && figure.svg().contains(">-0.5<"), "{}", figure.svg());
    lines.series[0].y[0] = -0.25;
    assert!(!lines.figure().unwrap().text().contains("Arrows"), "nothing is below");
    // On a logarithmic axis 0 is below every end.
    let log = LineChart { y_log: true, y_lowest: Some(0.01), ..chart(&["own"]) };
    let log = LineChart { series: vec![Series::new("own", [1.0, 0.1, 0.0])], ..log }.figure().unwrap();
    assert!(log.text().contains("Arrows: values below 0.01.") && !log.text().contains("Not drawn"), "{log}");
}

#[test]
fn two_maps_of_one_range_have_one_colour_for_one_value() {
    let map = |values| Heatmap { values, range: Some((0.0, 4.0)), ..Default::default() };
    let colour = |map: &Heatmap, label: &str| {
        let svg = map.figure().unwrap().svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let text =
            document.descendants().find(|n| n.has_tag_name("text") && n.text() == Some(label)).unwrap();
        let number =
            |node: &roxmltree::Node, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
        let (x, y) = (number(&text, "x"), number(&text, "y"));
        let inside = |n: &roxmltree::Node, side: &str, size: &str, v: f64| {
            number(n, side) < v && v < number(n, side) + number(n, size)
        };
        let cell = document.descendants().find(|n| {
            n.has_tag_name("rect")
                && inside(n, "x", "width", x)
                && inside(n, "y", "height", y)
                && n.attribute("fill") != Some("#FFFFFE")
        });
        cell.unwrap().attribute("fill").unwrap().to_string()
    };
    let (a, b) = (map(array![[0.5, 1.5]]), map(array![[1.5, 9.5]]));
    assert_eq!(colour(&a, "1.5"), colour(&b, "1.5"));
    assert_eq!(colour(&b, "9.5"), "#FDE725", "the upper end");
    assert!(b.figure().unwrap().text().contains("▴: above 4.") && !a.figure().unwrap().text().contains("▴"));
    for range in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0)] {
        let error = Heatmap { range: Some(range), ..heatmap() }.figure().unwrap_err();
        assert!(
            error.what().contains(&range.0.to_string()) && error.help().contains("smaller one first"),
            "{error}"
        );
    }
    let error = Heatmap { range: Some((0.0, 1.0)), log: true, ..heatmap() }.figure().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

/// What the axis says: the words left of the plot, in the order of the drawing.
/// What stands at the vertical axes, with its place.
fn at_the_axis(svg: &str) -> Vec<(String, String)> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let words = document.descendants().filter(|n| n.attribute("text-anchor") == Some("end"));
    words.map(|n| (n.attribute("y").unwrap().to_string(), n.text().unwrap().trim().to_string())).collect()
}

#[test]
fn two_comparisons_beside_each_other_have_one_axis_and_names() {
    let comparison = |kl: [f64; 3], baseline| Comparison {
        curves: vec![LensCurve {
            name: "own".into(),
            kl: kl.to_vec(),
            se: vec![0.0; 3],
            cross_entropy: vec![1.0; 3],
            agreement: vec![0.5; 3],
            fit_seconds: 0.0,
        }],
        baseline,
        baseline_se: 0.0,
        model_cross_entropy: 1.0,
        n_seqs: 8,
        n_tokens: 64,
    };
    let (trained, untrained) = (comparison([1.0, 0.25, 0.0], 2.0), comparison([0.02, 0.01, 0.0], 0.08));
    let both = trained.figure_beside("Trained", &untrained, "Untrained").unwrap();
    let axis = at_the_axis(&both.svg());
    let half = axis.len() / 2;
    assert!(half > 1 && axis[..half] == axis[half..], "{axis:?}");
    assert_ne!(
        at_the_axis(&trained.figure().unwrap().svg()),
        at_the_axis(&untrained.figure().unwrap().svg())
    );
    for name in ["Trained: how far", "Untrained: how far"] {
        assert!(both.text().contains(name), "{both}");
    }
}

#[test]
fn two_charts_of_one_range_have_one_axis() {
    let axis = |largest: f64, y_range| {
        let series = vec![Series::new("own", [0.0, largest])];
        at_the_axis(&LineChart { series, y_range, ..Default::default() }.figure().unwrap().svg())
    };
    let range = Some((0.0, 1.0));
    assert_eq!(axis(0.25, range), axis(0.75, range));
    assert!(axis(0.25, range).iter().any(|(_, words)| words == "1.0"), "{:?}", axis(0.25, range));
    assert_ne!(axis(0.25, None), axis(0.75, None));
}

#[test]
fn a_dark_picture_is_light_on_dark() {
    for figure in one_of_each() {
        let dark = figure.dark();
        assert_eq!(pixels(&dark.png())[0][0], [0x15, 0x17, 0x1B], "{figure:?}");
        assert_eq!(pixels(&figure.png())[0][0], [255; 3]);
        assert!(!drawn(&dark).contains("\"#1F2328\"") && drawn(&dark).contains("\"#E6E8EB\""), "{figure:?}");
        assert_eq!((dark.html(), dark.text()), (figure.html(), figure.text()));
    }
}

#[test]
fn a_trajectory_takes_time_with_its_size_and_not_with_the_square_of_it() {
    let least = |n_pos: usize| {
        let table = trajectory(30, n_pos, |layer, pos, place| format!("token{layer}{pos}{place}"));
        let drawn = |_| {
            let started = Instant::now();
            table.figure().unwrap();
            started.elapsed()
        };
        (0..5).map(drawn).min().unwrap()
    };
    // Four times the size: 4 if each place costs the same, 16 if a step looks at all pairs. Of five, for other work's
    // sake.
    let (small, large) = (least(125), least(500));
    assert!(large < 10 * small, "{large:?} for 500 positions, {small:?} for 125");
}
