import sys
from pathlib import Path

import pytest

from fa3cli.calibration.loaded_code import check_loaded_code
from fa3cli.calibration.opening import open_model
from fa3cli.errors import ConflictError


def test_code_that_is_not_the_folders_is_noticed(qwen2_tiny: Path) -> None:
    module = qwen2_tiny / "modeling_qwen2_fa3.py"
    module.write_bytes(module.read_bytes() + b"\n# of another hand\n")
    seen = module.read_bytes()
    model = open_model(qwen2_tiny, fa=True, trust_remote_code=True).model
    check_loaded_code(model, module, seen)
    # What another process does that loads a folder of the same name.
    loaded = Path(sys.modules[type(model).__module__].__file__)
    loaded.write_bytes(loaded.read_bytes() + b"\n")
    with pytest.raises(ConflictError, match=r"is not .*modeling_qwen2_fa3\.py") as caught:
        check_loaded_code(model, module, seen)
    assert "HF_MODULES_CACHE" in caught.value.hint
    module.write_bytes(b"")
    with pytest.raises(ConflictError, match="changed while it was loaded"):
        check_loaded_code(model, module, seen)
