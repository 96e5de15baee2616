"""Lists the documents that commands read, with the scene that holds them and the command that reads them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["READERS", "Reader"]

_SOURCES = ("modeling_tiny.py", "helpers_tiny.py", "scales_tiny.py", "configuration_tiny.py")
_PLAN = "quantize {w}/model --output {w}/out --calib {w}/calib.jsonl --plan"
_RUN = "quantize {w}/model --output {w}/out --calib {w}/calib.jsonl --recipe default"
_FLUX = "quantize {w}/model --output {w}/out --steps 2 --height 8 --width 8 --plan --prompts {w}"
_COMPONENTS = (
    "transformer/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "vae/config.json",
)
_PIPELINE_FILES = tuple(f"model/{name}" for name in ("model_index.json", *_COMPONENTS))
_JOURNAL = ("visit-00000.safetensors", "states-00000.0.safetensors")
_WEIGHTS = tuple(f"model/model-0000{n}-of-00002.safetensors" for n in (1, 2))


@dataclass(frozen=True)
class Reader:
    """The documents of a scene that are mutated, their form, the command, and the number of inputs of a full run.

    A `light` command needs no torch, so the process that runs it is small and forks fast.
    """

    scene: str
    documents: tuple[str, ...]
    form: str
    command: str
    count: int
    light: bool = False
    finds: bool = False
    """Whether exit code 1 reports findings."""

    @property
    def refuses_before_writing(self) -> bool:
        """Whether the command must not have written anything when it refuses its input."""
        return self.command.startswith(("patch", "verify", "report")) or "--plan" in self.command


def _patching(scene: str, document: str | tuple[str, ...], form: str, options: str, count: int) -> Reader:
    documents = (document,) if isinstance(document, str) else document
    return Reader(
        scene,
        documents,
        form,
        f"patch {{w}}/model {options}".strip(),
        count,
        light=True,
        finds="--check" in options,
    )


_RECEIPT = "model/.fa3/patch.json"

READERS: dict[str, Reader] = {
    "config-patch": _patching("plain", "model/config.json", "json", "", 1400),
    "config-output": _patching("plain", "model/config.json", "json", "--output {w}/out", 400),
    "config-check": _patching("patched", "model/config.json", "json", "--check", 800),
    "config-undo": _patching("patched", "model/config.json", "json", "--undo", 500),
    "receipt-patch": _patching("patched", _RECEIPT, "json", "", 1000),
    "receipt-force": _patching("patched", _RECEIPT, "json", "--force", 600),
    "receipt-undo": _patching("patched", _RECEIPT, "json", "--undo", 1800),
    "receipt-check": _patching("patched", _RECEIPT, "json", "--check", 800),
    "patched-check": _patching("patched", "model/modeling_llama_fa3.py", "python", "--check", 300),
    "remote-patch": _patching("remote", tuple(f"model/{name}" for name in _SOURCES), "python", "", 2000),
    "remote-list": _patching("remote", tuple(f"model/{name}" for name in _SOURCES), "python", "--list", 600),
    "remote-config": _patching("remote", "model/config.json", "json", "", 600),
    "modeling-patch": _patching("modeling", "given.py", "python", "--modeling {w}/given.py", 400),
    "rules-patch": _patching("ruled", ("rules/mine.toml", "rules/site.toml"), "toml", "--rules {w}/rules", 1000),
    "pipeline-patch": _patching("pipeline", _PIPELINE_FILES, "json", "", 150),
    "pipeline-check": _patching("patched-pipeline", _PIPELINE_FILES, "json", "--check", 100),
    "pipeline-receipt-patch": _patching("patched-pipeline", _RECEIPT, "json", "", 150),
    "pipeline-receipt-undo": _patching("patched-pipeline", _RECEIPT, "json", "--undo", 600),
    "pipeline-receipt-check": _patching("patched-pipeline", _RECEIPT, "json", "--check", 150),
    "config-plan": Reader("ready", ("model/config.json",), "json", f"{_PLAN} --no-fa", 500),
    "receipt-plan": Reader("ready", (_RECEIPT,), "json", _PLAN, 300),
    "patched-plan": Reader("ready", ("model/modeling_llama_fa3.py",), "python", _PLAN, 200),
    "recipe-plan": Reader("ready", ("recipe.toml",), "toml", f"{_PLAN} --recipe {{w}}/recipe.toml", 500),
    "tokenizer-plan": Reader("ready", ("model/tokenizer_config.json",), "json", _PLAN, 300),
    "tokenizer-file-plan": Reader(
        "ready", ("model/tokenizer.json", "model/special_tokens_map.json"), "json", _PLAN, 200
    ),
    "calib-plan": Reader("ready", ("calib.jsonl",), "lines", _PLAN, 500),
    "index-plan": Reader("sharded", ("model/model.safetensors.index.json",), "json", _PLAN, 400),
    "header-plan": Reader("sharded", _WEIGHTS, "safetensors", _PLAN, 300),
    "header-run": Reader("sharded", _WEIGHTS, "safetensors", _RUN, 100),
    "prompts-plan": Reader("flux", ("prompts.txt",), "lines", f"{_FLUX}/prompts.txt", 150),
    "prompts-json-plan": Reader("flux", ("prompts.jsonl",), "lines", f"{_FLUX}/prompts.jsonl", 150),
    "pipeline-plan": Reader("flux", _PIPELINE_FILES, "json", f"{_FLUX}/prompts.txt", 200),
    "pipeline-receipt-plan": Reader("flux", (_RECEIPT,), "json", f"{_FLUX}/prompts.txt", 100),
    "description-verify": Reader(
        "exported", ("out/quant_model_description.json",), "json", "verify {w}/out", 500, finds=True
    ),
    "old-description-verify": Reader(
        "exported", ("out/quant_model_description_w8a8.json",), "json", "verify {w}/out", 300, finds=True
    ),
    "config-verify": Reader("exported", ("out/config.json",), "json", "verify {w}/out", 400, finds=True),
    "index-verify": Reader("exported", ("out/*.index.json",), "json", "verify {w}/out", 300, finds=True),
    "header-verify": Reader("exported", ("out/*.safetensors",), "safetensors", "verify {w}/out", 300, finds=True),
    "report-verify": Reader("exported", ("out/fa3_report.json",), "json", "verify {w}/out", 200, finds=True),
    "report-report": Reader("exported", ("out/fa3_report.json",), "json", "report {w}/out", 500),
    "report-html": Reader("exported", ("out/fa3_report.json",), "json", "report {w}/out --html {w}/page.html", 300),
    "description-report": Reader(
        "exported", ("out/quant_model_description*.json",), "json", "report {w}/out --json", 200
    ),
    "header-report": Reader("exported", ("out/*.safetensors",), "safetensors", "report {w}/out", 200),
    "report-there": Reader("there", ("out/fa3_report.json",), "json", _RUN, 300),
    "calibration-export": Reader(
        "calibrated",
        ("kept/fa3_report.json",),
        "json",
        "export {w}/model --calibration {w}/kept --output {w}/out",
        300,
    ),
    "parameters-export": Reader(
        "calibrated",
        ("kept/*.safetensors",),
        "safetensors",
        "export {w}/model --calibration {w}/kept --output {w}/out",
        200,
    ),
    "identity-resume": Reader("stopped", ("out.journal/visits/identity.json",), "json", _RUN, 200),
    "visits-resume": Reader(
        "stopped", tuple(f"out.journal/visits/{name}" for name in _JOURNAL), "safetensors", _RUN, 300
    ),
}
