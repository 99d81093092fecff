//! Measurements, which assert nothing about time: `cargo test -p onelens-kernel --test suite measure -- --ignored
//! --nocapture`.
//!
//! Wall time is for a quiet machine; the CPU time of `rustc` (user and system) says something on a busy one too.

use onelens_kernel::engine::Engine;
use onelens_kernel::image::Image;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn image() -> Image {
    Image::ensure(&mut |line| eprintln!("{line}")).unwrap_or_else(|e| panic!("{e}"))
}

fn start(image: &Image) -> Engine {
    Engine::start_with(image, Path::new(env!("CARGO_BIN_EXE_onelens"))).unwrap_or_else(|e| panic!("{e}"))
}

/// The text of a cell's result.
#[track_caller]
fn run(engine: &mut Engine, code: &str) -> String {
    use onelens_kernel::cells::Output;
    let mut result = String::new();
    let mut on_output = |output| {
        if let Output::Result(bundle) = output {
            result = bundle.into_iter().find(|(mime, _)| mime == "text/plain").map_or(String::new(), |b| b.1);
        }
    };
    let ran = engine.execute(code, &mut on_output);
    ran.unwrap_or_else(|e| panic!("{code}\n{}", e.traceback.join("\n")));
    result
}

/// Seconds of CPU that the children of this process have used which ended.
#[allow(unsafe_code)]
fn children_cpu() -> Duration {
    // SAFETY: `getrusage` fills the structure that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Medians of wall time and of the children's CPU time, in milliseconds.
fn median(n: usize, mut work: impl FnMut()) -> (f64, f64) {
    let mut walls = Vec::new();
    let mut cpus = Vec::new();
    for _ in 0..n {
        let (begin, cpu) = (Instant::now(), children_cpu());
        work();
        walls.push(begin.elapsed().as_secs_f64() * 1e3);
        cpus.push((children_cpu() - cpu).as_secs_f64() * 1e3);
    }
    walls.sort_by(f64::total_cmp);
    cpus.sort_by(f64::total_cmp);
    (walls[n / 2], cpus[n / 2])
}

/// The median of a cell's time, in milliseconds, when the last one ended a while ago.
fn cell(engine: &mut Engine, n: usize, code: &str) -> (f64, f64) {
    let mut once = || {
        engine.settle();
        std::thread::sleep(Duration::from_millis(200));
        median(1, || drop(run(engine, code)))
    };
    let mut times: Vec<(f64, f64)> = (0..n).map(|_| once()).collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times[n / 2]
}

fn line(what: &str, (wall, cpu): (f64, f64)) {
    eprintln!("{what:<58} {wall:>6.0} ms {cpu:>6.0} ms CPU");
}

#[test]
#[ignore = "a measurement"]
fn what_the_milliseconds_of_a_cell_consist_of() {
    let image = image();
    let folder = std::env::temp_dir().join(format!("onelens-measure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("empty.rs"), "#[unsafe(no_mangle)] extern \"C\" fn onelens_cell() {}\n")
        .unwrap();
    let with_image = "extern crate onelens_image;\n#[unsafe(no_mangle)] extern \"C\" fn onelens_cell() { ::onelens_image::rt::at(1); }\n";
    std::fs::write(folder.join("image.rs"), with_image).unwrap();
    let rustc = |arguments: &[&str], linked: bool| {
        let mut command = Command::new(image.rustc());
        command.current_dir(&folder).args(["--edition=2024", "--crate-type=cdylib", "-Cprefer-dynamic"]);
        command.args(arguments);
        if linked {
            command.arg(format!("--extern=onelens_image={}", image.library().display()));
            command.arg(format!("-Ldependency={}", image.deps().display()));
        }
        assert!(command.status().unwrap().success());
    };
    eprintln!("{:<58} {:>9} {:>13}", "the floor, in rustc alone", "wall", "");
    line(
        "  start of rustc (-vV)",
        median(9, || assert!(Command::new(image.rustc()).arg("-vV").output().unwrap().status.success())),
    );
    line("  check an empty cell", median(9, || rustc(&["--emit=metadata", "empty.rs"], false)));
    line("  .. and object code", median(9, || rustc(&["--emit=obj", "empty.rs"], false)));
    line("  .. and link", median(9, || rustc(&["empty.rs", "-o", "empty.so"], false)));
    line("  check a cell that names the image", median(9, || rustc(&["--emit=metadata", "image.rs"], true)));
    line("  .. and object code", median(9, || rustc(&["--emit=obj", "image.rs"], true)));
    line("  .. and link", median(9, || rustc(&["image.rs", "-o", "image.so"], true)));
    let _ = std::fs::remove_dir_all(&folder);

    let mut engine = start(&image);
    run(&mut engine, "use ndarray::prelude::*;\nlet mut x = 1.0; let a = Array2::<f64>::eye(3);");
    run(&mut engine, "let b = &a * 2.0;");
    eprintln!("cells, from the request to the end");
    for (what, code) in [
        ("  statement", "x += 1.0;"),
        ("  let with an inferred type", "let y = x * 2.0;"),
        ("  let of an array", "let c = a.clone();"),
        ("  displayed expression", "x"),
        ("  array arithmetic with display", "&a * 2.0 + &b"),
    ] {
        line(what, cell(&mut engine, 9, code));
    }
    let is_linked = |engine: &mut Engine| run(engine, "module_path!()") == "\"cell\"";
    let mut items = String::from("pub struct S(f64);\n");
    for i in 0..50 {
        items += &format!(
            "impl S {{\n    pub fn f{i}(&self, n: usize) -> Vec<String> {{\n        (0..n).map(|k| format!(\"{{}} {{}}\", k, self.0 * {i}.0)).filter(|s| s.len() > {i}).collect()\n    }}\n}}\n"
        );
    }
    eprintln!("with {} lines of impls, of which a cell calls one", items.lines().count());
    run(&mut engine, &items);
    // A declaration makes the items be compiled in the cell.
    line("  compiled in the cell", cell(&mut engine, 5, "const _: () = ();\nS(1.0).f3(2).len()"));
    while !is_linked(&mut engine) {
        std::thread::sleep(Duration::from_millis(100));
    }
    line("  linked", cell(&mut engine, 9, "S(1.0).f3(2).len()"));
}

/// A number in `/proc/PID/status`.
fn status(pid: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or_default()
}

#[test]
#[ignore = "a measurement"]
fn a_thousand_cells() {
    let image = image();
    let mut engine = start(&image);
    run(&mut engine, "let mut x = 1.0f64; let mut v: Vec<f64> = vec![];");
    let worker = run(&mut engine, "std::process::id()");
    let supervisor = run(&mut engine, "std::os::unix::process::parent_id()");
    let line = std::fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    let folder = PathBuf::from(line.split('\0').nth(4).unwrap());
    let count = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let mut begin = Instant::now();
    let mut cpu = children_cpu();
    eprintln!(
        "cells  kernel MB  worker MB  of it mapped MB  handles (kernel, worker)  files  threads  ms a cell  CPU ms a cell"
    );
    for i in 0..=1000 {
        if i % 100 == 0 {
            let per = if i == 0 { 1.0 } else { 100.0 };
            eprintln!(
                "{i:>5} {:>10.1} {:>10.1} {:>16.1} {:>12} {:>12} {:>6} {:>8} {:>10.0} {:>14.0}",
                status("self", "VmRSS:") as f64 / 1024.0,
                status(&worker, "VmRSS:") as f64 / 1024.0,
                status(&worker, "VmSize:") as f64 / 1024.0,
                count("/proc/self/fd"),
                count(&format!("/proc/{worker}/fd")),
                std::fs::read_dir(&folder).unwrap().count(),
                status(&worker, "Threads:"),
                begin.elapsed().as_secs_f64() * 1e3 / per,
                (children_cpu() - cpu).as_secs_f64() * 1e3 / per,
            );
            (begin, cpu) = (Instant::now(), children_cpu());
        }
        match i % 10 {
            0 => run(&mut engine, "fn f(x: f64) -> f64 { x + 1.0 }\nx = f(x);"),
            1..4 => run(&mut engine, "x"),
            4 => run(&mut engine, "let y = x * 2.0;"),
            _ => run(&mut engine, "x += 1.0;\nv.push(x);\nv.truncate(10);"),
        };
    }
}
