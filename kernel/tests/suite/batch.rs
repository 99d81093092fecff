//! `onelens model` and `onelens lens`, as a user of the command line meets them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::skipped;

fn onelens(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onelens"));
    command.args(arguments).current_dir(folder).output().expect("the program starts")
}

#[track_caller]
fn good(folder: &Path, arguments: &[&str]) -> String {
    let output = onelens(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&good(folder, arguments)).expect("one JSON value and nothing else")
}

/// What was said, with the exit code.
fn bad(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = onelens(folder, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A text, and a small Llama in llama2.c's format with weights that are no pattern, as many tokens as the text has
/// characters.
fn folder() -> tempfile::TempDir {
    folder_of(2)
}

/// The same with a model of so many blocks.
fn folder_of(n_layers: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let line = |i: usize| -> String {
        (0..40).map(|t| char::from(b'a' + ((i * t + i + t * t) % 8) as u8)).collect()
    };
    let text = |range: std::ops::Range<usize>| range.map(line).collect::<Vec<_>>().join("\n");
    fs::write(folder.path().join("text.txt"), text(0..400)).expect("written");
    fs::write(folder.path().join("other.txt"), text(400..500)).expect("written");
    // The same lines as documents, which shards are made of.
    let documents: String = (0..400).map(|i| format!("\"{}\"\n", line(i))).collect();
    fs::write(folder.path().join("lines.jsonl"), documents).expect("written");
    // dim, hidden, layers, heads, kv heads, vocabulary, context; then as many numbers as those say.
    let shape = [8_i32, 16, n_layers as i32, 2, 2, 10, 32];
    let (d, h, l, v, t) = (8, 16, n_layers, 10, 32);
    let n = v * d + l * d + 4 * l * d * d + l * d + 3 * l * d * h + d + 2 * t * 2;
    let mut state = 1_u32;
    let numbers = (0..n).flat_map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state as f32 / u32::MAX as f32 - 0.5).to_le_bytes()
    });
    let bytes: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).chain(numbers).collect();
    fs::write(folder.path().join("model.bin"), bytes).expect("written");
    folder
}

#[test]
fn a_model_is_described_written_on_and_converted() {
    let folder = folder();
    let told = good(folder.path(), &["model", "info", "model.bin"]);
    assert!(told.contains("RMS") && told.contains("blocks        2"), "{told}");
    let before = json(folder.path(), &["model", "info", "model.bin", "--json"]);
    assert_eq!(before["config"]["d_vocab"], 10);
    good(folder.path(), &["model", "convert", "model.bin", "own.safetensors"]);
    let after = json(folder.path(), &["model", "info", "own.safetensors", "--json"]);
    assert_eq!(before["fingerprint"], after["fingerprint"]);
    assert!(after["provenance"]["data"].as_str().expect("a text").contains("model.bin"));
    let generate = [
        "model",
        "generate",
        "own.safetensors",
        "--tokenizer",
        "text.txt",
        "--prompt",
        "abc",
        "-n",
        "5",
        "--json",
    ];
    let written = json(folder.path(), &generate);
    assert_eq!(written["tokens"].as_array().expect("tokens").len(), 5);
    assert_eq!(json(folder.path(), &generate), written);
}

#[test]
fn lenses_are_refined_on_texts_kept_and_read_with() {
    let folder = folder();
    let on = |command: &str| -> Vec<String> {
        let of_model = "--model model.bin --tokenizer text.txt --moments all.moments";
        format!("lens {command} {of_model}").split(' ').map(String::from).collect()
    };
    let all = |words: &[String]| -> Value {
        json(folder.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let fit = "lens fit --model model.bin --tokenizer text.txt --text lines.jsonl --out all.moments";
    good(folder.path(), &fit.split(' ').collect::<Vec<_>>());
    let refine = on("refine --text lines.jsonl --keep kept --out all.lens --epochs 2 --lbfgs-steps 3 --json");
    let told = all(&refine);
    let kl = |told: &Value, when: &str, stream: usize| told[when][stream].as_f64().expect("a number");
    assert!(kl(&told, "kl", 0) < kl(&told, "kl_before", 0), "{told}");
    // The same again is read, not searched for; on the texts it was refined on, it reads better than in closed form.
    assert_eq!(all(&refine)["kl"], told["kl"]);
    // A penalty is another search, which ends above that one.
    let held = "refine --text lines.jsonl --keep kept --out held.lens --epochs 2 --lbfgs-steps 3";
    assert!(kl(&all(&on(&format!("{held} --lambda 0.1 --json"))), "kl", 0) > kl(&told, "kl", 0));
    let negative = on(&format!("{held} --lambda=-1"));
    let (code, why) = bad(folder.path(), &negative.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(code == Some(2) && why.contains("lambda is -1"), "{why}");
    let seen = all(&on("compare --text lines.jsonl --sequences 100 --lenses own,all.lens --json"));
    let kl = |lens: usize| seen["lenses"][lens]["kl"][0].as_f64().expect("a number");
    assert!(kl(1) < kl(0) && seen["lenses"][1]["lens"] == "tuned lens", "{seen}");
    let other = on("eval --text lines.jsonl --lens nothing.lens");
    let (code, told) = bad(folder.path(), &other.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(code == Some(2) && told.contains("no such file"), "{told}");
}

#[test]
fn lenses_are_fitted_once_and_compared() {
    let folder = folder();
    let of_model = ["--model", "model.bin", "--tokenizer", "text.txt"];
    let with = |arguments: &[&'static str]| [arguments, &of_model].concat();
    let fit = with(&[
        "lens",
        "fit",
        "--text",
        "text.txt",
        "--out",
        "all.moments",
        "--shard-bytes",
        "2000",
        "--json",
    ]);
    let told = json(folder.path(), &fit);
    assert_eq!(told["streams"], 3);
    let bytes = fs::read(folder.path().join("all.moments")).expect("moments");
    let kept = with(&[
        "lens",
        "fit",
        "--text",
        "text.txt",
        "--out",
        "all.moments",
        "--shard-bytes",
        "2000",
        "--keep",
        "shards",
    ]);
    good(folder.path(), &kept);
    assert!(fs::read(folder.path().join("all.moments")).expect("moments") == bytes);
    let compare = [
        "lens",
        "compare",
        "--text",
        "other.txt",
        "--moments",
        "all.moments",
        "--sequences",
        "20",
        "--html",
        "page.html",
    ];
    let seen = json(folder.path(), &[&with(&compare)[..], &["--json"]].concat());
    let kl = |lens: usize, stream: usize| seen["lenses"][lens]["kl"][stream].as_f64().expect("a number");
    // Logit, own, shared, left out: the last stream read by its own lens, or as it is, is the prediction itself.
    assert!(kl(0, 2).abs() < 1e-6 && kl(1, 2).abs() < 1e-4, "{seen}");
    assert!(kl(1, 0) < kl(0, 0), "{seen}");
    assert!(fs::read_to_string(folder.path().join("page.html")).expect("a page").contains("<svg"));
    let table = good(
        folder.path(),
        &with(&[
            "lens",
            "eval",
            "--text",
            "other.txt",
            "--moments",
            "all.moments",
            "--sequences",
            "20",
            "--lens",
            "shared",
        ]),
    );
    assert_eq!(table.lines().count(), 3, "{table}");
}

#[test]
fn what_cannot_be_done_is_a_sentence_a_remedy_and_a_code() {
    let folder = folder();
    fs::write(folder.path().join("cut.bin"), [0; 20]).expect("written");
    for (arguments, words) in [
        (&["model", "info", "absent.safetensors"][..], "absent.safetensors"),
        (&["model", "info", "cut.bin"], "cut.bin"),
        (
            &[
                "lens",
                "fit",
                "--model",
                "model.bin",
                "--tokenizer",
                "text.txt",
                "--text",
                "none",
                "--out",
                "x",
            ],
            "none",
        ),
        (
            &[
                "lens",
                "fit",
                "--model",
                "model.bin",
                "--tokenizer",
                "text.txt",
                "--text",
                "text.txt",
                "--out",
                "no/such/x",
            ],
            "no/such/x",
        ),
        (
            &[
                "lens",
                "eval",
                "--model",
                "model.bin",
                "--tokenizer",
                "text.txt",
                "--text",
                "text.txt",
                "--moments",
                "cut.bin",
            ],
            "cut.bin",
        ),
        (&["lens", "sharpen"], "sharpen"),
    ] {
        let (code, told) = bad(folder.path(), arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {told}");
        assert!(told.contains(words), "{arguments:?}: {told}");
    }
}

#[test]
fn a_job_without_mpi_is_told_what_to_install() {
    let folder = folder();
    let mut alone = Command::new(env!("CARGO_BIN_EXE_onelens"));
    alone.args(["model", "info", "model.bin"]).current_dir(folder.path());
    // One of two processes of a job, on a machine that has Rust and no MPI.
    let tools = Command::new("rustc").args(["--print", "sysroot"]).output().expect("Rust").stdout;
    let tools = Path::new(String::from_utf8(tools).expect("a path").trim_end()).join("bin");
    alone
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .env("PATH", tools)
        .env("ONELENS_CACHE", folder.path().join("cache"));
    for name in ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR"] {
        alone.env_remove(name);
    }
    let output = alone.output().expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("help: install them") && told.contains("libopenmpi-dev"),
        "{told}"
    );
}

#[test]
fn shells_complete_the_commands() {
    let script = good(Path::new("."), &["completions", "bash"]);
    assert!(script.contains("lens") && script.contains("--shard-bytes"));
}

#[test]
fn a_model_is_trained_from_a_text_and_read_again() {
    let folder = folder();
    let train = "model train --text text.txt --out m.safetensors --steps 30 --layers 1 --width 16 --heads 2 --context 16 --json";
    let told = json(folder.path(), &train.split(' ').collect::<Vec<_>>());
    // Eight letters and the line's end, all about as frequent: less than ln 9 once anything is learnt.
    let loss = told["held_out_loss"].as_f64().expect("a loss");
    assert!(loss > 0.0 && loss < 2.19, "{told}");
    let info = json(folder.path(), &["model", "info", "m.safetensors", "--json"]);
    assert_eq!(info["fingerprint"], told["fingerprint"]);
    assert_eq!(info["provenance"]["steps"], 30);
    for (arguments, words) in [
        ("--text text.txt --out no/such/m --steps 1", "there is no such folder"),
        ("--text absent --out m --steps 1", "absent"),
        ("--text text.txt --out m --batch 0", "batch_size is 0"),
        ("--text text.txt --out m --heads 0", "heads"),
        ("--text text.txt --out model.bin --resume", "model.bin"),
    ] {
        let arguments: Vec<&str> = ["model", "train"].into_iter().chain(arguments.split(' ')).collect();
        let (code, told) = bad(folder.path(), &arguments);
        assert!(code == Some(2) && told.contains(words) && told.contains("help:"), "{arguments:?}: {told}");
    }
}

/// Whether there is what it takes to build with MPI; a test to which this says no is skipped.
fn mpi_is_there() -> bool {
    let on_path = |name: &str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(name).exists())
    };
    let libraries = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let llvm = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
    let has_libclang = |folder: &Path| {
        let mut files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.any(|file| file.file_name().to_string_lossy().starts_with("libclang") && file.path().exists())
    };
    let libclang = std::env::var_os("LIBCLANG_PATH").is_some()
        || libraries.iter().map(Path::new).any(has_libclang)
        || llvm.into_iter().any(|folder| has_libclang(&folder));
    let there = on_path("mpirun") && on_path("mpicc") && libclang;
    if !there {
        skipped("MPI or libclang is not installed", "apt install openmpi-bin libopenmpi-dev libclang-dev");
    }
    there
}

/// With a real MPI: training among any number of processes writes the same file, and a process that is killed ends the
/// job.
#[test]
fn mpirun_trains_to_the_same_bytes_for_any_number_of_processes() {
    if !mpi_is_there() {
        return;
    }
    let folder = folder();
    let program = env!("CARGO_BIN_EXE_onelens");
    let mpirun = |n: &str, script: &str| {
        let mut command = Command::new("mpirun");
        command.args(["--allow-run-as-root", "--oversubscribe", "-n", n, "sh", "-c", script, program]);
        // Two jobs that begin at one time trip over each other in a folder of all.
        command.current_dir(folder.path()).env("RAYON_NUM_THREADS", "1").env("TMPDIR", folder.path());
        let output = command.output().expect("mpirun, of the package openmpi-bin");
        let told = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&told).into_owned())
    };
    let train =
        "$0 model train --text text.txt --out m.safetensors --layers 1 --width 16 --heads 2 --context 16";
    let mut all = Vec::new();
    for n in ["1", "2", "3", "4"] {
        let (success, told) = mpirun(n, &format!("exec {train} --steps 12 --batch 18"));
        assert!(success && told.contains("12 steps"), "{told}");
        all.push(fs::read(folder.path().join("m.safetensors")).expect("a model"));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    // No step count is reached in time: without its end the job would run for hours.
    let script = format!(
        "[ $OMPI_COMM_WORLD_RANK = 1 ] && exec timeout -s KILL 2 {train} --steps 100000000\nexec {train} --steps 100000000"
    );
    let (success, told) = mpirun("3", &script);
    assert!(
        !success && told.contains("rank") | told.contains("Exit code") | told.contains("status"),
        "{told}"
    );
    // What was written before is as it was.
    assert!(fs::read(folder.path().join("m.safetensors")).expect("a model") == all[0]);
}

/// With a real MPI: shards that were finished before a process failed are used by the next run, which has the bytes of
/// an undisturbed one.
#[test]
fn shards_finished_before_a_process_failed_are_used_again() {
    if !mpi_is_there() {
        return;
    }
    let folder = folder();
    let program = env!("CARGO_BIN_EXE_onelens");
    let fit = "lens fit --model model.bin --tokenizer text.txt --text lines.jsonl --shard-bytes 1000";
    let arguments = |more: &'static str| fit.split(' ').chain(more.split(' ')).collect::<Vec<_>>();
    good(folder.path(), &arguments("--out undisturbed.moments --keep all"));
    // A folder has the name of the last shard, which process 2 therefore cannot write.
    let names =
        fs::read_dir(folder.path().join("all")).expect("all").map(|entry| entry.expect("a file").file_name());
    let last = folder.path().join("kept").join(names.max().expect("shards"));
    fs::create_dir_all(&last).expect("made");
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", "3", program]);
    command.args(arguments("--out all.moments --keep kept"));
    command.current_dir(folder.path()).env("RAYON_NUM_THREADS", "1").env("TMPDIR", folder.path());
    let output = command.output().expect("mpirun");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("process 2 of 3") && told.contains("help:"), "{told}");
    assert!(!folder.path().join("all.moments").exists());
    fs::remove_dir(last).expect("removed");
    let shards = || fs::read_dir(folder.path().join("kept")).expect("kept").count();
    let finished = shards();
    assert!(finished > 0);
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).expect("a file");
    let first =
        fs::read_dir(folder.path().join("kept")).expect("kept").next().expect("one").expect("one").path();
    let before = modified(&first);
    good(folder.path(), &arguments("--out all.moments --keep kept"));
    assert!(shards() > finished && modified(&first) == before);
    let read = |name: &str| fs::read(folder.path().join(name)).expect("moments");
    assert!(read("all.moments") == read("undisturbed.moments"));
}

/// With a real MPI: as many processes as asked for, the same bytes from any number of them, and one that fails ends
/// all.
#[test]
fn mpirun_gives_the_same_bytes_for_any_number_of_processes() {
    if !mpi_is_there() {
        return;
    }
    let folder = folder();
    let program = env!("CARGO_BIN_EXE_onelens");
    let mpirun = |n: &str, text: &str| {
        let mut command = Command::new("mpirun");
        command.args([
            "--allow-run-as-root",
            "--oversubscribe",
            "-n",
            n,
            program,
            "lens",
            "fit",
            "--model",
            "model.bin",
        ]);
        command.args([
            "--tokenizer",
            "text.txt",
            "--text",
            text,
            "--out",
            "all.moments",
            "--shard-bytes",
            "1000",
            "--json",
        ]);
        // Two jobs that begin at one time trip over each other in a folder of all.
        command.current_dir(folder.path()).env("RAYON_NUM_THREADS", "1").env("TMPDIR", folder.path());
        let output = command.output().expect("mpirun, of the package openmpi-bin");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let mut all = Vec::new();
    for n in ["1", "2", "3", "4"] {
        let (success, told) = mpirun(n, "lines.jsonl");
        assert!(success, "{told}");
        let value: Value =
            serde_json::from_str(told.lines().find(|line| line.starts_with('{')).expect("JSON"))
                .expect("JSON");
        assert_eq!(value["processes"].to_string(), n, "{told}");
        all.push(fs::read(folder.path().join("all.moments")).expect("moments"));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    let (success, told) = mpirun("3", "absent.txt");
    assert!(!success && told.contains("absent.txt") && told.contains("of 3"), "{told}");
}

#[test]
fn a_battery_is_run_from_a_file_resumed_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "[source]\nmarkov = { n_states = 5, alpha = 0.3 }\n[battery]\nseeds = [0, 1]\nn_seqs = 24\n\
                  networks = [\"Trained\", \"Untrained\", \"Predictive\"]\ntraining = { steps = 3, batch_size = 4 }\n\
                  config = { n_ctx = 12, d_model = 8, n_layers = 3, n_heads = 2, d_head = 4, d_mlp = 16 }\n";
    fs::write(folder.path().join("tiny.toml"), config).expect("written");
    let told = json(folder.path(), &["battery", "tiny.toml", "--json"]);
    let names: Vec<&str> =
        told["groups"].as_array().expect("groups").iter().map(|g| g["network"].as_str().unwrap()).collect();
    assert_eq!(names, ["trained", "untrained", "predictive coding"]);
    assert_eq!(told["groups"][0]["fingerprints"].as_array().map(Vec::len), Some(2));
    let page =
        fs::read_to_string(folder.path().join("tiny/report.html")).expect("the page is beside the file");
    assert!(page.contains("Does one lens read every layer?") && !page.contains("<script src"), "one page");
    let cells = || {
        fs::read_dir(folder.path().join("tiny"))
            .unwrap()
            .filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "cell"))
            .count()
    };
    assert_eq!(cells(), 6);
    // Finished networks are read, and say the same; another place starts anew.
    assert_eq!(json(folder.path(), &["battery", "tiny.toml", "--json"])["groups"], told["groups"]);
    let text = good(folder.path(), &["battery", "tiny.toml", "--out", "elsewhere"]);
    assert!(
        text.contains("The networks and their controls") && folder.path().join("elsewhere/report").exists(),
        "{text}"
    );
}

#[test]
fn a_battery_that_cannot_be_run_is_refused_with_what_could() {
    let folder = folder();
    let cases = [
        (
            "[source]\nmarkov = { n_states = 5, alpha = 0.3 }\n[battery]\nseed = [0, 1]\n",
            "there is no setting battery.seed",
        ),
        (
            "[source]\nmarkov = { n_states = 5, alpha = 0.3 }\n[battery.config]\nwidth = 3\n",
            "battery.config.width",
        ),
        (
            "[source]\nmarkov = { n_states = 5, alpha = 0.3 }\n[battery]\nseeds = [0]\n",
            "a battery of 1 seeds",
        ),
        ("[sources]\n", "sources"),
        ("", "none of [source], [checkpoint], [language] and [images]"),
        ("[source", "is not TOML"),
        ("[images]\ndigits = \"nowhere.csv\"\n", "nowhere.csv"),
        (
            "[checkpoint]\nmodel = \"model.bin\"\ntokenizer = \"text.txt\"\ntexts = [\"text.txt\"]\n[battery]\nseeds = [0, 1]\n",
            "trained already",
        ),
    ];
    for (config, why) in cases {
        fs::write(folder.path().join("bad.toml"), config).expect("written");
        let (code, told) = bad(folder.path(), &["battery", "bad.toml"]);
        assert!(code == Some(2) && told.contains(why) && told.contains("help:"), "{config}: {code:?} {told}");
    }
    let (code, told) = bad(folder.path(), &["battery", "nowhere.toml"]);
    assert!(code == Some(2) && told.contains("nowhere.toml") && told.contains("help:"), "{told}");
}

#[test]
fn a_checkpoint_is_asked_whether_one_lens_reads_every_layer() {
    let folder = folder();
    let config = "[checkpoint]\nmodel = \"model.bin\"\ntokenizer = \"text.txt\"\ntexts = [\"text.txt\"]\nsequences = 40\ncontext = 16\n";
    fs::write(folder.path().join("model.toml"), config).expect("written");
    let told = json(folder.path(), &["battery", "model.toml", "--json"]);
    assert_eq!(told["groups"][0]["network"], "model");
    let file = fs::metadata(folder.path().join("model.bin")).expect("the checkpoint is untouched");
    assert!(file.is_file() && folder.path().join("model/report.html").exists());
}

#[test]
fn a_language_model_is_asked_at_its_own_size_with_its_nulls() {
    let folder = folder_of(3);
    let config = "[language]\nmodel = \"model.bin\"\ntokenizer = \"text.txt\"\ntexts = [\"text.txt\"]\n\
                  sequences = 60\nheld_out = 8\ncontext = 16\n[battery]\nn_refined = 256\nepochs = 1\nn_streams = 3\ncausal = [4, 8]\n";
    fs::write(folder.path().join("model.toml"), config).expect("written");
    let told = json(folder.path(), &["battery", "model.toml", "--json"]);
    let read = told["sentences"]["one lens reads"].as_str().expect("a sentence");
    assert!(read.contains("With chance weights"), "{told}");
    assert!(folder.path().join("model/report.html").exists() && folder.path().join("model/report").exists());
    // What is there is not measured again, and a setting that is not there is named.
    assert_eq!(json(folder.path(), &["battery", "model.toml", "--json"]), told);
    fs::write(folder.path().join("bad.toml"), config.replace("n_refined", "tokens")).expect("written");
    let (code, told) = bad(folder.path(), &["battery", "bad.toml"]);
    assert!(code == Some(2) && told.contains("battery.tokens") && told.contains("n_refined"), "{told}");
    fs::write(folder.path().join("bad.toml"), config.replace("held_out = 8", "held_out = 3"))
        .expect("written");
    let (code, told) = bad(folder.path(), &["battery", "bad.toml"]);
    assert!(code == Some(2) && told.contains("six sequences"), "{code:?} {told}");
}
