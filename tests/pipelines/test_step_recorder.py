import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.errors import UnsupportedError
from fa3cli.models.tree_file import read_tree
from fa3cli.pipelines.step_recorder import StepRecorder, require_timesteps


class Transformer(nn.Module):
    def forward(self, states: Tensor, timestep: Any, extra: Any = None, **options: Any) -> Tensor:
        return states


def files(folder: Path, *steps: int) -> dict[int, Path]:
    return {step: folder / f"{step}.safetensors" for step in steps}


class Scheduler:
    """A scheduler with a given number of steps."""

    def __init__(self, steps: int) -> None:
        self.timesteps = [1000 - step for step in range(steps)]

    def step(self, output: int, sample: int = 0) -> int:
        return output + sample


def test_a_step_ends_when_the_scheduler_is_called(tmp_path) -> None:
    model, states, begun, scheduler = Transformer(), torch.arange(6.0), [], Scheduler(3)
    with StepRecorder({"t": model}, scheduler, 3, files(tmp_path, 0, 2), lambda: begun.append(1)):
        assert "sample" in inspect.signature(scheduler.step).parameters  # pipelines check this
        for timestep in (5.0, 1.0, 1.0):  # two steps may have the same rounded timestep
            for _ in range(2):
                model(states, torch.tensor(timestep).expand(1), extra={"a": [None, 2]}, return_dict=False)
                states.add_(1)  # in place, as a pipeline may
            assert scheduler.step(1, sample=2) == 3
        raise AssertionError("the sampling goes on")
    assert len(begun) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "2.safetensors"]
    found = read_tree(tmp_path / "2.safetensors")
    assert found["component"] == "t"
    assert [call["timestep"] for call in found["calls"]] == [1.0, 1.0]
    for number, call in enumerate(found["calls"]):
        held = call["arguments"]
        assert torch.equal(held.pop("states"), torch.arange(6.0) + 4 + number)
        assert torch.equal(held.pop("timestep"), torch.tensor([1.0]))
        assert held == {"extra": {"a": [None, 2]}, "return_dict": False}
    assert not model._forward_pre_hooks and "step" not in vars(scheduler)


def test_sampling_ends_after_the_last_requested_step(tmp_path) -> None:
    model, scheduler, ran = Transformer(), Scheduler(5), []
    with StepRecorder({"t": model}, scheduler, 5, files(tmp_path, 0, 1)):
        for step in range(5):
            ran.append(step)
            model(torch.ones(1), 1.0)
            scheduler.step(0)
    assert ran == [0, 1] and len(list(tmp_path.iterdir())) == 2


def test_a_scheduler_with_extra_steps_is_refused(tmp_path) -> None:
    scheduler = Scheduler(5)
    with (
        pytest.raises(UnsupportedError, match="Scheduler makes 5 steps where 3 were expected"),
        StepRecorder({"t": Transformer()}, scheduler, 3, files(tmp_path, 0, 1)),
    ):
        scheduler.step(0)
    assert not list(tmp_path.iterdir())


def test_steps_are_assigned_to_the_transformer_that_runs(tmp_path) -> None:
    first, second, scheduler = Transformer(), Transformer(), Scheduler(2)
    with StepRecorder({"a": first, "b": second}, scheduler, 2, files(tmp_path, 0, 1)):
        first(torch.ones(1), 2.0)
        scheduler.step(0)
        second(torch.ones(1), timestep=1)
        scheduler.step(0)
    assert [read_tree(file)["component"] for file in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_a_step_with_two_transformers_is_refused(tmp_path) -> None:
    first, second = Transformer(), Transformer()
    with (
        pytest.raises(UnsupportedError, match="a and b are both called in step 1"),
        StepRecorder({"a": first, "b": second}, Scheduler(1), 1, files(tmp_path, 0)),
    ):
        first(torch.ones(1), 2.0)
        second(torch.ones(1), 2.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [object(), torch.ones(2, dtype=torch.complex64)])
def test_an_argument_that_cannot_be_stored_is_refused(tmp_path, value: Any) -> None:
    model, scheduler = Transformer(), Scheduler(1)
    with (
        pytest.raises(UnsupportedError, match=r"^t: .*calls\.0\.arguments\.extra\.1: .* cannot be written"),
        StepRecorder({"t": model}, scheduler, 1, files(tmp_path, 0)),
    ):
        model(torch.ones(1), 1.0, extra=[0, value])
        scheduler.step(0)
    assert not model._forward_pre_hooks


def test_an_interrupted_step_is_not_written(tmp_path) -> None:
    model, scheduler = Transformer(), Scheduler(2)
    with pytest.raises(KeyboardInterrupt), StepRecorder({"t": model}, scheduler, 2, files(tmp_path, 0, 1)):
        model(torch.ones(1), 2.0)
        scheduler.step(0)
        model(torch.ones(1), 1.0)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["0.safetensors"]


def test_a_transformer_without_a_timestep_is_refused() -> None:
    require_timesteps({"t": Transformer()})
    with pytest.raises(UnsupportedError, match="t: Linear takes no timestep"):
        require_timesteps({"t": nn.Linear(2, 2)})
