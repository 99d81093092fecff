"""Our kernel beside stock evcxr_jupyter, through the Jupyter protocol, as a front end sees them.

A cell's time runs from sending the request to the `idle` status, so that outputs are counted in. Both kernels stay alive while
cells are measured, and take turns.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from jupyter_client.manager import KernelManager

from compare import ROOT, TARGET, Failed, Row

EVCXR = "0.22.0"
LIBRARY = f':dep onelens = {{ path = "{ROOT}" }}\nuse onelens::prelude::*;'
ARRAYS = "use ndarray::Array2;\nlet a = Array2::<f64>::eye(100);"


class Kernel:
    """One kernel and its client."""

    def __init__(self, kind: str, folder: Path, program: Path):
        self.kind = kind
        self.folder = folder
        self.argv = {
            "ours": [str(program), "kernel", "{connection_file}"],
            "stock": [str(program), "--control_file", "{connection_file}"],
        }[kind]
        self.manager = None

    def start(self) -> float:
        """Starts it; the seconds until it answers `kernel_info_request`."""
        spec = self.folder / "kernels" / self.kind
        spec.mkdir(parents=True, exist_ok=True)
        text = {"argv": self.argv, "display_name": self.kind, "language": "rust", "interrupt_mode": "message"}
        (spec / "kernel.json").write_text(json.dumps(text))
        os.environ["JUPYTER_PATH"] = str(self.folder)
        environment = dict(os.environ)
        # Two kernels of evcxr must not share a folder.
        self.work = Path(tempfile.mkdtemp(dir=self.folder))
        if self.kind == "stock":
            environment["EVCXR_TMPDIR"] = str(self.work)
        self.manager = KernelManager(kernel_name=self.kind)
        self.log = open(self.work / "log", "w")
        begin = time.perf_counter()
        self.manager.start_kernel(env=environment, cwd=str(self.work), stdout=self.log, stderr=self.log)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        return time.perf_counter() - begin

    def stop(self) -> None:
        if self.manager:
            self.client.stop_channels()
            self.manager.shutdown_kernel(now=False)
            self.log.close()
            shutil.rmtree(self.work, ignore_errors=True)
            self.manager = None

    def cell(self, code: str, timeout: float = 1200) -> tuple[float, str]:
        """Runs a cell: seconds, and the text it showed. A cell that fails ends the comparison."""
        begin = time.perf_counter()
        request = self.client.execute(code)
        shown = []
        while True:
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream" if content["name"] == "stdout":
                    shown.append(content["text"])
                case "execute_result" | "display_data":
                    shown.append(content["data"].get("text/plain", "".join(content["data"])))
                case "error":
                    raise Failed(f"{self.kind}: {code}\n" + "\n".join(content["traceback"]))
                case "status" if content["execution_state"] == "idle":
                    break
        seconds = time.perf_counter() - begin
        self.client.get_shell_msg(timeout=timeout)
        return seconds, "".join(shown).strip()

    def complete(self, code: str) -> tuple[float, list[str]]:
        begin = time.perf_counter()
        reply = self.client.complete(code, reply=True, timeout=120)
        return time.perf_counter() - begin, reply["content"]["matches"]

    def memory(self) -> float:
        """Resident MB of the kernel and every process below it; pages that they share count once."""
        kernel = psutil.Process(self.manager.provisioner.pid)
        return sum(p.memory_full_info().pss for p in [kernel, *kernel.children(recursive=True)]) / 1e6


class Setting:
    def __init__(self, folder: Path):
        self.ours = Kernel("ours", folder, build_ours())
        self.stock = Kernel("stock", folder, find_stock())

    def both(self):
        return self.ours, self.stock


def build_ours() -> Path:
    subprocess.run(["cargo", "build", "--quiet", "--package", "onelens-kernel"], cwd=ROOT, check=True)
    return TARGET / "debug" / "onelens"


def find_stock() -> Path:
    """Stock evcxr_jupyter: from the cache, or installed there now, which takes many minutes."""
    cache = Path(os.environ.get("ONELENS_CI_CACHE", Path.home() / ".cache" / "onelens-ci"))
    root = cache / f"evcxr-{EVCXR}"
    program = root / "bin" / "evcxr_jupyter"
    if not program.exists():
        print(f"installing evcxr_jupyter {EVCXR} into {root}", flush=True)
        command = ["cargo", "install", "evcxr_jupyter", "--version", EVCXR, "--locked", "--quiet", "--root", root]
        subprocess.run(command, check=True)
    return program


@contextlib.contextmanager
def setting():
    with tempfile.TemporaryDirectory() as folder:
        made = Setting(Path(folder))
        # The library for cells is prepared once, at install time; not part of any row.
        made.ours.start()
        made.ours.cell("1")
        made.ours.stop()
        try:
            yield made
        finally:
            for kernel in made.both():
                kernel.stop()


def milliseconds(kernel: Kernel, code: str):
    def run():
        seconds, shown = kernel.cell(code)
        return 1000 * seconds, shown

    return run


def cells(work: str, code: str, s: Setting, **options) -> Row:
    return Row(work, milliseconds(s.ours, code), milliseconds(s.stock, code), pairs=10, **options)


def start_to_ready(kernel: Kernel):
    def run():
        kernel.stop()
        return kernel.start(), None

    return run


def start_to_library(kernel: Kernel):
    """From starting the process to the first result that uses the library."""

    def run():
        kernel.stop()
        begin = time.perf_counter()
        kernel.start()
        kernel.cell(LIBRARY)
        _, shown = kernel.cell("Config::default().d_model")
        return time.perf_counter() - begin, shown

    return run


def idle_memory(kernel: Kernel):
    def run():
        return kernel.memory(), None

    return run


def dependency(kernel: Kernel):
    """A crate that was built on this machine before, in a new notebook."""

    def run():
        kernel.stop()
        kernel.start()
        begin = time.perf_counter()
        _, shown = kernel.cell(':dep itertools = "0.14"\nuse itertools::Itertools;\n(1..4).join("-")')
        return time.perf_counter() - begin, shown

    return run


def completion(kernel: Kernel, while_running: bool):
    def run():
        if not while_running:
            seconds, matches = kernel.complete("numbers.sor")
            return 1000 * seconds, has_sort(matches)
        waiting = {kernel.client.execute("std::thread::sleep(std::time::Duration::from_secs(2));")}
        time.sleep(0.7)
        begin = time.perf_counter()
        question = kernel.client.complete("numbers.sor")
        waiting.add(question)
        # In either order: a kernel that waits for its cell answers the question last.
        while waiting:
            reply = kernel.client.get_shell_msg(timeout=60)
            waiting.discard(reply["parent_header"]["msg_id"])
            if reply["parent_header"]["msg_id"] == question:
                seconds, matches = time.perf_counter() - begin, reply["content"]["matches"]
        drain(kernel)
        return 1000 * seconds, has_sort(matches)

    return run


def drain(kernel: Kernel) -> None:
    while kernel.client.iopub_channel.msg_ready():
        kernel.client.get_iopub_msg(timeout=1)


def has_sort(matches: list[str]) -> bool:
    return any("sort_unstable" in match for match in matches)


def warm_both(s: Setting) -> None:
    for kernel in s.both():
        warm_completion(kernel)


def warm_completion(kernel: Kernel) -> None:
    """Asks until the answer is the good one: after that, completion counts as warm."""
    for _ in range(120):
        if has_sort(kernel.complete("numbers.sor")[1]):
            return
        time.sleep(0.5)
    raise Failed(f"{kernel.kind}: completion never offered sort_unstable")


def rows(s: Setting):
    # Of kernels as they start, and as they idle.
    yield Row("start to ready", start_to_ready(s.ours), start_to_ready(s.stock), unit="s", pairs=10)
    yield Row(
        "start to the first result that uses the library",
        start_to_library(s.ours),
        start_to_library(s.stock),
        unit="s",
        pairs=2,
        warm_up=0,
    )
    yield Row("idle memory, library loaded", idle_memory(s.ours), idle_memory(s.stock), unit="MB", pairs=1, warm_up=0)

    # Of cells. The library and its arrays are in scope in both.
    for kernel in s.both():
        kernel.cell(":dep ndarray = \"0.17\"\n" + ARRAYS if kernel is s.stock else ARRAYS)
        kernel.cell("let mut numbers = vec![3, 1, 2];")
    yield cells("statement", "numbers.push(numbers.len() as i32);", s)
    yield cells("displayed expression", "numbers[0] + 39", s)
    yield cells("let with an inferred library type", "let c = Config::default();", s)
    yield cells("function", "fn twice(x: i32) -> i32 { 2 * x }", s)
    yield cells("ndarray arithmetic with display", "(&a * 2.0 + &a.t()).sum()", s)
    yield cells("figure (drawn by plotters)", FIGURE, s, same=lambda ours, peer: len(ours) > 0 and len(peer) > 0)
    s.ours.cell("let mut numbers = vec![3, 1, 2];")
    s.stock.cell("let mut numbers = vec![3, 1, 2];")
    yield Row("completion", completion(s.ours, False), completion(s.stock, False), pairs=10, before=lambda: warm_both(s))
    yield Row("completion while a cell runs", completion(s.ours, True), completion(s.stock, True), pairs=5)

    yield Row("`:dep` of a crate built before, new notebook", dependency(s.ours), dependency(s.stock), unit="s", pairs=3)


FIGURE = """
LineChart {
    title: "loss".into(), x_label: "step".into(), y_label: "nats".into(),
    series: vec![Series::new("train", [3.0, 2.0, 1.5])],
    ..Default::default()
}"""
