"""Declares what engines cannot load; refusals, warnings, `fa3 verify` and docs/targets.md read this table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.tensor_parallel import TENSOR_PARALLEL_SIZES

__all__ = ["LIMITS", "Limit", "Verdict", "refusals", "warnings", "without_float32"]

# mindie-turbo reads the FA3 scales of MindIE's layout, for one head_dim.
_TURBO_HEAD_DIM = 128
# Kernels of vLLM-Ascend's int8 KV cache support only multiples of it.
_C8_HEAD_DIM = 32


@dataclass(frozen=True)
class Verdict:
    """The behaviour of an engine: it cannot load the export (`hint` says what to do), or only some versions cannot."""

    refuses: bool
    why: str
    hint: str = ""


def refuses(why: str, hint: str) -> Verdict:
    """The engine cannot load the export, so none is written."""
    return Verdict(True, why, hint)


def warns(why: str) -> Verdict:
    """Some engines or versions that read the target cannot load the export, or load it differently."""
    return Verdict(False, why)


@dataclass(frozen=True)
class Limit:
    """One property of an export that engines cannot load, or load differently than intended.

    `asked` describes the user's request, for docs/targets.md. `holds` yields the cases in which a run has the property.
    `says` maps targets to the behaviour of their engines; other targets have no such limit.
    """

    asked: str
    holds: Callable[[Selection], Iterable[str]]
    says: Mapping[str, Verdict]

    def messages(self, target: str, selection: Selection) -> Iterator[str]:
        """Yield each case with the behaviour of the engine."""
        if verdict := self.says.get(target):
            for case in self.holds(selection):
                yield f"{case}; {verdict.why}" if verdict.why else case


def refusals(target: str, selection: Selection) -> Iterator[tuple[str, str]]:
    """Yield why an engine cannot load the export of a planned run, with a hint what to do."""
    for limit in LIMITS.values():
        if target in limit.says and limit.says[target].refuses:
            yield from ((message, limit.says[target].hint) for message in limit.messages(target, selection))


def warnings(target: str, selection: Selection) -> Iterator[str]:
    """Yield why some engines or versions that read this target cannot load the export, or load it differently."""
    for limit in LIMITS.values():
        if target in limit.says and not limit.says[target].refuses:
            yield from limit.messages(target, selection)


def without_float32(targets: Iterable[str]) -> list[str]:
    """Return those of the targets whose engines cannot serve a float32 model."""
    return [name for name in targets if name in LIMITS["float32"].says]


def _when(held: Callable[[Selection], object], case: str) -> Callable[[Selection], Iterable[str]]:
    return lambda selection: [case] if held(selection) else []


def _few_kv_heads(selection: Selection) -> Iterator[str]:
    heads = selection.geometry.kv_heads
    sizes = [str(size) for size in TENSOR_PARALLEL_SIZES if heads and heads < size]
    if sizes and selection.fa_layers:
        yield f"{heads} KV heads at tensor parallel {', '.join(sizes)}"


def _head_dim(allowed: Callable[[int], bool]) -> Callable[[Selection], Iterable[str]]:
    def holds(selection: Selection) -> Iterator[str]:
        head_dim = selection.geometry.head_dim
        if selection.fa_layers and head_dim and not allowed(head_dim):
            yield f"head_dim is {head_dim}"

    return holds


def _without_kv_names(selection: Selection) -> Iterator[str]:
    """Yield the first attention module whose K and V have no linears of their own."""
    for attention in selection.attentions if selection.fa_layers else ():
        linears = ("k_proj", "v_proj")
        if missing := [name for name in linears if f"{attention}.{name}.weight" not in selection.names]:
            yield f"{attention} has no {', '.join(missing)}"
            return


_ALL_FA = "leave fa_amp at 0 and attention modules out of disable_names, or choose --no-fa"
_WHOLE = "name the whole group in disable_names, or choose improved numerics, which let whole groups fall back"
_FUSED = "the engine fuses q, k, v and gate, up into one linear and refuses a half-float group"
_GROUPS = {
    "modelslim": warns("vLLM-Ascend and the new MindIE runtime refuse a half-float group"),
    "mindie": refuses(_FUSED, _WHOLE),
    "vllm-ascend": refuses(_FUSED, _WHOLE),
    "vllm": refuses(_FUSED, _WHOLE),
}
_MIXED = refuses("the engine fuses them into one linear, which has one scheme", "name all of them in schemes")
_SPLIT = refuses("the engine has one scheme for all experts of a layer", "name all or none of them in disable_names")
_HALF = "give fa3 quantize or fa3 calibrate --dtype bfloat16 or float16"
_DYNAMIC_EXPERTS = "leave experts out of schemes: they are w8a8-dynamic by default"
_PER_ROW = refuses("the engine reads one scale per row", "leave mm_tensor off")
_TURBO = warns(f"mindie-turbo supports FA3 for head_dim {_TURBO_HEAD_DIM} only")
_TURBO_SPLIT = warns("mindie-turbo cannot split them; MindIE repeats a head on several devices")

LIMITS: dict[str, Limit] = {
    "partly-fa": Limit(
        "some attention layers without FA3 (`--fa-amp`, `--disable-names`)",
        _when(lambda selection: selection.partly_fa, "some layers stay without FA3"),
        {
            "modelslim": warns("MindIE refuses the export, mindie-turbo reads uninitialised memory"),
            "mindie": refuses("MindIE asserts that every layer has its six tensors", _ALL_FA),
            "vllm-ascend": warns("vLLM-Ascend up to 0.18 needs C8 scales in every layer"),
            "vllm": refuses("vLLM silently uses 1.0 as the scales there", _ALL_FA),
        },
    ),
    "half-float": Limit("part of q, k, v or of gate, up left float", Selection.half_float, _GROUPS),
    "mixed-groups": Limit(
        "several schemes in q, k, v or in gate, up (`schemes`)",
        Selection.mixed_groups,
        {
            "modelslim": warns("vLLM-Ascend and the new MindIE runtime refuse such a group"),
            **dict.fromkeys(("mindie", "vllm-ascend", "vllm"), _MIXED),
        },
    ),
    "split-experts": Limit(
        "some experts of a layer float (`--disable-names`)",
        Selection.split_experts,
        {
            "modelslim": warns("vLLM-Ascend has one scheme for all experts of a layer"),
            **dict.fromkeys(("vllm", "vllm-ascend"), _SPLIT),
        },
    ),
    "may-split": Limit(
        "`--numerics reference --disable-level Ln`",
        _when(
            lambda selection: selection.may_split,
            "disable_level counts single linears, as the reference does, and may split fused ones",
        ),
        _GROUPS,
    ),
    "mm-tensor": Limit(
        "`--mm-tensor`",
        _when(lambda selection: selection.mm_tensor, "mm_tensor stores one weight scale per linear"),
        {
            "modelslim": warns("the engines read one scale per row and refuse the export"),
            **dict.fromkeys(("mindie", "vllm-ascend", "mindie-sd"), _PER_ROW),
        },
    ),
    "norms": Limit(
        "AntiOutlier's norm tensors",
        _when(lambda selection: selection.wraps_norms, "AntiOutlier's norms have `.module.` tensors"),
        {"modelslim": warns("vLLM-Ascend refuses them; target vllm-ascend has none")},
    ),
    "turbo-head-dim": Limit(
        f"FA3 with a head_dim other than {_TURBO_HEAD_DIM}",
        _head_dim(lambda size: size == _TURBO_HEAD_DIM),
        {"modelslim": _TURBO, "mindie": _TURBO},
    ),
    "turbo-kv-heads": Limit(
        "FA3 with fewer KV heads than devices", _few_kv_heads, {"modelslim": _TURBO_SPLIT, "mindie": _TURBO_SPLIT}
    ),
    "c8-head-dim": Limit(
        f"FA3 with a head_dim that is no multiple of {_C8_HEAD_DIM}",
        _head_dim(lambda size: size % _C8_HEAD_DIM == 0),
        {"vllm-ascend": warns(f"vLLM-Ascend supports C8 for multiples of {_C8_HEAD_DIM} only, from 0.23 on")},
    ),
    "c8-float16": Limit(
        "FA3 in float16",
        _when(lambda selection: selection.fa_layers and selection.dtype == "float16", "float16"),
        {"vllm-ascend": warns("vLLM-Ascend up to 0.18 casts the scales of C8 to bfloat16")},
    ),
    "float32": Limit(
        "`--dtype float32`",
        _when(lambda selection: selection.dtype == "float32", "float32"),
        {
            "mindie": refuses("MindIE loads models in float16 and bfloat16 only", _HALF),
            "vllm-ascend": refuses(
                "vLLM serves such a model in bfloat16, which needs another form of deq_scale: its answers are noise",
                _HALF,
            ),
        },
    ),
    "kv-names": Limit(
        "FA3 for attention without `k_proj` and `v_proj`",
        _without_kv_names,
        {
            "vllm-ascend": refuses(
                "vLLM-Ascend reads the KV scales under these names", "choose --no-fa for W8A8 only, or another target"
            )
        },
    ),
    "no-linear": Limit(
        "no quantized linear",
        _when(lambda selection: not selection.quantized, "no linear of the model would be int8"),
        {"vllm": refuses("", "quantize a model of linears")},
    ),
    "static-experts": Limit(
        "experts as w8a8 or w8a8-mix (`schemes`)",
        _when(lambda selection: selection.static_experts, "experts whose inputs have a stored scale"),
        {
            "modelslim": warns("vLLM-Ascend supports experts as W8A8_DYNAMIC only"),
            **dict.fromkeys(
                ("vllm", "vllm-ascend"),
                refuses("the engine supports int8 experts only if inputs are quantized at run time", _DYNAMIC_EXPERTS),
            ),
        },
    ),
    "int8-head": Limit(
        "`--no-disable-last-linear`",
        _when(lambda selection: selection.head in selection.quantized, "an int8 head"),
        {"vllm": refuses("vLLM has float heads only", "leave disable_last_linear on")},
    ),
    "nothing": Limit(
        "neither linears nor attention quantized",
        _when(
            lambda selection: not selection.quantized and not selection.fa_layers,
            "neither a linear nor an attention module would be quantized",
        ),
        {"mindie-sd": refuses("", "name fewer modules in disable_names, or patch the model to quantize its attention")},
    ),
    "fp8-attention": Limit(
        "FA3 in a pipeline",
        _when(lambda selection: selection.fa_layers, "FA3"),
        {
            "mindie-sd": warns(
                "MindIE-SD 3.x ignores FAQuant silently, since it expects fp8: q, k and v are int8 up to 2.3 only"
            )
        },
    ),
}
