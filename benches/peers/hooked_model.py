"""The same network in TransformerLens, with weights as onelens saves them."""

import warnings

import torch

with warnings.catch_warnings():
    # Deprecated for 4.0, where nothing takes weights of one's own.
    warnings.simplefilter("ignore", DeprecationWarning)
    from transformer_lens import HookedTransformer, HookedTransformerConfig


def hooked(weights, heads):
    v, d = weights["embed.W_E"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    config = HookedTransformerConfig(
        n_layers=layers,
        d_model=d,
        n_ctx=weights["pos_embed.W_pos"].shape[0],
        d_head=d // heads,
        n_heads=heads,
        d_mlp=weights["blocks.0.mlp.W_in"].shape[1],
        d_vocab=v,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(config)
    state = model.state_dict()
    for name, x in weights.items():
        # Heads are an axis of their own there: [head, d_model, d_head], and [head, d_head, d_model] on the way out.
        if name.endswith(("attn.W_Q", "attn.W_K", "attn.W_V")):
            x = x.view(d, heads, -1).transpose(0, 1)
        elif name.endswith(("attn.W_O", "attn.b_Q", "attn.b_K", "attn.b_V")):
            x = x.view(state[name].shape)
        state[name].copy_(x)
    return model
