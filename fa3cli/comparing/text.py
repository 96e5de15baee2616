"""Compares an export with its float model on text."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, nll_loss

from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.exports.contents import Contents, open_contents
from fa3cli.exports.recognition import recognize_target
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.opening import open_model
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.quantization.simulation.engine_model import simulate
from fa3cli.runs.progress import Progress, Ticks
from fa3cli.samples.dataset import Sample, read_samples

__all__ = ["Comparison", "compare"]

_BLOCK = 256  # positions whose logits are converted to float32 at a time


@dataclass(frozen=True)
class Comparison:
    """Differences between the simulated quantized model and the float model, over all predicted tokens."""

    samples: int
    samples_cut: int
    tokens: int
    perplexity_float: float
    perplexity_quantized: float
    kl_divergence: float
    """Mean over tokens of KL(float || quantized), in nats."""
    top1_agreement: float
    """Share of tokens for which both models predict the same token."""
    layer_errors: tuple[float, ...] = ()
    """Per decoder layer: norm of (quantized - float) / norm of float over all output states; errors accumulate."""


def compare(
    export_dir: str | Path,
    weights_dir: str | Path,
    text: str | Path,
    *,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Comparison:
    """Run both models layer by layer over the lines of `text`, and compare their predictions."""
    folder, text = Path(weights_dir), Path(text)
    contents = open_contents(Path(export_dir), recognize_target(Path(export_dir)))
    if contents.form.latent:
        raise UnsupportedError(f"{export_dir}: holds scales of latent attention (MLA), which fa3 does not simulate yet")
    float_model = open_model(
        folder,
        fa=any(name.endswith(contents.form.tensors) for name in contents.tensors),
        dtype=contents.target.served_dtype(contents.model_dtype or "auto"),
        trust_remote_code=trust_remote_code,
    )
    quantized = _open_export(contents, float_model)
    limits = (max_length, getattr(float_model.config, "max_position_embeddings", None))
    samples = read_samples(
        text,
        folder,
        max_length=min((limit for limit in limits if limit is not None), default=None),
        vocab_size=float_model.config.vocab_size,
        trust_remote_code=trust_remote_code,
    )
    samples = [sample for sample in samples if sample.arguments["input_ids"].shape[1] > 1]  # one token predicts nothing
    if not samples:
        raise InvalidInputError(f"{text}: no line has two tokens, so there is nothing to predict")
    totals, states = _Totals(), [_StateTotals() for _ in float_model.layers]
    for ids, logits, simulated in _logits(float_model, quantized, samples, states, progress):
        totals.add(ids, logits, simulated)
    return totals.comparison(samples, tuple(layer.error() for layer in states))


def _open_export(contents: Contents, float_model: StreamedModel) -> StreamedModel:
    """Return the simulated model of an export: the float model's structure with the export's tensors."""
    from transformers import PreTrainedModel

    skeleton = copy.deepcopy(float_model.model)
    if isinstance(skeleton, PreTrainedModel):
        skeleton.tie_weights()
    exported = Checkpoint(contents.folder, contents.target.weight_file)
    packed = any(info.dtype == "I64" for info in exported.tensors.values())
    shapes = {name: info.shape for name, info in exported.tensors.items()}
    published = float_model.published
    simulate(
        skeleton,
        shapes,
        torch.int64 if packed else torch.float32,
        published.module,
        contents.description,
        reciprocal=contents.target.multiplies_inputs,
    )
    return StreamedModel(skeleton, exported, float_model.dtype, float_model.device, published=published)


def _logits(
    float_model: StreamedModel,
    quantized: StreamedModel,
    samples: list[Sample],
    states: list[_StateTotals],
    progress: Callable[[Progress], None],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Add the layers' outputs to `states`, then yield each sample's token ids `[S]` and both models' logits `[S, V]`."""
    inputs = [sample.inputs(float_model.device) for sample in samples]
    models = (float_model, quantized)
    with ExitStack() as stack:
        forwards = [
            stack.enter_context(LayerSynchronousForwards(model.model, list(model.layers.values()), inputs))
            for model in models
        ]
        for model, side in zip(models, forwards):
            with model.loaded(model.before_layers):
                side.start()
        ticks = Ticks(len(float_model.layers), len(float_model.layers) * len(models) * len(samples), progress)
        for index, layer in enumerate(float_model.layers):
            for model, side in zip(models, forwards):
                with model.loaded(model.of_layer[layer]):
                    for sample in range(len(samples)):
                        ticks.sample_begins(inputs[sample]["input_ids"].numel())
                        side.advance(sample, index)
            for outputs in zip(*(side.outputs for side in forwards)):
                states[index].add(*outputs)
            ticks.layer_ends(sum(model.nbytes(*model.of_layer[layer]) for model in models))
        for model in models:
            stack.enter_context(model.loaded(model.outside))
        for sample, tokens in enumerate(inputs):
            yield tokens["input_ids"][0], *(side.finish(sample).logits[0] for side in forwards)


class _StateTotals:
    """Sums of squares over the output states of a layer."""

    def __init__(self) -> None:
        self.noise = self.signal = 0.0

    def add(self, expected: Any, found: Any) -> None:
        """Add one sample's outputs of both layers: states `[1, S, C]`, or a tuple that begins with the states."""
        exact, simulated = (
            (output[0] if isinstance(output, tuple) else output).cpu().double() for output in (expected, found)
        )
        self.signal += exact.square().sum().item()
        self.noise += simulated.sub_(exact).square().sum().item()

    def error(self) -> float:
        error = math.sqrt(self.noise / self.signal) if self.signal else math.inf if self.noise else 0.0
        return math.inf if math.isnan(error) else error  # NaN counts as the largest error


class _Totals:
    """Sums over predicted tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self.nll_float = self.nll_quantized = self.kl = self.agreed = 0.0

    def add(self, ids: Tensor, logits: Tensor, simulated: Tensor) -> None:
        """Add a sample, `[S]` and twice `[S, V]`, in blocks of positions: float32 logits of all would be large."""
        for block in zip(*(torch.split(part, _BLOCK) for part in (ids[1:], logits[:-1], simulated[:-1]))):
            self._add_block(*block)

    def _add_block(self, following: Tensor, logits: Tensor, simulated: Tensor) -> None:
        expected, found = logits.float().log_softmax(-1), simulated.float().log_softmax(-1)
        self.tokens += len(following)
        self.nll_float += nll_loss(expected, following, reduction="sum").item()
        self.nll_quantized += nll_loss(found, following, reduction="sum").item()
        self.kl += kl_div(found, expected, log_target=True, reduction="sum").item()
        self.agreed += (expected.argmax(-1) == found.argmax(-1)).sum().item()

    def comparison(self, samples: list[Sample], layer_errors: tuple[float, ...]) -> Comparison:
        return Comparison(
            samples=len(samples),
            samples_cut=sum(sample.cut for sample in samples),
            tokens=self.tokens,
            perplexity_float=_exp(self.nll_float / self.tokens),
            perplexity_quantized=_exp(self.nll_quantized / self.tokens),
            kl_divergence=self.kl / self.tokens,
            top1_agreement=self.agreed / self.tokens,
            layer_errors=layer_errors,
        )


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:  # a broken export must give a result, not an error
        return math.inf
