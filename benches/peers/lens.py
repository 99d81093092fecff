"""Lenses in closed form and refined, beside the published recipe for tuned lenses in PyTorch, and beside scikit-learn and SciPy.

Both work on the same activations, which our program writes. The recipe (Belrose et al. 2023): from the identity, full batches, mean KL,
gradient clipped to norm 1; SGD with Nesterov momentum 0.9, learning rate 1 with linear decay, 250 steps; and Adam with 1e-2, 600 steps. It
learns pre-norm lenses of all streams. Held-out KL of ours and theirs is measured here, by the same lines of PyTorch.

Adam's steps do not become shorter: its last ones swing about their optimum, on some streams by more than what is left between it and ours. So
the KL of the recipe is the mean over the lenses of its last ten steps. That of the last step alone is printed too.
"""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import lstsq
from sklearn.linear_model import Ridge

from compare import ROOT, TARGET, Failed, Row

# Times through the tokens that our refinement takes. The last stream of the stories asks for more.
EPOCHS = {"characters": 14, "stories": 24}
# Steps whose lenses tell what the recipe reaches.
LAST = 10


class Case:
    """One model with its activations."""

    def __init__(self, program: Path, name: str, data: Path | None):
        self.program, self.name = program, name
        self.folder = TARGET / "peers" / "lens" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            subprocess.run([program, "prepare", self.folder, name, *([data] if data else [])], check=True)
        about = json.loads((self.folder / "about.json").read_text())
        self.rms, self.eps = about["norm"] == "rms", about["eps"]
        self.n, self.d, self.v = about["streams"], about["width"], about["vocabulary"]
        self.u = self.read("unembedding.f32", (self.d, self.v))
        self.gain = self.read("gain.f32", -1)
        # A model without biases writes none.
        self.b_u, self.bias = (self.read(f"{x}.f32", -1) for x in ["b_u", "bias"])
        self.b_u, self.bias = (x if len(x) else torch.zeros(1) for x in [self.b_u, self.bias])
        self.train, self.held_out = (self.read(f"{x}.f32", (self.n, -1, self.d)) for x in ["train", "held_out"])
        self.log_p = self.decode(self.train[-1])
        self.n_tokens = self.train.shape[1]
        self.trained: dict[str, tuple[float, list[float], list[float]]] = {}

    def read(self, name: str, shape) -> torch.Tensor:
        return torch.from_numpy(np.fromfile(self.folder / name, np.float32).reshape(shape))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Log-probabilities through the model's own final norm and unembedding."""
        if self.rms:
            y = torch.nn.functional.rms_norm(z, (self.d,), self.gain, self.eps) + self.bias
        else:
            y = torch.nn.functional.layer_norm(z, (self.d,), self.gain, None, self.eps) + self.bias
        return torch.log_softmax(y @ self.u + self.b_u, -1)

    def kl(self, log_p: torch.Tensor, h: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        log_q = self.decode(h @ a.T + b)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    def held_out_kl(self, lenses) -> list[float]:
        with torch.no_grad():
            log_p = self.decode(self.held_out[-1])
            return [float(self.kl(log_p, h, a, b)) for h, (a, b) in zip(self.held_out, lenses)]

    def ours(self, work: str, *how: str) -> dict:
        done = subprocess.run([self.program, work, self.folder, *how], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"our program failed at {work}:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def our_lenses(self, work: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        numbers = np.fromfile(self.folder / f"{work}.f64").reshape(-1, self.d * (self.d + 1)).astype(np.float32)
        split = self.d * self.d
        return [(torch.from_numpy(x[:split].reshape(self.d, self.d)), torch.from_numpy(x[split:])) for x in numbers]

    def recipe(self, name: str) -> tuple[float, list[float], list[float]]:
        """Seconds of the recipe and its held-out KL, one per stream: the mean over the last steps, and of the last. Run once: it takes minutes."""
        if name not in self.trained:
            a = torch.eye(self.d).repeat(self.n - 1, 1, 1).requires_grad_()
            b = torch.zeros(self.n - 1, self.d, requires_grad=True)
            if name == "SGD":
                steps = 250
                optimiser = torch.optim.SGD([a, b], lr=1.0, momentum=0.9, nesterov=True)
                schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
            else:
                steps = 600
                optimiser = torch.optim.Adam([a, b], lr=1e-2)
                schedule = None
            last = []
            begin = time.perf_counter()
            for step in range(steps):
                optimiser.zero_grad()
                for l in range(self.n - 1):
                    self.kl(self.log_p, self.train[l], a[l], b[l]).backward()
                torch.nn.utils.clip_grad_norm_([a, b], 1.0)
                optimiser.step()
                if schedule:
                    schedule.step()
                if step >= steps - LAST:
                    last.append((a.detach().clone(), b.detach().clone()))
            seconds = time.perf_counter() - begin
            end = (torch.eye(self.d), torch.zeros(self.d))
            kl = np.array([self.held_out_kl([*zip(a, b), end]) for a, b in last])
            self.trained[name] = seconds, kl.mean(0).tolist(), kl[-1].tolist()
        return self.trained[name]


@contextlib.contextmanager
def setting():
    command = ["cargo", "build", "--quiet", "--package", "onelens", "--example", "lens_peer"]
    subprocess.run(command, cwd=ROOT, check=True)
    program = TARGET / "debug" / "examples" / "lens_peer"
    cases = [Case(program, "characters", None)]
    data = Path(os.environ.get("ONELENS_DATA", ROOT.parent / "shared" / "data"))
    if (data / "stories260k").exists():
        cases.append(Case(program, "stories", data))
    else:
        print(f"no case stories: {data} has no stories260k")
    yield cases


def rows(cases: list[Case]):
    for case in cases:
        what = f"{case.n_tokens} tokens of {case.name}"
        for name in ["SGD", "Adam"]:

            def closed():
                seconds = case.ours("closed")["seconds"]
                return seconds, case.held_out_kl(case.our_lenses("closed"))

            def refined():
                seconds = case.ours("refined", str(EPOCHS[case.name]))["seconds"]
                return seconds, case.held_out_kl(case.our_lenses("refined"))

            def peer(name=name):
                seconds, kl, of_last_step = case.recipe(name)
                return seconds, (kl, of_last_step)

            def no_worse(ours, theirs):
                print("    held-out KL, ours:  ", " ".join(f"{x:.4f}" for x in ours))
                theirs, of_last_step = theirs
                print("    held-out KL, theirs:", " ".join(f"{x:.4f}" for x in theirs))
                print("    of its last step:   ", " ".join(f"{x:.4f}" for x in of_last_step), flush=True)
                # The last stream is the model's own prediction in both.
                return all(x <= y for x, y in zip(ours[:-1], theirs))

            shown = lambda ours, theirs: no_worse(ours, theirs) or True
            once = {"unit": "s", "pairs": 1, "warm_up": 0}
            # The closed form is not the optimum of the recipe's objective; its KL is shown, not compared.
            yield Row(f"closed form, {what} / {name}", closed, peer, same=shown, **once)
            yield Row(f"refined, {what} / {name}", refined, peer, same=no_worse, **once)

        def family():
            return case.ours("family")["seconds"], None

        def one_fit():
            return case.ours("family")["one_fit"], None

        yield Row(f"own, shared, left-out, path of 30, transfer, {what} / one fit of ours", family, one_fit, unit="s", pairs=3)

        def push():
            return 1000 * case.ours("push")["seconds"], None

        def products():
            return 1000 * case.ours("push")["products"], None

        yield Row(f"push into moments, {what}, one stream / three f32 products", push, products, pairs=5)

        x, z = case.train[1].numpy().astype(np.float64), case.train[-1].numpy().astype(np.float64)
        alpha = 1e-4 * x.var(axis=0).mean() * len(x)

        def ridge():
            seconds = case.ours("ridge")["seconds"]
            a, b = case.our_lenses("ridge")[0]
            return 1000 * seconds, (a.numpy(), b.numpy())

        def scikit():
            begin = time.perf_counter()
            fitted = Ridge(alpha=alpha).fit(x, z)
            return 1000 * (time.perf_counter() - begin), (fitted.coef_, fitted.intercept_)

        def scipy():
            begin = time.perf_counter()
            means = x.mean(0), z.mean(0)
            padded = np.vstack([x - means[0], np.sqrt(alpha) * np.eye(case.d)])
            a = lstsq(padded, np.vstack([z - means[1], np.zeros((case.d, case.d))]))[0].T
            return 1000 * (time.perf_counter() - begin), (a, means[1] - a @ means[0])

        def equal(ours, theirs):
            # Predictions, relative to how much they vary.
            (a, b), (c, d) = ours, theirs
            difference = (x @ (a - c).T + (b - d)).std() / z.std()
            print(f"    predictions differ by {difference:.1e} of their deviation", flush=True)
            return difference < 1e-6

        yield Row(f"ridge, {what}, one stream / scikit-learn", ridge, scikit, same=equal)
        yield Row(f"ridge, {what}, one stream / SciPy lstsq", ridge, scipy, same=equal)
