import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.pipelines import recording
from fa3cli.pipelines.opening import OpenedPipeline, open_pipeline
from fa3cli.pipelines.recording import read_records, record, recorded_steps
from fa3cli.pipelines.sampling import Sampling, sample
from fa3cli.runs.progress import Progress
from tests.pipelines.whole_pipelines import plain_pipeline, sampling_of

CPU = torch.device("cpu")


def calls_of(pipeline: Any, names: list[str], sampling: Sampling) -> dict[str, list[dict[str, Any]]]:
    """The arguments of the transformers of a plain pipeline, in the order of prompts."""
    calls: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name in names:
        model = getattr(pipeline, name)
        signature = inspect.signature(model.forward)

        def keep(_: Any, args: Any, kwargs: Any, name: str = name, signature: Any = signature) -> None:
            arguments = signature.bind(*args, **kwargs).arguments
            kept = {key: value.clone() if isinstance(value, Tensor) else value for key, value in arguments.items()}
            calls[name].append(kept)

        model.register_forward_pre_hook(keep, with_kwargs=True)
    for number in range(len(sampling.prompts)):
        sample(pipeline, sampling, number)
    return calls


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        if isinstance(value, Tensor):
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
        else:
            assert found[name] == value


@pytest.mark.parametrize(("name", "patched"), [("flux", True), ("hunyuan", False), ("wan", True)])
def test_records_contain_the_transformer_arguments_of_a_plain_pipeline(
    made: Callable[..., Path], tmp_path: Path, name: str, patched: bool
) -> None:
    opened, sampling = open_pipeline(made(name, patched), fa=patched), sampling_of(name)
    record(opened, sampling, tmp_path)
    calls = calls_of(plain_pipeline(made(name)), list(opened.transformers), sampling)
    records = read_records(tmp_path)
    assert list(records) == list(calls)
    for component, samples in records.items():
        assert len(samples) == len(calls[component]) > 1
        for found, wanted in zip(samples, calls[component]):
            assert_same(found.inputs(CPU), wanted)
            assert found.timestep == wanted["timestep"][0]
            assert (found.tokens, found.mask) == (0, None)


def test_guidance_records_two_calls_per_step(made: Callable[..., Path], tmp_path: Path) -> None:
    record(open_pipeline(made("wan"), fa=False), sampling_of("wan", max_records=1), tmp_path)
    [first, second] = read_records(tmp_path)["transformer"]
    assert first.file == second.file == tmp_path / "record-00000-00000.safetensors"
    assert (first.origin, second.origin) == ("prompt 1, step 1, call 1", "prompt 1, step 1, call 2")
    assert not torch.equal(*(record.inputs(CPU)["encoder_hidden_states"] for record in (first, second)))


@pytest.fixture
def opened(patched_flux: Path) -> OpenedPipeline:
    return open_pipeline(patched_flux, fa=True)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prompts that were sampled."""
    numbers: list[int] = []

    def keep(pipeline: Any, sampling: Sampling, number: int) -> Any:
        numbers.append(number)
        return sample(pipeline, sampling, number)

    monkeypatch.setattr(recording, "sample", keep)
    return numbers


@pytest.mark.parametrize(("count", "prompts"), [(1, [0]), (3, [0, 1]), (6, [0, 1]), (100, [0, 1])])
def test_the_number_of_records_is_limited(
    opened: OpenedPipeline, sampled: list[int], tmp_path: Path, count: int, prompts: list[int]
) -> None:
    record(opened, sampling_of("flux", max_records=count), tmp_path)
    assert len(list(tmp_path.iterdir())) == len(read_records(tmp_path)["transformer"]) == min(count, 8)
    assert sampled == prompts


def test_a_second_run_samples_only_prompts_without_records(
    opened: OpenedPipeline, sampled: list[int], tmp_path: Path
) -> None:
    reports: list[Progress] = []
    record(opened, sampling_of("flux"), tmp_path, reports.append)
    assert (reports[-1].layer, reports[-1].layers, reports[-1].sample, reports[-1].samples) == (2, 2, 8, 8)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "record-00001-00002.safetensors").unlink()
    record(opened, sampling_of("flux"), tmp_path, reports.append)
    assert sampled == [0, 1, 1]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (reports[-1].layer, reports[-1].sample) == (2, 8)
    record(opened, sampling_of("flux"), tmp_path)
    assert sampled == [0, 1, 1]


def test_an_option_that_the_pipeline_lacks_is_refused(opened: OpenedPipeline, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="FluxPipeline takes no num_frames") as raised:
        record(opened, sampling_of("flux", frames=5), tmp_path / "records")
    assert raised.value.exit_code == 3
    assert not (tmp_path / "records").exists()


def test_an_unexpected_number_of_steps_is_refused(
    opened: OpenedPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recording, "sample", lambda pipeline, sampling, n: sample(pipeline, replace(sampling, steps=3), n)
    )
    with pytest.raises(UnsupportedError, match="FlowMatchEulerDiscreteScheduler makes 3 steps where 4 were expected"):
        record(opened, sampling_of("flux"), tmp_path)


def test_a_broken_record_is_a_conflict(tmp_path: Path) -> None:
    assert read_records(tmp_path) == {}
    (tmp_path / "record-00000-00000.safetensors.part0").write_bytes(b"")
    assert read_records(tmp_path) == {}
    (tmp_path / "record-00000-00000.safetensors").write_bytes(b"")
    with pytest.raises(ConflictError, match="record-00000-00000"):
        read_records(tmp_path)


SIZES = st.integers(1, 40)
COUNTS = st.integers(1, 2000)


def spread(counted: Counter, size: int) -> int:
    numbers = [counted[index] for index in range(size)]
    return max(numbers) - min(numbers)


@given(prompts=SIZES, steps=SIZES)
def test_without_a_count_all_steps_are_recorded(prompts: int, steps: int) -> None:
    everything = {(prompt, step) for prompt in range(prompts) for step in range(steps)}
    assert recorded_steps(prompts, steps, None) == everything == recorded_steps(prompts, steps, prompts * steps)


@given(prompts=SIZES, steps=SIZES, count=COUNTS)
def test_recorded_steps_include_the_first_and_are_balanced_over_prompts(prompts: int, steps: int, count: int) -> None:
    found = recorded_steps(prompts, steps, count)
    assert len(found) == min(count, prompts * steps)
    assert (0, 0) in found
    assert all(0 <= prompt < prompts and 0 <= step < steps for prompt, step in found)
    assert spread(Counter(prompt for prompt, _ in found), prompts) <= 1


@given(prompts=SIZES, steps=SIZES, count=COUNTS)
def test_recorded_steps_cover_all_steps_or_are_evenly_spaced(prompts: int, steps: int, count: int) -> None:
    found = Counter(step for _, step in recorded_steps(prompts, steps, count))
    if count >= steps:
        assert set(found) == set(range(steps))
        assert spread(found, steps) <= 1
    elif count >= 2:
        at = sorted(found)
        assert (at[0], at[-1], len(at)) == (0, steps - 1, count)
        gaps = [after - before for before, after in pairwise(at)]
        assert max(gaps) - min(gaps) <= 1
