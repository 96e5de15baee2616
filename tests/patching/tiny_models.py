"""Tiny random models of every type: small sizes for whatever a type's config calls them."""

from __future__ import annotations

from pathlib import Path

import torch

# No size equals 7 to 11, the lengths attention sees.
SIZES = {
    64: "hidden_size n_embd d_model word_embed_proj_dim embed_dim max_position_embeddings n_positions max_seq_len n_ctx "
    "max_target_positions max_sequence_length seq_length",
    96: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim d_ff ffn_hidden_size "
    "shared_expert_intermediate_size dense_intermediate_size intermediate_size_mlp",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
    "num_key_value_heads num_kv_heads num_experts_per_tok experts_per_token moe_topk moe_k",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts attention_heads",
    1: "n_group topk_group first_k_dense_replace bos_token_id n_shared_experts num_expert_group decoder_start_token_id",
    16: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim attention_head_dim qk_head_dim kv_channels d_kv",
    32: "moe_intermediate_size kv_lora_rank expert_ffn_hidden_size intermediate_size_moe",
    24: "q_lora_rank",
    12: "rotary_dim",
    99: "vocab_size",
    0: "pad_token_id sliding_window_pattern",
    3: "eos_token_id",
}  # fmt: skip
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
# What a type needs besides, or instead.
SPECIAL = {
    **{
        name: {"num_key_value_heads": 4}
        for name in ("axk1", "axk2", "deepseek_v2", "deepseek_v32", "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa",
                     "gpt_neox", "kimi_linear", "minicpm3", "persimmon", "youtu")
    },
    "bailing_hybrid": {"num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1], "layer_types": None, "mamba_n_heads": 4, "mamba_d_head": 32,
              "mamba_d_state": 16, "mamba_chunk_size": 16},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "cpmant": {"prompt_length": 1, "dim_head": 16, "dim_ff": 96},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    "falcon_h1": {"layer_types": None, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128, "mamba_n_groups": 1,
                  "mamba_d_state": 16, "mamba_chunk_size": 16},
    "gemma3n_text": {"num_hidden_layers": 5, "num_kv_shared_layers": 0, "layer_types": ["sliding_attention"] * 4
                     + ["full_attention"], "intermediate_size": 96, "activation_sparsity_pattern": [0.0] * 5},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_head": 32},
    "jamba": {"use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1]},
    "longcat_flash": {"head_dim": 16, "qk_head_dim": 32, "num_layers": 1, "num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4, "qk_head_dim": 32},
    "mpt": {"n_heads": 4},
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention"], "layer_types": None, "num_hidden_layers": None},
    "recurrent_gemma": {"num_hidden_layers": 3, "layer_types": None},
    "zamba": {"num_hidden_layers": 6, "layer_types": None, "layers_block_type": None},
    "zamba2": {"num_hidden_layers": 2, "layer_types": None, "layers_block_type": ["mamba", "hybrid"], "mamba_ngroups": 1},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def make(model_type: str, folder: Path) -> None:
    """Write a tiny random model of a type."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    default = CONFIG_MAPPING[model_type]()
    known = {**default.to_dict(), **getattr(default, "attribute_map", {})}
    kinds = list(dict.fromkeys(known.get("layer_types") or []))[-2:]
    layers = {"layer_types": [kinds[0], kinds[-1]]} if kinds else {}
    small = {name: size for name, size in SMALL.items() if name in known and type(known[name]) is not list}
    chosen = {**small, **layers, **SPECIAL.get(model_type, {})}
    config = CONFIG_MAPPING[model_type](
        **{name: value for name, value in chosen.items() if value is not None}
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * 0.1
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    model.save_pretrained(folder)
