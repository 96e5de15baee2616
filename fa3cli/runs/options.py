"""Declares the options of a run; the command line, the Python API and docs/cli.md are built from this declaration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from fa3cli.errors import UsageError
from fa3cli.exports.target_names import TARGET_NAMES
from fa3cli.quantization.settings import QuantSettings

__all__ = ["EXPORTS", "PIPELINES", "TEXT", "Option", "RunOptions", "declared", "named"]

# Groups of options: for exports (not for a calibration), for pipelines only, for language models only.
EXPORTS, PIPELINES, TEXT = "exports", "pipelines", "text"


@dataclass(frozen=True)
class Option:
    """The form of a field on the command line: its help, and all that name, type and default do not say."""

    help: str
    flags: str = ""
    metavar: str | None = None
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    group: str = ""
    argument: bool = False


Count = int | None
Texts = tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Everything that a user may choose for a run; None means not given: then the recipe or a default applies."""

    weights_dir: Annotated[Path, Option("Patched folder of weights or of a pipeline.", argument=True)] = Path(".")
    output: Annotated[Path | None, Option("Folder of the result [<WEIGHTS_DIR>-w8a8-fa3].")] = None

    prompts: Annotated[Path | None, Option("The prompts, one per line.", metavar="FILE", group=PIPELINES)] = None
    steps: Annotated[Count, Option("Steps of the float sampling run.", minimum=1, group=PIPELINES)] = None
    height: Annotated[Count, Option("Height in pixels.", minimum=1, group=PIPELINES)] = None
    width: Annotated[Count, Option("Width in pixels.", minimum=1, group=PIPELINES)] = None
    frames: Annotated[Count, Option("Frames of a video.", minimum=1, group=PIPELINES)] = None
    guidance: Annotated[float | None, Option("Guidance scale.", group=PIPELINES)] = None
    seed: Annotated[Count, Option("Seed of the first prompt's noise [0].", minimum=0, group=PIPELINES)] = None
    max_records: Annotated[
        Count, Option("Record N steps of all prompts together.", metavar="N", minimum=1, group=PIPELINES)
    ] = None

    calib: Annotated[Path | None, Option("Calibration data.", metavar="FILE.jsonl", group=TEXT)] = None
    samples: Annotated[Count, Option("Use the first N lines.", metavar="N", minimum=1, group=TEXT)] = None
    max_length: Annotated[Count, Option("Cut samples to N tokens.", metavar="N", minimum=1, group=TEXT)] = None

    recipe: Annotated[
        str | None, Option("Name of a recipe, or a TOML file with your settings.", metavar="NAME|FILE|none")
    ] = None
    numerics: Annotated[str | None, Option("improved or reference.")] = None
    w_bit: Annotated[Count, Option("Bits of a weight: 8.")] = None
    a_bit: Annotated[Count, Option("Bits of an activation: 8.")] = None
    act_method: Annotated[
        Count, Option("Range of a linear's input: 1 min and max, 2 histogram, 3 the better one per linear.")
    ] = None
    anti_method: Annotated[str | None, Option("AntiOutlier: none, or m1 to m6.")] = None
    include_names: Annotated[Texts, Option("Quantize only these linears; may be repeated.", metavar="GLOB")] = None
    disable_names: Annotated[
        Texts, Option("Leave these linears or attention modules float; may be repeated.", metavar="GLOB")
    ] = None
    disable_level: Annotated[
        str | None, Option("Leave the n linears float whose inputs are hardest to quantize.", metavar="Ln")
    ] = None
    disable_last_linear: Annotated[
        bool | None, Option("Leave lm_head float.", flags="--disable-last-linear/--no-disable-last-linear")
    ] = None
    mm_tensor: Annotated[
        bool | None, Option("One weight scale per linear, not per row.", flags="--mm-tensor/--no-mm-tensor")
    ] = None
    fa: Annotated[bool | None, Option("Quantize q, k and v.", flags="--fa/--no-fa")] = None
    fa_amp: Annotated[Count, Option("Leave N attention layers without FA3.", metavar="N")] = None
    fa_score: Annotated[str | None, Option("How fa_amp chooses the layers: reference or error.")] = None
    # In recipes and the guide's Python API, but without a flag: only one value of each is supported.
    is_dynamic: bool | None = None
    pr: float | None = None
    w_sym: bool | None = None

    save_types: Annotated[
        Texts, Option("File formats [safe_tensor].", "--save-type", choices=("safe_tensor", "numpy"), group=EXPORTS)
    ] = None
    target: Annotated[
        Texts,
        Option(
            "Engine to write for [modelslim; for pipelines mindie-sd]; may be repeated.",
            choices=TARGET_NAMES,
            group=EXPORTS,
        ),
    ] = None
    part_file_size: Annotated[float | None, Option("Shard size.", metavar="GB", minimum=0.001, group=EXPORTS)] = None

    device: Annotated[str, Option("auto, cpu, npu[:N] or cuda[:N].")] = "auto"
    dtype: Annotated[str, Option("auto, float32, bfloat16 or float16.")] = "auto"
    attn_implementation: Annotated[str, Option("auto, eager or sdpa.", group=TEXT)] = "auto"
    trust_remote_code: Annotated[bool, Option("Run Python code of the weights folder.", "--trust-remote-code")] = False
    resume: Annotated[str, Option("Resume a stopped run: auto, required or never.")] = "auto"
    only_plan: Annotated[bool, Option("Print the steps and the needed resources, then stop.", "--plan")] = False

    @classmethod
    def of(cls, weights_dir: str | Path = ".", **options: Any) -> RunOptions:
        """Make options from a script's values; UsageError for an unknown name.

        Paths may be texts, and a list may stand for several texts.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise UsageError(f"unknown option {name!r}", hint=f"did you mean {near[0]}?" if near else None)
        paths = {name: Path(options[name]) for name in _PATHS if options.get(name) is not None}
        texts = {name: tuple(options[name]) for name in _TEXTS if options.get(name) is not None}
        return cls(weights_dir=Path(weights_dir), **{**options, **paths, **texts})

    @property
    def settings(self) -> Mapping[str, Any]:
        """The given values of QuantSettings."""
        values = {field.name: getattr(self, field.name) for field in fields(QuantSettings)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def given(self) -> list[str]:
        """The names of the fields whose values are not the defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


@cache
def declared() -> Mapping[str, Option]:
    """Return the fields that the command line offers, in order."""
    hints = get_type_hints(RunOptions, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ())[-1:] for name, hint in hints.items()}
    return {name: option[0] for name, option in found.items() if option}


def named(group: str) -> list[str]:
    """Return the names of a group's fields."""
    return [name for name, option in declared().items() if option.group == group]


_PATHS = ("output", "prompts", "calib")
_TEXTS = ("include_names", "disable_names", "save_types", "target")
