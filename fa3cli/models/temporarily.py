"""Temporarily replaces an attribute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["temporarily"]


@contextmanager
def temporarily(owner: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of an object within the block; an attribute of its class is visible again afterwards."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        for attribute, original in before.items():
            setattr(owner, attribute, original)
