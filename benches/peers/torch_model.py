"""GPT-2's architecture in PyTorch, with weights as onelens saves them: the peer of the model's rows."""

import json
import math
import struct

import numpy as np
import torch
import torch.nn.functional as F


def read_safetensors(path):
    """The F32 tensors of a file, by name."""
    data = open(path, "rb").read()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        numbers = np.frombuffer(data[8 + n + start : 8 + n + end], dtype="<f4").reshape(info["shape"])
        tensors[name] = torch.from_numpy(numbers.copy())
    return tensors


class Block(torch.nn.Module):
    def __init__(self, d, heads, d_mlp):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.qkv, self.out = torch.nn.Linear(d, 3 * d), torch.nn.Linear(d, d)
        self.mlp_in, self.mlp_out = torch.nn.Linear(d, d_mlp), torch.nn.Linear(d_mlp, d)

    def heads_of(self, x):
        b, t, d = x.shape
        return (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in self.qkv(x).split(d, dim=2))

    def attend(self, x):
        q, k, v = self.heads_of(self.ln1(x))
        # The fused kernel of PyTorch's CPU back end.
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(z.transpose(1, 2).reshape(x.shape))

    def forward(self, x):
        x = x + self.attend(x)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.ln2(x)), approximate="tanh"))


class Gpt(torch.nn.Module):
    def __init__(self, weights, heads):
        super().__init__()
        v, d = weights["embed.W_E"].shape
        t = weights["pos_embed.W_pos"].shape[0]
        layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        d_mlp = weights["blocks.0.mlp.W_in"].shape[1]
        self.embed, self.pos = torch.nn.Embedding(v, d), torch.nn.Parameter(torch.zeros(t, d))
        self.blocks = torch.nn.ModuleList(Block(d, heads, d_mlp) for _ in range(layers))
        self.ln_final, self.unembed = torch.nn.LayerNorm(d), torch.nn.Linear(d, v)
        with torch.no_grad():
            self.load(weights)

    def load(self, w):
        def linear(module, weight, bias):
            module.weight.copy_(weight.T)
            module.bias.copy_(bias)

        def norm(module, name):
            module.weight.copy_(w[name + ".w"])
            module.bias.copy_(w[name + ".b"])

        self.embed.weight.copy_(w["embed.W_E"])
        self.pos.copy_(w["pos_embed.W_pos"])
        for i, block in enumerate(self.blocks):
            p = f"blocks.{i}."
            norm(block.ln1, p + "ln1")
            norm(block.ln2, p + "ln2")
            heads = [(w[f"{p}attn.W_{x}"], w[f"{p}attn.b_{x}"]) for x in "QKV"]
            linear(block.qkv, torch.cat([h[0] for h in heads], dim=1), torch.cat([h[1] for h in heads]))
            linear(block.out, w[p + "attn.W_O"], w[p + "attn.b_O"])
            linear(block.mlp_in, w[p + "mlp.W_in"], w[p + "mlp.b_in"])
            linear(block.mlp_out, w[p + "mlp.W_out"], w[p + "mlp.b_out"])
        norm(self.ln_final, "ln_final")
        linear(self.unembed, w["unembed.W_U"], w["unembed.b_U"])

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.ln_final(x))

    def loss(self, tokens):
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))

    @torch.no_grad()
    def run_with_cache(self, tokens):
        """Keeps what onelens keeps, under the names of TransformerLens, from explicit attention."""
        cache = {}

        def keep(name, x):
            # An activation that is changed in place, or is a view, would not be what it was.
            cache[name] = x.contiguous()
            return x

        def norm(module, x, name):
            keep(name + ".hook_scale", (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt())
            return keep(name + ".hook_normalized", module(x))

        x = keep("hook_embed", self.embed(tokens))
        x = x + keep("hook_pos_embed", self.pos[: tokens.shape[1]].expand_as(x))
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        for i, block in enumerate(self.blocks):
            p = f"blocks.{i}."
            keep(p + "hook_resid_pre", x)
            q, k, v = block.heads_of(norm(block.ln1, x, p + "ln1"))
            for name, y in zip("qkv", (q, k, v)):
                keep(f"{p}attn.hook_{name}", y.transpose(1, 2))
            scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(mask, float("-inf"))
            keep(p + "attn.hook_attn_scores", scores)
            pattern = keep(p + "attn.hook_pattern", scores.softmax(-1))
            z = keep(p + "attn.hook_z", (pattern @ v).transpose(1, 2))
            x = keep(p + "hook_resid_mid", x + keep(p + "hook_attn_out", block.out(z.reshape(x.shape))))
            pre = keep(p + "mlp.hook_pre", block.mlp_in(norm(block.ln2, x, p + "ln2")))
            post = keep(p + "mlp.hook_post", F.gelu(pre, approximate="tanh"))
            x = keep(p + "hook_resid_post", x + keep(p + "hook_mlp_out", block.mlp_out(post)))
        return self.unembed(norm(self.ln_final, x, "ln_final")), cache


def adamw(model):
    """AdamW as onelens trains: weight decay on matrices only. `fused` is the fastest on the CPU."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, fused=True)
