"""The run itself: every layer observed, quantized, written and freed, in the order of the model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor

from fa3cli.calibration.identity import identity
from fa3cli.calibration.job import Job
from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.memory import FreedMemory
from fa3cli.calibration.plan import plan
from fa3cli.calibration.progress import Progress
from fa3cli.calibration.result import LayerResult, Result, read_result, write_report
from fa3cli.export.folder import StagedFolder, companions, export_config
from fa3cli.export.modelslim import ModelSlimExport, exported_names
from fa3cli.export.numpy_files import write_numpy
from fa3cli.quantization.fallback import fall_back

__all__ = ["run"]


def run(job: Job, progress: Callable[[Progress], None] = lambda _: None) -> Result:
    """Calibrate and export in one pass over the weights; the output folder appears when all of it is there.

    Where the export of the same identity is there already, nothing is done and its result returned.
    """
    begin = time.monotonic()
    made_of = identity(job)
    if earlier := read_result(job.output, made_of):
        return earlier
    job.model.require_tied_alike()
    with StagedFolder(job.output, plan(job).bytes_written) as folder:
        _write_companions(job, folder)
        room_for = exported_names(job.model.names, job.quantized, job.attentions)
        export = ModelSlimExport(folder, job.model.names, room_for, job.part_bytes)
        attentions, scores = _run_layers(job, export, progress)
        fallback = fall_back(scores, job.settings.fa_amp)
        for name, tensors in attentions.items():
            if name not in fallback:
                export.add_module(name, tensors)
        weight_files = export.close()
        if "numpy" in job.save_types:
            write_numpy(folder, weight_files)
        if "safe_tensor" not in job.save_types:
            for file in folder.glob("*.safetensors*"):
                file.unlink()
        files = {file.name: file.stat().st_size for file in sorted(folder.glob("[!.]*"))}
        result = Result(
            output=job.output,
            files=tuple(files),
            bytes_written=sum(files.values()),
            samples=len(job.samples),
            tokens=sum(len(sample.input_ids) for sample in job.samples),
            seconds=time.monotonic() - begin,
            layers=tuple(
                _layer_result(job, layer, attentions.keys() - fallback, scores) for layer in job.model.layers
            ),
        )
        write_report(folder, made_of, job.recipe, result)
    return result


def _write_companions(job: Job, folder: Path) -> None:
    for file in companions(job.folder):
        shutil.copyfile(file, folder / file.name)
    config = export_config(job.config, job.model.dtype)
    (folder / "config.json").write_text(config, encoding="utf-8")


def _run_layers(
    job: Job, export: ModelSlimExport, progress: Callable[[Progress], None]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Take the samples through all layers and write these; return FA3 tensors and fa_amp scores by attention module."""
    model = job.model
    inputs = [sample.inputs(model.device) for sample in job.samples]
    last = list(model.layers)[-1]
    attentions, scores, freed = {}, {}, FreedMemory()
    with LayerSynchronousForwards(model.model, model.layers.values(), inputs) as forwards:
        for name in model.outside:
            with model.loaded([name]):
                export.add(name, model.tensor(name))
        with model.loaded(model.before_layers):
            forwards.start()
        for index, layer in enumerate(model.layers):
            observation = _observation(job, layer)
            with model.loaded(model.of_layer[layer]):
                with observation:
                    for sample in range(len(inputs)):
                        progress(Progress(index, len(model.layers), sample, len(inputs)))
                        forwards.advance(sample, index)
                        if layer == last:
                            forwards.stop(sample)
                        freed.release_if_grown()
                _write_layer(job, layer, observation, export, freed)
            attentions.update(observation.attention_tensors(model.dtype))
            scores.update(observation.scores)
    progress(Progress(len(model.layers), len(model.layers), 0, len(inputs)))
    return attentions, scores


def _observation(job: Job, layer: str) -> LayerObservation:
    linears = {name: linear for name, linear in job.model.linears(layer).items() if name in job.quantized}
    quantizers = {name: fa for name, fa in job.model.attentions(layer).items() if name in job.attentions}
    return LayerObservation(linears, quantizers, score=job.settings.fa_amp > 0)


def _write_layer(
    job: Job, layer: str, observation: LayerObservation, export: ModelSlimExport, freed: FreedMemory
) -> None:
    """Write a layer that is loaded and observed: W8A8 linears, and what stays float."""
    freed.release()
    for name in job.model.of_layer[layer]:
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and module in job.quantized:
            export.add_module(module, observation.linear_tensors(module, job.model.dtype))
            freed.release_if_grown()
        else:
            export.add(name, job.model.tensor(name))


def _layer_result(job: Job, layer: str, kept: Collection[str], scores: Mapping[str, float]) -> LayerResult:
    linears, attentions = job.model.linears(layer), job.model.attentions(layer)
    return LayerResult(
        name=layer,
        quantized=len(job.quantized & linears.keys()),
        float_linears=tuple(name for name in linears if name not in job.quantized),
        fa=any(name in kept for name in attentions) if attentions else None,
        fa_score=min((scores[name] for name in attentions if name in scores), default=None),
    )
