from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration.diffusion.step_recorder import StepRecorder, require_timesteps
from fa3cli.calibration.tree_file import read_tree
from fa3cli.errors import UnsupportedError


class Transformer(nn.Module):
    def forward(self, states: Tensor, timestep: Any, extra: Any = None, **options: Any) -> Tensor:
        return states


def files(folder: Path, *steps: int) -> dict[int, Path]:
    return {step: folder / f"{step}.safetensors" for step in steps}


def test_a_step_lasts_as_long_as_its_timestep(tmp_path) -> None:
    model, states, begun = Transformer(), torch.arange(6.0), []
    with StepRecorder({"t": model}, files(tmp_path, 0, 2), lambda: begun.append(1)) as recorder:
        for timestep in (9.0, 5.0, 1.0):
            for _ in range(2):
                model(states, torch.tensor(timestep).expand(1), extra={"a": [None, 2]}, return_dict=False)
                states.add_(1)  # in place, as a pipeline may
    assert recorder.steps == len(begun) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "2.safetensors"]
    found = read_tree(tmp_path / "2.safetensors")
    assert found["component"] == "t"
    assert [call["timestep"] for call in found["calls"]] == [1.0, 1.0]
    for number, call in enumerate(found["calls"]):
        held = call["arguments"]
        assert torch.equal(held.pop("states"), torch.arange(6.0) + 4 + number)
        assert torch.equal(held.pop("timestep"), torch.tensor([1.0]))
        assert held == {"extra": {"a": [None, 2]}, "return_dict": False}
    assert not model._forward_pre_hooks


def test_steps_go_to_the_transformer_that_takes_them(tmp_path) -> None:
    first, second = Transformer(), Transformer()
    with StepRecorder({"a": first, "b": second}, files(tmp_path, 0, 1)):
        first(torch.ones(1), 2.0)
        second(torch.ones(1), timestep=1)
    assert [read_tree(file)["component"] for file in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_a_step_of_two_transformers(tmp_path) -> None:
    first, second = Transformer(), Transformer()
    with (
        pytest.raises(UnsupportedError, match="a and b are both called at timestep 2"),
        StepRecorder({"a": first, "b": second}, files(tmp_path, 0)),
    ):
        first(torch.ones(1), 2.0)
        second(torch.ones(1), 2.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [object(), torch.ones(2, dtype=torch.complex64)])
def test_an_argument_that_cannot_be_kept(tmp_path, value: Any) -> None:
    model = Transformer()
    with (
        pytest.raises(UnsupportedError, match=r"^t: .*calls\.0\.arguments\.extra\.1: .* can't be kept"),
        StepRecorder({"t": model}, files(tmp_path, 0)),
    ):
        model(torch.ones(1), 1.0, extra=[0, value])
    assert not model._forward_pre_hooks


def test_an_interrupted_step_is_not_written(tmp_path) -> None:
    model = Transformer()
    with pytest.raises(KeyboardInterrupt), StepRecorder({"t": model}, files(tmp_path, 0, 1)):
        model(torch.ones(1), 2.0)
        model(torch.ones(1), 1.0)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["0.safetensors"]


def test_a_transformer_without_a_timestep() -> None:
    require_timesteps({"t": Transformer()})
    with pytest.raises(UnsupportedError, match="t: Linear takes no timestep"):
        require_timesteps({"t": nn.Linear(2, 2)})
