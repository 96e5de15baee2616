from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fa3cli.calibration.diffusion.choice import recorded_steps

sizes = st.integers(1, 40)
counts = st.integers(1, 2000)


def spread(counted: Counter, size: int) -> int:
    numbers = [counted[index] for index in range(size)]
    return max(numbers) - min(numbers)


@given(prompts=sizes, steps=sizes)
def test_without_a_count_all_are(prompts: int, steps: int) -> None:
    everything = {(prompt, step) for prompt in range(prompts) for step in range(steps)}
    assert (
        recorded_steps(prompts, steps, None) == everything == recorded_steps(prompts, steps, prompts * steps)
    )


@given(prompts=sizes, steps=sizes, count=counts)
def test_as_many_as_asked_for_balanced_and_with_the_first(prompts: int, steps: int, count: int) -> None:
    found = recorded_steps(prompts, steps, count)
    assert len(found) == min(count, prompts * steps)
    assert (0, 0) in found
    assert all(0 <= prompt < prompts and 0 <= step < steps for prompt, step in found)
    assert spread(Counter(prompt for prompt, _ in found), prompts) <= 1


@given(prompts=sizes, steps=sizes, count=counts)
def test_steps_are_covered_or_spread_evenly(prompts: int, steps: int, count: int) -> None:
    found = Counter(step for _, step in recorded_steps(prompts, steps, count))
    if count >= steps:
        assert set(found) == set(range(steps))
        assert spread(found, steps) <= 1
    elif count >= 2:
        at = sorted(found)
        assert (at[0], at[-1], len(at)) == (0, steps - 1, count)
        gaps = [after - before for before, after in pairwise(at)]
        assert max(gaps) - min(gaps) <= 1
