//! The library's tests by kind of evidence, in one program, which links once. A test that needs a process of its own
//! has a file beside this folder, or asks [`apart`] for one.

mod architectures;
mod battery;
mod battery_language;
mod battery_networks;
mod causal;
mod circuits;
mod closed_form;
mod display;
mod dual;
mod factorisations;
mod families;
mod features;
mod golden;
mod gradients;
mod heads;
mod layers;
mod lens_kinds;
mod lesions;
mod literal_gradient;
mod model;
mod moments;
mod passes;
mod plots;
mod predictive;
mod published;
mod readers;
mod real_model;
mod refinement_resumed;
mod relatives;
mod ridge_path;
mod rule;
mod steering;
mod stream;
mod training_runs;
mod tuned;
mod vision;
mod weights;

#[path = "../common/mod.rs"]
mod common;
#[path = "../slow/configs.rs"]
mod configs;
#[path = "../slow/mod.rs"]
mod slow;

/// Runs a test that is marked `#[ignore]` in a process of its own: an interrupt is the whole process's, and would stop
/// the others.
fn apart(name: &str) {
    let tests = std::env::current_exe().unwrap();
    let run = std::process::Command::new(tests).args(["--ignored", "--exact", name]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

/// A file of tests that is in no list would never run.
#[test]
fn every_file_of_tests_is_a_module() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    let own = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || own.contains(&format!("\nmod {module};\n")),
            "tests/suite/{name} is in no list"
        );
    }
}
