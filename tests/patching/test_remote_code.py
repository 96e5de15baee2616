"""Compares native and patched models with their own code, under every transformers version with an environment."""

import pytest

from tests.patching.remote_samples import SAMPLES
from tests.patching.test_versions import VERSIONS, run

RUN = "tests.patching.run_remote"


@pytest.mark.versions
@pytest.mark.parametrize("version", VERSIONS)
def test_patched_models_compute_the_same_as_native_models(version: str, tmp_path) -> None:
    assert set(run(version, RUN, "native", tmp_path, *SAMPLES)) == set(SAMPLES)
    patched = run(version, RUN, "patched", tmp_path, *SAMPLES)
    for sample in SAMPLES:
        for done in patched[sample]:  # as a folder of links, and in place
            assert done == {
                "module": "modeling_fa3_tiny_fa3",
                "state": "patched",
                "origin": "folder",
                "layers": 2,
                # role, dimensions, heads, and calls: two layers, one prompt without cache, three steps with it
                "seen": [["k", 4, 2, 8], ["q", 4, 4, 8], ["v", 4, 2, 8]],
                "equal": ["cached", "plain"],
                "equal, changed": ["cached", "plain"],
            }
