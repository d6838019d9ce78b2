"""One fit by one strategy, and what the network that would be served answers to photos that it never saw."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.adaptation.features import Features, rows_of
from models.arrays import BoolArray, IntArray
from models.head import LinearHead
from models.strategies.finetune import finetune
from models.strategies.finish import fit
from models.strategies.head import FitResult, fit_head
from models.strategies.last_block import last_block
from models.strategies.options import (
    FinetuneOptions,
    HeadOptions,
    LastBlockOptions,
    LoraOptions,
    StagesOptions,
)
from models.strategies.sources import FeatureSource, PixelSource
from models.strategies.stages import stages
from models.strategies.training import ANSWERED, Source
from models.tail import Split, stages_of
from models.views import views_of

OPTIONS: dict[str, Callable[..., Any]] = {
    "head": HeadOptions,
    "stages": StagesOptions,
    "last_block": LastBlockOptions,
    "lora": LoraOptions,
    "finetune": FinetuneOptions,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    correct: BoolArray  # (H,) of the photos held out
    validation: float | None  # by the strategy itself: what a choice may be made by
    evaluation: float  # by the strategy itself: on its test, or out of fold
    seconds: float
    chose: str | None = None  # of auto: the strategy that it serves


@dataclass(frozen=True)
class Lab:
    """A collection cut once into photos to sample from and photos that nothing is fitted on."""

    features: Features
    small: Features  # the same at the input size of finetune
    pool: IntArray
    held: IntArray

    @cached_property
    def held_targets(self) -> IntArray:
        return self.features.collection.targets[self.held]

    def fit(self, strategy: str, rows: IntArray, options: Any) -> Outcome:
        """Args: strategy: of OPTIONS; rows: photos to learn from; options: the strategy's."""
        if strategy == "head":
            return self._head(rows, options)
        if strategy == "finetune":
            return self._finetune(rows, options)
        return self._tail(strategy, rows, options)

    def _head(self, rows: IntArray, options: HeadOptions) -> Outcome:
        dataset, began = self.features.dataset, time.monotonic()
        fitted = fit_head(
            dataset.take(rows), options, total_backbone_parameters=self.parameters, report=_silent
        )
        seconds = time.monotonic() - began
        predicted = fitted.head.predict(dataset.embeddings[self.held]).argmax(axis=1)
        return self.outcome(fitted, predicted, None, seconds)

    def _tail(self, strategy: str, rows: IntArray, options: Any) -> Outcome:
        split = self.split(strategy, options)
        maps = self.features.maps(split, views_of(options.augmentation))
        recipe_of: Callable[..., Any] = {"stages": stages}.get(strategy, last_block)
        if strategy == "lora":
            from models.strategies.lora import lora as recipe_of  # noqa: PLC0415 - peft, which is an extra
        own, began = rows_of(maps, rows), time.monotonic()
        recipe = recipe_of(
            self.features.dataset.take(rows),
            own,
            split,
            options,
            total_backbone_parameters=self.parameters,
        )
        tuned = fit(recipe, report=_silent, clock=time.monotonic)
        if strategy == "lora":
            from models.strategies.lora import merged  # noqa: PLC0415 - as above

            tuned = merged(tuned)
        seconds = time.monotonic() - began
        source = FeatureSource(maps, average_flips=options.average_flips)
        predicted = answered(tuned.network, tuned.fit.head, source, self.held)
        return self.outcome(tuned.fit, predicted, tuned.fit.decision["validation"], seconds)

    def _finetune(self, rows: IntArray, options: FinetuneOptions) -> Outcome:
        small, began = self.small, time.monotonic()
        recipe = finetune(small.dataset.take(rows), small.pixels[rows], small.backbone, options)
        tuned = fit(recipe, report=_silent, clock=time.monotonic)
        seconds = time.monotonic() - began
        source = PixelSource(
            small.pixels,
            small.prepared.identity.preprocessing,
            options.augmentation,
            average_flips=options.average_flips,
        )
        predicted = answered(tuned.network, tuned.fit.head, source, self.held)
        return self.outcome(tuned.fit, predicted, tuned.fit.decision["validation"], seconds)

    def split(self, strategy: str, options: Any) -> Split:
        """Where its tail begins; of `stages`, where it would. Raises: InvalidOption, NoTail."""
        if strategy == "stages":
            return stages_of(self.features.prepared.identity.pooled)
        return self.features.split(options.blocks)

    @property
    def parameters(self) -> int:
        return self.features.prepared.identity.total_parameters

    def outcome(
        self, fit: FitResult, predicted: IntArray, validation: dict[str, Any] | None, seconds: float
    ) -> Outcome:
        return Outcome(
            correct=np.asarray(predicted == self.held_targets),
            validation=validation["value"] if validation else None,
            evaluation=fit.metrics["primary"]["value"],
            seconds=seconds,
        )


def _silent(said: dict[str, Any]) -> None:
    """Nobody waits for the progress of one fit."""


def answered(network: nn.Module, head: LinearHead, source: Source, rows: IntArray) -> IntArray:
    """(m,) classes, by the mean logits of the passes, as they are served."""
    weight, bias = torch.from_numpy(head.weight), torch.from_numpy(head.bias)
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), ANSWERED):
            batch = rows[start : start + ANSWERED]
            passes = [
                network(source.answering(batch, number)) @ weight.T + bias for number in range(source.passes)
            ]
            found.append(torch.stack(passes).mean(dim=0).argmax(dim=1).numpy())
    return np.concatenate(found)


def to_hex(correct: BoolArray) -> str:
    """A bit a photo, the first one the highest, filled up with zeros."""
    return np.packbits(correct).tobytes().hex()


def from_hex(text: str, count: int) -> BoolArray:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=count)
    return bits.astype(np.bool_)
