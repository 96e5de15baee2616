"""Tests which linears engines read only as float."""

from __future__ import annotations

from fa3cli.quantization.float_only import LATENT_ATTENTION, never_quantized, routers
from tests.quantization.test_schemes import DENSE, EXPERT


def test_routers_are_beside_the_experts() -> None:
    mixtures = [
        "layers.1.mlp.gate",
        "layers.1.mlp.shared_expert_gate",
        "layers.1.mlp.shared_expert.gate_proj",
        EXPERT,
        "layers.2.block_sparse_moe.router.layer",
        "layers.2.block_sparse_moe.experts.0.w1",
    ]
    assert routers([*DENSE, "layers.0.mlp.gate", *mixtures]) == [mixtures[0], mixtures[1], mixtures[4]]


def test_a_router_needs_no_linears_beside_it() -> None:
    """The experts of Aria and GraniteMoE are one tensor."""
    assert routers(["layers.0.mlp.router", "layers.0.mlp.gate", "layers.0.mlp.router.layer"]) == [
        "layers.0.mlp.router",
        "layers.0.mlp.router.layer",
    ]


def test_reasons() -> None:
    latent, gate = "layers.1.self_attn.kv_b_proj", "layers.1.mlp.gate"
    assert never_quantized([*DENSE, latent, gate, EXPERT]) == {latent: LATENT_ATTENTION, gate: "router"}
