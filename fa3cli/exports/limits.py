"""Declares what engines cannot load; refusals, warnings, `fa3 verify` and docs/targets.md read this table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from fa3cli.exports.geometry import Geometry
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.tensor_parallel import too_few_kv_heads, uneven_channels, uneven_heads

__all__ = ["LIMITS", "Limit", "Verdict", "refusals", "warnings", "without_float32"]

# The engines, each with the version in which the limits were seen. Where another version differs, the text says so.
_VLLM, _ASCEND = "vLLM 0.32", "vLLM-Ascend 0.26rc1"
_MINDIE, _TURBO = "MindIE-LLM 3.0", "mindie-turbo 2.0rc1"
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


def _sizes(*parts: Callable[[Geometry], Iterator[str]], fa: bool | None = None) -> Callable[[Selection], Iterator[str]]:
    """Return the sizes that `parts` find, for a run with FA3 if `fa` is True, without FA3 if it is False."""

    def holds(selection: Selection) -> Iterator[str]:
        if fa is None or fa == (selection.fa_layers > 0):
            for part in parts:
                yield from part(selection.geometry)

    return holds


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
_ALL_SCHEMES = "name all of them in schemes"
_ALL_EXPERTS = "name all or none of them in disable_names"
_HALF = "give fa3 quantize or fa3 calibrate --dtype bfloat16 or float16"
_DYNAMIC_EXPERTS = "leave experts out of schemes: they are w8a8-dynamic by default"
_NO_MM = "leave mm_tensor off"


def _fused(engine: str) -> str:
    return f"{engine} fuses q, k, v and gate, up into one linear and refuses a half-float group"


def _one_scheme(engine: str) -> str:
    return f"{engine} fuses them into one linear, which has one scheme"


def _same_experts(engine: str) -> str:
    return f"{engine} has one scheme for all experts of a layer"


def _dynamic_experts(engine: str) -> str:
    return f"{engine} supports int8 experts only if inputs are quantized at run time"


def _per_row(engine: str) -> str:
    return f"{engine} reads one scale per row"


def _uneven(engine: str) -> str:
    return f"{engine} divides heads and channels equally, or refuses the size"


# ATB, the models of MindIE-LLM that read FA3, fuses nothing; the new runtime does.
_RUNTIME = f"the new runtime of {_MINDIE}"
_BOTH = f"{_ASCEND} and {_RUNTIME}"
_GROUPS = {
    "modelslim": warns(f"{_BOTH} refuse a half-float group"),
    "mindie": refuses(_fused(_RUNTIME), _WHOLE),
    "vllm-ascend": refuses(_fused(_ASCEND), _WHOLE),
    "vllm": refuses(_fused(_VLLM), _WHOLE),
}
_TURBO_HEADS = warns(f"{_TURBO} supports FA3 for head_dim {_TURBO_HEAD_DIM} only")
_TURBO_SPLIT = warns(f"{_TURBO} cannot split them; {_MINDIE} repeats a head on several devices")
_ATB_SPLIT = warns(f"{_MINDIE} pads the heads, but not FA3's scales: heads get no scale, mostly without an error")

LIMITS: dict[str, Limit] = {
    "dense-fa": Limit(
        "FA3 in attention that is not latent (MLA)",
        _when(lambda selection: selection.fa_layers and not selection.config.get("kv_lora_rank"), "FA3 as FAQuant"),
        {
            "modelslim": warns(
                f"{_MINDIE} and {_TURBO} read it, vLLM-Ascend (0.18 to 0.26rc1) raises NotImplementedError; "
                "target vllm-ascend stores the same calibration as C8"
            )
        },
    ),
    "partly-fa": Limit(
        "some attention layers without FA3 (`--fa-amp`, `--disable-names`)",
        _when(lambda selection: selection.partly_fa, "some layers stay without FA3"),
        {
            "modelslim": warns(f"{_MINDIE} refuses the export, {_TURBO} reads uninitialised memory"),
            "mindie": refuses(f"{_MINDIE} asserts that every layer has its six tensors", _ALL_FA),
            "vllm-ascend": warns("vLLM-Ascend up to 0.18 needs C8 scales in every layer"),
            "vllm": refuses(f"{_VLLM} silently uses 1.0 as the scales there", _ALL_FA),
        },
    ),
    "half-float": Limit("part of q, k, v or of gate, up left float", Selection.half_float, _GROUPS),
    "mixed-groups": Limit(
        "several schemes in q, k, v or in gate, up (`schemes`)",
        Selection.mixed_groups,
        {
            "modelslim": warns(f"{_BOTH} refuse such a group"),
            "mindie": refuses(_one_scheme(_RUNTIME), _ALL_SCHEMES),
            "vllm-ascend": refuses(_one_scheme(_ASCEND), _ALL_SCHEMES),
            "vllm": refuses(_one_scheme(_VLLM), _ALL_SCHEMES),
        },
    ),
    "split-experts": Limit(
        "some experts of a layer float (`--disable-names`)",
        Selection.split_experts,
        {
            "modelslim": warns(_same_experts(_ASCEND)),
            "vllm-ascend": refuses(_same_experts(_ASCEND), _ALL_EXPERTS),
            "vllm": refuses(_same_experts(_VLLM), _ALL_EXPERTS),
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
            "modelslim": warns(f"{_MINDIE} and {_ASCEND} read one scale per row and refuse the export"),
            "mindie": refuses(_per_row(_MINDIE), _NO_MM),
            "vllm-ascend": refuses(_per_row(_ASCEND), _NO_MM),
            "mindie-sd": refuses(_per_row("MindIE-SD 3.0"), _NO_MM),
        },
    ),
    "norms": Limit(
        "AntiOutlier's norm tensors",
        _when(lambda selection: selection.wraps_norms, "AntiOutlier's norms have `.module.` tensors"),
        {"modelslim": warns(f"{_ASCEND} refuses them; target vllm-ascend has none")},
    ),
    "turbo-head-dim": Limit(
        f"FA3 with a head_dim other than {_TURBO_HEAD_DIM}",
        _head_dim(lambda size: size == _TURBO_HEAD_DIM),
        {"modelslim": _TURBO_HEADS, "mindie": _TURBO_HEADS},
    ),
    "turbo-kv-heads": Limit(
        "FA3 with fewer KV heads than devices",
        _sizes(too_few_kv_heads, fa=True),
        {"modelslim": _TURBO_SPLIT, "mindie": _TURBO_SPLIT},
    ),
    "atb-heads": Limit(
        "FA3 with heads that cannot be divided equally over devices",
        _sizes(uneven_heads, fa=True),
        {"modelslim": _ATB_SPLIT, "mindie": _ATB_SPLIT},
    ),
    "uneven": Limit(
        "heads or channels that cannot be divided equally over devices",
        _sizes(uneven_heads, uneven_channels),
        {"vllm-ascend": warns(_uneven(_ASCEND)), "vllm": warns(_uneven(_VLLM))},
    ),
    "uneven-linears": Limit(
        "heads or channels that cannot be divided equally over devices, without FA3",
        _sizes(uneven_heads, uneven_channels, fa=False),
        {"modelslim": warns(f"{_uneven(_ASCEND)}; {_MINDIE} pads them")},
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
            "mindie": refuses(f"{_MINDIE} loads models in float16 and bfloat16 only", _HALF),
            "vllm-ascend": refuses(
                f"{_ASCEND} serves such a model in bfloat16, which needs another form of deq_scale: its answers are noise",
                _HALF,
            ),
        },
    ),
    "kv-names": Limit(
        "FA3 for attention without `k_proj` and `v_proj`",
        _without_kv_names,
        {
            "vllm-ascend": refuses(
                f"{_ASCEND} reads the KV scales under these names", "choose --no-fa for W8A8 only, or another target"
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
            "modelslim": warns(f"{_ASCEND} supports experts as W8A8_DYNAMIC only"),
            "vllm-ascend": refuses(_dynamic_experts(_ASCEND), _DYNAMIC_EXPERTS),
            "vllm": refuses(_dynamic_experts(_VLLM), _DYNAMIC_EXPERTS),
        },
    ),
    "int8-head": Limit(
        "`--no-disable-last-linear`",
        _when(lambda selection: selection.head in selection.quantized, "an int8 head"),
        {"vllm": refuses(f"{_VLLM} has float heads only", "leave disable_last_linear on")},
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
                "MindIE-SD 3.x ignores FAQuant silently, since it expects fp8: it serves the int8 linears, and q, k and v "
                "in float; up to 2.3 they are int8"
            )
        },
    ),
}
