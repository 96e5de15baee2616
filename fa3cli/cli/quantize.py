"""Defines `fa3 quantize`, which calibrates a patched weights folder and exports int8 weights and FA3 scales."""

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
    Frames,
    Guidance,
    Height,
    IncludeNames,
    Json,
    MaxLength,
    MaxRecords,
    MmTensor,
    Nproc,
    Numerics,
    PartFileSize,
    PlanOnly,
    Prompts,
    Recipe,
    Resume,
    Samples,
    SaveTypes,
    Seed,
    Steps,
    Targets,
    TrustRemoteCode,
    WeightsDir,
    Width,
)
from fa3cli.cli.running import run_command

__all__ = ["quantize"]


def quantize(
    weights_dir: WeightsDir = Path("."),
    output: Annotated[Path | None, typer.Option(help="Export folder [<WEIGHTS_DIR>-w8a8-fa3].")] = None,
    prompts: Prompts = None,
    steps: Steps = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    guidance: Guidance = None,
    seed: Seed = None,
    max_records: MaxRecords = None,
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
    save_type: SaveTypes = None,
    target: Targets = None,
    part_file_size: PartFileSize = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attn_implementation: AttnImplementation = "auto",
    resume: Resume = "auto",
    nproc: Nproc = 1,
    plan: PlanOnly = False,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Calibrate a patched model or pipeline layer by layer and export W8A8 weights and int8 q, k, v scales."""
    run_command("quantize", **locals())
