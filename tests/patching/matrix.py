"""Tiny random models, native and patched, in two processes: the evidence that a patch is right.

    python matrix.py native  FOLDER TYPE...     make the models, run them, keep their logits
    python matrix.py patched FOLDER TYPE...     patch them, run them, compare; one json object on stdout

Both sides run twice: as they are, and with every state multiplied by powers of two that differ by role and
head. The native side multiplies the operands of its attention core, the patched side does it in the quantizer.
Products with powers of two are exact, so the logits have to be equal bit by bit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

PROMPT, STEPS = 7, 2  # positions; no size below equals 7 to 11, the lengths attention sees
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
    model = AutoModelForCausalLM.from_config(config, **_implementation("eager"))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * 0.1
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    model.save_pretrained(folder)


def load(folder: Path, implementation: str, remote: bool):
    """Load a model; every key must be there and used."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=remote,
        output_loading_info=True,
        torch_dtype=torch.float32,
        **_implementation(implementation),
    )
    return model.eval(), {key: sorted(map(str, value)) for key, value in info.items() if value}


def _implementation(name: str) -> dict:
    return {"attn_implementation": name}


@torch.no_grad()
def logits(model) -> dict[str, torch.Tensor]:
    """Logits of one prompt without a cache, and of the same prompt and two more tokens with it."""
    ids = (torch.arange(2 * (PROMPT + STEPS)) * 37 % 90 + 5).view(2, -1)
    found = {"plain": model(input_ids=ids[:, :PROMPT], use_cache=False).logits}
    try:
        step = model(input_ids=ids[:, :PROMPT], use_cache=True)
        cached = [step.logits]
        for at in range(PROMPT, PROMPT + STEPS):
            step = model(input_ids=ids[:, at : at + 1], past_key_values=step.past_key_values, use_cache=True,
                         attention_mask=torch.ones(2, at + 1, dtype=torch.long))  # fmt: skip
            cached.append(step.logits)
        found["cached"] = torch.cat(cached, dim=1)
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - some native models can't run this way at all
        found["cached_error"] = f"{type(error).__name__}: {error}"[:200]
    return found


def factor(role: str, heads: int) -> torch.Tensor:
    """The powers of two of a role, one a head: [H]."""
    h = torch.arange(heads)
    return 2.0 ** {"q": h % 3, "k": 1 + h % 2, "v": -(1 + h % 3)}[role]


def scaled(states: torch.Tensor, role: str, heads: int | None = None, tiled: bool = False) -> torch.Tensor:
    """Multiply [B, H, S, D] (or [B*H, S, D] with B = 2) by the role's factors, repeated to the H it has."""
    count = states.shape[1] if states.dim() == 4 else states.shape[0] // 2
    factors, times = factor(role, heads or count), count // (heads or count)
    factors = factors.repeat(times) if tiled else factors.repeat_interleave(times)
    shape = (1, -1, 1, 1) if states.dim() == 4 else (-1, 1, 1)
    return states * (factors if states.dim() == 4 else factors.repeat(2)).view(shape)


class Core(TorchFunctionMode):
    """Multiplies the operands of scaled_dot_product_attention and of inline attention products."""

    PRODUCTS = ("matmul", "bmm", "baddbmm", "__matmul__")

    def __init__(self, kv_heads: int | None, tiled: bool) -> None:
        super().__init__()
        self.kv_heads, self.tiled = kv_heads, tiled

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            args = list(args) + [kwargs.pop(key) for key in ("query", "key", "value") if key in kwargs]
            for index, role in enumerate("qkv"):
                args[index] = self.scaled(args[index], role)
        elif name in self.PRODUCTS:
            offset = 1 if name == "baddbmm" else 0
            args = list(args) + [kwargs.pop(key) for key in ("batch1", "batch2") if key in kwargs]
            args[offset:] = self.product(*args[offset:])
        return function(*args, **kwargs)

    def scaled(self, states, role):
        return scaled(states, role, None if role == "q" else self.kv_heads, self.tiled)

    def product(self, left, right, *rest):
        """Tell scores (.., S, D) x (.., D, T) and context (.., S, T) x (.., T, D) by the lengths only S and T have."""
        lengths = set(range(PROMPT, PROMPT + STEPS + 3))
        if left.dim() == right.dim() == 4 and left.shape[-2] == 1:
            lengths |= {1}  # a cache that forgets
        if left.dim() == right.dim() >= 3 and (left.shape[-2] == 1 or left.shape[-2] in lengths):
            if right.shape[-1] in lengths and left.shape[-1] not in lengths and left.shape[-1] > 1:
                return self.scaled(left, "q"), self.scaled(right, "k"), *rest
            if left.shape[-1] in lengths and right.shape[-2] in lengths:
                return left, self.scaled(right, "v"), *rest
        return left, right, *rest


@contextmanager
def scaled_core(model, implementation: str):
    """Multiply what attention gets, wherever this transformers version computes it."""
    import transformers.modeling_utils as utils

    module = sys.modules[type(model).__module__]
    functions = getattr(module, "ALL_ATTENTION_FUNCTIONS", None)
    if functions is None:
        config = model.config
        names = ("num_key_value_heads", "num_kv_heads")
        heads = next((found for name in names if (found := getattr(config, name, None))), None)
        if hasattr(config, "attn_config") and hasattr(config.attn_config, "kv_n_heads"):
            heads = config.attn_config.kv_n_heads
        if config.model_type == "falcon":
            heads = None  # repeats its heads before the cache
        with Core(heads, tiled=config.model_type == "jetmoe"):
            yield
        return

    # jetmoe repeats its heads (as tiles) before it calls the interface, everyone else behind it.
    heads = {"heads": 2, "tiled": True} if model.config.model_type == "jetmoe" else {}

    def wrap(function):
        def call(owner, query, key, value, *args, **kwargs):
            states = scaled(query, "q"), scaled(key, "k", **heads), scaled(value, "v", **heads)
            return function(owner, *states, *args, **kwargs)

        return call

    eager, sdpa = module.eager_attention_forward, utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    module.eager_attention_forward = wrap(eager)
    utils.ALL_ATTENTION_FUNCTIONS["sdpa"] = wrap(sdpa)
    try:
        yield
    finally:
        module.eager_attention_forward = eager
        utils.ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa


def run_native(model_type: str, root: Path) -> dict:
    """Make a model, run it both ways, keep the logits."""
    folder = root / model_type
    if not folder.exists():
        make(model_type, folder)
    result = {}
    for implementation in ("eager", "sdpa"):
        try:
            model, info = load(folder, implementation, remote=False)
        except ValueError as error:
            if implementation == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            raise
        plain = logits(model)
        assert plain["plain"].isfinite().all(), "native logits aren't finite"
        with scaled_core(model, implementation):
            changed = logits(model)
        assert not torch.equal(plain["plain"], changed["plain"]), (
            f"the core wasn't reached ({implementation})"
        )
        torch.save(
            {"plain": plain, "scaled": changed, "info": info}, root / f"{model_type}.{implementation}.pt"
        )
        result[implementation] = "ok"
    return result


def run_patched(model_type: str, root: Path) -> dict:
    """Patch a model, run it both ways, compare."""
    from fa3cli.errors import Fa3Error
    from fa3cli.patching import patch

    try:
        made = patch(root / model_type, output=root / f"{model_type}-fa3")
    except Fa3Error as error:
        return {"refused": str(error)}
    result: dict = {"classes": [each.name for each in made.attention]}
    for implementation in ("eager", "sdpa"):
        kept = root / f"{model_type}.{implementation}.pt"
        if kept.exists():
            result[implementation] = compare(root / f"{model_type}-fa3", implementation, torch.load(kept))
    return result


def compare(folder: Path, implementation: str, native: dict) -> list[str]:
    """What is wrong with a patched model; empty if nothing."""
    model, info = load(folder, implementation, remote=True)
    wrong = [] if info == native["info"] else [f"loading info differs: {info}"]
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "fa_quantizer")}
    wrong += [] if modules else ["no module has a fa_quantizer"]
    plain = logits(model)
    seen: Counter = Counter()
    shapes: set = set()

    def attach(name):
        def transform(states, role):
            seen[name, role] += 1
            shapes.add((role, states.dim(), states.shape[1], states.shape[2]))
            return scaled(states, role)

        return transform

    calls: Counter = Counter()
    for name, module in modules.items():
        module.fa_quantizer.transform = attach(name)
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    changed = logits(model)
    for kind in ("plain", "cached"):
        if kind in native["plain"]:
            wrong += (
                []
                if kind in plain and torch.equal(plain[kind], native["plain"][kind])
                else [f"{kind} differs"]
            )
            same = kind in changed and torch.equal(changed[kind], native["scaled"][kind])
            wrong += [] if same else [f"{kind}, scaled, differs"]
    # Cross-attention stays idle in a decoder; some models run a layer several times.
    counts = {(name, role): (seen[name, role], calls[name]) for name in modules for role in "qkv"}
    whole = "cached_error" not in native["plain"]  # else some forward was cut off in the middle
    wrong += [f"seen (is, should be): {counts}"] if whole and any(a != b for a, b in counts.values()) else []
    wrong += [] if seen else ["nothing was seen"]
    if {dim for _, dim, _, _ in shapes} != {4}:
        wrong.append(f"not 4-D: {sorted(shapes)}")
    lengths = range(PROMPT, PROMPT + STEPS + 1)
    wrong += [f"not BHSD: {sorted(shapes)}"] if any(heads in lengths for _, _, heads, _ in shapes) else []
    return wrong


def main() -> None:
    side, root, *types = sys.argv[1:]
    torch.set_num_threads(1)
    results = {}
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("takes too long")))
    for model_type in types:
        signal.alarm(60)
        try:
            results[model_type] = (run_native if side == "native" else run_patched)(model_type, Path(root))
        except Exception as error:  # noqa: BLE001 - a report on every type
            if os.environ.get("DEBUG"):
                traceback.print_exc()
            results[model_type] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(model_type, results[model_type], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
