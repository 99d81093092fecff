"""Writes the GPT-2 checkpoint of this folder as PyTorch saves it, in three types.

    python3 -m venv target/golden-venv
    target/golden-venv/bin/pip install -r tests/golden/requirements.txt
    target/golden-venv/bin/python tests/golden/make_pickles.py

`pickles/TYPE.bin` holds the tensors of `gpt2/model.safetensors` converted by PyTorch. `birth.json` beside them holds the
versions and the sha256 of every file.
"""

import hashlib
import json
import pathlib
import platform

import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent

if __name__ == "__main__":
    weights = safetensors.torch.load_file(HERE / "gpt2" / "model.safetensors")
    folder = HERE / "pickles"
    folder.mkdir(exist_ok=True)
    for name in ["float32", "float16", "bfloat16"]:
        torch.save({key: x.to(getattr(torch, name)) for key, x in weights.items()}, folder / f"{name}.bin")
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.bin"))}
    birth = {"command": "tests/golden/make_pickles.py", "python": platform.python_version(), "torch": torch.__version__}
    (folder / "birth.json").write_text(json.dumps({**birth, "sha256": digests}, indent=1) + "\n")
