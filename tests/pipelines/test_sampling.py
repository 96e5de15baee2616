from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from fa3cli.errors import MissingCapabilityError, StoppedError, UnsupportedError, UsageError
from fa3cli.pipelines import sampling
from fa3cli.pipelines.sampling import Sampling, require_accepted, sample, steps_of
from fa3cli.pipelines.step_recorder import RecordingDone


class Pipeline:
    """Returns what it was called with."""

    def __call__(
        self,
        prompt: str | None = None,
        height: int = 64,
        num_inference_steps: int = 7,
        guidance_scale: float = 3.5,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        return {**locals(), "grad": torch.is_grad_enabled(), "noise": torch.randn(3, generator=generator)}, ()


class FromAnImage:
    def __call__(
        self, image: Any, prompt: str, generator: Any = None, output_type: str = "", return_dict: bool = True
    ) -> None: ...


SAMPLING = Sampling(("a", "b"), steps=2, guidance=0.0, seed=5)


def test_the_pipeline_gets_only_the_given_options() -> None:
    found = sample(Pipeline(), SAMPLING, 1)
    wanted = {
        "prompt": "b", "height": 64, "num_inference_steps": 2, "guidance_scale": 0.0, "output_type": "latent",
        "return_dict": False, "kwargs": {}, "grad": False,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert sample(Pipeline(), SAMPLING, 0, output_type="pt")["output_type"] == "pt"


def test_noise_depends_on_the_seed_and_the_prompt_number() -> None:
    first, second = (sample(Pipeline(), SAMPLING, number)["noise"] for number in (0, 1))
    assert torch.equal(first, sample(Pipeline(), SAMPLING, 0)["noise"])
    assert not torch.equal(first, second)
    assert torch.equal(second, sample(Pipeline(), replace(SAMPLING, seed=6), 0)["noise"])


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("height has to be divisible by 16"), UnsupportedError),
        (NameError("name 'ftfy' is not defined", name="ftfy"), MissingCapabilityError),
        (NameError("name 'torch' is not defined", name="torch"), UnsupportedError),
        (NameError("name 'latent' is not defined", name="latent"), UnsupportedError),
        (RuntimeError("shapes cannot be multiplied"), UnsupportedError),
        (AttributeError("no attribute"), UnsupportedError),
        (ImportError("sentencepiece"), MissingCapabilityError),
    ],
)
def test_errors_of_a_pipeline_are_converted(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "find_spec", lambda name: None if name == "ftfy" else find_spec(name))

    def complain(**_: Any) -> None:
        raise raised

    with pytest.raises(expected, match=f"prompt 1: function .*{raised}"):
        sample(complain, SAMPLING, 0)


@pytest.mark.parametrize(
    "raised",
    [StoppedError("a"), OSError("a"), MemoryError(), RuntimeError("NPU out of memory"), RecordingDone()],
)
def test_errors_not_caused_by_the_pipeline_are_unchanged(raised: Exception) -> None:
    def complain(**_: Any) -> None:
        raise raised

    with pytest.raises(type(raised)) as found:
        sample(complain, SAMPLING, 0)
    assert found.value is raised


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63 - 2}, "--seed"),
        ({"guidance": float("nan")}, "--guidance"),
        ({"guidance": float("inf")}, "--guidance"),
    ],
)
def test_seed_or_guidance_out_of_range_is_a_usage_error(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_accepted(Pipeline, replace(SAMPLING, **wrong))


def test_the_highest_seed_is_accepted() -> None:
    highest = replace(SAMPLING, seed=2**63 - 3)
    require_accepted(Pipeline, highest)
    sample(Pipeline(), highest, 1)


def test_options_that_do_not_fit_the_pipeline_are_refused() -> None:
    require_accepted(Pipeline, SAMPLING)
    with pytest.raises(UnsupportedError, match="Pipeline takes no num_frames") as raised:
        require_accepted(Pipeline, replace(SAMPLING, frames=5))
    assert "num_inference_steps, height, guidance_scale" in raised.value.hint
    with pytest.raises(UnsupportedError, match="FromAnImage also requires image"):
        require_accepted(FromAnImage, Sampling(("a",)))


def test_the_number_of_steps_defaults_to_that_of_the_pipeline() -> None:
    assert steps_of(Pipeline, SAMPLING) == 2
    assert steps_of(Pipeline, replace(SAMPLING, steps=None)) == 7
    with pytest.raises(UnsupportedError, match="no default number of steps"):
        steps_of(FromAnImage, Sampling(("a",)))


def test_options_of_diffusers_pipelines_are_checked() -> None:
    import diffusers

    require_accepted(diffusers.FluxPipeline, replace(SAMPLING, height=8, width=8))
    with pytest.raises(UnsupportedError, match="FluxPipeline takes no num_frames"):
        require_accepted(diffusers.FluxPipeline, replace(SAMPLING, frames=5))
    with pytest.raises(UnsupportedError, match="CogVideoXImageToVideoPipeline also requires image"):
        require_accepted(diffusers.CogVideoXImageToVideoPipeline, SAMPLING)
