"""Tests that the ranks' shares cover everything once and have nearly equal sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.calibration.ranks import ALONE, Ranks, joined_ranks
from fa3cli.errors import MissingCapabilityError
from fa3cli.observers.input_range import InputRange

sizes = st.dictionaries(st.text("abc", max_size=4), st.integers(0, 10**12), max_size=30)


def all_ranks(size: int) -> list[Ranks]:
    return [Ranks(rank, size) for rank in range(size)]


@given(count=st.integers(0, 200), size=st.integers(1, 9))
def test_every_sample_has_one_rank_and_the_leading_rank_has_the_first(count: int, size: int) -> None:
    shares = [list(ranks.positions(count)) for ranks in all_ranks(size)]
    assert sorted(position for share in shares for position in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert count == 0 or shares[0][0] == 0


@given(sizes=sizes, size=st.integers(1, 9))
def test_work_has_one_owner_and_shares_differ_by_at_most_one_piece(sizes: dict[str, int], size: int) -> None:
    owners = all_ranks(size)[0].owners(sizes)
    assert owners.keys() == sizes.keys() and set(owners.values()) <= set(range(size))
    load = [sum(sizes[name] for name in sizes if owners[name] == rank) for rank in range(size)]
    assert max(load) - min(load) <= max(sizes.values(), default=0)
    assert all(ranks.owners(sizes) == owners for ranks in all_ranks(size))


def test_a_single_rank_gathers_only_its_own_value() -> None:
    value, seen = object(), {"a": InputRange().updated(torch.ones(2, 3)), "b": object()}
    assert ALONE.gather(value) == [value] and ALONE.first(value) is value and ALONE.leads
    assert ALONE.merged(seen) == seen


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}])
def test_a_single_rank_does_not_start_torch_distributed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with joined_ranks(torch.device("cpu")) as ranks:
        assert ranks == ALONE and not torch.distributed.is_initialized()


def test_a_rank_that_cannot_join_is_a_missing_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(MissingCapabilityError, match="cannot reach each other"),
        joined_ranks(torch.device("cpu")),
    ):
        pass


def test_a_lost_rank_is_a_missing_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Connection closed by peer\n[127.0.0.1]:4242")

    monkeypatch.setattr(torch.distributed, "all_gather_object", fail)
    with pytest.raises(
        MissingCapabilityError, match=r"has died \(RuntimeError: Connection closed by peer \["
    ) as raised:
        Ranks(1, 2).gather(None)
    assert raised.value.exit_code == 6 and "the same command" in raised.value.hint


def test_all_ranks_use_the_value_of_the_leading_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(values: list[object], value: object) -> None:
        values[:] = [f"{value} of {rank}" for rank in range(len(values))]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert Ranks(1, 3).gather("word") == ["word of 0", "word of 1", "word of 2"]
    assert Ranks(2, 3).first("word") == "word of 0" and not Ranks(2, 3).leads


def test_observers_of_all_ranks_are_merged_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [{"a": InputRange().updated(torch.full((1, 2), float(rank))), "b": InputRange()} for rank in range(3)]

    def gather(values: list[object], _: object) -> None:
        values[:] = shares

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    merged = Ranks(1, 3).merged(shares[1])
    assert [sample[0].item() for sample in merged["a"].samples] == [0, 1, 2]
    assert merged["a"].tokens == 3 and merged["b"].tokens == 0
