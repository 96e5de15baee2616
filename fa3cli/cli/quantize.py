"""`fa3 quantize`: calibrate a patched weights folder and export int8 weights and FA3 scales."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fa3cli.cli.console import note, print_event, print_json, warn
from fa3cli.cli.launch import launch, launched_rank, rank_command

__all__ = ["quantize"]


class SaveType(str, Enum):
    safe_tensor = "safe_tensor"
    numpy = "numpy"


def quantize(
    weights_dir: Annotated[
        Path, typer.Argument(metavar="[WEIGHTS_DIR]", help="Patched weights folder.")
    ] = Path("."),
    output: Annotated[Path | None, typer.Option(help="Export folder [<WEIGHTS_DIR>-w8a8-fa3].")] = None,
    calib: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Calibration data.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Take the first N lines.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Cut samples to N tokens.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE|none", help="Settings by name, or a TOML file of your own."),
    ] = None,
    numerics: Annotated[str | None, typer.Option(help="improved or reference.")] = None,
    w_bit: Annotated[int | None, typer.Option(help="Bits of a weight: 8.")] = None,
    a_bit: Annotated[int | None, typer.Option(help="Bits of an activation: 8.")] = None,
    act_method: Annotated[
        int | None,
        typer.Option(help="Range of a linear's input: 1 min and max, 2 histogram, 3 either, by the linear."),
    ] = None,
    anti_method: Annotated[str | None, typer.Option(help="AntiOutlier: none, or m1 to m6.")] = None,
    disable_names: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Linears or attention modules to leave float.")
    ] = None,
    disable_level: Annotated[
        str | None, typer.Option(metavar="Ln", help="Leave the n linears float that are hardest to quantize.")
    ] = None,
    disable_last_linear: Annotated[
        bool | None,
        typer.Option("--disable-last-linear/--no-disable-last-linear", help="Leave lm_head float."),
    ] = None,
    mm_tensor: Annotated[
        bool | None,
        typer.Option("--mm-tensor/--no-mm-tensor", help="One weight scale a linear, not one a row."),
    ] = None,
    fa: Annotated[bool | None, typer.Option("--fa/--no-fa", help="Quantize q, k and v.")] = None,
    fa_amp: Annotated[
        int | None, typer.Option(metavar="N", help="Attention layers to leave without FA3.")
    ] = None,
    fa_score: Annotated[str | None, typer.Option(help="How fa_amp chooses: reference or error.")] = None,
    save_type: Annotated[list[SaveType] | None, typer.Option(help="File formats [safe_tensor].")] = None,
    target: Annotated[str | None, typer.Option(help="Engine layout: modelslim.")] = None,
    part_file_size: Annotated[float | None, typer.Option(metavar="GB", min=0.001, help="Shard size.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, npu[:N] or cuda[:N].")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    attn_implementation: Annotated[str, typer.Option(help="auto, eager or sdpa.")] = "auto",
    resume: Annotated[
        str, typer.Option(help="Go on where a stopped run was: auto, required or never.")
    ] = "auto",
    nproc: Annotated[int, typer.Option(min=1, metavar="N", help="Run as N processes, as torchrun does.")] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done and needed, then stop.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that lies in the weights folder.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print progress and result as json, one object a line.")
    ] = False,
) -> None:
    """Calibrate a patched model layer by layer and export W8A8 weights and int8 q, k, v scales."""
    rank = launched_rank()
    if nproc > 1 and rank is None and not plan:
        raise typer.Exit(launch(nproc, rank_command()))
    if rank and plan:
        return
    from fa3cli import api
    from fa3cli.cli.interrupts import first_interrupt
    from fa3cli.cli.progress import show_progress
    from fa3cli.cli.quantize_tables import print_plan, print_result, settings_text

    job = api.prepare(
        weights_dir,
        output=output,
        calib=calib,
        samples=samples,
        max_length=max_length,
        recipe=recipe,
        save_types=[each.value for each in save_type or ()],
        part_file_size=part_file_size,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        numerics=numerics,
        w_bit=w_bit,
        a_bit=a_bit,
        act_method=act_method,
        anti_method=anti_method,
        disable_names=tuple(disable_names) if disable_names else None,
        disable_level=disable_level,
        disable_last_linear=disable_last_linear,
        mm_tensor=mm_tensor,
        fa=fa,
        fa_amp=fa_amp,
        fa_score=fa_score,
        target=target,
        only_plan=plan,
    )
    if rank:  # the leading one says everything
        with first_interrupt(lambda _: None) as stop:
            api.run(job, resume=resume, stop=stop)
        return
    planned = api.full_plan(job) if plan else api.plan(job)
    for warning in planned.warnings:
        warn(warning)
    if plan:
        print_json(planned) if json else print_plan(planned)
        return
    note(f"settings: {settings_text(planned)}")
    if resume != "never" and (left := api.left_by(job)):
        note(f"{left}: left by a run that was stopped; going on from there")
    try:
        with show_progress("quantize", as_json=json) as progress, first_interrupt(note) as stop:
            result = api.run(job, progress, resume=resume, stop=stop)
    except KeyboardInterrupt:
        if left := api.left_by(job):
            note(f"{left}: the same command will go on from there")
        raise
    if result.already_there:
        note(f"{job.output}: this very export is there already, nothing to do")
    for warning in result.warnings:
        warn(warning)
    if json:
        print_event("result", result)
    elif not result.already_there:
        print_result(result)
