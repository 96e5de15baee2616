"""`fa3 calibrate`: the first half of quantize; finds every parameter and keeps it without weights."""

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
    options = {
        "output": output,
        "only_calibrate": True,
        "calib": calib,
        "samples": samples,
        "max_length": max_length,
        "recipe": recipe,
        "device": device,
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "trust_remote_code": trust_remote_code,
        "numerics": numerics,
        "w_bit": w_bit,
        "a_bit": a_bit,
        "act_method": act_method,
        "anti_method": anti_method,
        "disable_names": tuple(disable_names) if disable_names else None,
        "disable_level": disable_level,
        "disable_last_linear": disable_last_linear,
        "mm_tensor": mm_tensor,
        "fa": fa,
        "fa_amp": fa_amp,
        "fa_score": fa_score,
    }
    run_command("calibrate", weights_dir, options, resume=resume, nproc=nproc, plan=plan, as_json=json)
