"""A real language model, SmolLM2-135M-Instruct, and the shape of GPT-2 small, against transformers and TransformerLens on the CPU.

Both sides open the same file: ours keeps the four bits in which it is stored, and expands them in each pass; transformers has no way to
run them on a CPU and expands them to f32 once, which is not timed. "From f32" is what transformers then has, in a folder of its own.
The file lies in $ONELENS_DATA, else in ../shared/data, below smollm2. The shape of GPT-2 small has chance weights, which ours draws. The
last rows have no peer: they say which share of what the `gemm` crate reaches in a cache, for as long as a pass and at once after it, the
matrix products of a forward pass reach: the median of the pairs.
"""

import contextlib
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from compare import ROOT, TARGET, Failed, Row
from torch_model import Gpt, read_safetensors
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEQUENCES, POSITIONS = 8, 128
FORWARDS, CACHES, NEW_TOKENS = 5, 3, 40
# "Once upon a time, there was a little"
PROMPT = [6403, 1980, 253, 655, 28, 665, 436, 253, 1838]


class Setting:
    def __init__(self, folder, data):
        self.folder, self.gguf = folder, data / "smollm2" / FILE
        draw = random.Random(0)
        self.tokens = [[draw.randrange(49152) for _ in range(POSITIONS)] for _ in range(SEQUENCES)]
        self.batch, self.prompt = folder / "batch.json", folder / "prompt.json"
        self.batch.write_text(json.dumps(self.tokens))
        self.prompt.write_text(json.dumps([PROMPT]))
        self.shape = folder / "gpt2-small"
        ours("shape", self.shape)
        model = AutoModelForCausalLM.from_pretrained(self.gguf.parent, gguf_file=FILE, dtype=torch.float32)
        self.smollm2 = model.eval()
        self.f32 = folder / "smollm2-f32"
        save(model, self.f32)
        self.gpt = Gpt(read_safetensors(self.shape), 12).eval()


def save(model, folder):
    """A model that was read from four bits, in the f32 that it has now: by itself transformers does not save one."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)


@contextlib.contextmanager
def setting():
    build = ["cargo", "build", "--quiet", "-p", "onelens", "--example", "real_peer"]
    subprocess.run(build, cwd=ROOT, check=True)
    places = [Path(p) for p in (os.environ.get("ONELENS_DATA"), ROOT.parent / "shared" / "data") if p]
    data = next((p for p in places if (p / "smollm2" / FILE).exists()), None)
    if data is None:
        raise SystemExit(f"{FILE} is not there: set ONELENS_DATA to the folder with smollm2/{FILE}")
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        yield Setting(Path(folder), data)


def prepare():
    """On all processors, from files alone, without gradients."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_grad_enabled(False)
    torch.set_num_threads(os.cpu_count())


def ours(*arguments):
    run = subprocess.run([TARGET / "debug/examples/real_peer", *map(str, arguments)], capture_output=True, text=True)
    if run.returncode != 0:
        raise Failed(run.stderr.strip())
    return json.loads(run.stdout)


def timed(n, work):
    """Mean milliseconds of `n` runs after one, and what the last gave. What one gave is gone before the next begins."""
    work()
    begin = time.perf_counter()
    for _ in range(n - 1):
        work()
    last = work()
    return (time.perf_counter() - begin) * 1e3 / n, last


def size(x):
    return x.double().abs().mean().item()


def near(a, b, share=1e-3):
    return abs(a - b) <= share * max(1, abs(b))


def roughly(a, b):
    """Of products of what is rounded to bf16."""
    return near(a, b, 1e-2)


def forward_row(name, model, peer, setting, precision=""):
    def run_ours():
        out = ours("forward" + precision, model, setting.batch, FORWARDS)
        return out["seconds"] * 1e3, out["logits"]

    def run_peer():
        ms, logits = timed(FORWARDS, lambda: peer(torch.tensor(setting.tokens)))
        return ms, size(logits)

    work = f"forward{precision}, {SEQUENCES} x {POSITIONS} tokens, {name}"
    return Row(work=work, ours=run_ours, peer=run_peer, same=roughly if precision else near)


def cache_row(name, model, peer, kind, setting, precision=""):
    """What both keep under one name must be the same. Each side has a process of its own: what a process did before
    decides whether a gigabyte of memory costs it milliseconds or a second."""

    def run_ours():
        out = ours("cache" + precision, model, setting.batch, CACHES)
        return out["seconds"] * 1e3, (out["hooks"], out["logits"], dict(out["kept"]))

    def run_peer():
        script = [sys.executable, "-B", __file__, kind, setting.folder, setting.gguf]
        run = subprocess.run(script, capture_output=True, text=True)
        if run.returncode != 0:
            raise Failed(run.stderr.strip())
        return json.loads(run.stdout.splitlines()[-1])

    def same(ours, peer):
        alike = roughly if precision else near
        shared = set(ours[2]) & set(peer[2])
        print(f"    {ours[0]} activations of ours, {peer[0]} of the peer, {len(shared)} under one name", flush=True)
        return alike(ours[1], peer[1]) and len(shared) > 100 and all(alike(ours[2][n], peer[2][n]) for n in shared)

    work = f"run_with_cache{precision}, all it keeps, {name}, against {peer}"
    return Row(work=work, ours=run_ours, peer=run_peer, same=same)


def caches(kind, folder, gguf):
    """The peer's side of a row of caches: mean milliseconds, and what was computed."""
    model = Gpt(read_safetensors(folder / "gpt2-small"), 12).eval() if kind == "gpt2" else transformer_lens(folder, gguf)
    tokens = torch.tensor(json.loads((folder / "batch.json").read_text()))
    ms, (logits, cache) = timed(CACHES, lambda: model.run_with_cache(tokens))
    logits = getattr(logits, "logits", logits)
    # Its root mean square norms keep what is normalised before the gain under the name under which ours, as all norms of
    # HookedTransformer but that one, keep what the block reads.
    read = {name: name.replace("hook_normalized", "hook_out") for name in cache}
    kept = {name: cache[read[name] if read[name] in cache else name] for name in cache}
    kept = {name: size(x) for name, x in kept.items() if torch.is_tensor(x) and torch.isfinite(x).all()}
    return ms, (len(cache), size(logits), kept)


def transformer_lens(folder, gguf):
    """Takes seconds to import. It asks for a configuration and a tokenizer where the name says, and for weights nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from transformer_lens.model_bridge import TransformerBridge
    name = str(folder / "smollm2-named")
    network = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=FILE, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=FILE)
    network.config.save_pretrained(name)
    tokenizer.save_pretrained(name)
    bridge = TransformerBridge.boot_transformers(name, hf_model=network, tokenizer=tokenizer, device="cpu")
    # Under the names of HookedTransformer, which are ours.
    bridge.enable_compatibility_mode(no_processing=True)
    return bridge


def generate_row(setting):
    def run_ours():
        out = ours("generate", setting.gguf, setting.prompt, NEW_TOKENS)
        return out["seconds"] * 1e3 / NEW_TOKENS, out["tokens"][-NEW_TOKENS:]

    def run_peer():
        more = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        ms, out = timed(1, lambda: setting.smollm2.generate(torch.tensor([PROMPT]), **more))
        return ms / NEW_TOKENS, out[0, len(PROMPT):].tolist()

    return Row(work=f"a token of generation ({NEW_TOKENS} after {len(PROMPT)}), keys and values kept", ours=run_ours, peer=run_peer)


def flop(layers, per_block, d_model, d_vocab):
    """Of the matrix products of a pass, with the half of the scores that a causal mask hides not counted."""
    attention = layers * 2 * 2 * d_model * (POSITIONS + 1) / 2
    return SEQUENCES * POSITIONS * (2 * (layers * per_block + d_model * d_vocab) + attention)


def share_row(name, model, work, setting):
    def run():
        pairs = ours("share", model, setting.batch, FORWARDS)["pairs"]
        return statistics.median(100 * work / seconds / 1e9 / gflops for seconds, gflops in pairs), None

    return Row(work=f"forward, {name}, share of gemm's peak", ours=run, peer=None, unit="%", why_no_peer="the peak itself is 100 %")


def rows(setting):
    smollm2, gpt2 = "SmolLM2-135M", "GPT-2 small's shape"
    yield forward_row(f"{smollm2}, against transformers", setting.gguf, lambda t: setting.smollm2(t).logits, setting)
    yield forward_row(f"{smollm2} from f32, against transformers", setting.f32, lambda t: setting.smollm2(t).logits, setting)
    yield forward_row(f"{gpt2}, against PyTorch", setting.shape, setting.gpt, setting)
    yield forward_row(f"{smollm2}, against transformers in f32", setting.gguf, lambda t: setting.smollm2(t).logits, setting, "_bf16")
    yield forward_row(f"{gpt2}, against PyTorch in f32", setting.shape, setting.gpt, setting, "_bf16")
    yield generate_row(setting)
    yield cache_row(gpt2, setting.shape, "PyTorch that keeps the same", "gpt2", setting)
    yield cache_row(smollm2, setting.gguf, "TransformerLens", "lens", setting)
    yield cache_row(smollm2, setting.gguf, "TransformerLens in f32", "lens", setting, "_bf16")
    # Queries and outputs, keys and values of three heads of nine, three matrices of the gated MLP.
    per_block = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    yield share_row(smollm2, setting.gguf, flop(30, per_block, 576, 49152), setting)
    yield share_row(f"{smollm2} from f32", setting.f32, flop(30, per_block, 576, 49152), setting)
    yield share_row(gpt2, setting.shape, flop(12, 12 * 768 * 768, 768, 50257), setting)


if __name__ == "__main__":
    prepare()
    print(json.dumps(caches(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
