"""Strategy `auto` without its service: the same rule, the same rungs and the same choice, and no budget."""

import time
from dataclasses import asdict, replace
from typing import Any

from bench.adaptation.features import rows_of
from bench.adaptation.fits import Lab, Outcome, answered
from models.arrays import IntArray
from models.dataset import Dataset
from models.domain import MOST_IMAGES, Domain, calibrated_classifier, choose_rows, domain_of_embeddings
from models.strategies.attempt import Recipe
from models.strategies.climb import Climb, Tried
from models.strategies.explore import Candidate, explore
from models.strategies.finetune import finetune
from models.strategies.finish import finish
from models.strategies.floor import head_rung
from models.strategies.last_block import last_block
from models.strategies.lora import lora, merged
from models.strategies.options import HeadOptions
from models.strategies.rule import Rule, Rung, choose_rule, means_of
from models.strategies.rungs import FEW_VALIDATION, rung_options
from models.strategies.sources import FeatureSource, PixelSource
from models.strategies.stages import stages
from models.strategies.training import Source
from models.tails import read_tails
from models.views import views_of

NO_LIMIT = 86_400.0  # seconds: what is compared here is the choice, not what a busy machine leaves time for


def climb(lab: Lab, rows: IntArray, seed: int, finetune_epochs: int) -> Outcome:
    """What `auto` serves of these photos. Args: finetune_epochs: as the other fits of the map have them."""
    began = time.monotonic()
    dataset = lab.features.dataset.take(rows)
    prepared = lab.features.prepared
    means = means_of(read_tails(prepared.onnx_path), prepared.identity)
    domain = _domain(lab, dataset, seed)
    rule = choose_rule(len(dataset), tuple(dataset.per_class.values()), domain.domain, means)
    floor = _explored(head_rung(dataset, seed=seed, total_backbone_parameters=lab.parameters))
    targets = dataset.targets[floor.validation_rows]
    ladder = Climb(dataset.kind, targets, start=rule.start)
    ladder.consider(_tried("head", floor))
    best: tuple[Rung, Candidate, Source] | None = None
    for rung in rule.order[1:]:
        if not ladder.goes_on:
            break
        recipe, source = _recipe(
            lab, rows, dataset, rule=rule, rung=rung, seed=seed, finetune_epochs=finetune_epochs
        )
        candidate = _explored(recipe)
        if ladder.consider(_tried(rung, candidate)):
            best = rung, candidate, source
    if best is None:
        outcome = lab.fit("head", rows, HeadOptions(seed=seed))
        return replace(outcome, chose="head", seconds=time.monotonic() - began)
    rung, candidate, source = best
    tuned = finish(candidate, report=lambda _: None)
    if rung == "lora":
        tuned = merged(tuned)
    predicted = answered(tuned.network, tuned.fit.head, source, lab.held)
    outcome = lab.outcome(tuned.fit, predicted, candidate.validation, time.monotonic() - began)
    return replace(outcome, chose=rung)


def _domain(lab: Lab, dataset: Dataset, seed: int) -> Domain:
    prepared = lab.features.prepared
    chosen = choose_rows(len(dataset), seed, MOST_IMAGES)
    classifier = calibrated_classifier(prepared.onnx_path, prepared.identity.name)
    return domain_of_embeddings(dataset.embeddings[chosen], classifier)


def _recipe(
    lab: Lab, rows: IntArray, dataset: Dataset, *, rule: Rule, rung: Rung, seed: int, finetune_epochs: int
) -> tuple[Recipe, Source]:
    """And where the photos held out are answered from."""
    options: Any = rung_options(rule, rung, seed=seed, max_seconds=NO_LIMIT)
    if rung == "finetune":
        small = lab.small
        options = replace(options, epochs=min(options.epochs, finetune_epochs))
        everything = PixelSource(
            small.pixels,
            small.prepared.identity.preprocessing,
            options.augmentation,
            average_flips=options.average_flips,
        )
        return finetune(small.dataset.take(rows), small.pixels[rows], small.backbone, options), everything
    split = lab.split(rung, options)
    maps = lab.features.maps(split, views_of(options.augmentation))
    kind: Any = {"lora": lora, "stages": stages}.get(rung, last_block)
    recipe = kind(dataset, rows_of(maps, rows), split, options, total_backbone_parameters=lab.parameters)
    return recipe, FeatureSource(maps, average_flips=options.average_flips)


def _explored(recipe: Recipe) -> Candidate:
    return explore(recipe, report=lambda _: None, few_validation=FEW_VALIDATION)


def _tried(name: str, candidate: Candidate) -> Tried:
    return Tried(
        name=name,
        options=asdict(candidate.recipe.options),
        scores=candidate.validation_scores,
    )
