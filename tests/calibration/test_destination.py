"""What can be written for which model, before any work."""

from __future__ import annotations

import pytest

from fa3cli.calibration.destination import where_to_save
from fa3cli.errors import UnsupportedError, UsageError


def test_a_pipelines_transformer_goes_to_mindie_sd() -> None:
    destination = where_to_save((), (), None, pipelines=True)
    assert [target.name for target in destination.pop("targets")] == ["mindie-sd"]
    assert destination == {"save_types": ("safe_tensor",), "part_bytes": None}
    assert [target.name for target in where_to_save((), (), 1.5)["targets"]] == ["modelslim"]


@pytest.mark.parametrize(
    ("targets", "save_types", "part_file_size", "message", "hint"),
    [
        (["vllm"], (), None, "vllm: takes language models", "choose mindie-sd"),
        (["mindie-sd"], ["numpy"], None, "save_type numpy", "leave save_type at safe_tensor"),
        ((), (), 4.0, "opens one weight file", "leave part_file_size away"),
    ],
)
def test_what_mindie_sd_cannot_have_is_refused(
    targets: list[str], save_types: list[str], part_file_size: float | None, message: str, hint: str
) -> None:
    with pytest.raises(UnsupportedError, match=message) as raised:
        where_to_save(targets, save_types, part_file_size, pipelines=True)
    assert raised.value.hint == hint


def test_a_language_model_does_not_go_there() -> None:
    with pytest.raises(UnsupportedError, match="not language models"):
        where_to_save(["mindie-sd"], (), None)


def test_a_size_that_is_none_is_a_usage_error_for_any_target() -> None:
    with pytest.raises(UsageError, match="part_file_size"):
        where_to_save((), (), 0, pipelines=True)
