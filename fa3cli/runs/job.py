"""Defines a job: the modules of a model that are quantized, the settings, the samples and the destination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

from torch import Tensor

from fa3cli.calibration.ranks import Ranks
from fa3cli.calibration.smoothing import require_groups
from fa3cli.errors import UnsupportedError
from fa3cli.exports.folder import RunFolder
from fa3cli.exports.targets import targets_named
from fa3cli.exports.targets.target import Target
from fa3cli.files.hashing import sha256_of
from fa3cli.models.layered_model import LayeredModel
from fa3cli.quantization.fallback import matching, whole_groups
from fa3cli.quantization.float_only import LATENT_ATTENTION, never_quantized
from fa3cli.quantization.schemes import Scheme, schemes_of
from fa3cli.quantization.settings import QuantSettings, ResolvedSettings
from fa3cli.runs.progress import Progress
from fa3cli.samples.sample import AnySample

__all__ = ["Job", "make_job"]

AnyJob = TypeVar("AnyJob", bound="Job")


@dataclass(frozen=True)
class Job:
    """A model, the settings, the modules they select, samples and destination."""

    model: LayeredModel
    settings: QuantSettings
    origins: Mapping[str, str]
    """Where each setting's value came from."""
    samples: Sequence[AnySample]
    schemes: Mapping[str, Scheme]
    """The scheme of each linear that is quantized, before disable_level."""
    attentions: frozenset[str]
    """Names of the attention modules that get FA3 parameters, before fa_amp."""
    disabled: Mapping[str, str]
    """Why each of the other linears and attention modules stays float."""
    replayed: bool = False
    """Whether states between two layers are kept on the disk, since samples are too large for the memory."""
    smoothing: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """AntiOutlier's scales by layer, if they were found before."""
    recipe: str = "none"
    folder: Path | None = None
    output: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The content of config.json before the patch."""
    targets: tuple[Target, ...] = targets_named(())
    """If empty, the run writes its parameters instead of exports."""
    save_types: tuple[str, ...] = ("safe_tensor",)
    part_bytes: int | None = None

    @cached_property
    def quantized(self) -> frozenset[str]:
        """Names of the linears that are quantized, before disable_level."""
        return frozenset(self.schemes)

    @cached_property
    def static(self) -> frozenset[str]:
        """Names of the linears whose inputs need a range, before disable_level."""
        return frozenset(name for name, scheme in self.schemes.items() if not scheme.dynamic)

    @cached_property
    def dynamic(self) -> frozenset[str]:
        """Names of the linears whose inputs are quantized at run time, before disable_level."""
        return self.quantized - self.static

    @property
    def source(self) -> Path:
        """The weights folder; ValueError for a model that a script has loaded without one."""
        if self.folder is None:
            raise ValueError("the model has no weights folder")
        return self.folder

    @property
    def destination(self) -> Path:
        """The folder of the result; ValueError if the job has none."""
        if self.output is None:
            raise ValueError("the job has no output")
        return self.output

    @property
    def quantized_head(self) -> list[str]:
        """The name of the linear after the decoder layers, in a list; empty if it is not quantized."""
        return [self.model.head] if self.model.head in self.quantized else []

    @property
    def places(self) -> dict[str | None, Path]:
        """Each target's folder within the output: subfolders if there are several targets. The key None is a calibration."""
        names = [target.name for target in self.targets]
        return {name: Path(name) for name in names} if len(names) > 1 else {(*names, None)[0]: Path()}

    def with_samples(
        self, folder: RunFolder, ranks: Ranks, report: Callable[[Progress], None], stop: Callable[[], bool]
    ) -> Job:
        """Return the job with its samples; a subclass that has to make them keeps its files in the run's folder."""
        return self

    def sample_identity(self) -> dict[str, Any]:
        """Return all inputs of the samples, as json; the identity of a run contains them."""
        return {"calibration": sha256_of(*(part for sample in self.samples for part in _parts(sample)))}

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages, besides torch and transformers, whose versions a run's result depends on."""
        return ()

    @property
    def sample_count(self) -> int:
        """Number of calibration samples."""
        return len(self.samples)

    @property
    def token_count(self) -> int:
        """Number of tokens in all calibration samples."""
        return sum(sample.tokens for sample in self.samples)


@overload
def make_job(
    model: LayeredModel, resolved: ResolvedSettings, samples: Sequence[AnySample], *, kind: type[AnyJob], **where: Any
) -> AnyJob: ...
@overload
def make_job(model: LayeredModel, resolved: ResolvedSettings, samples: Sequence[AnySample], **where: Any) -> Job: ...
def make_job(
    model: LayeredModel,
    resolved: ResolvedSettings,
    samples: Sequence[AnySample],
    *,
    kind: type[Job] = Job,
    **where: Any,
) -> Job:
    """Choose the modules that are quantized; raises InvalidInputError for a name or glob that matches no module."""
    settings = resolved.values
    linears = list(model.linears())
    attentions = [name for layer in model.layers for name in model.attentions(layer)]
    parts = [*model.layers, *([model.head] if model.head else [])]
    # Only layers and the head are visited: linears elsewhere stay float, even if they are named.
    candidates = [name for part in parts for name in model.linears(part)]
    disabled = dict.fromkeys(matching([*linears, *attentions], settings.disable_names), "disable_names")
    latent = [name for name in attentions if f"{name}.kv_b_proj" in candidates] if settings.fa else []
    if latent and resolved.origins["fa"] == "option":
        raise UnsupportedError(
            f"--fa: {latent[0]} is latent attention (MLA), whose q, k and v fa3 does not quantize yet", hint="omit --fa"
        )
    disabled |= dict.fromkeys(latent, LATENT_ATTENTION)
    # Routers of transformers 5, GPT-2's Conv1D and others.
    others = [name for layer in model.layers for name in model.matrices(layer) if name not in candidates]
    disabled = dict.fromkeys(others, "not of torch's class Linear") | never_quantized([*candidates, *others]) | disabled
    if settings.disable_last_linear:
        disabled.setdefault(linears[-1], "disable_last_linear")
    elif model.head in model.tied_modules:
        raise UnsupportedError(
            f"disable_last_linear=False: {model.head} shares its weight with the embedding, and embeddings stay float",
            hint='store it on its own ("tie_word_embeddings": false), or leave the last linear float',
        )
    if settings.anti_method != "none":
        require_groups(model, settings.anti_method)
    if not settings.reference:
        # Engines fuse these linears and refuse a half-float group; the reference splits groups.
        whole = whole_groups(disabled.keys() & set(linears), linears)
        disabled |= dict.fromkeys(whole - disabled.keys(), "fused with one that is disabled")
    if settings.include_names:
        included = matching(candidates, settings.include_names, "include_names")
        disabled = dict.fromkeys((name for name in candidates if name not in included), "include_names") | disabled
    schemes = schemes_of([name for name in candidates if name not in disabled], settings.scheme, settings.schemes)
    return kind(
        model=model,
        settings=settings,
        origins=resolved.origins,
        samples=samples,
        schemes=schemes,
        attentions=frozenset(attentions if settings.fa else ()) - disabled.keys(),
        disabled=disabled,
        **where,
    )


def _parts(sample: AnySample) -> Iterator[str]:
    """Yield a sample's arguments as text."""
    for name, value in sorted(sample.arguments.items()):
        yield f"{name}={value.tolist() if isinstance(value, Tensor) else value}"
