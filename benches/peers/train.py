"""Training steps against PyTorch, and cached forward passes against PyTorch and TransformerLens, on the CPU.

Both sides get the same weights and the same batch, which ours writes to a file. A training step is forward, backward, clipping
to norm 1 and AdamW; both must see the same loss at every step. PyTorch is eager, with its fused attention and its fused
AdamW. Every row tries 1 and all threads before it is measured; each side runs with what was faster for it.

The last rows have no peer: they tell which share of the `gemm` crate's own peak, measured at once beside, a training step
reaches in floating-point operations of its matrix products alone.
"""

import contextlib
import json
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from compare import ROOT, TARGET, Failed, Row
from torch_model import Gpt, adamw, read_safetensors

HEADS = 4
WARM_UP, CACHED = 3, 20
# V, T, d, L, B
TRAIN = [(96, 64, 64, 4, 32), (64, 32, 32, 6, 64), (96, 128, 128, 6, 16), (96, 256, 256, 6, 8)]
CACHE = (96, 64, 64, 4, 32)


@contextlib.contextmanager
def setting():
    build = ["cargo", "build", "--quiet", "-p", "onelens", "--example", "rows"]
    subprocess.run(build, cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def ours(work, threads, *arguments):
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    command = [TARGET / "debug/examples/rows", work, *map(str, arguments)]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    if run.returncode != 0:
        raise Failed(run.stderr.strip())
    return json.loads(run.stdout)


def model_and_tokens(file, n_seqs):
    tokens = torch.tensor(json.loads(Path(f"{file}.tokens").read_text())).view(n_seqs, -1)
    return Gpt(read_safetensors(file), HEADS), tokens


def torch_train(file, n_seqs, threads, n_steps):
    torch.set_num_threads(threads)
    model, tokens = model_and_tokens(file, n_seqs)
    optimiser = adamw(model)
    losses = []
    for step in range(n_steps):
        if step == WARM_UP:
            start = time.perf_counter()
        # onelens's schedule without warm-up, so that both take the same path.
        done = step / n_steps
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        loss = model.loss(tokens)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
    ms = (time.perf_counter() - start) * 1e3 / (n_steps - WARM_UP)
    return ms, [loss.item() for loss in losses]


@torch.no_grad()
def cached(model, tokens, threads):
    torch.set_num_threads(threads)
    for _ in range(WARM_UP):
        model.run_with_cache(tokens)
    start = time.perf_counter()
    for _ in range(CACHED):
        model.run_with_cache(tokens)
    ms = (time.perf_counter() - start) * 1e3 / CACHED
    logits, cache = model.run_with_cache(tokens)
    kept = {name: x.abs().mean().item() for name, x in cache.items() if not name.endswith("scores")}
    return ms, (len(cache), logits.abs().mean().item(), kept)


def fastest(run):
    """The number of threads with which `run(threads)`, which returns milliseconds, is fastest; the first run warms up."""
    counts = sorted({1, os.cpu_count()})
    run(counts[0])
    return min(counts, key=lambda n: min(run(n) for _ in range(2)))


def close(ours, peer):
    return len(ours) == len(peer) and all(abs(a - b) <= 2e-3 * max(1, abs(b)) for a, b in zip(ours, peer))


def same_cache(ours, peer):
    hooks, logits, kept = ours
    return (
        hooks <= peer[0]
        and set(kept) <= set(peer[2])
        and close([logits, *kept.values()], [peer[1], *(peer[2][name] for name in kept)])
    )


def train_row(sizes, folder):
    file = folder / "-".join(map(str, sizes))
    name = "V{} T{} d{} L{} B{}".format(*sizes)
    # Ours decides how many steps, and goes first.
    n_steps = 0

    def run_ours(threads):
        nonlocal n_steps
        out = ours("train", threads, *sizes, file)
        n_steps = len(out["losses"])
        return out["ms"], out["losses"]

    def run_peer(threads):
        return torch_train(file, sizes[4], threads, n_steps)

    return row(f"training step {name}", run_ours, run_peer, close)


def torch_model(file):
    return Gpt(read_safetensors(file), HEADS)


def transformer_lens_model(file):
    # Takes seconds to import.
    from hooked_model import hooked

    return hooked(read_safetensors(file), HEADS)


def cache_row(sizes, folder, peer, load):
    file = folder / "cache"
    name = "V{} T{} d{} L{} B{}".format(*sizes)

    def run_ours(threads):
        out = ours("cache", threads, *sizes, file)
        return out["ms"], (out["hooks"], out["logits"], dict(out["kept"]))

    def run_peer(threads):
        tokens = torch.tensor(json.loads(Path(f"{file}.tokens").read_text())).view(sizes[4], -1)
        return cached(load(file), tokens, threads)

    return row(f"run_with_cache, every hook, {name}, against {peer}", run_ours, run_peer, same_cache)


def row(work, run_ours, run_peer, same):
    threads = {}

    def before():
        threads["ours"] = fastest(lambda n: run_ours(n)[0])
        threads["peer"] = fastest(lambda n: run_peer(n)[0])

    return Row(
        work=work,
        ours=lambda: run_ours(threads["ours"]),
        peer=lambda: run_peer(threads["peer"]),
        same=same,
        before=before,
    )


def flop(sizes):
    """Of the matrix products of a step, with the half of the scores that a causal mask hides not counted."""
    v, t, d, layers, b = sizes
    weights = layers * 12 * d * d + d * v
    attention = layers * 2 * 2 * d * (t + 1) / 2
    # Backward is twice forward; a product is a multiplication and an addition for each weight and token.
    return 3 * b * t * (2 * weights + attention)


def peak_row(sizes, folder):
    def run():
        threads = os.cpu_count()
        peak = ours("peak", threads)["gflops"]
        ms = ours("train", threads, *sizes, folder / "peak")["ms"]
        return 100 * flop(sizes) / ms / 1e6 / peak, None

    work = "training step V{} T{} d{} L{} B{}, share of gemm's peak".format(*sizes)
    return Row(work=work, ours=run, peer=None, unit="%", why_no_peer="the peak itself is 100 %")


def rows(folder):
    yield from (train_row(sizes, folder) for sizes in TRAIN)
    yield cache_row(CACHE, folder, "PyTorch that keeps the same", torch_model)
    yield cache_row(CACHE, folder, "TransformerLens", transformer_lens_model)
    yield from (peak_row(sizes, folder) for sizes in TRAIN)
