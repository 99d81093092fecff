#!/usr/bin/env python3
"""Runs notebooks in the stock evcxr_jupyter kernel and checks that every cell answers and every figure arrives.

usage: stock_evcxr.py EVCXR_JUPYTER [-p NAME=VALUE].. [NOTEBOOK..]

The one difference from our own kernel: a first cell `:dep onelens = { path = .. }`. A value of `-p` takes the place of that in the
cell tagged `parameters`, where the notebook has such a name. Needs nbclient. The kernel builds in EVCXR_TMPDIR if it is set, so that
a later run finds the dependencies built. Without notebooks, nothing but the library is built.
"""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
# As the README says it: the notebooks' folder is the kernel's, the library is one up.
LIBRARY = nbformat.v4.new_code_cell(':dep onelens = { path = ".." }')


def main(kernel: Path, notebooks: list[Path], values: list[str]) -> int:
    # Where cells find the standard library: evcxr's way there is one folder too high if its build folder is below the same home as Rust.
    libraries = subprocess.run(["rustc", "--print", "target-libdir"], capture_output=True, text=True, check=True).stdout.strip()
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [libraries, os.environ.get("LD_LIBRARY_PATH")]))
    with tempfile.TemporaryDirectory() as build, tempfile.TemporaryDirectory() as data:
        Path(os.environ.setdefault("EVCXR_TMPDIR", build)).mkdir(parents=True, exist_ok=True)
        spec = Path(data) / "kernels" / "stock"
        spec.mkdir(parents=True)
        argv = [str(kernel), "--control_file", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "evcxr", "language": "rust"}))
        os.environ["JUPYTER_PATH"] = data
        # One kernel for all: `:clear` ends its process and all that cells defined, and keeps what is built.
        book = nbformat.v4.new_notebook(cells=[LIBRARY.copy()])
        # It may start at the lowest priority, beside everything else.
        client = NotebookClient(
            book, timeout=1800, startup_timeout=600, kernel_name="stock", resources={"metadata": {"path": str(NOTEBOOKS)}}
        )
        with client.setup_kernel():
            started = time.monotonic()
            client.execute_cell(book.cells[0], 0)
            print(f"the library in stock evcxr: {time.monotonic() - started:.0f} s", flush=True)
            status = 0
            for number, notebook in enumerate(notebooks):
                # A kernel that has just started has nothing to clear, and clearing has evcxr read all crates again.
                before = [nbformat.v4.new_code_cell(":clear"), LIBRARY.copy()] if number else []
                status = max(status, run(client, before, notebook, values))
            return status


def run(client: NotebookClient, before: list[nbformat.NotebookNode], notebook: Path, values: list[str]) -> int:
    book = nbformat.read(notebook, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in (given.split("=", 1) for given in values):
                cell.source = re.sub(rf"(?m)^(let {name}\b[^=]*= ).*;$", rf"\g<1>{value};", cell.source)
    book.cells = [*before, *book.cells]
    client.nb = book
    started = time.monotonic()
    for index, cell in enumerate(book.cells):
        client.execute_cell(cell, index)
    seconds = time.monotonic() - started
    rich = [output.data for cell in book.cells if cell.cell_type == "code"
            for output in cell.outputs if "text/html" in output.get("data", {})]
    html = [data["text/html"] for data in rich]
    # A figure is a picture and a text, too.
    for data in rich:
        if 'class="onelens"' in data["text/html"]:
            picture = base64.b64decode(data.get("image/png", ""), validate=False)
            if not picture.startswith(b"\x89PNG") or "text/plain" not in data:
                print(f"{notebook.name}: a figure arrives without a picture: {sorted(data)}", file=sys.stderr)
                return 1
    drawings = sum("<svg" in h for h in html)
    tables = sum("<table" in h for h in html)
    # What the notebook shows in our kernel, it must show here.
    wanted = json.loads(notebook.read_text())
    wanted = [o["data"]["text/html"] for c in wanted["cells"] if c["cell_type"] == "code"
              for o in c["outputs"] if "text/html" in o.get("data", {})]
    wanted = ["".join(h) for h in wanted]
    expected = (sum("<svg" in h for h in wanted), sum("<table" in h for h in wanted))
    print(f"{notebook.name} in stock evcxr: {len(book.cells)} cells, {drawings} drawings, {tables} tables, {seconds:.0f} s", flush=True)
    if (drawings, tables) != expected or drawings == 0:
        print(f"expected (drawings, tables) = {expected}, as in the committed notebook", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kernel", type=Path)
    arguments.add_argument("-p", dest="values", action="append", default=[], metavar="NAME=VALUE")
    arguments.add_argument("notebooks", type=Path, nargs="*")
    given = arguments.parse_intermixed_args()
    for value in given.values:
        name = value.split("=", 1)[0]
        if not any(f"let {name}" in book.read_text() for book in given.notebooks):
            sys.exit(f"-p {value}: no notebook has a parameter `{name}`")
    sys.exit(main(given.kernel.resolve(), [notebook.resolve() for notebook in given.notebooks], given.values))
