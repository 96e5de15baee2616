"""Runs the whole job for every type and writes docs/supported-exports.md: `make supported-exports`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.patching.matrix.environments import ROOT, command, run_types
from tests.patching.matrix.measure import causal_types

VERSIONS = ("4.57.6", "5.23.0")
_WORKER = "tests.runs.supported_exports.worker"
_KINDS = ("right", "refused", "wrong", "alarm", "traceback")
_HEAD = """# Supported exports

The whole job (patch, quantize without AntiOutlier, verify) for every type of `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES`, with tiny
random models that transformers wrote. `make supported-exports` makes this file.

*right*: an independent judge finds nothing. It has no code of fa3: it dequantizes the export under its own names, loads it
with `from_pretrained` into the model that was not patched, compares every tensor with the float model's (int8 weights
within half a step), recomputes deq_scale and quant_bias, checks the number of heads in the scales, and compares the logits (the median over tokens of their error must be below 10 %).
And `fa3 verify` finds no error. *refused*: fa3 says why, and writes nothing. *alarm*: the judge finds nothing, but
`fa3 verify` does. –: transformers itself cannot make or run the model, which is not counted.

The numbers are those of weights with W8A8, W8A8_DYNAMIC and FLOAT. "no FA3": fa3 refuses to patch the type, so it was
quantized with `--no-fa`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.runs.supported_exports", description=__doc__)
    parser.add_argument("--versions", nargs="*", default=VERSIONS)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "supported_exports")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "supported-exports.md")
    options = parser.parse_args()
    measured = {version: _measured(version, options.results / version) for version in options.versions}
    options.table.write_text(render(measured), "utf-8")


def _measured(version: str, results: Path) -> dict[str, dict[str, Any]]:
    results.mkdir(parents=True, exist_ok=True)
    types = causal_types(version)
    todo = [name for name in types if not (results / f"{name}.json").exists()]
    if todo:
        run_types(command(version, _WORKER, results), todo, results, results / "log", _report)
    return {name: json.loads((results / f"{name}.json").read_text()) for name in types}


def _report(model_type: str, found: dict[str, Any]) -> None:
    print(
        f"{model_type}: {found.get('kind', 'crash')} {found.get('why', found.get('error', ''))[:120]}", file=sys.stderr
    )


def render(measured: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The whole page."""
    types = sorted({name for found in measured.values() for name in found})
    lines = [_HEAD, _row("transformers", "counted", *_KINDS, "share right"), _row(*["---"] * (len(_KINDS) + 3))]
    for version, found in measured.items():
        counts = Counter(kind_of(result) for result in found.values())
        counted = sum(counts[kind] for kind in _KINDS)
        share = f"{counts['right'] / counted:.1%}" if counted else ""
        lines.append(_row(version, counted, *(counts[kind] for kind in _KINDS), share))
    lines += ["", _row("type", *measured), _row(*["---"] * (len(measured) + 1))]
    lines += [_row(f"`{name}`", *(_cell(found.get(name)) for found in measured.values())) for name in types]
    lines += ["", "## Why not", ""]
    for version, found in measured.items():
        for name in types:
            result = found.get(name, {})
            if kind_of(result) not in ("right", ""):
                lines.append(f"- `{name}`, {version}: {kind_of(result)}: {_why(result)}")
    return "\n".join(lines) + "\n"


def kind_of(result: dict[str, Any]) -> str:
    """The kind of an outcome; a process that ended counts as a traceback."""
    return "traceback" if "error" in result else result.get("kind", "")


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    kind = kind_of(result)
    if kind != "right":
        return "–" if kind == "unmade" else kind if kind == "refused" else f"**{kind}**"
    weights = result["weights"]
    counts = " + ".join(str(weights.get(value, 0)) for value in ("W8A8", "W8A8_DYNAMIC", "FLOAT"))
    return f"{counts}{', no FA3' if result['why'] else ''}"


def _why(result: dict[str, Any]) -> str:
    return " ".join(str(result.get("why") or result.get("error")).split())[:300].replace("|", "\\|")


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
