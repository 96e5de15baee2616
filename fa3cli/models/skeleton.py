"""Builds a causal LM without weights from its config.json: parameters on the meta device, buffers computed."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fa3cli.errors import Fa3Error, InvalidInputError, UnsupportedError, brief
from fa3cli.models.untrusted.bounded import bounded_building
from fa3cli.models.untrusted.checked_folder import checked_copy
from fa3cli.models.untrusted.trust import trust_hint, without_trust_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["build_skeleton", "read_config"]


def read_config(folder: Path, *, trusted: bool) -> Any:
    """Return the transformers config of a weights folder, made only from its config.json unless the folder is trusted.

    Raises InvalidInputError if it cannot be read, UnsupportedError for another kind of model.
    """
    from transformers import AutoConfig

    file = folder / "config.json"
    if not file.is_file():
        raise InvalidInputError(
            f"{folder}: no config.json", hint="give the folder that holds config.json and the safetensors files"
        )
    alone = nullcontext(folder) if trusted else checked_copy(folder, file.name)
    with alone as place, without_trust_prompt(), bounded_building():
        try:
            if not trusted:
                _require_causal_lm(place / file.name, file)
            config = AutoConfig.from_pretrained(place, trust_remote_code=trusted, local_files_only=True)
        except Fa3Error:
            raise
        except Exception as error:  # the error class of a bad value differs by field and transformers version
            text = brief(error).replace(str(place), str(folder))
            raise InvalidInputError(f"{file}: transformers cannot read it ({text})", hint=trust_hint(error)) from error
    _require_sizes(config, file)
    _require_rope(config, file)
    # transformers has put the path of the temporary copy there; messages name this path.
    config.name_or_path = str(folder)
    return config


def build_skeleton(
    config: Any,
    dtype: torch.dtype,
    attn_implementation: str | None,
    *,
    known_class: type[PreTrainedModel] | None = None,
    trusted: bool = False,
    tensors: int | None = None,
) -> PreTrainedModel:
    """Build the causal LM of a config: from `known_class` if given, else from the class that transformers finds.

    `tensors` is the number of tensors in its checkpoint; raises UnsupportedError for a model with far more modules, or
    one that cannot be built.
    """
    import transformers
    from accelerate import init_empty_weights  # type: ignore[import-untyped]  # accelerate has no types
    from packaging.version import Version

    # transformers 4.56 renamed the argument.
    dtype_key = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"
    options: dict[str, Any] = {dtype_key: dtype}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if known_class is None:
        build = partial(transformers.AutoModelForCausalLM.from_config, trust_remote_code=trusted)
    else:
        build = partial(known_class._from_config)
    try:
        # Buffers (rope's frequencies, say) are computed now: checkpoints do not hold them.
        with init_empty_weights(include_buffers=False), without_trust_prompt(), bounded_building(tensors):
            model: PreTrainedModel = build(config, **options)
    except Exception as error:  # the model's own code may raise any error for a bad value
        raise UnsupportedError(
            f"{config.name_or_path}: transformers {transformers.__version__} cannot build {config.model_type!r} "
            f"as a causal LM from this config.json ({brief(error)})"
        ) from error
    model.tie_weights()  # init_empty_weights replaced the parameters, which untied them
    _keep_float32(model)
    model.eval()  # type: ignore[no-untyped-call]  # transformers' eval has no types
    return model


def _keep_float32(model: PreTrainedModel) -> None:
    """Change tensors to float32 that `from_pretrained` keeps in float32 in a 16-bit model, such as biases of routers."""
    # Absent in older versions, which have no such models.
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    patterns = [re.compile(rf"(^|\.){part}($|\.)") for part in kept]
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and any(pattern.search(name) for pattern in patterns):
            tensor.data = tensor.data.float()


def _require_sizes(config: Any, file: Path) -> None:
    """Raise InvalidInputError if a size that limits samples is not a number: not all models check these."""
    text_config = getattr(config, "get_text_config", lambda: config)()
    for name in ("max_position_embeddings", "vocab_size"):
        value = getattr(text_config, name, None)
        # bool is a subclass of int.
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InvalidInputError(f"{file}: {name} is {value!r}, expected a number")


def _require_rope(config: Any, file: Path) -> None:
    """Raise UnsupportedError if transformers 4 ignores the rope of a config.json that transformers 5 wrote."""
    import transformers
    from packaging.version import Version

    rope = json.loads(file.read_bytes()).get("rope_parameters")
    if not isinstance(rope, dict) or Version(transformers.__version__) >= Version("5"):
        return
    # transformers 4 uses these values anyway, so it loses nothing if they are all that the file says.
    known = {"rope_theta": getattr(config, "rope_theta", None), "rope_type": "default"}
    ignored = {key: value for key, value in rope.items() if value != known.get(key)}
    if ignored and not getattr(config, "rope_scaling", None):
        raise UnsupportedError(
            f"{file}: transformers {transformers.__version__} does not read rope_parameters, which says "
            f"{', '.join(f'{key}={value!r:.60}' for key, value in ignored.items())}",
            hint="install transformers 5, which wrote this file, or write rope_theta and rope_scaling instead",
        )


def _require_causal_lm(document: Path, file: Path) -> None:
    """Raise UnsupportedError for a model type that is no causal LM: its config may read other folders."""
    import transformers

    name = json.loads(document.read_bytes()).get("model_type")
    known = isinstance(name, str) and name in transformers.CONFIG_MAPPING
    if known and transformers.CONFIG_MAPPING[name] not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedError(f"{file}: transformers {transformers.__version__} cannot build {name!r} as a causal LM")
