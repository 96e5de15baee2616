"""Finishes a run: applies fa_amp, writes the remaining files and the report of each layer."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.exports.folder import RunFolder
from fa3cli.quantization.fallback import fall_back_attentions
from fa3cli.quantization.schemes import is_expert
from fa3cli.runs.calibration_folder import CalibrationWriter
from fa3cli.runs.job import Job
from fa3cli.runs.layer_writer import LayerWriter
from fa3cli.runs.result import LayerResult, Result, make_result, write_reports

__all__ = ["finish"]


def finish(
    job: Job,
    folder: RunFolder,
    writer: LayerWriter | CalibrationWriter,
    layers: Sequence[LayerParameters],
    run_identity: dict[str, Any] | None,
    begin: float,
    ranks: Ranks = ALONE,
) -> Result:
    """Write the remaining files and, on the leading rank, the report of the run that started at `begin`.

    Every rank returns the leading rank's result.
    """
    scores = {name: score for layer in layers for name, score in layer.scores.items()}
    # Chosen after the last layer: fa_amp ranks the scores of all layers.
    float_attentions = fall_back_attentions(scores, job.settings.fa_amp)
    # Called on every rank: LayerWriter.close waits for the other ranks.
    checksums = writer.close(layers, float_attentions)
    results = []
    if ranks.leads:
        warnings = [text for layer in layers for text in layer.warnings]
        made = list(_layer_results(job, layers, float_attentions))
        results.append(make_result(job, folder.export, time.monotonic() - begin, made, warnings))
        write_reports(job, folder.export, run_identity, results[0], checksums)
    return ranks.first(results)[0]


def _layer_results(job: Job, layers: Sequence[LayerParameters], float_names: Collection[str]) -> Iterator[LayerResult]:
    for layer in layers:
        attentions = job.model.attentions(layer.name)
        matrices = [*job.model.linears(layer.name), *job.model.matrices(layer.name)]
        kept = layer.attentions.keys() - float_names
        yield LayerResult(
            name=layer.name,
            quantized=len(layer.linears),
            float_linears=_joined_experts(job, layer)
            | {name: _linear_reason(job, layer, name) for name in matrices if name not in layer.linears},
            fa=bool(kept) if attentions else None,
            fa_reason=_attention_reason(job, attentions, float_names) if attentions and not kept else None,
            fa_score=min(layer.scores.values(), default=None),
            error=layer.error,
            timesteps=tuple(dict(peaks) for peaks in layer.timesteps),
        )


def _joined_experts(job: Job, layer: LayerParameters) -> dict[str, str]:
    """Return the experts of a layer that transformers 5 stores as one tensor of three dimensions; they stay float."""
    experts = (name for name in job.model.of_layer[layer.name] if is_expert(name))
    return {name: "experts joined in one tensor" for name in experts if len(job.model.shape(name)) == 3}


def _linear_reason(job: Job, layer: LayerParameters, name: str) -> str:
    if name in job.disabled:
        return job.disabled[name]
    return "no calibration sample reached it" if name in layer.unreached else "disable_level"


def _attention_reason(job: Job, attentions: Collection[str], float_names: Collection[str]) -> str:
    if not job.settings.fa:
        return "fa is off"
    if set(attentions) & set(float_names):
        return "fa_amp"
    return next((job.disabled[name] for name in attentions if name in job.disabled), "no sample used it")
