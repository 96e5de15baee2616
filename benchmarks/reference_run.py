"""Runs msModelSlim on a patched weights folder; does not import fa3cli, so only msModelSlim must be installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["load_model", "quantize", "read_samples"]


def load_model(folder: Path) -> torch.nn.Module:
    """Load a folder's model as the guide does."""
    from transformers import AutoModelForCausalLM

    options = {"trust_remote_code": True, "torch_dtype": "auto", "attn_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def read_samples(calib: Path) -> list[torch.Tensor]:
    """Return the token ids of calibration lines, `[1, tokens]` each."""
    return [torch.tensor([json.loads(line)["input_ids"]]) for line in calib.open()]


def quantize(
    model: torch.nn.Module,
    samples: list[torch.Tensor],
    output: Path,
    *,
    act_method: int = 1,
    anti_method: str = "none",
    fa_amp: int = 0,
    disable_level: str = "L0",
    disable_names: Sequence[str] = (),
    save_types: Sequence[str] = ("safe_tensor",),
) -> None:
    """Calibrate and export with msModelSlim; options are named as in `fa3cli.api.quantize`."""
    from msmodelslim.pytorch.llm_ptq.anti_outlier import AntiOutlier, AntiOutlierConfig
    from msmodelslim.pytorch.llm_ptq.llm_ptq_tools import Calibrator, QuantConfig

    data = [[ids, torch.ones_like(ids)] for ids in samples]
    if anti_method != "none":
        AntiOutlier(model, calib_data=data, cfg=AntiOutlierConfig(anti_method=anti_method, dev_type="cpu")).process()
    config = QuantConfig(disable_names=list(disable_names), act_method=act_method, mm_tensor=False)
    calibrator = Calibrator(model, config.fa_quant(fa_amp=fa_amp), data, disable_level)
    calibrator.run()
    calibrator.save(str(output), save_type=list(save_types))
