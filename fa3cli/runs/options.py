"""Declares the options of a run; the command line, the Python API and docs/cli.md are built from this declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from fa3cli.exports.target_names import DEFAULT_TARGETS, KV_CACHE_SCHEMES, TARGET_NAMES
from fa3cli.models import ATTENTION_IMPLEMENTATIONS, DTYPES
from fa3cli.options import Count, File, Option, Texts, TrustRemoteCode, declared, entries
from fa3cli.quantization.schemes import SCHEMES, STATIC
from fa3cli.quantization.settings import LANGUAGE_SETTINGS, QuantSettings, pairs
from fa3cli.runs.progress import Progress, silent

__all__ = [
    "EXPORTS",
    "OUTPUT_SUFFIX",
    "PIPELINES",
    "RESUME",
    "SAVE_TYPES",
    "TEXT",
    "WITHOUT_FA",
    "ExportOptions",
    "RunOptions",
    "named",
]

# Groups of options: for exports (not for a calibration), for pipelines only, for language models only.
EXPORTS, PIPELINES, TEXT = "exports", "pipelines", "text"

SAVE_TYPES = ("safe_tensor", "numpy")
RESUME = ("auto", "required", "never")
OUTPUT_SUFFIX = "-w8a8-fa3"
# Part of hints: how to quantize a model whose attention is not patched.
WITHOUT_FA = "fa3 quantize --no-fa, which leaves q, k and v float"
_VALUES = LANGUAGE_SETTINGS.supported


def _one_of(values: Sequence[object]) -> str:
    """Return values for a help text. They are no choices: fa3 does not implement other values, which is no wrong usage."""
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


SaveTypes = Annotated[Texts, Option("File formats [safe_tensor].", "--save-type", choices=SAVE_TYPES, group=EXPORTS)]
Targets = Annotated[
    Texts,
    Option(
        f"Engine to write for [{DEFAULT_TARGETS[False]}; for pipelines {DEFAULT_TARGETS[True]}]; may be repeated.",
        choices=TARGET_NAMES,
        group=EXPORTS,
    ),
]
KVCacheScheme = Annotated[
    str | None,
    Option(
        f"fp8 scales of q, k and v, for target vllm only: {_one_of(KV_CACHE_SCHEMES)} [{KV_CACHE_SCHEMES[0]}].",
        choices=KV_CACHE_SCHEMES,
        group=EXPORTS,
    ),
]
PartFileSize = Annotated[float | None, Option("Shard size.", metavar="GB", group=EXPORTS)]
Output = Annotated[File, Option(f"Folder of the result [<WEIGHTS_DIR>{OUTPUT_SUFFIX}].")]


@dataclass(frozen=True)
class RunOptions:
    """Everything that a user may choose for a run; None means not given: then the recipe or a default applies."""

    weights_dir: Annotated[str | Path, Option("Patched folder of weights or of a pipeline.", argument=True)] = Path(".")
    output: Output = None
    _: KW_ONLY

    prompts: Annotated[File, Option("The prompts, one per line.", metavar="FILE", group=PIPELINES)] = None
    steps: Annotated[Count, Option("Steps of the float sampling run.", minimum=1, group=PIPELINES)] = None
    height: Annotated[Count, Option("Height in pixels.", minimum=1, group=PIPELINES)] = None
    width: Annotated[Count, Option("Width in pixels.", minimum=1, group=PIPELINES)] = None
    frames: Annotated[Count, Option("Frames of a video.", minimum=1, group=PIPELINES)] = None
    guidance: Annotated[float | None, Option("Guidance scale.", group=PIPELINES)] = None
    seed: Annotated[Count, Option("Seed of the first prompt's noise [0].", minimum=0, group=PIPELINES)] = None
    max_records: Annotated[
        Count, Option("Record N steps of all prompts together.", metavar="N", minimum=1, group=PIPELINES)
    ] = None

    calib: Annotated[File, Option("Calibration data.", metavar="FILE.jsonl", group=TEXT)] = None
    samples: Annotated[Count, Option("Use the first N lines.", metavar="N", minimum=1, group=TEXT)] = None
    max_length: Annotated[Count, Option("Cut samples to N tokens.", metavar="N", minimum=1, group=TEXT)] = None

    recipe: Annotated[
        str | None, Option("Name of a recipe, or a TOML file with your settings.", metavar="NAME|FILE|none")
    ] = None
    numerics: Annotated[
        str | None, Option(f"Arithmetic of the calibration (docs/numerics.md): {_one_of(_VALUES['numerics'])}.")
    ] = None
    w_bit: Annotated[Count, Option(f"Bits of a weight: {_one_of(_VALUES['w_bit'])}.")] = None
    a_bit: Annotated[Count, Option(f"Bits of an activation: {_one_of(_VALUES['a_bit'])}.")] = None
    act_method: Annotated[
        Count,
        Option("Range of a linear's input: 1 min and max, 2 histogram, 3 the better one per linear."),
    ] = None
    anti_method: Annotated[
        str | None, Option(f"AntiOutlier, how outliers are smoothed: {_one_of(_VALUES['anti_method'])}.")
    ] = None
    include_names: Annotated[Texts, Option("Quantize only these linears; may be repeated.", metavar="GLOB")] = None
    disable_names: Annotated[
        Texts,
        Option(
            "Leave these linears or attention modules float; !GLOB takes names out of the list again; may be repeated.",
            metavar="GLOB",
        ),
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
    fa_score: Annotated[str | None, Option(f"How fa_amp chooses the layers: {_one_of(_VALUES['fa_score'])}.")] = None
    scheme: Annotated[
        str | None,
        Option(
            f"How linears are quantized: {_one_of(tuple(SCHEMES))} [{STATIC.name}]. A recipe can choose by name, in its "
            "table schemes."
        ),
    ] = None
    # In recipes and the guide's Python API, but without a flag: a table of globs; only one value of the others is supported.
    schemes: Mapping[str, str] | Sequence[tuple[str, str]] | None = None
    pr: float | None = None
    w_sym: bool | None = None

    save_types: SaveTypes = None
    target: Targets = None
    kv_cache_scheme: KVCacheScheme = None
    part_file_size: PartFileSize = None

    device: Annotated[str, Option("auto, cpu, npu[:N] or cuda[:N].")] = "auto"
    dtype: Annotated[str, Option(f"Dtype to compute and export in: {_one_of(('auto', *DTYPES))}.")] = "auto"
    attn_implementation: Annotated[
        str, Option(f"Attention of transformers: {_one_of(ATTENTION_IMPLEMENTATIONS)}.", group=TEXT)
    ] = "auto"
    trust_remote_code: TrustRemoteCode = False
    resume: Annotated[str, Option("Resume a stopped run.", choices=RESUME)] = "auto"
    only_plan: Annotated[bool, Option("Print the steps and the needed resources, then stop.", "--plan")] = False

    # For scripts: called with the progress of the run.
    progress: Callable[[Progress], None] = silent

    @property
    def settings(self) -> Mapping[str, Any]:
        """The given values of QuantSettings."""
        given = {field.name: getattr(self, field.name) for field in fields(QuantSettings)}
        lists = {name: entries(given[name]) for name in ("include_names", "disable_names") if given[name] is not None}
        if self.schemes is not None:
            lists["schemes"] = pairs(self.schemes)
        return {name: value for name, value in given.items() if value is not None} | lists

    @property
    def given(self) -> list[str]:
        """The names of the fields whose values are not the defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


@dataclass(frozen=True)
class ExportOptions:
    """Everything that a user may choose for exports of an earlier calibration."""

    weights_dir: Annotated[str | Path, Option("Weights folder that was calibrated.", argument=True)]
    calibration: Annotated[str | Path, Option("Folder that fa3 calibrate wrote.", metavar="CALIBRATION")]
    output: Output = None
    _: KW_ONLY
    save_types: SaveTypes = None
    target: Targets = None
    kv_cache_scheme: KVCacheScheme = None
    part_file_size: PartFileSize = None
    trust_remote_code: TrustRemoteCode = False
    progress: Callable[[Progress], None] = silent


def named(group: str) -> list[str]:
    """Return the names of a group's options of a run."""
    return [name for name, option in declared(RunOptions).items() if option.group == group]
