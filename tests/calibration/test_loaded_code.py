import sys
from pathlib import Path

import pytest

from fa3cli.calibration.loaded_code import check_loaded_code
from fa3cli.calibration.opening import open_model
from fa3cli.errors import ConflictError


def test_code_that_is_not_the_folders_is_noticed(qwen2_tiny: Path) -> None:
    model = open_model(qwen2_tiny, fa=True).model
    module = qwen2_tiny / "modeling_qwen2_fa3.py"
    check_loaded_code(model, module)
    # What another process does that loads a folder of the same name.
    loaded = Path(sys.modules[type(model).__module__].__file__)
    loaded.write_bytes(loaded.read_bytes() + b"\n")
    with pytest.raises(ConflictError, match=r"is not .*modeling_qwen2_fa3\.py") as caught:
        check_loaded_code(model, module)
    assert "HF_MODULES_CACHE" in caught.value.hint
    check_loaded_code(open_model(qwen2_tiny, fa=True).model, module)
