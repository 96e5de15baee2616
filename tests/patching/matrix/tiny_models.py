"""Makes tiny random models of every type: sets the sizes in a type's config and in its parts, under any name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

__all__ = ["VARIANTS", "make", "recipe"]

# No size equals 8 to 12, the lengths attention sees.
SIZES = {
    64: "hidden_size n_embd d_model word_embed_proj_dim embed_dim max_position_embeddings n_positions max_seq_len n_ctx "
    "max_target_positions max_sequence_length seq_length hidden_size_global indexer_budget",
    96: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim d_ff ffn_hidden_size "
    "shared_expert_intermediate_size dense_intermediate_size intermediate_size_mlp",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers depth "
    "num_key_value_heads num_kv_heads num_experts_per_tok experts_per_token moe_topk moe_k sliding_window_pattern "
    "linear_num_key_heads swa_num_key_value_heads",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts attention_heads linear_num_heads linear_num_value_heads "
    "indexer_n_heads indexer_compress_ratio swa_num_attention_heads",
    1: "indexer_kv_heads n_group topk_group first_k_dense_replace bos_token_id n_shared_experts num_expert_group decoder_start_token_id",
    16: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim attention_head_dim kv_channels d_kv linear_head_dim "
    "linear_key_head_dim linear_value_head_dim indexer_head_dim hidden_size_per_layer_input mamba_chunk_size swa_head_dim",
    32: "moe_intermediate_size kv_lora_rank expert_ffn_hidden_size intermediate_size_moe qk_head_dim",
    24: "q_lora_rank",
    6: "rotary_dim",
    99: "vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab ngram_vocab_size_base unpadded_vocab_size",
    0: "pad_token_id",
    3: "eos_token_id",
}  # fmt: skip
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}

# Latent attention makes a key and a value for every query head.
_LATENT = ("axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite glm_moe_dsa kimi_linear "
           "longcat_flash minicpm3 youtu")  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Types with settings other than their defaults, in addition to the types themselves.
VARIANTS = {"big_bird+original_full": {"attention_type": "original_full"}}
# Types that cannot be run alone.
_WHOLE = "AutoModelForCausalLM gives its decoder's class the config of the whole model, which that can't take"
_DRAFT = "drafts for another model, whose keys and values it has to be given"
IMPOSSIBLE = {
    "musicgen": _WHOLE,
    "musicgen_melody": _WHOLE,
    "gemma4_assistant": _DRAFT,
    "gemma4_unified_assistant": _DRAFT,
}
# Additional or other values that a type needs; None keeps the default of a size.
SPECIAL: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": 4} for name in (*_LATENT.split(), "bailing_hybrid", "gpt_neox", "persimmon")},
    "bamba": {"attn_layer_indices": [1], "layer_types": None, **_MAMBA},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"],
                            "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}},
    "cpmant": {"prompt_length": 1, "dim_head": 16, "dim_ff": 96},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "dots3_note_audio_encoder": {"adapter_input_size": 64, "adapter_out_dim": 64},
    "dots3_note_vision_encoder": {"num_hidden_layers": 42, "adapter_in_dim": 64, "adapter_out_dim": 64},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    "falcon_h1": {"layer_types": None, "mamba_d_ssm": 128, "mamba_n_groups": 1, **_MAMBA},
    "gemma3n_text": {"num_hidden_layers": 5, "num_kv_shared_layers": 0, "intermediate_size": 96,
                     "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
                     "activation_sparsity_pattern": [0.0] * 5},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], **_MAMBA},
    "jamba": {"use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1]},
    "llama4_text": {"attention_chunk_size": 11},
    "longcat_flash": {"num_layers": 1, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "mega": {"bidirectional": False},
    "mllama_text_model": {"rope_scaling": _ROPE},
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention"], "layer_types": None,
                   "num_hidden_layers": None},
    "phi4_multimodal": {"vision_config": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                                          "num_attention_heads": 4}},
    "qwen4_exp_text": {"layer_types": ["linear_attention", "indexed_attention"]},
    "recurrent_gemma": {"attention_window_size": 11, "num_hidden_layers": 3, "layer_types": None},
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh"],
                 "feed_forward_size": 96, "num_buckets": 2},
    "transfo-xl": {"cutoffs": [20, 40, 60], "d_embed": 64, "d_inner": 96, "mem_len": 16},
    "xlm": {"mask_token_id": 5},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {"num_hidden_layers": 8, "attention_head_dim": 32, "layer_types": None, "layers_block_type": None,
              "use_mamba_kernels": False},
    "zamba2": {"layer_types": None, "layers_block_type": ["mamba", "hybrid"], "mamba_ngroups": 1, "chunk_size": 16,
               "use_mem_rope": True},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def recipe(model_type: str) -> str:
    """The text that a tiny model of this type depends on: this file without the special sizes of other types."""
    base = model_type.split("+")[0]
    special = {name: sizes for name, sizes in SPECIAL.items() if name.startswith(base)}
    return repr((SMALL, VARIANTS.get(model_type), special, [inspect.getsource(part) for part in (make, _small)]))


def make(model_type: str, folder: Path) -> torch.nn.Module:
    """Write a tiny random model of a type, with the config the type has even where only a part of it is built."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    if model_type in IMPOSSIBLE:
        raise ValueError(IMPOSSIBLE[model_type])
    kind = CONFIG_MAPPING[model_type.split("+")[0]]
    # pad_token_id: transformers 5.0.0 forgets to set it for some types.
    config = kind(**{"pad_token_id": 0, **_small(kind()), **VARIANTS.get(model_type, {})})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * 0.1
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    model.save_pretrained(folder)
    if type(model.config) is not kind:
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
    return model


def _small(default: Any) -> dict[str, Any]:
    """Small sizes for a default config, as its class takes them."""
    known = {**default.to_dict(), **getattr(default, "attribute_map", {})}
    sizes = {name: size for name, size in SMALL.items() if name in known and type(known[name]) is not list}
    kinds = list(dict.fromkeys(known.get("layer_types") or []))[-2:]
    layers = {"layer_types": [kinds[0], kinds[-1]]} if kinds else {}
    # Without it BERT's family sees both sides of a token, and has no cache.
    decoder = {"is_decoder": True} if "is_decoder" in known else {}
    chosen = {**sizes, **layers, **decoder, **SPECIAL.get(default.model_type, {})}
    for name, part in vars(default).items():
        if hasattr(part, "to_dict"):
            taken = inspect.signature(type(part).__init__).parameters
            small = {key: size for key, size in _small(part).items() if key in taken}
            own = {"model_type": part.model_type} if part.model_type else {}
            chosen[name] = {**small, **own, **chosen.get(name, {})}
    return {name: value for name, value in chosen.items() if value is not None}
