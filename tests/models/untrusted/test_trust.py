from __future__ import annotations

import io
import sys

import pytest

from fa3cli.models.untrusted.trust import without_trust_prompt


def test_transformers_refuses_instead_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    assert before > 0
    with without_trust_prompt(), pytest.raises(ValueError, match="trust_remote_code=True"):
        dynamic_module_utils.resolve_trust_remote_code(None, "model", has_local_code=False, has_remote_code=True)
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE == before
    assert sys.stdin.read() == "y\n"
