"""Checks before any work that the job's targets can load its export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.smoothing import wrapped_norms
from fa3cli.errors import UnsupportedError
from fa3cli.exports.limits import refusals, warnings
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Target
from fa3cli.runs.job import Job

__all__ = ["require_loadable", "target_warnings"]


def require_loadable(job: Job, found: Sequence[LayerParameters] | None = None) -> None:
    """Raise UnsupportedError with all reasons why an engine cannot load the job's export.

    `found` are the parameters, if they are known already.
    """
    refused = [
        (f"target {target.name}: {reason}", hint)
        for target, selected in _selections(job, found)
        for reason, hint in refusals(target.name, selected)
    ]
    if refused:
        reasons, hints = zip(*refused)
        raise UnsupportedError("; ".join(reasons), hint="; ".join(dict.fromkeys(hints)))


def target_warnings(job: Job, found: Sequence[LayerParameters] | None = None) -> Iterator[str]:
    """Yield each target's warnings about engines and the numbers of devices that they can use."""
    for target, selected in _selections(job, found):
        for warning in warnings(target.name, selected):
            yield f"target {target.name}: {warning}"


def _selections(job: Job, found: Sequence[LayerParameters] | None) -> Iterator[tuple[Target, Selection]]:
    """Yield each target with what its export will hold."""
    selected = _selection(job) if found is None else _exact_selection(job, found)
    for target in job.targets:
        yield target, selected if target.stores_attention else replace(selected, fa_layers=0)


def _selection(job: Job) -> Selection:
    """Return the selection of a job, as far as it is known before calibration."""
    settings = job.settings
    return Selection(
        config=job.config,
        dtype=str(job.model.dtype).removeprefix("torch."),
        names=frozenset(job.model.names),
        linears=list(job.model.linears()),
        quantized={name: scheme.value for name, scheme in job.schemes.items()},
        attentions=list(job.model.attentions()),
        fa_layers=max(0, len(job.attentions) - settings.fa_amp),
        head=job.model.head,
        mm_tensor=settings.mm_tensor,
        # Improved numerics let whole groups fall back.
        may_split=settings.reference and settings.level > 0,
        wraps_norms=bool(wrapped_norms(job.model, settings.anti_method)),
    )


def _exact_selection(job: Job, found: Sequence[LayerParameters]) -> Selection:
    """Return the selection of a job, from the parameters of its calibration."""
    # A cross-attention that no sample used has no ranges, so it gets no FA3 parameters.
    seen = sum(len(layer.attentions) for layer in found)
    return replace(
        _selection(job),
        quantized={name: job.schemes[name].value for layer in found for name in layer.linears},
        fa_layers=max(0, seen - job.settings.fa_amp),
        # `quantized` now says which groups were split.
        may_split=False,
    )
