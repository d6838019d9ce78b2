"""What strategy `auto` would begin with, from what is stored: no image is read, and nothing is trained."""

import hashlib
from typing import Any

import numpy as np

from models.domain import (
    MOST_IMAGES,
    Domain,
    calibrated_classifier,
    domain_of_embeddings,
    given_domain,
    unknown_domain,
)
from models.strategies.rule import Rule, choose_rule, means_of
from service.store.records import Task, TaskSummary
from service.web.parts import Parts


def advise(parts: Parts, task: Task, summary: TaskSummary, options: dict[str, Any]) -> tuple[Rule, Domain]:
    """The rule that fires for the task as it is now. Args: options: canonical, of strategy auto."""
    domain = domain_of(parts, task, options)
    means = means_of(parts.tails, parts.identity)
    rule = choose_rule(summary.labelled, tuple(summary.per_class.values()), domain.domain, means)
    return rule, domain


def domain_of(parts: Parts, task: Task, options: dict[str, Any]) -> Domain:
    """As the request says it, else measured from stored embeddings. Test examples have no part in it."""
    if options["domain"] != "auto":
        return given_domain(options["domain"])
    classifier = calibrated_classifier(parts.backbone_file, parts.identity.name)
    if classifier is None:
        return unknown_domain(
            "the backbone has no pretraining classifier whose doubts are calibrated; a run would look at its "
            "batch norms, if it has any"
        )
    start = hashlib.sha256(str(options["seed"]).encode()).hexdigest()
    vectors = parts.store.embeddings.sample(task, parts.identity.digest, start=start, limit=MOST_IMAGES)
    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), parts.identity.embedding_dim)
    return domain_of_embeddings(rows.astype(np.float32), classifier)


def parameters_at(rule: Rule, parts: Parts, head: int) -> int:
    """How many would train at the rung to start from. Args: head: parameters of a head."""
    if rule.start == "finetune":
        return head + parts.identity.total_parameters
    if rule.start == "head" or rule.blocks is None:
        return head
    return head + parts.tails.of(rule.blocks).parameters
