from tests.patching.diffusion.table import render


def test_the_table_contains_the_results() -> None:
    page = render(
        {
            "0.31.0": {"Flux": {"modules": 57, "quantizers": 57, "right": True}, "SD3": {"refused": "why"}},
            "0.42.1": {
                "Flux": {"modules": 57, "quantizers": 57, "right": False},
                "New": {"modules": 60, "quantizers": 58},
                "Odd": {"unbuilt": True},
                "SD3": {"refused": "why"},
            },
        }
    )
    assert "| 0.42.1 | 4 | 3 | 0 | 1 |" in page
    assert "| Flux | **right** | **wrong** |" in page
    assert "| New |  | 58 of 60 |" in page and "| Odd |  | patched |" in page
    assert "- SD3 (0.31.0, 0.42.1): why" in page
