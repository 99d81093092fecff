"""JupyterLab in a real browser: what a person does with a notebook, and what they see.

    tests/browser/run            installs what is needed into a cached folder and starts this

Takes the program under test, a folder for screenshots, and the browser's file. Nothing waits for a fixed time: every
step waits for what a person would wait for.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from playwright.sync_api import TimeoutError, expect, sync_playwright

ONELENS, SHOTS, CHROMIUM = sys.argv[1:4]
LONG = 120_000  # milliseconds; for the first cell, which may wait for the library
# A notebook that comes with the program, with its outputs.
SHIPPED = "01_one_lens.ipynb"
CELLS = [
    "use onelens::prelude::*;\nlet corpus = Corpus::rust_source()?;\ncorpus",
    "let mut model = Transformer::new(Config { d_vocab: corpus.d_vocab(), ..Default::default() })?;\n"
    "let log = model.train(&corpus, &Training { steps: 30, ..Default::default() })?;\nlog",
]


def notebook(cells):
    code = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": s, "outputs": [], "execution_count": None}
        for i, s in enumerate(cells)
    ]
    kernel = {"display_name": "Rust (onelens)", "language": "rust", "name": "onelens"}
    return {"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Lab:
    """`onelens lab` on a folder of notebooks, in its private environment, with settings in another folder."""

    def __init__(self, folder, notebooks):
        self.folder = pathlib.Path(folder)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # A JupyterLab of this machine must not be found: the private one is what is tried.
        path = os.pathsep.join(
            p for p in os.environ["PATH"].split(os.pathsep) if not os.access(os.path.join(p, "jupyter-lab"), os.X_OK)
        )
        own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_WORKSPACES_DIR")
        home = {name: str(self.folder / name.lower()) for name in own}
        self.log = open(self.folder / "lab.log", "w+")
        options = ["--allow-root", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
        self.process = subprocess.Popen(
            [ONELENS, "lab", str(notebooks), "--no-browser", "--port", str(port), "--", *options],
            env={**os.environ, **home, "PATH": path},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/api/status", timeout=1).read()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    sys.exit(f"JupyterLab does not start:\n{self.log.read()}")
                time.sleep(0.1)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)


class Page:
    def __init__(self, page, url):
        self.page = page
        self.shots = 0
        page.goto(f"{url}/lab/tree/t.ipynb")
        expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(len(CELLS), timeout=LONG)
        self.until_status("Idle")

    def until_status(self, status):
        indicator = self.page.locator(".jp-Notebook-ExecutionIndicator").first
        expect(indicator).to_have_attribute("data-status", status.lower(), timeout=LONG)

    def shot(self, name):
        self.shots += 1
        self.page.screenshot(path=os.path.join(SHOTS, f"{self.shots}_{name}.png"))

    def cell(self, at):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(at)

    def count(self):
        return self.page.locator(".jp-Notebook .jp-Cell").count()

    def ran(self, at, number):
        prompt = self.cell(at).locator(".jp-InputPrompt")
        expect(prompt).to_have_text(f"[{number}]:", timeout=LONG)

    def command(self, *keys):
        """Keys of the command mode."""
        self.page.locator(".jp-Notebook").first.focus()
        self.page.keyboard.press("Escape")
        for key in keys:
            self.page.keyboard.press(key)

    def write(self, text):
        """A new cell at the end with this text; the cursor stays in it."""
        n = self.count()
        self.cell(n - 1).locator(".cm-content").click()
        self.command("b")
        expect(self.page.locator(".jp-Notebook .jp-Cell")).to_have_count(n + 1)
        self.page.keyboard.press("Enter")
        expect(self.cell(n).locator(".cm-content")).to_be_focused()
        self.page.keyboard.insert_text(text)
        return n

    def run(self):
        self.page.keyboard.press("Control+Enter")

    def until(self, ask, answer):
        """Asks again, as a person would, until the answer is there."""
        for _ in range(60):
            ask()
            try:
                answer.first.wait_for(timeout=1_000)
                return
            except TimeoutError:
                # Something less may be shown; in a cell without it, Escape would end editing.
                if self.page.locator(".jp-Completer:visible, .jp-Tooltip:visible").count():
                    self.page.keyboard.press("Escape")
        raise AssertionError(f"never seen: {answer}")

    def output(self, at):
        return self.cell(at).locator(".jp-OutputArea-output")


def tried(page, url):
    lab = Page(page, url)

    # Run all: progress moves in place, figures appear, the elapsed time is seen.
    def run_all():
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    # JupyterLab may still be connecting, and does nothing then.
    lab.until(run_all, lab.cell(0).locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]")))
    training = lab.cell(1).locator(".jp-OutputArea-output", has_text=re.compile("training")).first
    expect(training).to_be_visible(timeout=LONG)
    first = training.inner_text()
    lab.shot("progress")
    page.wait_for_function(
        "first => { const t = document.querySelectorAll('.jp-Cell')[1].innerText; return t.includes('training') && !t.includes(first) }",
        arg=first,
        timeout=LONG,
    )
    lab.ran(0, 1)
    lab.ran(1, 2)
    figure = lab.output(1).locator("svg").last
    expect(figure).to_be_visible()
    box = figure.bounding_box()
    assert box["width"] > 200 and box["height"] > 100, f"the figure is too small to be read: {box}"
    elapsed = lab.cell(1).locator(".execute-time")
    expect(elapsed).to_contain_text(re.compile(r"\d+(\.\d+)?m?s"))
    lab.shot("figures")

    # Complete with Tab, ask with Shift-Tab.
    at = lab.write("corp")
    page.keyboard.press("Tab")
    cell = lab.cell(at).locator(".cm-content")
    entry = page.locator(".jp-Completer-item", has_text="corpus").first
    expect(entry.or_(cell.get_by_text("corpus"))).to_be_visible()
    lab.shot("completion")
    if entry.is_visible():
        page.keyboard.press("Enter")
    expect(cell).to_have_text("corpus")
    page.keyboard.press("Shift+Tab")
    tooltip = page.locator(".jp-Tooltip")
    expect(tooltip).to_contain_text("Corpus")
    lab.shot("hover")
    page.keyboard.press("Escape")
    page.keyboard.insert_text(".d_vocab()")
    lab.run()
    expect(lab.output(at)).to_have_text(re.compile(r"^\s*\d+\s*$"))

    # The same for a method, which takes an analysis of the code: with its documentation, once it is ready.
    at = lab.write("model.tr")
    entry = page.locator(".jp-Completer-match", has_text=re.compile(r"^\s*train"))
    lab.until(lambda: page.keyboard.press("Tab"), entry)
    lab.shot("method")
    page.keyboard.press("Escape")
    page.keyboard.insert_text("ain")
    described = page.locator(".jp-Tooltip", has_text="keeps the model as trained so far")
    lab.until(lambda: page.keyboard.press("Shift+Tab"), described)
    expect(described).to_contain_text("TrainingLog")
    lab.shot("documentation")
    page.keyboard.press("Escape")

    # A cell asks its user.
    at = lab.write('let mut name = String::new();\nstd::io::stdin().read_line(&mut name)?;\nprintln!("Hello, {}!", name.trim());')
    lab.run()
    field = lab.cell(at).locator("input.jp-Stdin-input")
    expect(field).to_be_visible(timeout=LONG)
    lab.shot("input")
    field.fill("Ada")
    field.press("Enter")
    expect(lab.cell(at)).to_contain_text("Hello, Ada!")

    # Interrupt an endless loop; variables stay.
    at = lab.write('println!("begun");\nloop { std::hint::spin_loop() }')
    lab.run()
    expect(lab.output(at)).to_have_text(re.compile("begun"), timeout=LONG)
    expect(lab.cell(at).locator(".jp-InputPrompt")).to_have_text("[*]:")
    lab.command("i", "i")
    expect(lab.cell(at)).to_contain_text("KeyboardInterrupt", timeout=LONG)
    lab.shot("interrupted")
    at = lab.write("corpus.d_vocab() > 1")
    lab.run()
    expect(lab.output(at)).to_have_text(re.compile("true"))

    # Restart: variables are gone, and numbers begin again.
    lab.command("0", "0")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    lab.until_status("Idle")
    at = lab.write("6 * 7")
    lab.run()
    lab.ran(at, 1)
    expect(lab.output(at)).to_have_text(re.compile("42"))
    lab.shot("restarted")


def stored_figures(page, url, name, trusted):
    """What a notebook shows that was opened and not run: figures if it is trusted, else a picture of each."""
    page.goto(f"{url}/lab/workspaces/{name}/tree/{SHIPPED}")
    live, still = page.locator(".onelens > .ol-live"), page.locator(".onelens > .ol-still img")
    seen, hidden = (live, still) if trusted else (still, live)
    expect(seen.first).to_be_visible(timeout=LONG)
    expect(hidden.first).to_be_hidden()
    page.screenshot(path=os.path.join(SHOTS, f"{name}.png"))


def main():
    shutil.rmtree(SHOTS, ignore_errors=True)
    os.makedirs(SHOTS)
    shipped = pathlib.Path(__file__).resolve().parents[3] / "notebooks"

    def own(folder):
        notebooks = pathlib.Path(folder) / "notebooks"
        notebooks.mkdir()
        (notebooks / "t.ipynb").write_text(json.dumps(notebook(CELLS)))
        shutil.copy(shipped / SHIPPED, notebooks)
        return notebooks

    visits = [
        (own, [tried, lambda page, url: stored_figures(page, url, "from_somewhere", trusted=False)]),
        (lambda _: shipped, [lambda page, url: stored_figures(page, url, "shipped", trusted=True)]),
    ]
    for notebooks, steps in visits:
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            lab = Lab(folder, notebooks(folder))
            try:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                for step in steps:
                    page = browser.new_page(viewport={"width": 1280, "height": 1400})
                    page.set_default_timeout(20_000)
                    try:
                        step(page, lab.url)
                    except BaseException:
                        page.screenshot(path=os.path.join(SHOTS, "failed.png"))
                        lab.log.seek(0)
                        print(lab.log.read()[-4000:], file=sys.stderr)
                        raise
                    page.close()
                browser.close()
            finally:
                lab.stop()
    print(f"JupyterLab did as it should; screenshots are in {SHOTS}")


main()
