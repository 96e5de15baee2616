"""Defines `fa3 calibrate`, the first half of quantize: finds all parameters and saves them without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fa3cli.cli.options import (
    ActMethod,
    AntiMethod,
    AttnImplementation,
    Bits,
    Calib,
    Device,
    DisableLastLinear,
    DisableLevel,
    DisableNames,
    Dtype,
    Fa,
    FaAmp,
    FaScore,
    IncludeNames,
    Json,
    MaxLength,
    MmTensor,
    Nproc,
    Numerics,
    PlanOnly,
    Recipe,
    Resume,
    Samples,
    TrustRemoteCode,
    WeightsDir,
)
from fa3cli.cli.running import run_command

__all__ = ["calibrate"]


def calibrate(
    weights_dir: WeightsDir = Path("."),
    output: Annotated[
        Path, typer.Option(metavar="CALIBRATION", help="Folder for the parameters: small, without weights.")
    ] = ...,
    calib: Calib = None,
    samples: Samples = None,
    max_length: MaxLength = None,
    recipe: Recipe = None,
    numerics: Numerics = None,
    w_bit: Bits = None,
    a_bit: Bits = None,
    act_method: ActMethod = None,
    anti_method: AntiMethod = None,
    include_names: IncludeNames = None,
    disable_names: DisableNames = None,
    disable_level: DisableLevel = None,
    disable_last_linear: DisableLastLinear = None,
    mm_tensor: MmTensor = None,
    fa: Fa = None,
    fa_amp: FaAmp = None,
    fa_score: FaScore = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attn_implementation: AttnImplementation = "auto",
    resume: Resume = "auto",
    nproc: Nproc = 1,
    plan: PlanOnly = False,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Find every quantization parameter of a patched model and keep it, for fa3 export."""
    run_command("calibrate", only_calibrate=True, **locals())
