"""Makes exports for tests: small ones built here, and copies of golden ones that msModelSlim wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fa3cli.exports.layout import FA_TENSORS, W8A8_TENSORS
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.targets.target import Written
from fa3cli.exports.targets.vllm import Vllm
from fa3cli.exports.verification import Finding, verify_export
from tests.exports.pipelines import write_flux

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
WEIGHTS = "quant_model_weight_w8a8.safetensors"
INDEX = f"{WEIGHTS}.index.json"
DESCRIPTION = "quant_model_description_w8a8.json"
NEW_DESCRIPTION = "quant_model_description.json"
# Every small export has these warnings: few heads, float32, and only the older name of the description.
SMALL = {"tensor-parallel", "mindie-turbo", "description-name", "kernel-dtype", "kv-kernels"}


@dataclass
class Export:
    """An export folder loaded for changes; `save` writes it back, in one weight file or in shards."""

    folder: Path
    tensors: dict[str, torch.Tensor]
    description: dict[str, object]
    config: dict[str, object]
    weights: str = WEIGHTS
    description_files: tuple[str, ...] = (DESCRIPTION,)
    metadata: dict[str, str] | None = None

    def save(self, shards: int = 1) -> None:
        (self.folder / "config.json").write_text(json.dumps(self.config))
        for file in self.description_files:
            self.write_description(file, self.description)
        if shards == 1:
            save_file(self.tensors, self.folder / self.weights, self.metadata)
            return
        (self.folder / self.weights).unlink(missing_ok=True)
        names = sorted(self.tensors)
        weight_map = {}
        for number in range(shards):
            file = self.weights.replace(".safetensors", f"-{number + 1:05d}-of-{shards:05d}.safetensors")
            part = names[number::shards]
            save_file({name: self.tensors[name] for name in part}, self.folder / file, self.metadata)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (self.folder / f"{self.weights}.index.json").write_text(json.dumps(index))

    def write_description(self, file: str, description: dict[str, object]) -> None:
        (self.folder / file).write_text(json.dumps(description, indent=1))

    def add(self, name: str, tensor: torch.Tensor, value: str) -> None:
        self.tensors[name], self.description[name] = tensor, value

    def drop(self, *names: str) -> None:
        for name in names:
            del self.tensors[name], self.description[name]


def build_export(folder: Path, dtype: torch.dtype = torch.float32, *, tied: bool = False) -> Export:
    """Write a llama export of two layers: hidden 32, 4 heads, 2 KV heads, float down_proj and lm_head."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 64,
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "quantize": "w8a8",
    }
    export = Export(folder, {}, {"model_quant_type": "W8A8", "fa_quant_type": "FAQuant"}, config)
    export.add("model.embed_tokens.weight", torch.randn(64, 32).to(dtype), "FLOAT")
    for layer in ("model.layers.0", "model.layers.1"):
        _add_layer(export, layer, dtype)
    export.add("model.norm.weight", torch.ones(32, dtype=dtype), "FLOAT")
    export.add("lm_head.weight", torch.randn(64, 32).to(dtype), "FLOAT")
    if tied:
        del export.tensors["lm_head.weight"]
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text("{}")
    export.save()
    return export


def _add_layer(export: Export, layer: str, dtype: torch.dtype) -> None:
    for name, heads in (("q", 4), ("k", 2), ("v", 2)):
        export.add(f"{layer}.self_attn.fa_{name}.scale", (torch.rand(heads, 1) + 0.01).to(dtype), "FAQuant")
    for name, heads in (("q", 4), ("k", 2), ("v", 2)):
        offset = torch.zeros(heads, 1, dtype=torch.int8)
        export.add(f"{layer}.self_attn.fa_{name}.offset", offset, "FAQuant")
    rows = {"self_attn.q_proj": 32, "self_attn.k_proj": 16, "self_attn.v_proj": 16, "self_attn.o_proj": 32}
    for name, out in (rows | {"mlp.gate_proj": 48, "mlp.up_proj": 48}).items():
        _add_linear(export, f"{layer}.{name}", out, dtype)
    export.add(f"{layer}.mlp.down_proj.weight", torch.randn(32, 48).to(dtype), "FLOAT")
    for norm in ("input_layernorm", "post_attention_layernorm"):
        export.add(f"{layer}.{norm}.weight", torch.ones(32, dtype=dtype), "FLOAT")


def _add_linear(export: Export, name: str, out: int, dtype: torch.dtype) -> None:
    weight_scale = (torch.rand(out, 1) * 0.1 + 0.1).to(dtype)
    input_scale = torch.tensor([0.125]).to(dtype)
    deq_scale = (input_scale * weight_scale)[:, 0].float()
    if dtype != torch.bfloat16:
        deq_scale = deq_scale.view(torch.int32).long()
    weight = torch.randint(-127, 128, (out, 32), dtype=torch.int8)
    export.add(f"{name}.weight", weight, "W8A8")
    export.add(f"{name}.weight_scale", weight_scale, "W8A8")
    export.add(f"{name}.weight_offset", torch.zeros(out, 1, dtype=dtype), "W8A8")
    export.add(f"{name}.input_scale", input_scale, "W8A8")
    export.add(f"{name}.input_offset", torch.tensor([-3.0], dtype=dtype), "W8A8")
    export.add(f"{name}.quant_bias", weight.sum(1, dtype=torch.int32) * 3, "W8A8")
    export.add(f"{name}.deq_scale", deq_scale, "W8A8")


def build_for(target: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Export:
    """Write the export of `build_export` in the form of a target, with head_dim 8; fused groups are int8.

    For vllm it holds fp8 scales per head. For mindie-sd the export is a pipeline's transformer.
    """
    form = Vllm("attn_head") if target == "vllm" else TARGETS[target]
    if form.pipelines:
        return Export(folder, *write_flux(folder, dtype), form.weight_file, form.description_files)
    source = build_export(folder, dtype)
    for file in (WEIGHTS, DESCRIPTION):
        (folder / file).unlink()
    names = [name for name in source.tensors if source.description[name] == "FLOAT" or name.endswith(".weight")]
    tensors: dict[str, torch.Tensor] = {}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    quantized = [module for module in modules if f"{module}.deq_scale" in source.tensors]
    attentions = [f"model.layers.{layer}.self_attn" for layer in range(2)]
    for module in modules:
        own = {leaf: source.tensors.get(f"{module}.{leaf}") for leaf in W8A8_TENSORS}
        made = form.linear(own) if module in quantized else {"weight": own["weight"]}
        tensors |= {f"{module}.{leaf}": tensor for leaf, tensor in made.items()}
    for module in attentions:
        made = form.attention({leaf: source.tensors[f"{module}.{leaf}"] for leaf in FA_TENSORS}, 8, {})
        tensors |= {f"{module}.{leaf}": tensor for leaf, tensor in made.items()}
    floats = [module for module in modules if "proj" in module and module not in quantized] + ["lm_head"]
    written = Written(names, dict.fromkeys(quantized, "W8A8"), floats, attentions, [])
    config = {key: value for key, value in source.config.items() if key != "quantize"}
    description = next(iter(form.documents(written).values()), {})
    export = Export(folder, tensors, dict(description), form.config(config, written), form.weight_file)
    export.description_files, export.metadata = form.description_files, dict(form.metadata) or None
    export.save()
    return export


def copy_golden(case: str, model: str, folder: Path) -> Export:
    """Copy the export of a golden case and the config.json of its model."""
    for file in (WEIGHTS, DESCRIPTION):
        shutil.copyfile(GOLDEN / "cases" / case / file, folder / file)
    shutil.copyfile(GOLDEN / "models" / model / "config.json", folder / "config.json")
    return Export(
        folder,
        load_file(folder / WEIGHTS),
        json.loads((folder / DESCRIPTION).read_text()),
        json.loads((folder / "config.json").read_text()),
    )


def findings_of(folder: Path, *targets: str) -> list[Finding]:
    """Return the findings without the warnings that every small export has."""
    findings = verify_export(folder, targets).findings
    return [finding for finding in findings if finding.check not in SMALL or finding.severity == "error"]


def edited(mutation: Callable[[Export], object], shards: int = 1) -> Callable[[Export], None]:
    """Return a mutation that changes the loaded export, then writes it back."""

    def edit(export: Export) -> None:
        mutation(export)
        export.save(shards)

    return edit
