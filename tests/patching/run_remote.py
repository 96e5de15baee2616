"""Runs models with their own code, native and patched, in two processes.

python -m tests.patching.run_remote native  FOLDER SAMPLE...    make the models, keep their logits
python -m tests.patching.run_remote patched FOLDER SAMPLE...    patch them, run them, compare; one json object on stdout
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.patching.matrix.forwards import answer
from tests.patching.matrix.native import load
from tests.patching.remote_samples import write


def run_native(sample: str, root: Path) -> str:
    """Make a model and save its logits."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # The file that imports an absent package can only be loaded patched.
    folder = write(root / sample, "if_update" if sample == "absent_package" else sample)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    model, info = load(folder, "eager", remote=True)
    assert not info, info
    torch.save(logits(model), root / f"{sample}.pt")
    return type(model).__module__


def run_patched(sample: str, root: Path, output: Path | None) -> dict:
    """Patch a model, in place or into a folder of links, and compare.

    The products of q and k stay equal bit for bit if q is multiplied, per head, by powers of two and k is divided
    by them.
    """
    from fa3cli.patching import patch, status

    made = patch(write(root / sample, sample), output=output)
    model, info = load(output or root / sample, "eager", remote=True)
    assert not info, info
    native, plain, seen = torch.load(root / f"{sample}.pt"), logits(model), Counter()
    layers = [module for module in model.modules() if hasattr(module, "fa_quantizer")]

    def transform(states, role):
        seen[role, states.dim(), states.shape[1]] += 1
        heads = torch.arange(states.shape[1])
        exponent = {"q": heads // 2, "k": -heads, "v": heads * 0}[role]
        return states * 2.0 ** exponent.view(1, -1, 1, 1)

    for layer in layers:
        layer.fa_quantizer.transform = transform
    changed = logits(model)
    return {
        "module": type(model).__module__.split(".")[-1],
        "state": status(output or root / sample).state,
        "origin": made.files[0].origin,
        "layers": len(layers),
        "seen": sorted([*key, count] for key, count in seen.items()),
        "equal": sorted(key for key in native if torch.equal(native[key], plain[key])),
        "equal, changed": sorted(key for key in native if torch.equal(native[key], changed[key])),
    }


def logits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The logits of one prompt without a cache, and of single tokens with a cache."""
    return {way: answer(model, way)["logits"] for way in ("plain", "cached")}


def main() -> None:
    side, root, *samples = sys.argv[1:]
    torch.set_num_threads(1)
    results = {}
    for sample in samples:
        if side == "native":
            results[sample] = run_native(sample, Path(root))
        else:
            linked = Path(root) / f"{sample}-linked"
            results[sample] = [run_patched(sample, Path(root), output) for output in (linked, None)]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
