"""Checks the entries of the description for the whole model, and for modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fa3cli.exports.checks.modules import attentions, model_values
from fa3cli.exports.checks.registry import Remark, check, error
from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import FLOAT
from fa3cli.exports.targets import TARGETS

# The values that MindIE accepts.
_GROUP_SIZES = (0, 64, 128, 256)
# Entries for the whole model, of all forms of attention modules: those of an export's own form are required with FA3
# tensors, and forbidden without; the others are forbidden.
_FORM_ENTRIES = tuple(
    dict.fromkeys(key for target in TARGETS.values() for form in target.forms for key in form.settings)
)
# The entry of a module that is quantized at run time, such as DeepSeek's indexer: all of its states, or some.
_DYNAMIC_MODULE = re.compile(r"([QKVP]+_)?INT8_DYNAMIC")


@check(
    "quant-types",
    "these entries select the loader of the model; engines differ in reading null",
    needs=("description", "weights"),
)
def quant_types(contents: Contents) -> Iterator[Remark]:
    settings, expected = contents.settings, contents.form.settings
    # Tools name a model with several values by one of them, ascendv1 by another one than fa3; a float model by FLOAT.
    allowed = model_values(contents) or (contents.target.value, FLOAT)
    if (value := settings.get("model_quant_type")) not in allowed:
        yield error("model_quant_type", f"is {value!r}, expected {' or '.join(map(repr, allowed))}")
    if contents.target.name == "mindie":
        yield from _refused_by_mindie(settings)
    yield from _indexers(settings)
    yield from _module_entries(contents)
    quantized = bool(attentions(contents))
    for key in _FORM_ENTRIES:
        found, wanted = settings.get(key), expected.get(key)
        if key not in settings:  # not `found is None`: a null entry is an error
            if wanted and quantized:
                yield error(key, f"is missing, but attention modules have scales; expected {wanted!r}")
        elif wanted is None:
            yield error(key, f"is {found!r}; target {contents.target.name} has no such entry")
        elif found != wanted:
            yield error(key, f"is {found!r}; expected {wanted!r}, or no such entry")
        elif not quantized:
            yield error(key, f"is {found!r}, but no attention module has scales")


def _indexers(settings: Mapping[str, object]) -> Iterator[Remark]:
    if (found := settings.get("indexer_quant_type", "INT8_DYNAMIC")) != "INT8_DYNAMIC":
        yield error("indexer_quant_type", f"is {found!r}, expected 'INT8_DYNAMIC' or no such entry")


def _module_entries(contents: Contents) -> Iterator[Remark]:
    """Report entries of modules that do not say how the module is quantized; a module may have none."""
    stored = set(attentions(contents))
    for module, value in contents.module_entries.items():
        if module in stored and value != "INT8":
            yield error(f"{module}.quant_type", f"is {value!r}, expected 'INT8'")
        elif module not in stored and not (isinstance(value, str) and _DYNAMIC_MODULE.fullmatch(value)):
            yield error(f"{module}.quant_type", f"is {value!r}, expected 'INT8_DYNAMIC': no scale is stored")


def _refused_by_mindie(settings: Mapping[str, object]) -> Iterator[Remark]:
    group_size, reduced = settings.get("group_size", 0), settings.get("reduce_quant_type")
    if group_size not in _GROUP_SIZES:
        yield error("group_size", f"is {group_size!r}, expected {', '.join(map(str, _GROUP_SIZES))} or no such entry")
    if reduced not in (None, "per_channel"):
        yield error("reduce_quant_type", f"is {reduced!r}, expected no such entry")
