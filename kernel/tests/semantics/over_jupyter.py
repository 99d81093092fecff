"""The cases of this folder in any Jupyter kernel, with a count for each.

    python3 over_jupyter.py KERNEL [KERNEL ..] [--cases FILE ..]

KERNEL is the name of an installed kernelspec, or the path of an `evcxr_jupyter`. Needs jupyter_client. A case whose
note says `instant only` is counted apart in kernels other than `onelens`. Exits with 1 when a case fails.
"""

import argparse
import json
import pathlib
import queue
import re
import sys
import tempfile

from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager

PATIENCE = 120  # seconds for a cell
MARKS = {"=>": "result", ">>": "stdout", "!>": "stderr"}


def parse(text):
    """The cases of a file; the format is in the README."""
    cases = []
    for line in text.splitlines():
        if line.startswith("== "):
            cases.append({"title": line[3:], "instant_only": False, "cells": []})
        elif line.startswith("(instant only: "):
            cases[-1]["instant_only"] = True
            continue
        if line.startswith("== ") or line == "--":
            cases[-1]["cells"].append({"code": [], "result": [], "stdout": [], "stderr": [], "error": None})
            continue
        cell, mark, rest = cases[-1]["cells"][-1], line[:2], line[2:].removeprefix(" ")
        if mark in MARKS:
            cell[MARKS[mark]].append(rest)
        elif mark == "!!":
            cell["error"] = rest
        else:
            cell["code"].append(line)
    return cases


def run(client, code):
    """What a cell did: its result, both streams, and its error, or None."""
    ran = {"result": "", "stdout": "", "stderr": "", "error": None}

    def on_output(message):
        content = message["content"]
        if message["msg_type"] == "stream":
            ran[content["name"]] += content["text"]
        elif message["msg_type"] in ("execute_result", "display_data"):
            ran["result"] += content["data"].get("text/plain", "")
        elif message["msg_type"] == "error":
            words = [content["ename"], content["evalue"], *content["traceback"]]
            ran["error"] = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(words))

    reply = client.execute_interactive(
        code, timeout=PATIENCE, output_hook=on_output, allow_stdin=False, stop_on_error=False
    )
    if reply["content"]["status"] == "error" and ran["error"] is None:
        ran["error"] = reply["content"].get("evalue", "")
    return ran


def disagreement(cell, ran):
    """Why this is not what was expected, or None."""
    if cell["error"] is None and ran["error"] is not None:
        return f"it failed: {ran['error']}"
    if cell["error"] is not None:
        if ran["error"] is None:
            return f"it did not fail; expected {cell['error']!r}"
        missing = [word for word in cell["error"].split() if word not in ran["error"]]
        if missing:
            return f"the error does not say {missing}: {ran['error']}"
    elif ran["result"].rstrip() != "\n".join(cell["result"]):
        return f"the result is {ran['result']!r}, expected {cell['result']}"
    wanted, printed = cell["stdout"], ran["stdout"].splitlines()
    if wanted[-1:] == ["..."]:
        wanted, printed = wanted[:-1], printed[: len(wanted) - 1]
    if printed != wanted:
        return f"it printed {printed[:20]}, expected {wanted}"
    missing = [words for words in cell["stderr"] if words not in ran["stderr"]]
    return f"standard error lacks {missing}: {ran['stderr']!r}" if missing else None


def manager(kernel, folder):
    """A manager for a kernelspec's name or a program."""
    if "/" not in kernel:
        return KernelManager(kernel_name=kernel)
    spec = folder / "stock"
    spec.mkdir(exist_ok=True)
    argv = [kernel, "--control_file", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "stock", "language": "rust"}))
    return KernelManager(kernel_name="stock", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder)]))


def start(kernel, folder):
    kernel_manager = manager(kernel, folder)
    kernel_manager.start_kernel()
    client = kernel_manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    return kernel_manager, client


def count(kernel, files, folder):
    """Runs all cases in one session, cleared in between; returns how many failed."""
    passed, failed, apart = 0, [], 0
    kernel_manager, client = start(kernel, folder)
    for file in files:
        for case in parse(file.read_text()):
            if case["instant_only"] and kernel != "onelens":
                apart += 1
                continue
            why = None
            try:
                run(client, ":clear")
                for i, cell in enumerate(case["cells"], 1):
                    why = disagreement(cell, run(client, "\n".join(cell["code"]).rstrip()))
                    if why:
                        why = f"cell {i}: {why}"
                        break
            except (TimeoutError, queue.Empty, RuntimeError) as error:
                # A kernel that died or hangs is started anew for the next case.
                why = f"no answer: {error!r}"
                client.stop_channels()
                kernel_manager.shutdown_kernel(now=True)
                kernel_manager, client = start(kernel, folder)
            if why:
                failed.append(case["title"])
                print(f"FAILED {kernel}: {file.stem}: {case['title']}\n  {why}", flush=True)
            else:
                passed += 1
    client.stop_channels()
    kernel_manager.shutdown_kernel(now=True)
    print(f"{kernel}: {passed} passed, {len(failed)} failed, {apart} for the instant engine only", flush=True)
    return len(failed)


def main():
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="+", metavar="KERNEL")
    parser.add_argument("--cases", nargs="+", type=pathlib.Path, default=sorted(here.glob("*.txt")))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failures = [count(kernel, options.cases, pathlib.Path(folder)) for kernel in options.kernels]
    sys.exit(1 if any(failures) else 0)


if __name__ == "__main__":
    main()
