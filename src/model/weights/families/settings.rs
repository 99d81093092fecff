//! A `config.json`, asked for one setting after another.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

use super::super::tensors::refuse;
use crate::Result;
use crate::model::{LayerKind, Mlp, Pairs, Positions, Rotary, RotaryScaling};

/// The settings of a file, or of an object inside it. What nobody has asked for in the end is refused, unless it is
/// known to change nothing.
pub(super) struct Settings {
    shown: String,
    /// The way to this object in the file, with a dot at its end.
    inside: String,
    json: Value,
    read: RefCell<BTreeSet<String>>,
}

/// Settings that change nothing of what a trained network computes, or repeat what the weights say: marks of programs,
/// tokens, training, and how text is drawn.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_model_name_or_path",
    "_name_or_path",
    "_num_labels",
    "add_prefix_space",
    "architectures",
    "attention_softmax_in_fp32",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "inference_runner",
    "init_config",
    "init_device",
    "init_std",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "layerdrop",
    "length_penalty",
    "masked_softmax_fusion",
    "max_batch_size",
    "max_length",
    "max_sequence_length",
    "max_window_layers",
    "min_length",
    "model_max_length",
    "model_type",
    "n_ctx",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "offset_alibi",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_router_logits",
    "output_scores",
    "pad_key_length",
    "pad_token_id",
    "pre_allocate_kv_cache",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scale_attention_softmax_in_fp32",
    "sep_token_id",
    "seq_length",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "slow_but_exact",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "tokenizer_name",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "validate_runner_input",
    "verbose",
];

impl Settings {
    pub(super) fn new(shown: &str, json: Value) -> Self {
        Settings { shown: shown.into(), inside: String::new(), json, read: RefCell::default() }
    }

    /// Notes that this setting was asked for, and gives it; null where there is none.
    fn get(&self, name: &str) -> &Value {
        self.read.borrow_mut().insert(name.into());
        &self.json[name]
    }

    /// An error that names the setting and its value.
    pub(super) fn bad<T>(&self, name: &str, valid: &str) -> Result<T> {
        let value = &self.json[name];
        let name = format!("{}{name}", self.inside);
        let what =
            if value.is_null() { format!("has no `{name}`") } else { format!("has `{name}` as {value}") };
        Err(refuse(&self.shown, what, format!("`{name}` is {valid}")))
    }

    /// The same settings, of which nobody has asked for any.
    pub(super) fn anew(&self) -> Self {
        Settings {
            shown: self.shown.clone(),
            inside: self.inside.clone(),
            json: self.json.clone(),
            read: RefCell::default(),
        }
    }

    /// The names of those that nobody has asked for and that may change something.
    pub(super) fn unknown(&self) -> Vec<String> {
        let read = self.read.borrow();
        let says_nothing = |name: &str| {
            HARMLESS.contains(&name)
                || name.contains("dropout")
                || name.ends_with("_pdrop")
                || name.starts_with("summary_")
        };
        let all = self.json.as_object().into_iter().flatten();
        let unknown =
            all.filter(|(name, value)| !value.is_null() && !read.contains(*name) && !says_nothing(name));
        unknown.map(|(name, _)| name.clone()).collect()
    }

    /// Refuses the first setting that nobody has asked for.
    pub(super) fn finish(&self) -> Result<()> {
        match self.unknown().first() {
            None => Ok(()),
            Some(name) => Err(refuse(
                &self.shown,
                format!(
                    "has `{}{name}` as {}, which is not known for this model_type",
                    self.inside, self.json[name]
                ),
                "a setting that may change the computation is not passed over in silence: if this one does not, take \
                 it out of config.json",
            )),
        }
    }

    pub(super) fn present(&self, name: &str) -> bool {
        !self.get(name).is_null()
    }

    /// Whether the file says anything of this setting, be it null.
    pub(super) fn mentioned(&self, name: &str) -> bool {
        self.json.get(name).is_some()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.bad(name, "a text")
            }
        }
    }

    pub(super) fn count(&self, name: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(name).as_u64().and_then(|n| usize::try_from(n).ok()), default) {
            (Some(n), _) if n > 0 => Ok(n),
            (None, Some(default)) if !self.present(name) => Ok(default),
            (Some(_) | None, _) => self.bad(name, "a number from 1 up"),
        }
    }

    /// A count that went by several names, of which the file uses one.
    pub(super) fn count_of(&self, names: &[&str]) -> Result<usize> {
        let name = names.iter().find(|name| self.present(name)).unwrap_or(&names[0]);
        self.count(name, None)
    }

    pub(super) fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.get(name).as_f64() {
            Some(x) => Ok(x),
            None if !self.present(name) => Ok(default),
            None => self.bad(name, "a number"),
        }
    }

    /// A number that null switches off; `default` where the file says nothing.
    pub(super) fn number_or_off(&self, name: &str, default: Option<f64>) -> Result<Option<f64>> {
        match self.get(name).as_f64() {
            Some(x) => Ok(Some(x)),
            None if !self.mentioned(name) => Ok(default),
            None if !self.present(name) => Ok(None),
            None => self.bad(name, "a number or null"),
        }
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name).as_bool() {
            Some(flag) => Ok(flag),
            None if !self.present(name) => Ok(default),
            None => self.bad(name, "true or false"),
        }
    }

    /// Refuses a setting that changes the computation in a way that is not here.
    pub(super) fn must_be(&self, name: &str, default: bool, valid: bool) -> Result<()> {
        if self.flag(name, default)? == valid {
            return Ok(());
        }
        self.bad(name, &format!("read only as {valid}"))
    }

    /// Refuses a setting that is there at all.
    pub(super) fn must_be_absent(&self, name: &str) -> Result<()> {
        if self.present(name) { self.bad(name, "read only as null") } else { Ok(()) }
    }

    /// Refuses a number other than this one.
    pub(super) fn must_be_number(&self, name: &str, valid: f64) -> Result<()> {
        if self.number(name, valid)? == valid {
            Ok(())
        } else {
            self.bad(name, &format!("read only as {valid}"))
        }
    }

    /// The nonlinearity of an MLP without a gate.
    pub(super) fn mlp(&self, name: &str, default: &str) -> Result<Mlp> {
        match self.text(name)?.unwrap_or(default) {
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Mlp::GeluTanh),
            "gelu" => Ok(Mlp::Gelu),
            "relu" => Ok(Mlp::Relu),
            _ => self.bad(name, "one of gelu_new, gelu_pytorch_tanh, gelu, relu"),
        }
    }

    /// That of an MLP with a gate.
    pub(super) fn gated_mlp(&self, name: &str, default: &str) -> Result<Mlp> {
        match self.text(name)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Mlp::SwiGlu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Mlp::GeGluTanh),
            _ => self.bad(name, "one of silu, gelu_pytorch_tanh"),
        }
    }

    pub(super) fn d_head(&self, d_model: usize, n_heads: usize) -> Result<usize> {
        if !d_model.is_multiple_of(n_heads) {
            return Err(refuse(
                &self.shown,
                format!("has {d_model} dimensions and {n_heads} heads"),
                "the number of heads divides the number of dimensions",
            ));
        }
        Ok(d_model / n_heads)
    }

    /// `head_dim`, or what the heads share of the width.
    pub(super) fn head_dim(&self, d_model: usize, n_heads: usize) -> Result<usize> {
        if self.present("head_dim") { self.count("head_dim", None) } else { self.d_head(d_model, n_heads) }
    }

    /// An object inside this one.
    pub(super) fn object(&self, name: &str) -> Result<Option<Settings>> {
        match self.get(name) {
            Value::Null => Ok(None),
            json @ Value::Object(_) => Ok(Some(Settings {
                shown: self.shown.clone(),
                inside: format!("{}{name}.", self.inside),
                json: json.clone(),
                read: RefCell::default(),
            })),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                self.bad(name, "an object")
            }
        }
    }

    /// The list under this name, if there is one.
    pub(super) fn list(&self, name: &str) -> Result<Option<&Vec<Value>>> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Array(all) => Ok(Some(all)),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                self.bad(name, "a list")
            }
        }
    }

    /// Rotary positions, and what there is to say about them: older files have `rope_theta` and the part of a head that
    /// turns beside `rope_scaling`, newer ones all in `rope_parameters`. What stands inside comes first, as in
    /// transformers.
    pub(super) fn rotary(&self, rope: &Rope) -> Result<Positions> {
        let theta = self.number(rope.theta, rope.default_theta)?;
        let part = self.number(rope.part, rope.default_part)?;
        let inside = match self.object("rope_scaling")? {
            Some(scaling) => {
                if self.present("rope_parameters")
                    && self.json["rope_parameters"] != self.json["rope_scaling"]
                {
                    return self
                        .bad("rope_parameters", "read only where rope_scaling says the same or nothing");
                }
                Some(scaling)
            }
            None => self.object("rope_parameters")?,
        };
        let n_ctx = self.count(rope.n_ctx, Some(2048))?;
        let trained = self.count("original_max_position_embeddings", Some(n_ctx))?;
        let first = self.present("original_max_position_embeddings");
        self.rotary_of(inside.as_ref(), rope, theta, part, (trained, first))
    }

    /// Rotary positions as `inside` says them, with these values where it says nothing.
    pub(super) fn rotary_of(
        &self,
        inside: Option<&Settings>,
        rope: &Rope,
        theta: f64,
        part: f64,
        (n_trained, told): (usize, bool),
    ) -> Result<Positions> {
        let (mut theta, mut part, mut scaling) = (theta, part, RotaryScaling::None);
        if let Some(s) = inside {
            theta = s.number("rope_theta", theta)?;
            part = s.number("partial_rotary_factor", part)?;
            let kind = s.text("rope_type")?;
            let kind = kind.or(s.text("type")?).unwrap_or("default");
            // What the file says of the network comes before what it says of the scaling, as in transformers.
            let inner = s.count("original_max_position_embeddings", Some(n_trained))?;
            let n_trained = if told { n_trained } else { inner };
            let factor = || match s.present("factor") {
                true => s.number("factor", 1.0),
                false => s.bad("factor", "a number"),
            };
            scaling = match kind {
                "default" => RotaryScaling::None,
                "linear" => RotaryScaling::Linear { factor: factor()? },
                "dynamic" => RotaryScaling::Dynamic {
                    factor: factor()?,
                    n_trained: self.count(rope.n_ctx, Some(2048))?,
                },
                "llama3" => RotaryScaling::Llama3 {
                    factor: factor()?,
                    low: s.number("low_freq_factor", 1.0)?,
                    high: s.number("high_freq_factor", 4.0)?,
                    n_trained,
                },
                "yarn" => {
                    let factor = factor()?;
                    let length =
                        |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                    let (all, dim) = (s.number("mscale", 0.0)?, s.number("mscale_all_dim", 0.0)?);
                    let usual =
                        if all != 0.0 && dim != 0.0 { length(all) / length(dim) } else { length(1.0) };
                    RotaryScaling::Yarn {
                        factor,
                        fast: s.number("beta_fast", 32.0)?,
                        slow: s.number("beta_slow", 1.0)?,
                        n_trained,
                        length: s.number("attention_factor", usual)?,
                        truncate: s.flag("truncate", true)?,
                    }
                }
                _ => {
                    let name = if s.present("rope_type") { "rope_type" } else { "type" };
                    return s.bad(name, "one of default, linear, dynamic, llama3, yarn");
                }
            };
            s.finish()?;
        }
        let turned = rope.d_head as f64 * part;
        let d_rotary = turned as usize;
        let positions = Rotary {
            pairs: rope.pairs,
            d_rotary: (d_rotary != rope.d_head).then_some(d_rotary),
            theta,
            scaling,
        };
        if !(part > 0.0 && part <= 1.0 && d_rotary.is_multiple_of(2)) {
            return Err(refuse(
                &self.shown,
                format!("turns a part of {part} of the {} dimensions of a head", rope.d_head),
                format!("`{}` is above 0, at most 1, and turns whole pairs", rope.part),
            ));
        }
        Ok(Positions::Rotary(positions))
    }

    /// Layers of two kinds, by `layer_types` or else by `slides`: whether a layer sees a window only.
    pub(super) fn kinds(
        &self,
        n_layers: usize,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<LayerKind>> {
        let valid = "a list of full_attention and sliding_attention, one for each layer";
        let sliding: Vec<bool> = match self.list("layer_types")? {
            None => (0..n_layers.min(1 << 16)).map(slides).collect(),
            Some(all) => {
                if all.len() != n_layers {
                    return self.bad("layer_types", valid);
                }
                let each = all.iter().map(|kind| match kind.as_str() {
                    Some("full_attention") => Ok(false),
                    Some("sliding_attention") => Ok(true),
                    Some(_) | None => self.bad("layer_types", valid),
                });
                each.collect::<Result<_>>()?
            }
        };
        let kinds = sliding
            .into_iter()
            .map(|slides| LayerKind { window: window.filter(|_| slides), positions: None });
        Ok(shortest(kinds.collect()))
    }

    /// How many keys a query sees at most; nothing where that is the whole context anyway. `default` where the file
    /// says nothing.
    pub(super) fn window(&self, default: Option<usize>, n_ctx: usize) -> Result<Option<usize>> {
        let window = match (self.present("sliding_window"), self.mentioned("sliding_window")) {
            (true, _) => Some(self.count("sliding_window", None)?),
            (false, true) => None,
            (false, false) => default,
        };
        Ok(window.filter(|&n| n < n_ctx))
    }
}

/// The shortest list that gives these kinds when it is gone through again and again; empty if all are usual.
pub(super) fn shortest(kinds: Vec<LayerKind>) -> Vec<LayerKind> {
    if kinds.iter().all(|kind| *kind == LayerKind::default()) {
        return Vec::new();
    }
    let repeats = |n: &usize| kinds.iter().enumerate().all(|(l, kind)| *kind == kinds[l % n]);
    let n = (1..kinds.len()).find(repeats).unwrap_or(kinds.len());
    kinds[..n].to_vec()
}

/// What a family calls its rotary positions, and their usual values.
pub(super) struct Rope {
    pub(super) theta: &'static str,
    pub(super) default_theta: f64,
    pub(super) part: &'static str,
    pub(super) default_part: f64,
    pub(super) n_ctx: &'static str,
    pub(super) pairs: Pairs,
    pub(super) d_head: usize,
}

impl Rope {
    /// As in Llama.
    pub(super) fn of_head(d_head: usize) -> Self {
        Rope {
            theta: "rope_theta",
            default_theta: 10_000.0,
            part: "partial_rotary_factor",
            default_part: 1.0,
            n_ctx: "max_position_embeddings",
            pairs: Pairs::Half,
            d_head,
        }
    }
}
