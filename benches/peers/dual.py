"""In-context regression: our linear attention and gradient descent beside the same in PyTorch and NumPy, on the CPU.

Training is the paper's setting (von Oswald et al. 2022): d = N = 10, inputs uniform on [-1/2, 1/2], one layer, and runs until the mean
loss of the last hundred batches is within 2 % of the exact optimum. Both use Adam with the same step size, schedule, initial scale and batch, and
draw their own tasks; PyTorch in single precision with the number of threads that trains fastest here.
"""

import contextlib
import json
import subprocess
import time

import numpy as np
import torch

from compare import ROOT, Failed, Row

D = N = 10
# Half of (10 - 25/3 * 20/33) / 12: the best that one step of gradient descent can do.
OPTIMUM = 0.5 * (10 - 25 / 3 * 20 / 33) / 12
NEAR = 1.02 * OPTIMUM
BATCH = 512
LR = 0.02
STEPS = 1000


class Ours:
    """The program of `benches/peers/dual.rs`: one line in, one line out."""

    def __init__(self):
        build = ["cargo", "bench", "--quiet", "--package", "onelens", "--bench", "peers_dual", "--no-run"]
        subprocess.run(build, cwd=ROOT, check=True)
        run = ["cargo", "bench", "--quiet", "--package", "onelens", "--bench", "peers_dual", "--", "serve"]
        self.process = subprocess.Popen(run, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                return answer["seconds"], answer["result"]
        raise Failed("our program ended")

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def torch_training(threads: int, seed: int, until: float, steps: int) -> tuple[float, float]:
    """Seconds until the mean loss of the last hundred batches is at `until`, or all steps; and that mean."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    d = D + 1
    weights = [torch.nn.Parameter(0.1 * torch.randn(d, d)) for _ in range(4)]
    adam = torch.optim.Adam(weights, lr=LR)
    warm_up = STEPS / 20
    rate = lambda step: min((step + 1) / warm_up, 1) * 0.5 * (1 + np.cos(np.pi * step / STEPS))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
    recent = []
    begin = time.perf_counter()
    for _ in range(steps):
        x = torch.rand(BATCH, N + 1, D) - 0.5
        w = torch.randn(BATCH, D, 1)
        y = x @ w
        context = torch.cat([x[:, :N], y[:, :N]], 2)
        query = torch.cat([x[:, N:], torch.zeros(BATCH, 1, 1)], 2)
        # Only the query is read in the last layer, so only the query is computed, as ours does it.
        w_q, w_k, w_v, p = weights
        scores = (query @ w_q.T) @ (context @ w_k.T).transpose(1, 2)
        update = scores @ (context @ w_v.T) @ p.T
        loss = 0.5 * (update[:, 0, D] + y[:, N, 0]).square().mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        schedule.step()
        recent.append(loss.item())
        if len(recent) >= 100 and np.mean(recent[-100:]) <= until:
            break
    return time.perf_counter() - begin, float(np.mean(recent[-100:]))


def best_threads() -> int:
    times = {n: torch_training(n, 0, 0.0, 100)[0] for n in sorted({1, 2, torch.get_num_threads()})}
    return min(times, key=times.get)


def numpy_descent(tasks, lr, steps):
    x, y, xq, yq = tasks
    begin = time.perf_counter()
    w = np.zeros((x.shape[0], 1, D))
    xt = np.ascontiguousarray(x.transpose(0, 2, 1))
    losses = [0.5 * np.square(yq).mean()]
    for _ in range(steps):
        errors = w @ xt - y
        w = w - lr / N * (errors @ x)
        losses.append(0.5 * np.square((w[:, 0] * xq).sum(1) - yq).mean())
    return time.perf_counter() - begin, losses[-1]


def numpy_tasks(seed: int, n: int):
    rng = np.random.default_rng(seed)
    x = rng.random((n, N + 1, D)) - 0.5
    w = rng.standard_normal((n, D, 1))
    y = x @ w
    return x[:, :N].copy(), y[:, :N].transpose(0, 2, 1).copy(), x[:, N].copy(), y[:, N, 0].copy()


@contextlib.contextmanager
def setting():
    ours = Ours()
    try:
        yield ours
    finally:
        ours.stop()


def rows(ours):
    threads = best_threads()
    print(f"  PyTorch {torch.__version__} with {threads} threads, NumPy {np.__version__}", flush=True)
    seeds = iter(range(1, 1000))

    def ours_trains():
        return ours.ask(work="train", seed=next(seeds), until=NEAR, steps=STEPS)

    def torch_trains():
        return torch_training(threads, next(seeds), NEAR, STEPS)

    def both_got_there(a, b):
        return a <= NEAR and b <= NEAR

    yield Row(
        "training linear attention to 1.02 of the optimum", ours_trains, torch_trains, unit="s", same=both_got_there
    )

    def all_steps_ours():
        return ours.ask(work="train", seed=1, until=0.0, steps=STEPS)

    def all_steps_torch():
        return torch_training(threads, 1, 0.0, STEPS)

    yield Row(
        "the same for 1000 steps", all_steps_ours, all_steps_torch, unit="s", same=lambda a, b: abs(a - b) < 0.02, pairs=3
    )

    tasks = numpy_tasks(0, 10_000)

    def descends():
        seconds, loss = ours.ask(work="descend", seed=0, n_tasks=10_000, steps=10, lr=3.0)
        return 1000 * seconds, loss

    def numpy_descends():
        seconds, loss = numpy_descent(tasks, 3.0, 10)
        return 1000 * seconds, loss

    # Tasks of their own: the means of 10^4 of them agree within their noise.
    yield Row(
        "10 steps of gradient descent on each of 10,000 tasks",
        descends,
        numpy_descends,
        same=lambda a, b: abs(a - b) < 0.012,
        pairs=10,
        warm_up=2,
    )
