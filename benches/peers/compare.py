#!/usr/bin/env python3
"""The same work in onelens and in a peer, in one run on one machine.

usage: compare.py [--pairs N] [--json FILE] [NAME..]

Each NAME is a file beside this one that lists rows of work (without NAME: all of them):

  dual     in-context regression, against PyTorch and NumPy
  kernel   cells, start, restart, completion, memory and `:dep`, against stock evcxr_jupyter
  lens     lenses in closed form and refined, against the tuned lens's recipe in PyTorch, scikit-learn and SciPy
  real     SmolLM2-135M and the shape of GPT-2 small: passes, caches, generation, against transformers and TransformerLens
  train    training steps, against PyTorch on the CPU, and cached forward passes, against PyTorch and TransformerLens

Every comparison gets a virtual environment of its own below the target folder, from the pinned NAME.requirements.txt. A row runs ours
and the peer's in turn, in pairs, after a warm-up; both must have computed the same thing, or the row fails. The
table shows medians and the ratio peer/ours as min, median and max over the pairs.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


class Failed(Exception):
    """A row could not be measured, or ours and the peer computed different things."""


@dataclass
class Row:
    """One kind of work. `ours` and `peer` do it once and return (amount, what was computed)."""

    work: str
    ours: Callable[[], tuple[float, Any]]
    peer: Callable[[], tuple[float, Any]] | None
    unit: str = "ms"
    pairs: int | None = None
    warm_up: int = 1
    same: Callable[[Any, Any], bool] = lambda ours, peer: ours == peer
    why_no_peer: str = ""
    before: Callable[[], None] = lambda: None


def measure(row: Row, pairs: int) -> dict:
    row.before()
    for _ in range(row.warm_up):
        row.ours()
        if row.peer:
            row.peer()
    ours, peer = [], []
    for _ in range(row.pairs or pairs):
        amount, computed = row.ours()
        ours.append(amount)
        if row.peer:
            amount, expected = row.peer()
            peer.append(amount)
            if not row.same(computed, expected):
                raise Failed(f"ours computed {computed!r}, the peer {expected!r}; they must agree")
    ratios = sorted(p / o for o, p in zip(ours, peer))
    return {
        "work": row.work,
        "unit": row.unit,
        "pairs": len(ours),
        "ours": statistics.median(ours),
        "peer": statistics.median(peer) if peer else None,
        "ratio": [ratios[0], statistics.median(ratios), ratios[-1]] if ratios else None,
        "why_no_peer": row.why_no_peer,
        "all_ours": ours,
        "all_peer": peer,
    }


def brief(result: dict) -> str:
    """What is known already when a long comparison is stopped."""
    ratio = f", ratio {result['ratio'][1]:.2f}" if result["ratio"] else ""
    peer = f", peer {result['peer']:.4g}" if result["peer"] is not None else ""
    return f"ours {result['ours']:.4g} {result['unit']}{peer}{ratio}"


def print_table(name: str, results: list[dict]) -> None:
    def amount(value, unit):
        if value is None:
            return "-"
        return f"{value:.2f} {unit}" if value < 10 else f"{value:.0f} {unit}"

    head = ["work", "ours", "peer", "ratio min / median / max", "pairs"]
    lines = [
        [
            r["work"],
            amount(r["ours"], r["unit"]),
            amount(r["peer"], r["unit"]) if r["peer"] is not None else r["why_no_peer"] or "-",
            " / ".join(f"{x:.1f}" for x in r["ratio"]) if r["ratio"] else "-",
            str(r["pairs"]),
        ]
        for r in results
    ]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    print(f"\n{name}: medians; the ratio is peer over ours")
    for line in [head, ["-" * w for w in widths], *lines]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |", flush=True)


def environment(name: str) -> Path:
    """The Python of the comparison's own environment, made if it is not there or was made from other pins."""
    folder = TARGET / "peers" / name
    wanted = (HERE / f"{name}.requirements.txt").read_text()
    made_from = folder / "made-from.txt"
    python = folder / "bin" / "python"
    if not made_from.exists() or made_from.read_text() != wanted:
        print(f"{name}: making {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        requirements = HERE / f"{name}.requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        made_from.write_text(wanted)
    return python


def inside(name: str, pairs: int, out: Path) -> None:
    """Runs in the comparison's own environment."""
    sys.path.insert(0, str(HERE))
    # The rows use the class `Row` of this very module.
    sys.modules["compare"] = sys.modules["__main__"]
    module = importlib.import_module(name)
    results, failed = [], []
    with module.setting() as setting:
        for row in module.rows(setting):
            print(f"  {row.work} ..", file=sys.stderr, flush=True)
            try:
                results.append(measure(row, pairs))
                print("   ", brief(results[-1]), file=sys.stderr, flush=True)
            # One row less is no reason to lose the others.
            except Exception as why:
                failed.append(f"{row.work}: {type(why).__name__} {why}")
    print_table(name, results)
    out.write_text(json.dumps(results))
    if failed:
        sys.exit("\nnot measured:\n" + "\n".join(failed))


def main() -> None:
    names = sorted(path.name.removesuffix(".requirements.txt") for path in HERE.glob("*.requirements.txt"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(names)}")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each row (rows may ask for others)")
    parser.add_argument("--json", type=Path, help="write every measured amount to this file")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in names]
    if unknown:
        parser.error(f"no comparison is called {', '.join(unknown)}; there are: {', '.join(names)}")
    if asked.inside:
        return inside(asked.names[0], asked.pairs, asked.inside)
    report = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "load_before": os.getloadavg(),
        "results": {},
    }
    if os.getloadavg()[0] > 0.5:
        print(f"note: other work is running (load {os.getloadavg()[0]:.1f}); ratios hold better than times", file=sys.stderr)
    for name in asked.names or names:
        python = environment(name)
        out = TARGET / "peers" / f"{name}.results.json"
        command = [python, __file__, "--pairs", str(asked.pairs), "--inside", out, name]
        if subprocess.run(command).returncode != 0:
            sys.exit(f"the comparison {name} failed; its output above says where")
        report["results"][name] = json.loads(out.read_text())
    if asked.json:
        partial = asked.json.with_name(asked.json.name + ".tmp")
        partial.write_text(json.dumps(report, indent=1) + "\n")
        partial.rename(asked.json)


if __name__ == "__main__":
    main()
