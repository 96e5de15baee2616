"""Tiny random models, native and patched, in two processes: the evidence that a patch is right.

    python matrix.py native  FOLDER TYPE...     make the models, run them, keep their logits
    python matrix.py patched FOLDER TYPE...     patch them, run them, compare; one json object on stdout

Both sides run twice: as they are, and with every state multiplied by powers of two that differ by role and
head. The native side multiplies the operands of its attention core, the patched side does it in the quantizer.
Products with powers of two are exact, so the logits have to be equal bit by bit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from tiny_models import make
from torch.overrides import TorchFunctionMode

PROMPT, STEPS = 7, 2  # positions; no size below equals 7 to 11, the lengths attention sees


def load(folder: Path, implementation: str, remote: bool):
    """Load a model; every key must be there and used."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=remote,
        output_loading_info=True,
        torch_dtype=torch.float32,
        attn_implementation=implementation,
    )
    return model.eval(), {key: sorted(map(str, value)) for key, value in info.items() if value}


@torch.no_grad()
def logits(model) -> dict[str, torch.Tensor]:
    """Logits of one prompt without a cache, and of the same prompt and two more tokens with it."""
    ids = (torch.arange(2 * (PROMPT + STEPS)) * 37 % 90 + 5).view(2, -1)
    found = {"plain": model(input_ids=ids[:, :PROMPT], use_cache=False).logits}
    try:
        step = model(input_ids=ids[:, :PROMPT], use_cache=True)
        cached = [step.logits]
        for at in range(PROMPT, PROMPT + STEPS):
            step = model(input_ids=ids[:, at : at + 1], past_key_values=step.past_key_values, use_cache=True,
                         attention_mask=torch.ones(2, at + 1, dtype=torch.long))  # fmt: skip
            cached.append(step.logits)
        found["cached"] = torch.cat(cached, dim=1)
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - some native models can't run this way at all
        found["cached_error"] = f"{type(error).__name__}: {error}"[:200]
    return found


def factor(role: str, heads: int) -> torch.Tensor:
    """The powers of two of a role, one a head: [H]."""
    h = torch.arange(heads)
    return 2.0 ** {"q": h % 3, "k": 1 + h % 2, "v": -(1 + h % 3)}[role]


def scaled(states: torch.Tensor, role: str, heads: int | None = None, tiled: bool = False) -> torch.Tensor:
    """Multiply [B, H, S, D] (or [B*H, S, D] with B = 2) by the role's factors, repeated to the H it has."""
    count = states.shape[1] if states.dim() == 4 else states.shape[0] // 2
    factors, times = factor(role, heads or count), count // (heads or count)
    factors = factors.repeat(times) if tiled else factors.repeat_interleave(times)
    shape = (1, -1, 1, 1) if states.dim() == 4 else (-1, 1, 1)
    return states * (factors if states.dim() == 4 else factors.repeat(2)).view(shape)


class Core(TorchFunctionMode):
    """Multiplies the operands of scaled_dot_product_attention and of inline attention products."""

    PRODUCTS = ("matmul", "bmm", "baddbmm", "__matmul__")

    def __init__(self, kv_heads: int | None, tiled: bool) -> None:
        super().__init__()
        self.kv_heads, self.tiled = kv_heads, tiled

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            args = list(args) + [kwargs.pop(key) for key in ("query", "key", "value") if key in kwargs]
            for index, role in enumerate("qkv"):
                args[index] = self.scaled(args[index], role)
        elif name in self.PRODUCTS:
            offset = 1 if name == "baddbmm" else 0
            args = list(args) + [kwargs.pop(key) for key in ("batch1", "batch2") if key in kwargs]
            args[offset:] = self.product(*args[offset:])
        return function(*args, **kwargs)

    def scaled(self, states, role):
        return scaled(states, role, None if role == "q" else self.kv_heads, self.tiled)

    def product(self, left, right, *rest):
        """Tell scores (.., S, D) x (.., D, T) and context (.., S, T) x (.., T, D) by the lengths only S and T have."""
        lengths = set(range(PROMPT, PROMPT + STEPS + 3))
        if left.dim() == right.dim() == 4 and left.shape[-2] == 1:
            lengths |= {1}  # a cache that forgets
        if left.dim() == right.dim() >= 3 and (left.shape[-2] == 1 or left.shape[-2] in lengths):
            if right.shape[-1] in lengths and left.shape[-1] not in lengths and left.shape[-1] > 1:
                return self.scaled(left, "q"), self.scaled(right, "k"), *rest
            if left.shape[-1] in lengths and right.shape[-2] in lengths:
                return left, self.scaled(right, "v"), *rest
        return left, right, *rest


@contextmanager
def scaled_core(model, implementation: str):
    """Multiply what attention gets, wherever this transformers version computes it."""
    import transformers.modeling_utils as utils

    module = sys.modules[type(model).__module__]
    functions = getattr(module, "ALL_ATTENTION_FUNCTIONS", None)
    if functions is None:
        config = model.config
        names = ("num_key_value_heads", "num_kv_heads")
        heads = next((found for name in names if (found := getattr(config, name, None))), None)
        if hasattr(config, "attn_config") and hasattr(config.attn_config, "kv_n_heads"):
            heads = config.attn_config.kv_n_heads
        if config.model_type == "falcon":
            heads = None  # repeats its heads before the cache
        with Core(heads, tiled=config.model_type == "jetmoe"):
            yield
        return

    # jetmoe repeats its heads (as tiles) before it calls the interface, everyone else behind it.
    heads = {"heads": 2, "tiled": True} if model.config.model_type == "jetmoe" else {}

    def wrap(function):
        def call(owner, query, key, value, *args, **kwargs):
            states = scaled(query, "q"), scaled(key, "k", **heads), scaled(value, "v", **heads)
            return function(owner, *states, *args, **kwargs)

        return call

    eager, sdpa = module.eager_attention_forward, utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    module.eager_attention_forward = wrap(eager)
    utils.ALL_ATTENTION_FUNCTIONS["sdpa"] = wrap(sdpa)
    try:
        yield
    finally:
        module.eager_attention_forward = eager
        utils.ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa


def run_native(model_type: str, root: Path) -> dict:
    """Make a model, run it both ways, keep the logits."""
    folder = root / model_type
    if not folder.exists():
        make(model_type, folder)
    result = {}
    for implementation in ("eager", "sdpa"):
        try:
            model, info = load(folder, implementation, remote=False)
        except ValueError as error:
            if implementation == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            raise
        plain = logits(model)
        assert plain["plain"].isfinite().all(), "native logits aren't finite"
        with scaled_core(model, implementation):
            changed = logits(model)
        assert not torch.equal(plain["plain"], changed["plain"]), (
            f"the core wasn't reached ({implementation})"
        )
        torch.save(
            {"plain": plain, "scaled": changed, "info": info}, root / f"{model_type}.{implementation}.pt"
        )
        result[implementation] = "ok"
    return result


def run_patched(model_type: str, root: Path) -> dict:
    """Patch a model, run it both ways, compare."""
    from fa3cli.errors import Fa3Error
    from fa3cli.patching import patch

    try:
        made = patch(root / model_type, output=root / f"{model_type}-fa3")
    except Fa3Error as error:
        return {"refused": str(error)}
    result: dict = {"classes": [each.name for each in made.attention]}
    for implementation in ("eager", "sdpa"):
        kept = root / f"{model_type}.{implementation}.pt"
        if kept.exists():
            result[implementation] = compare(root / f"{model_type}-fa3", implementation, torch.load(kept))
    return result


def compare(folder: Path, implementation: str, native: dict) -> list[str]:
    """What is wrong with a patched model; empty if nothing."""
    model, info = load(folder, implementation, remote=True)
    wrong = [] if info == native["info"] else [f"loading info differs: {info}"]
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "fa_quantizer")}
    wrong += [] if modules else ["no module has a fa_quantizer"]
    plain = logits(model)
    seen: Counter = Counter()
    shapes: set = set()

    def attach(name):
        def transform(states, role):
            seen[name, role] += 1
            shapes.add((role, states.dim(), states.shape[1], states.shape[2]))
            return scaled(states, role)

        return transform

    calls: Counter = Counter()
    for name, module in modules.items():
        module.fa_quantizer.transform = attach(name)
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    changed = logits(model)
    for kind in ("plain", "cached"):
        if kind in native["plain"]:
            wrong += (
                []
                if kind in plain and torch.equal(plain[kind], native["plain"][kind])
                else [f"{kind} differs"]
            )
            same = kind in changed and torch.equal(changed[kind], native["scaled"][kind])
            wrong += [] if same else [f"{kind}, scaled, differs"]
    # Cross-attention stays idle in a decoder; some models run a layer several times.
    counts = {(name, role): (seen[name, role], calls[name]) for name in modules for role in "qkv"}
    whole = "cached_error" not in native["plain"]  # else some forward was cut off in the middle
    wrong += [f"seen (is, should be): {counts}"] if whole and any(a != b for a, b in counts.values()) else []
    wrong += [] if seen else ["nothing was seen"]
    if {dim for _, dim, _, _ in shapes} != {4}:
        wrong.append(f"not 4-D: {sorted(shapes)}")
    lengths = range(PROMPT, PROMPT + STEPS + 1)
    wrong += [f"not BHSD: {sorted(shapes)}"] if any(heads in lengths for _, _, heads, _ in shapes) else []
    return wrong


def main() -> None:
    side, root, *types = sys.argv[1:]
    torch.set_num_threads(1)
    results = {}
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("takes too long")))
    for model_type in types:
        signal.alarm(60)
        try:
            results[model_type] = (run_native if side == "native" else run_patched)(model_type, Path(root))
        except Exception as error:  # noqa: BLE001 - a report on every type
            if os.environ.get("DEBUG"):
                traceback.print_exc()
            results[model_type] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(model_type, results[model_type], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
