"""AntiOutlier: smooths a model before it is calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fa3cli import logger
from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.guide.calib_data import samples_of
from fa3cli.guide.configs import AntiOutlierConfig
from fa3cli.guide.models import AnyModel, Smoothed, opened, remember_smoothed, smoothed, talk
from fa3cli.quantization.settings import resolve_settings
from fa3cli.runs.job import make_job
from fa3cli.runs.passes import find_all_smoothing

__all__ = ["AntiOutlier"]


class AntiOutlier:
    """Moves outlier channels from the inputs of linears into their weights, as the method finds them in `calib_data`.

    `model` is a causal LM in memory, whose weights `process` changes, or the folder of one, whose weights stay as they
    are and are smoothed when a Calibrator of the same folder reads them.
    """

    def __init__(
        self,
        model: AnyModel,
        calib_data: Sequence[Any] | None = None,
        cfg: AntiOutlierConfig | None = None,
        norm_class_name: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        if norm_class_name is not None:
            raise UnsupportedError("norm_class_name is not supported: fa3 finds norms by what they feed")
        cfg = cfg or AntiOutlierConfig()
        resolved = resolve_settings({}, cfg.options)
        self._model = model
        layered = opened(
            model,
            cfg.dev_type,
            cfg.dev_id,
            fa=False,
            reference=resolved.values.reference,
            trust_remote_code=trust_remote_code,
        )
        self._job = make_job(layered, resolved, samples_of(calib_data, layered.model))
        talk()

    def process(self) -> None:
        """Smooth the model; raises ConflictError where the weights of one in memory were smoothed before."""
        method = self._job.settings.anti_method
        if self._job.model.resident and smoothed(self._model).anti_method != "none":
            raise ConflictError(
                "AntiOutlier has smoothed this model already", hint="load it again to smooth it anew"
            )
        if method != "none":
            remember_smoothed(self._model, Smoothed(method, find_all_smoothing(self._job)))
            logger.info("AntiOutlier %s: %d decoder layers smoothed", method, len(self._job.model.layers))
