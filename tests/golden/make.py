"""Writes tiny random checkpoints of Hugging Face transformers, with what PyTorch computes from them.

    python3 -m venv target/golden-venv
    target/golden-venv/bin/pip install -r tests/golden/requirements.txt
    target/golden-venv/bin/python tests/golden/make.py

For each family a folder with `config.json`, `model.safetensors`, and `golden.safetensors`: the tokens, the logits, every
residual stream, the mean next-token loss, and its gradient with respect to every parameter under the checkpoint's name.
`birth.json` holds the versions, the seed, and the sha256 of every file.
"""

import hashlib
import json
import pathlib
import platform
import tempfile

import safetensors
import safetensors.torch
import torch
import transformers

SEED = 20240611
HERE = pathlib.Path(__file__).parent

CONFIGS = {
    "gpt2": transformers.GPT2Config(
        vocab_size=13, n_positions=9, n_embd=8, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "llama": transformers.LlamaConfig(
        vocab_size=13, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=9, bos_token_id=None, eos_token_id=None),
    "neox": transformers.GPTNeoXConfig(
        vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=9, rotary_pct=0.25, hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=None,
        eos_token_id=None),
}


def residual_streams(model, tokens):
    """What every block reads, and what the last one leaves, before the final norm."""
    base = getattr(model.base_model, "decoder", model.base_model)
    blocks = next(getattr(base, name) for name in ["h", "layers", "blocks"] if hasattr(base, name))
    streams = []
    first = lambda out: out[0] if isinstance(out, tuple) else out
    hooks = [b.register_forward_pre_hook(
        lambda _, args, kwargs: streams.append((args[0] if args else kwargs["hidden_states"]).detach().clone()),
        with_kwargs=True) for b in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda _, __, out: streams.append(first(out).detach().clone())))
    logits = model(tokens).logits
    for hook in hooks:
        hook.remove()
    return streams, logits


def stored(model, folder):
    """The weights of a model by the names that they have in its file, which are not always those in memory."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return safetensors.torch.load_file(folder / "model.safetensors")


def make(folder, config):
    torch.manual_seed(SEED)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        # Away from the symmetric start: gains that are not 1 and biases that are not 0 tell a wrong layout.
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    folder.mkdir(parents=True, exist_ok=True)
    stored(model, folder)

    tokens = torch.randint(0, config.vocab_size, (3, 8))
    streams, logits = residual_streams(model, tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, config.vocab_size), tokens[:, 1:].reshape(-1))
    loss.backward()
    out = {"tokens": tokens.to(torch.int32), "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    out |= {f"resid.{l}": h for l, h in enumerate(streams)}
    # A gradient has the names and the layout of a checkpoint when it is stored as one.
    with torch.no_grad(), tempfile.TemporaryDirectory() as gradients:
        for p in model.parameters():
            p.copy_(p.grad)
        out |= {f"grad.{name}": grad for name, grad in stored(model, pathlib.Path(gradients)).items()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in out.items()}, folder / "golden.safetensors")


def write_birth(folder, command, names):
    """The versions, the seed, and the sha256 of every file in the folders of these names."""
    files = {
        f"{name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for name in names for path in sorted((folder / name).iterdir())}
    birth = {
        "command": command, "seed": SEED, "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "safetensors": safetensors.__version__, "sha256": files,
    }
    (folder / "birth.json").write_text(json.dumps(birth, indent=2) + "\n")


def main():
    torch.set_num_threads(1)
    for name, config in CONFIGS.items():
        make(HERE / name, config)
    write_birth(HERE, "python tests/golden/make.py", CONFIGS)


if __name__ == "__main__":
    main()
