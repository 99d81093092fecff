"""Writes lenses as other programs publish them, and what those read with them.

    target/golden-venv/bin/python tests/golden/lenses.py

For the checkpoint `families/llama_biases`, in `lenses/`: `tuned`, a folder of the package tuned-lens (written by its own `save`);
`jacobian.pt`, a file in the format of the Jacobian lens's reference program, written by `torch.save` from its description (half
precision, the first and the last layer only); and `golden.safetensors` with the tokens, what tuned-lens makes of every layer, and what
`unembed(J_l h)` makes of those that have a Jacobian. With `read FOLDER`, reads a folder that was written for tuned-lens with that
package instead, and compares it with `tuned`. Needs tuned-lens 0.2.0 besides `requirements.txt` (`pip install --no-deps tuned-lens`).
"""

import sys

import torch
import transformers as hf
from safetensors.torch import save_file
from tuned_lens.nn.lenses import TunedLens

from make import HERE

FOLDER = HERE / "lenses"


def checkpoint():
    return hf.LlamaForCausalLM.from_pretrained(HERE / "families" / "llama_biases", dtype=torch.float32).eval()


def write():
    torch.manual_seed(20)
    model = checkpoint()
    lens = TunedLens.from_model(model)
    for translator in lens.layer_translators:
        torch.nn.init.normal_(translator.weight, std=0.3)
        torch.nn.init.normal_(translator.bias, std=0.3)
    lens.config.base_model_name_or_path = "llama_biases"
    lens.save(FOLDER / "tuned")
    d, n = model.config.hidden_size, model.config.num_hidden_layers
    jacobians = {layer: torch.randn(d, d).half() for layer in (0, n - 1)}
    torch.save(
        {"J": jacobians, "n_prompts": 7, "source_layers": sorted(jacobians), "d_model": d}, FOLDER / "jacobian.pt")
    tokens = torch.randint(model.config.vocab_size, (2, 6))
    with torch.no_grad():
        # The last of the hidden states is normalised already; streams are what comes before it.
        streams = model(tokens, output_hidden_states=True).hidden_states[:-1]
        read = {f"tuned.{layer}": lens(h, layer) for layer, h in enumerate(streams)}
        last = []
        hook = model.model.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
        model(tokens)
        hook.remove()
        after = [*streams[1:], last[0]]
        for layer, j in jacobians.items():
            read[f"jacobian.{layer}"] = lens.unembed(after[layer] @ j.float().T)
    save_file({"tokens": tokens.int()} | {name: x.contiguous() for name, x in read.items()}, FOLDER / "golden.safetensors")


def read(folder):
    model = checkpoint()
    ours = TunedLens.from_model_and_pretrained(model, folder)
    theirs = TunedLens.from_model_and_pretrained(model, str(FOLDER / "tuned"))
    for name, x in theirs.layer_translators.state_dict().items():
        difference = (x - ours.layer_translators.state_dict()[name]).abs().max()
        assert difference < 1e-6, f"{name} differs by {difference}"
    print("the same lenses")


if __name__ == "__main__":
    write() if len(sys.argv) == 1 else read(sys.argv[2])
