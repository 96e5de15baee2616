"""Returns a model's tensors as transformers saves them: under published names, in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fa3cli.models.temporarily import temporarily

__all__ = ["saved_names", "saved_tensors"]


def saved_names(model: Any) -> set[str]:
    """Return the names under which transformers saves a model; nothing is computed."""
    return set(saved_tensors(model, {name: tensor.to("meta") for name, tensor in model.state_dict().items()}))


def saved_tensors(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published tensors that transformers saves for these tensors of a model.

    transformers 4 saves the tensors of a causal language model as they are.
    """
    from transformers import PreTrainedModel

    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4
        return dict(tensors)
    # A patched class is not of the library, but its tensors are those of the class that it was made from.
    with temporarily(PreTrainedModel, "is_custom_code", lambda *_: False):
        return dict(revert_weight_conversion(model, dict(tensors)))
