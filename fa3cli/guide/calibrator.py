"""Defines Calibrator, which finds the quantization parameters of a model and saves the quantized model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fa3cli import logger
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.errors import ConflictError, UnsupportedError, UsageError
from fa3cli.guide.calib_data import samples_of
from fa3cli.guide.configs import QuantConfig
from fa3cli.guide.models import AnyModel, config_of, enable_logging, folder_of, open_layered_model, smoothing_of
from fa3cli.planning.plan import plan
from fa3cli.quantization.settings import resolve_settings
from fa3cli.runs.destination import where_to_save
from fa3cli.runs.exporting import export_layers
from fa3cli.runs.job import make_job
from fa3cli.runs.options import RunOptions
from fa3cli.runs.passes import calibrate
from fa3cli.runs.progress import Progress, now_and_then
from fa3cli.runs.result import Result

__all__ = ["Calibrator"]


class Calibrator:
    """Calibrates a causal LM, in memory or in a folder, on `calib_data`: lists or dicts of a forward's arguments.

    The model is not changed. Raises the errors of `fa3 quantize` for unsupported settings, data or models.
    """

    def __init__(
        self,
        model: AnyModel,
        cfg: QuantConfig | None = None,
        calib_data: Sequence[Any] | None = None,
        disable_level: str = "L0",
        all_tensors: Any = None,
        mix_cfg: Any = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        if all_tensors is not None or mix_cfg is not None:
            raise UnsupportedError("all_tensors and mix_cfg are not supported", hint="omit them")
        cfg, smoothing = cfg or QuantConfig(), smoothing_of(model)
        self._model, self._smoothing = model, smoothing
        options = {**cfg.options, "disable_level": disable_level, "anti_method": smoothing.anti_method}
        resolved = resolve_settings({}, options)
        layered = open_layered_model(
            model,
            cfg.dev_type,
            cfg.dev_id,
            fa=resolved.values.fa,
            reference=resolved.values.reference,
            trust_remote_code=trust_remote_code,
        )
        samples = samples_of(calib_data, layered.model)
        self._job = make_job(
            layered, resolved, samples, smoothing=smoothing.scales, folder=folder_of(model), config=config_of(model)
        )
        self._layers: list[LayerParameters] | None = None
        enable_logging()

    def run(self, int_infer: bool = False) -> None:
        """Run the samples through the model and find all parameters."""
        if int_infer:
            raise UnsupportedError("int_infer=True is not supported", hint="fa3 verify --against runs the export")
        self._require_unchanged()

        def log(progress: Progress) -> None:
            left = progress.seconds_left or 0
            logger.info("calibrated %d/%d layers, about %.0f s left", progress.layer, progress.layers, left)

        self._layers = calibrate(self._job, now_and_then(log))

    def save(
        self,
        output_path: str | Path,
        safetensors_name: str | None = None,
        json_name: str | None = None,
        save_type: Sequence[str] | None = None,
        part_file_size: float | None = None,
    ) -> Result:
        """Write the quantized model to a folder, by default as numpy files, like the guide's tool.

        `part_file_size` is in GB. Raises UsageError before `run`, ConflictError if the folder is not empty.
        """
        if safetensors_name or json_name:
            raise UnsupportedError(
                "safetensors_name and json_name are not supported: engines look for fixed names", hint="omit them"
            )
        if self._layers is None:
            raise UsageError("nothing is calibrated yet", hint="call run() before save()")
        self._require_unchanged()
        destination = where_to_save(RunOptions(save_types=save_type or "numpy", part_file_size=part_file_size))
        job = replace(self._job, output=Path(output_path).absolute(), **destination)
        for warning in plan(job).warnings:
            logger.warning(warning)
        result = export_layers(job, self._layers)
        for warning in result.warnings:
            logger.warning(warning)
        logger.info("saved %s: %d files", result.output, len(result.files))
        return result

    def _require_unchanged(self) -> None:
        """Raise ConflictError if AntiOutlier smoothed the model later: this Calibrator does not know its scales."""
        if smoothing_of(self._model) is not self._smoothing:
            raise ConflictError(
                "AntiOutlier has smoothed the model since this Calibrator was made",
                hint="make the Calibrator after AntiOutlier's process()",
            )
