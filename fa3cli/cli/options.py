"""Defines the options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ActMethod",
    "AntiMethod",
    "AttnImplementation",
    "Bits",
    "Calib",
    "Device",
    "DisableLastLinear",
    "DisableLevel",
    "DisableNames",
    "Dtype",
    "Fa",
    "FaAmp",
    "FaScore",
    "Frames",
    "Guidance",
    "Height",
    "IncludeNames",
    "Json",
    "MaxLength",
    "MaxRecords",
    "MmTensor",
    "Nproc",
    "Numerics",
    "PartFileSize",
    "PlanOnly",
    "Prompts",
    "Recipe",
    "Resume",
    "Samples",
    "SaveTypes",
    "Seed",
    "Steps",
    "TargetName",
    "Targets",
    "TrustRemoteCode",
    "WeightsDir",
    "Width",
    "values",
]


class SaveType(str, Enum):
    safe_tensor = "safe_tensor"
    numpy = "numpy"


class TargetName(str, Enum):
    modelslim = "modelslim"
    mindie = "mindie"
    vllm_ascend = "vllm-ascend"
    vllm = "vllm"
    mindie_sd = "mindie-sd"


WeightsDir = Annotated[
    Path, typer.Argument(metavar="[WEIGHTS_DIR]", help="Patched weights folder, or that of a pipeline.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Pipelines: the prompts, one a line."),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Pipelines: steps of the float sampling run.")]
Height = Annotated[int | None, typer.Option(min=1, help="Pipelines: pixels.")]
Width = Annotated[int | None, typer.Option(min=1, help="Pipelines: pixels.")]
Frames = Annotated[int | None, typer.Option(min=1, help="Pipelines: frames of a video.")]
Guidance = Annotated[float | None, typer.Option(help="Pipelines: guidance scale.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Pipelines: seed of the first prompt's noise [0].")]
MaxRecords = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Pipelines: record N steps, of all prompts."),
]
Calib = Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Calibration data.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Take the first N lines.")]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Cut samples to N tokens.")]
Recipe = Annotated[
    str | None, typer.Option(metavar="NAME|FILE|none", help="Settings by name, or a TOML file of your own.")
]
Numerics = Annotated[str | None, typer.Option(help="improved or reference.")]
Bits = Annotated[int | None, typer.Option(help="Bits of a weight (w) or an activation (a): 8.")]
ActMethod = Annotated[
    int | None,
    typer.Option(help="Range of a linear's input: 1 min and max, 2 histogram, 3 either, by the linear."),
]
AntiMethod = Annotated[str | None, typer.Option(help="AntiOutlier: none, or m1 to m6.")]
DisableNames = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Linears or attention modules to leave float.")
]
IncludeNames = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Linears to quantize, of all that could be.")
]
DisableLevel = Annotated[
    str | None, typer.Option(metavar="Ln", help="Leave the n linears float that are hardest to quantize.")
]
DisableLastLinear = Annotated[
    bool | None, typer.Option("--disable-last-linear/--no-disable-last-linear", help="Leave lm_head float.")
]
MmTensor = Annotated[
    bool | None, typer.Option("--mm-tensor/--no-mm-tensor", help="One weight scale a linear, not one a row.")
]
Fa = Annotated[bool | None, typer.Option("--fa/--no-fa", help="Quantize q, k and v.")]
FaAmp = Annotated[int | None, typer.Option(metavar="N", help="Attention layers to leave without FA3.")]
FaScore = Annotated[str | None, typer.Option(help="How fa_amp chooses: reference or error.")]
SaveTypes = Annotated[list[SaveType] | None, typer.Option("--save-type", help="File formats [safe_tensor].")]
Targets = Annotated[
    list[TargetName] | None,
    typer.Option(
        "--target", help="Engine to write for [modelslim, of pipelines mindie-sd]; may be repeated."
    ),
]
PartFileSize = Annotated[float | None, typer.Option(metavar="GB", min=0.001, help="Shard size.")]
Device = Annotated[str, typer.Option(help="auto, cpu, npu[:N] or cuda[:N].")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
AttnImplementation = Annotated[str, typer.Option(help="auto, eager or sdpa.")]
Resume = Annotated[str, typer.Option(help="Go on where a stopped run was: auto, required or never.")]
Nproc = Annotated[int, typer.Option(min=1, metavar="N", help="Run as N processes, as torchrun does.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Say what would be done and needed, then stop.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that lies in the weights folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print progress and result as json, one object a line.")]


def values(chosen: list[SaveType] | list[TargetName] | None) -> list[str]:
    """Return the values of the chosen options as text."""
    return [choice.value for choice in chosen or ()]
