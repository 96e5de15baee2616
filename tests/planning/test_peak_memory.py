"""Tests the peak memory of a plan; benchmarks/memory.py measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fa3cli.planning.plan import plan
from tests.sample_models import prepare, token_ids, write_config, write_lines, write_model

WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "head_dim": 64}
MORE = {"num_key_value_heads": 4, "max_position_embeddings": 2048, "dtype": "float32"}
ATTENTION, MLP = (1024 * (1024 + 2 * 256), 1024 * 2 * 2816)  # weights of q, k, v and of gate, up


def peak(folder: Path, *lengths: int, **options: Any) -> int:
    calib = write_lines(folder.parent / "calib.jsonl", token_ids(*(lengths or (64, 64))))
    return plan(prepare(folder, calib=calib, only_plan=True, **{"recipe": "none"} | options)).peak_memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_config(tmp_path / "model", **WIDE, **MORE)


def test_the_peak_does_not_depend_on_the_number_of_layers(folder: Path, tmp_path: Path) -> None:
    deep = write_config(tmp_path / "deep", **WIDE, **MORE, num_hidden_layers=9)
    assert peak(deep) == peak(folder)


def test_only_weights_cast_to_another_dtype_are_counted(folder: Path, tmp_path: Path) -> None:
    half = write_config(tmp_path / "half", **WIDE, **{**MORE, "dtype": "bfloat16"})
    layer = 4 * (ATTENTION + MLP + 1024 * 1024 + 1024 * 2816)
    assert peak(half, dtype="float32") - peak(folder) > layer
    assert peak(folder) < peak(folder, dtype="bfloat16") < peak(half, dtype="float32")


@pytest.mark.parametrize(
    ("options", "copied"),
    [
        ({"anti_method": "m3"}, ATTENTION + MLP),
        ({"numerics": "reference", "attn_implementation": "sdpa"}, ATTENTION + MLP),
        (
            {"numerics": "reference", "anti_method": "m3", "attn_implementation": "sdpa"},
            2 * (ATTENTION + MLP),
        ),
        ({"anti_method": "m6"}, 3 * MLP),
    ],
)
def test_copied_weights_are_counted(folder: Path, options: dict[str, Any], copied: int) -> None:
    assert peak(folder, **options) > peak(folder) + 4 * copied


def test_waiting_samples_are_counted_by_length(folder: Path) -> None:
    states = 2 * 4 * (1024 + 64)
    one, two = (peak(folder, *lengths) for lengths in ([64], [64, 64]))
    assert 0 <= (two - one) - 64 * states < 64 * 64
    assert peak(folder, 64, 2000) > two + 1900 * states


def test_eager_attention_needs_memory_for_scores_and_masks(folder: Path) -> None:
    more = [peak(folder, 1000, attn_implementation=name) for name in ("eager", "sdpa")]
    assert more[0] - more[1] > 1000 * 1000 * 16 * 3 * 4


def test_memory_for_layer_errors_depends_on_the_first_sample(folder: Path) -> None:
    longer_first, longer_last = peak(folder, 1000, 64), peak(folder, 64, 1000)
    assert 900 * 1024 * 8 < longer_first - longer_last < 900 * 1024 * 32


def test_methods_that_keep_samples_need_memory_for_them(folder: Path) -> None:
    lengths = [512] * 8
    m4, m2, m6 = (peak(folder, *lengths, anti_method=name) for name in ("m4", "m2", "m6"))
    # Inputs of q, k, v and of gate, up; m6's of o and down too.
    assert m2 - m4 > 8 * 512 * 1024 * 4
    assert m6 - m2 > 8 * 512 * (1024 + 2816) * 4


def test_numpy_files_need_memory_for_all_weights(folder: Path) -> None:
    deep = write_config(folder.with_name("deep"), **WIDE, **MORE, num_hidden_layers=40)
    assert peak(deep, save_types=["numpy"]) > 40 * (ATTENTION + MLP)


def test_kernels_of_experts_are_counted_by_the_tokens_of_a_sample(tmp_path: Path) -> None:
    mixture = write_model(tmp_path / "mixture", "mixtral", num_local_experts=4, max_position_embeddings=4096)
    few, more, most = (peak(mixture, length) for length in (20, 40, 2000))
    assert few < 80 << 20 and 2 * 20 * (512 << 10) < more - few < 2 * 20 * (1 << 20)
    assert most > 700 << 20
