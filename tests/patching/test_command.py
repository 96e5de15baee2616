"""Tests the command of libcst.tool with libcst's own test case, and once as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from libcst.codemod import CodemodTest

from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.patching.command import PatchAttentionCommand
from fa3cli.patching.sources import patch_source
from tests.patching.samples import INTERFACE, RIGHT, marked

ROOT = Path(__file__).parents[2]
NAME = "fa3cli.patching.command.PatchAttentionCommand"


class TestPatchAttentionCommand(CodemodTest):
    TRANSFORM = PatchAttentionCommand

    def test_attention_gets_its_quantizer_and_three_calls(self) -> None:
        before = """
            import torch
            from ...modeling_utils import PreTrainedModel


            class Attention(nn.Module):
                def __init__(self, config):
                    super().__init__()
                    self.config = config  # kept

                def forward(self, x, past):
                    q, k, v = self.project(x)
                    k, v = past.update(k, v, self.layer_idx)
                    # below
                    return F.scaled_dot_product_attention(q, k, v)
        """
        after = """
            from fa3cli.fa_quantizer import FAQuantizer
            from fa3cli import logger

            import torch
            from ...modeling_utils import PreTrainedModel


            class Attention(nn.Module):
                def __init__(self, config):
                    super().__init__()
                    self.config = config  # kept
                    self.fa_quantizer = FAQuantizer(self.config, logger)

                def forward(self, x, past):
                    q, k, v = self.project(x)
                    k, v = past.update(k, v, self.layer_idx)

                    q = self.fa_quantizer.quant(q, qkv="q")
                    k = self.fa_quantizer.quant(k, qkv="k")
                    v = self.fa_quantizer.quant(v, qkv="v")
                    # below
                    return F.scaled_dot_product_attention(q, k, v)
        """
        self.assertCodemod(before, after, attention=["Attention"])

    def test_the_command_writes_the_same_as_fa3_patch(self) -> None:
        for name, body in RIGHT.items():
            with self.subTest(name):
                before = marked(body)[0]
                options = {"package": "transformers.models.x", "quantizer": "msmodelslim"}
                self.assertCodemod(before, patch_source(before, **options).text, **options)

    def test_a_file_that_cannot_be_patched_is_refused(self) -> None:
        before = marked(INTERFACE)[0]
        with pytest.raises(UnsupportedError, match="has no attention class Other"):
            self.assertCodemod(before, before, attention=["Other"])
        with pytest.raises(ConflictError, match="already has a fa_quantizer"):
            self.assertCodemod(patch_source(before).text, "")


def test_the_command_runs_as_documented(tmp_path: Path) -> None:
    file = tmp_path / "modeling_x.py"
    file.write_text(marked(INTERFACE)[0])
    assert NAME in (ROOT / "docs" / "patching.md").read_text("utf-8")
    call = [sys.executable, "-m", "libcst.tool", "codemod", "-x", "--no-format", NAME]
    call += ["--attention", "Attention", str(file)]
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "capture_output": True,
        "text": True,
    }
    done = subprocess.run(call, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == patch_source(marked(INTERFACE)[0], package=None).text
    again = subprocess.run(call, check=False, **options)
    assert again.returncode == 1
    assert "modeling_x.py already has a fa_quantizer" in again.stderr
