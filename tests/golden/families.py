"""Writes tiny random checkpoints of the families of Hugging Face checkpoints that are read, and of their settings.

    target/golden-venv/bin/python tests/golden/families.py [NAME ..]

In `families/`, for each a folder like those of `make.py`, with `config.json`, `model.safetensors` and
`golden.safetensors`: the tokens, the logits, every residual stream, the mean next-token loss, and its gradient with
respect to every parameter under the checkpoint's name. All weights are random, gains and biases too, so that no default
hides an error. `families/birth.json` holds the versions, the seed, and the sha256 of every file.
"""

import sys

import torch
import transformers as hf

from make import HERE, make, write_birth

# Small, and hardly two sizes of one model the same. Without padding, so that no row of the embedding is left out of its
# gradient.
SIZES = dict(vocab_size=13, bos_token_id=None, eos_token_id=None, pad_token_id=None)
LLAMA = SIZES | dict(
    hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
    max_position_embeddings=16)
NO_HEAD_DIM = {name: value for name, value in LLAMA.items() if name != "head_dim"} | dict(hidden_size=16)
GPT2 = SIZES | dict(n_positions=9, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
NEOX = SIZES | dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=9,
    hidden_dropout=0.0, attention_dropout=0.0)
OPT = SIZES | dict(
    hidden_size=8, ffn_dim=20, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=9,
    word_embed_proj_dim=8, dropout=0.0)
FALCON = SIZES | dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=16)
THREE_LAYERS = dict(num_hidden_layers=3)


def llama(**settings):
    return hf.LlamaConfig(**LLAMA | settings)


def scaled(**scaling):
    return llama(rope_parameters={"rope_theta": 100.0} | scaling)


CONFIGS = {
    "llama_biases": llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama_llama3": scaled(
        rope_type="llama3", factor=4.0, low_freq_factor=0.5, high_freq_factor=4.0, original_max_position_embeddings=16),
    "llama_linear": scaled(rope_type="linear", factor=3.0),
    # The sequences are longer than the context of the training.
    "llama_dynamic": llama(
        max_position_embeddings=4, rope_parameters={"rope_theta": 100.0, "rope_type": "dynamic", "factor": 2.0}),
    "llama_yarn": scaled(
        rope_type="yarn", factor=4.0, beta_fast=2.0, beta_slow=0.2, original_max_position_embeddings=16),
    "llama_yarn_mscale": scaled(
        rope_type="yarn", factor=4.0, beta_fast=2.0, beta_slow=0.2, original_max_position_embeddings=16, mscale=1.0,
        mscale_all_dim=0.7, truncate=False),
    "qwen2": hf.Qwen2Config(**NO_HEAD_DIM, use_sliding_window=False),
    "qwen2_window": hf.Qwen2Config(**NO_HEAD_DIM, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "mistral": hf.MistralConfig(**LLAMA, sliding_window=3),
    "mistral_no_window": hf.MistralConfig(**LLAMA, sliding_window=None),
    "gpt2_by_layer": hf.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=20),
    "gpt2_unscaled": hf.GPT2Config(**GPT2, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True),
    "gpt_neox_sequential": hf.GPTNeoXConfig(
        **NEOX, rotary_pct=0.5, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new"),
    "phi": hf.PhiConfig(
        **NO_HEAD_DIM | dict(num_attention_heads=2, num_key_value_heads=1), partial_rotary_factor=0.5, embd_pdrop=0.0,
        resid_pdrop=0.0),
    "phi3": hf.Phi3Config(**NO_HEAD_DIM, sliding_window=3, resid_pdrop=0.0, embd_pdrop=0.0),
    "phi3_partial": hf.Phi3Config(**NO_HEAD_DIM, partial_rotary_factor=0.5, tie_word_embeddings=True),
    "gemma": hf.GemmaConfig(**LLAMA),
    "gemma2": hf.Gemma2Config(
        **LLAMA | THREE_LAYERS, sliding_window=3, query_pre_attn_scalar=5, attn_logit_softcapping=1.5,
        final_logit_softcapping=2.5),
    "gemma3_text": hf.Gemma3TextConfig(
        **LLAMA | THREE_LAYERS, sliding_window=3, query_pre_attn_scalar=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        }),
    "qwen3": hf.Qwen3Config(**LLAMA),
    "qwen3_window": hf.Qwen3Config(
        **LLAMA, attention_bias=True, use_sliding_window=True, sliding_window=3, max_window_layers=1,
        tie_word_embeddings=True),
    "olmo": hf.OlmoConfig(**NO_HEAD_DIM),
    "olmo2": hf.Olmo2Config(**NO_HEAD_DIM, attention_bias=True),
    "opt": hf.OPTConfig(**OPT),
    "opt_post_norm": hf.OPTConfig(**OPT | dict(word_embed_proj_dim=5, do_layer_norm_before=False)),
    "gpt_neo": hf.GPTNeoConfig(
        **SIZES, hidden_size=8, num_layers=2, num_heads=2, max_position_embeddings=9, window_size=3,
        attention_types=[[["global", "local"], 1]], attention_dropout=0.0, embed_dropout=0.0, resid_dropout=0.0),
    "gptj": hf.GPTJConfig(**GPT2 | dict(n_embd=16), rotary_dim=4),
    "stablelm": hf.StableLmConfig(
        **NO_HEAD_DIM | dict(num_attention_heads=2), partial_rotary_factor=0.5, use_qkv_bias=True),
    "stablelm_parallel": hf.StableLmConfig(
        **NO_HEAD_DIM | dict(num_attention_heads=2), partial_rotary_factor=0.25, use_parallel_residual=True),
    "starcoder2": hf.Starcoder2Config(
        **NO_HEAD_DIM, sliding_window=3, use_bias=True, residual_dropout=0.0, embedding_dropout=0.0),
    "bloom": hf.BloomConfig(**SIZES, hidden_size=16, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0),
    # The slopes of heads whose number is no power of two are another row of numbers.
    "bloom_six_heads": hf.BloomConfig(
        **SIZES, hidden_size=12, n_layer=1, n_head=6, hidden_dropout=0.0, attention_dropout=0.0),
    "falcon": hf.FalconConfig(**FALCON, multi_query=True, parallel_attn=True, bias=False, alibi=False),
    "falcon_new": hf.FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True, alibi=False),
    "falcon_new_one_norm": hf.FalconConfig(
        **FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, alibi=False),
    "falcon_sequential": hf.FalconConfig(**FALCON, multi_query=False, parallel_attn=False, bias=True, alibi=False),
    "mpt": hf.MptConfig(**SIZES, d_model=16, n_heads=4, n_layers=2, max_seq_len=9, expansion_ratio=2),
    "mpt_scaled": hf.MptConfig(
        **SIZES, d_model=12, n_heads=3, n_layers=1, max_seq_len=9, expansion_ratio=2,
        attn_config={"softmax_scale": 0.7}),
    "gpt_bigcode": hf.GPTBigCodeConfig(**GPT2, multi_query=True),
    "gpt_bigcode_many_keys": hf.GPTBigCodeConfig(**GPT2, multi_query=False, scale_attn_weights=True),
    "cohere": hf.CohereConfig(**NO_HEAD_DIM, logit_scale=0.3, use_qk_norm=False),
    "granite": hf.GraniteConfig(
        **NO_HEAD_DIM, embedding_multiplier=3.0, residual_multiplier=0.7, attention_multiplier=0.3, logits_scaling=2.0,
        attention_bias=True, mlp_bias=True),
    "smollm3": hf.SmolLM3Config(**NO_HEAD_DIM | THREE_LAYERS, no_rope_layer_interval=2, use_sliding_window=False),
    "mixtral": hf.MixtralConfig(**LLAMA | dict(intermediate_size=8), num_local_experts=4, num_experts_per_tok=2),
    "mixtral_window": hf.MixtralConfig(
        **LLAMA | dict(intermediate_size=8, num_hidden_layers=1), num_local_experts=3, num_experts_per_tok=1,
        sliding_window=3),
}


def main():
    torch.set_num_threads(1)
    names = sys.argv[1:] or CONFIGS
    for name in names:
        make(HERE / "families" / name, CONFIGS[name])
    write_birth(HERE / "families", "python tests/golden/families.py", CONFIGS)


if __name__ == "__main__":
    main()
