"""Makes scenes: valid folders of all kinds that commands read; python -m tests.reliability.scenes FOLDER NAME ..."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.patching import remote_samples, rule_samples
from tests.reliability.sources import HOSTILE

__all__ = ["ROOT", "environment", "make_scenes"]

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "examples" / "qwen2-tiny"

RECIPE = """# A user's recipe.
model_types = ["llama"]
act_method = 1
anti_method = "none"
disable_names = ["*.down_proj"]
disable_level = "L0"
mm_tensor = false
fa_amp = 0
"""


def make_scenes(root: Path, names: Iterable[str]) -> None:
    """Make scenes below `root` in another process, so that this process stays small and forks fast."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = sorted(name for name in set(names) if not (root / name).is_dir())
        if not missing:
            return
        command = [sys.executable, "-m", __name__, root, *missing]
        env = environment(root / "modules")
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"no scenes: {done.stderr[-3000:]}")


def environment(modules: Path) -> dict[str, str]:
    """Return the environment of a process of these tests: one thread, no network, its own cache of model code."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_MODULES_CACHE": str(modules),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _plain(folder: Path) -> None:
    from tests.sample_models import write_model

    write_model(folder / "model", num_hidden_layers=2, patched=False)
    (folder / "model" / "hostile.py").write_text(HOSTILE)


def _patched(folder: Path) -> None:
    from fa3cli import patching

    _plain(folder)
    patching.patch(folder / "model")


def _remote(folder: Path) -> None:
    model = remote_samples.write(folder / "model", "helpers")
    (model / "hostile.py").write_text(HOSTILE)


def _modeling(folder: Path) -> None:
    from transformers.models.llama import modeling_llama

    _plain(folder)
    shutil.copy(modeling_llama.__file__, folder / "given.py")


def _ruled(folder: Path) -> None:
    _plain(folder)
    (folder / "rules").mkdir()
    rule = rule_samples.QWEN2.replace("Qwen2Attention", "LlamaAttention")
    (folder / "rules" / "mine.toml").write_text(rule)
    (folder / "rules" / "site.toml").write_text(rule_samples.SITE + rule_samples.EXAMPLE)


def _flux(folder: Path) -> None:
    from fa3cli import patching
    from tests.patching.diffusion.tiny_pipelines import make

    (folder / "made").mkdir()
    make("FluxTransformer2DModel", folder / "made" / "model")
    (folder / "made" / "model").rename(folder / "model")
    shutil.rmtree(folder / "made")
    (folder / "model" / "hostile.py").write_text(HOSTILE)
    patching.patch(folder / "model")
    (folder / "prompts.txt").write_text("a cat\na dog in the rain\n")
    (folder / "prompts.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a dog in the rain"}\n')


def _patched_pipeline(folder: Path) -> None:
    _flux(folder)
    for file in folder.rglob("*"):
        if file.suffix == ".safetensors" or file.name == "tokenizer.json":
            file.unlink()


def _pipeline(folder: Path) -> None:
    from fa3cli import patching

    _patched_pipeline(folder)
    patching.undo(folder / "model")


def _ready(folder: Path) -> None:
    from fa3cli import patching
    from tests.sample_models import token_ids, write_lines, write_model

    model = write_model(folder / "model", num_hidden_layers=2, vocab_size=2048, patched=False)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TOKENIZER / name, model)
    (model / "hostile.py").write_text(HOSTILE)
    patching.patch(model)
    padded = {"input_ids": [[5, 6, 7], [8, 9, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    write_lines(folder / "calib.jsonl", [*token_ids(9, 5), padded, {"text": "The sky is blue."}])
    (folder / "recipe.toml").write_text(RECIPE)


def _sharded(folder: Path) -> None:
    from tests.sample_models import split_weights

    _ready(folder)
    split_weights(folder / "model", 2)


def _exported(folder: Path) -> None:
    from fa3cli import api

    _sharded(folder)
    options = {"calib": folder / "calib.jsonl", "recipe": "default", "part_file_size": 0.0001}
    api.quantize(folder / "model", output=folder / "out", target=["modelslim"], **options)


def _there(folder: Path) -> None:
    from fa3cli import api

    _ready(folder)
    api.quantize(folder / "model", output=folder / "out", calib=folder / "calib.jsonl", recipe="default")


def _calibrated(folder: Path) -> None:
    from fa3cli import api
    from tests.sample_models import prepare

    _ready(folder)
    job = prepare(
        folder / "model",
        output=folder / "kept",
        calib=folder / "calib.jsonl",
        recipe="default",
        only_calibrate=True,
    )
    api.run(job)


def _stopped(folder: Path) -> None:
    from fa3cli import api
    from fa3cli.errors import StoppedError
    from tests.sample_models import prepare

    _ready(folder)
    job = prepare(folder / "model", output=folder / "out", calib=folder / "calib.jsonl", recipe="default")
    try:
        api.run(job, stop=lambda: True)
    except StoppedError:
        return
    raise AssertionError("the run did not stop")


_SCENES: dict[str, Callable[[Path], None]] = {
    "plain": _plain,
    "patched": _patched,
    "remote": _remote,
    "modeling": _modeling,
    "ruled": _ruled,
    "pipeline": _pipeline,
    "patched-pipeline": _patched_pipeline,
    "flux": _flux,
    "ready": _ready,
    "sharded": _sharded,
    "exported": _exported,
    "there": _there,
    "calibrated": _calibrated,
    "stopped": _stopped,
}


def main(root: str, *names: str) -> None:
    """Make scenes; a scene gets its name only when it is complete."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        new = Path(root) / f"{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        torch.manual_seed(0)
        _SCENES[name](new)
        new.rename(Path(root) / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
