"""Compares the warnings about numbers of devices with models of what the engines' loaders do.

Each loader gives a device its part of an attention module, and of down_proj: the heads that the device computes, and the
stored rows of scales that it reads for them. `served` says whether each head gets its own scale on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch

from fa3cli.exports.geometry import read_geometry
from fa3cli.exports.limits import warnings
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.targets.vllm import Vllm
from fa3cli.exports.tensor_parallel import TENSOR_PARALLEL_SIZES, too_few_kv_heads, uneven_channels, uneven_heads
from tests.exports.targets.made import CONFIG, selection

SIZES = (1, 2, 8)
# Heads, KV heads, head_dim, channels of the MLP: Llama 8B, Qwen2.5 7B, Qwen2.5 0.5B, and sizes that nobody divides.
MODELS = {
    "llama-8b": (32, 8, 128, 14336),
    "qwen-7b": (28, 4, 128, 18944),
    "qwen-0.5b": (14, 2, 64, 4864),
    "few-heads": (4, 4, 128, 512),
    "three-kv-heads": (24, 3, 128, 1024),
    "twelve-kv-heads": (24, 12, 128, 1024),
    "odd-channels": (32, 8, 128, 11010),
    "one-kv-head": (8, 1, 128, 1024),
}


@dataclass(frozen=True)
class Model:
    """The sizes of a model, and the tensors of an attention module in the form of a target.

    The scales of head n are n + 1, so that a part of them shows which heads it is for.
    """

    heads: int
    kv_heads: int
    head_dim: int
    channels: int
    stored: dict[str, torch.Tensor]

    def kv_head(self, head: int) -> int:
        """The KV head that a query head attends to."""
        return head // (self.heads // self.kv_heads)


def made(name: str, target: str) -> Model:
    heads, kv_heads, head_dim, channels = MODELS[name]
    scales = {f"fa_{role}.scale": torch.arange(1.0, 1 + count)[:, None] for role, count in roles(heads, kv_heads)}
    offsets = {f"fa_{role}.offset": torch.zeros(count, 1).char() for role, count in roles(heads, kv_heads)}
    form = Vllm("attn_head") if target == "vllm" else TARGETS[target]
    stored = form.attention(scales | offsets, head_dim, {})
    return Model(heads, kv_heads, head_dim, channels, stored)


def roles(heads: int, kv_heads: int) -> list[tuple[str, int]]:
    return [("q", heads), ("k", kv_heads), ("v", kv_heads)]


# ---- what the engines' own linears give a device


class RefusedError(Exception):
    """The engine refuses the number of devices."""


def equal_parts(model: Model, devices: int, rank: int) -> tuple[list[int], list[int]]:
    """vLLM and vLLM-Ascend: the query heads and the KV heads of a device; all sizes must be divisible."""
    more, fewer = max(model.kv_heads, devices), min(model.kv_heads, devices)
    if model.heads % devices or more % fewer or model.channels % devices:
        raise RefusedError
    own, shared = model.heads // devices, max(1, model.kv_heads // devices)
    first = rank * model.kv_heads // devices
    return list(range(rank * own, (rank + 1) * own)), list(range(first, first + shared))


def padded_parts(model: Model, devices: int, rank: int) -> tuple[list[int | None], list[int | None]]:
    """MindIE-LLM's ATB models: a device computes as many heads as any other; those beyond the last are padding."""
    own, kv_own = -(-model.heads // devices), max(1, -(-model.kv_heads // devices))
    kv_rank = rank if model.kv_heads >= devices else rank * model.kv_heads // devices
    return parts_of(model.heads, own, rank), parts_of(model.kv_heads, kv_own, kv_rank)


def parts_of(count: int, own: int, rank: int) -> list[int | None]:
    return [head if head < count else None for head in range(rank * own, (rank + 1) * own)]


# ---- what the loaders read for these heads


def vllm(model: Model, devices: int, rank: int) -> bool:
    """One scale per KV head: q's is the largest of the group. KV heads are divided, or repeated."""
    _, kv_heads = equal_parts(model, devices, rank)
    for role in "qkv":
        scales = model.stored[f"{role}_scale"].flatten() if f"{role}_scale" in model.stored else None
        if scales is None or len(scales) == 1:  # no fp8 attention, or one scale for all heads
            continue
        if role == "q":
            scales = scales.view(model.kv_heads, -1).amax(1)
        if len(kv_heads) * devices == model.kv_heads:
            read = scales[rank * len(kv_heads) :][: len(kv_heads)]
        else:
            read = scales[rank // (devices // model.kv_heads)][None]
        group = model.heads // model.kv_heads
        wanted = [(head + 1) * (group if role == "q" else 1) for head in kv_heads]
        factor = 2 * 127 / 448
        if not torch.allclose(read, factor * torch.tensor(wanted, dtype=read.dtype)):
            return False
    return True


def vllm_ascend(model: Model, devices: int, rank: int) -> bool:
    """C8: a row of head_dim scales per KV head, from the first KV head of the device on."""
    _, kv_heads = equal_parts(model, devices, rank)
    first = rank * model.kv_heads // devices
    for linear in ("k_proj", "v_proj"):
        rows = model.stored[f"{linear}.kv_cache_scale"].view(-1, model.head_dim)
        read = rows[first : first + len(kv_heads)]
        wanted = torch.tensor(kv_heads)[:, None].expand(-1, model.head_dim) + 1.0
        if read.shape != wanted.shape or not torch.equal(read, wanted):
            return False
    return True


def atb(model: Model, devices: int, rank: int) -> bool:
    """MindIE-LLM: the rows of a device, rounded down, while its heads are rounded up."""
    heads, kv_heads = padded_parts(model, devices, rank)
    rows, kv_rows, kv_rank = model.heads // devices, model.kv_heads // devices, rank
    if not kv_rows:
        if devices % model.kv_heads:
            raise RefusedError
        kv_rows, kv_rank = 1, rank // (devices // model.kv_heads)
    read = {"q": (rows, rank, heads), "k": (kv_rows, kv_rank, kv_heads), "v": (kv_rows, kv_rank, kv_heads)}
    return all(same(model.stored[f"fa_{role}.scale"], *part) for role, part in read.items())


def same(scales: torch.Tensor, rows: int, rank: int, heads: Sequence[int | None]) -> bool:
    """Tell whether these rows are the scales of all heads that are no padding."""
    read = scales[rank * rows : (rank + 1) * rows].flatten().tolist()
    return len(read) == len(heads) and all(head is None or read[at] == head + 1 for at, head in enumerate(heads))


def turbo(model: Model, devices: int, rank: int) -> bool:
    """mindie-turbo: rows divided by the devices, into parameters for vLLM's heads, 128 columns each."""
    heads, kv_heads = equal_parts(model, devices, rank)
    for role, own in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        stored = model.stored[f"fa_{role}.scale"]
        rows = len(stored) // devices
        if rows != len(own):  # the parameter has another shape
            raise RefusedError
        if not same(stored, rows, rank, own) or model.head_dim != 128:
            return False
    return True


def served(load: Callable[[Model, int, int], bool], model: Model, devices: int) -> bool:
    try:
        return all(load(model, devices, rank) for rank in range(devices))
    except RefusedError:
        return False


# ---- what fa3 says


def warned(target: str, model: Model, engine: str, *, fa: bool = True) -> list[str]:
    """Return the warnings of a target about an engine and the sizes of the model."""
    config = CONFIG | {
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.channels,
    }
    found = warnings(target, selection(config=config, fa_layers=2 if fa else 0))
    return [
        text
        for text in found
        if engine in text.split("; ", 1)[-1] and ("tensor parallel" in text or "head_dim" in text)
    ]


def names(found: list[str], devices: int) -> bool:
    """Tell whether a warning is about this number of devices; one about head_dim is about every number."""
    about = [text.split(";")[0].partition("tensor parallel ") for text in found]
    return any(not marked or str(devices) in sizes.split(", ") for _, marked, sizes in about)


@pytest.mark.parametrize("devices", SIZES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("target", "engine", "load"),
    [
        ("vllm", "vLLM 0", vllm),
        ("vllm-ascend", "vLLM-Ascend 0", vllm_ascend),
        ("mindie", "MindIE-LLM 3.0 pads", atb),
        ("modelslim", "MindIE-LLM 3.0 pads", atb),
        ("mindie", "mindie-turbo 2.0rc1 ", turbo),
        ("modelslim", "mindie-turbo 2.0rc1 ", turbo),
    ],
)
def test_a_warning_names_the_sizes_that_a_loader_cannot_serve(
    target: str, engine: str, load: Callable, name: str, devices: int
) -> None:
    model = made(name, target)
    found = warned(target, model, engine)
    if load is turbo:
        # vLLM, which mindie-turbo extends, refuses the sizes that the warnings about heads and channels name.
        found += warned("vllm", model, "vLLM 0")
    assert names(found, devices) == (not served(load, model, devices))


@pytest.mark.parametrize("devices", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_without_fa3_modelslim_warns_of_sizes_that_vllm_ascend_refuses(name: str, devices: int) -> None:
    model = made(name, "modelslim")

    def linears(model: Model, devices: int, rank: int) -> bool:
        return bool(equal_parts(model, devices, rank))

    found = warned("modelslim", model, "vLLM-Ascend 0", fa=False)
    assert names(found, devices) == (not served(linears, model, devices))


@pytest.mark.parametrize("target", ["vllm", "vllm-ascend", "mindie", "modelslim"])
def test_one_device_is_never_warned_of(target: str) -> None:
    assert 1 not in TENSOR_PARALLEL_SIZES
    for name in MODELS:
        assert served({"vllm": vllm, "vllm-ascend": vllm_ascend}.get(target, atb), made(name, target), 1)


def test_every_loader_fails_for_some_model() -> None:
    """Else the comparison above would show nothing."""
    for target, load in (("vllm", vllm), ("vllm-ascend", vllm_ascend), ("mindie", atb), ("mindie", turbo)):
        found = {served(load, made(name, target), devices) for name in MODELS for devices in SIZES}
        assert found == {True, False}


def test_more_devices_than_heads_leave_no_scales_in_mindie() -> None:
    model = made("few-heads", "mindie")
    assert len(model.stored["fa_q.scale"][: model.heads // 8]) == 0
    [warning] = warned("mindie", model, "MindIE-LLM 3.0 pads")
    assert warning.startswith("4 attention heads at tensor parallel 8; ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"num_attention_heads": 28}, ["28 attention heads at tensor parallel 8"]),
        ({"num_key_value_heads": 12}, ["12 KV heads at tensor parallel 8"]),
        ({"num_key_value_heads": 3}, ["3 KV heads at tensor parallel 2, 4, 8"]),
        ({"num_key_value_heads": 2}, []),
        ({"intermediate_size": 11010}, ["11010 channels of the MLP at tensor parallel 4, 8"]),
        ({"num_attention_heads": None, "num_key_value_heads": None, "intermediate_size": None}, []),
    ],
)
def test_sizes_that_cannot_be_divided_are_named(changes: dict[str, int | None], expected: list[str]) -> None:
    geometry = read_geometry(CONFIG | changes)
    assert [*uneven_heads(geometry), *uneven_channels(geometry)] == expected


def test_sizes_beyond_the_kv_heads_are_named() -> None:
    geometry = read_geometry(CONFIG | {"num_key_value_heads": 2})
    assert list(too_few_kv_heads(geometry)) == ["2 KV heads at tensor parallel 4, 8"]
