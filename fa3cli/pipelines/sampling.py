"""Samples a pipeline once per prompt, with the arguments that most pipelines share."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from fa3cli.errors import Fa3Error, MissingCapabilityError, UnsupportedError, UsageError, brief
from fa3cli.models.out_of_memory import is_out_of_memory
from fa3cli.pipelines.step_recorder import RecordingDone

__all__ = ["Sampling", "require_accepted", "require_valid", "sample", "steps_of"]

# Field of Sampling -> the argument of a pipeline's call.
_ARGUMENTS = {
    "steps": "num_inference_steps",
    "height": "height",
    "width": "width",
    "frames": "num_frames",
    "guidance": "guidance_scale",
}


@dataclass(frozen=True)
class Sampling:
    """How the prompts are sampled; for None the pipeline's default applies. At most `max_records` steps are recorded."""

    prompts: tuple[str, ...]
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    guidance: float | None = None
    seed: int = 0
    max_records: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The given arguments of the pipeline, without the prompt."""
        given = {argument: getattr(self, field) for field, argument in _ARGUMENTS.items()}
        return {argument: value for argument, value in given.items() if value is not None}


@torch.no_grad()
def sample(pipeline: Any, sampling: Sampling, number: int, *, output_type: str = "latent") -> Any:
    """Return the pipeline's output for prompt `number`: latents, or images or frames for another `output_type`.

    The noise has the seed `seed + number` and is drawn on the CPU, so that it is the same for every device. Raises
    MissingCapabilityError if a package is missing, UnsupportedError for other failures of the pipeline. Errors of the
    operating system and out-of-memory errors pass through.
    """
    generator = torch.Generator("cpu").manual_seed(sampling.seed + number)
    origin = f"prompt {number + 1}: {type(pipeline).__name__}"
    try:
        return pipeline(
            prompt=sampling.prompts[number],
            **sampling.arguments,
            generator=generator,
            output_type=output_type,
            return_dict=False,
        )[0]
    # RecordingDone is no failure: it ends a sampling whose steps are all recorded.
    except (Fa3Error, OSError, RecordingDone):
        raise
    except Exception as error:  # the pipeline's own code may raise any error
        # The caller converts this error to one with a hint.
        if is_out_of_memory(error):
            raise
        if _lacks_package(error):
            raise MissingCapabilityError(f"{origin} lacks a package ({brief(error)})") from error
        raise UnsupportedError(f"{origin} cannot be sampled with these settings ({brief(error)})") from error


def require_valid(sampling: Sampling) -> None:
    """Raise UsageError if torch does not accept the seed of a prompt, or if the guidance is not finite."""
    seed, highest = sampling.seed, 2**63 - 1 - len(sampling.prompts)
    if not 0 <= seed <= highest:
        raise UsageError(f"seed (--seed) {seed}: expected 0 to {highest}")
    if sampling.guidance is not None and not math.isfinite(sampling.guidance):
        raise UsageError(f"guidance (--guidance) {sampling.guidance}: expected a finite number")


def require_accepted(pipeline_class: type, sampling: Sampling) -> None:
    """Raise UnsupportedError if the pipeline lacks an argument that is given, or requires another one.

    Raises UsageError for values that no pipeline accepts.
    """
    require_valid(sampling)
    parameters = _parameters(pipeline_class)
    given = ["prompt", *sampling.arguments, "generator", "output_type", "return_dict"]
    for name in given:
        if name not in parameters:
            raise UnsupportedError(
                f"{pipeline_class.__name__} takes no {name}",
                hint=f"supported arguments: {', '.join(name for name in _ARGUMENTS.values() if name in parameters)}",
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise UnsupportedError(
                f"{pipeline_class.__name__} also requires {name}",
                hint="fa3 samples pipelines that need nothing but a prompt",
            )


def steps_of(pipeline_class: type, sampling: Sampling) -> int:
    """Return the number of steps per prompt; raises UnsupportedError if neither `sampling` nor the pipeline has one."""
    parameter = _parameters(pipeline_class).get("num_inference_steps")
    steps = sampling.steps or getattr(parameter, "default", None)
    if not isinstance(steps, int):
        raise UnsupportedError(f"{pipeline_class.__name__} has no default number of steps", hint="give --steps")
    return steps


def _lacks_package(error: Exception) -> bool:
    """Tell whether a package is missing; some pipelines raise NameError, since diffusers imports it only if it exists."""
    from diffusers.utils.import_utils import BACKENDS_MAPPING

    # The name of the missing module is the name of the package, as in `ftfy.fix_text`.
    if isinstance(error, NameError):
        name = str(error.name)
        return name in BACKENDS_MAPPING and find_spec(name) is None
    return isinstance(error, ImportError)


def _parameters(pipeline_class: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a pipeline's call by name, without *args and **kwargs."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = dict(inspect.signature(pipeline_class.__call__).parameters)
    parameters.pop("self", None)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in several}
