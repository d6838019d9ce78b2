"""How much an example of each class counts while a head is fitted."""

from dataclasses import dataclass

import numpy as np

from models.arrays import BoolArray
from models.dataset import Targets
from models.head import Kind
from models.strategies.basis import Floats
from models.strategies.options import ClassWeight

IMBALANCED = 3.0  # largest class over smallest, above which classes are weighted

# 1 would give every class the same total weight. On solar cells (four grades, ratio above 20) accuracy was
# 0.697, 0.693 and 0.577 at 0, 0.5 and 1; on thinned digits macro-F1 was 0.583, 0.629 and 0.647; a multilabel
# task lost half of its fully right answers at 1, since a rare label is then answered whenever it is not rarer
# than usual.
BALANCE = 0.5

RULES: dict[ClassWeight, str] = {
    "auto": f"count ** -{BALANCE:g} where a class has more than {IMBALANCED:g} times another's examples",
    "none": "every example counts alike",
    "balanced": "1 / count: every class weighs the same",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighting:
    """Weights learned from training targets, for those and for others."""

    table: Floats  # (2, C): of an example without and with the class; row 0 is 0 where classes exclude
    known: BoolArray  # (C,) classes that can be learned: seen, and of a multilabel task also seen absent
    ratio: float  # largest class over smallest, among the known
    applied: bool
    rule: ClassWeight = "auto"

    def of(self, targets: Targets) -> Floats:
        """(n,) of a multiclass task, (n, C) of a multilabel one."""
        if targets.dtype == np.bool_:
            return np.asarray(np.where(targets, self.table[1], self.table[0]))
        return np.asarray(self.table[1][targets])


def weigh(kind: Kind, targets: Targets, classes: int, rule: ClassWeight = "auto") -> Weighting:
    """Count every example alike, unless the largest class is more than 3 times the smallest.

    Then the classes go half of the way, in the exponent, to equal total weights: BALANCE. A multilabel
    task is two classes for each label, with it and without.

    Args: rule: of RULES; balanced goes all of the way, whatever the counts.
    """
    if kind == "regression":
        known = np.ones(1, dtype=np.bool_)
        return Weighting(table=np.ones((2, 1)), known=known, ratio=1.0, applied=False, rule=rule)
    bound = {"auto": IMBALANCED, "none": np.inf, "balanced": 1.0}[rule]
    balance = 1.0 if rule == "balanced" else BALANCE
    if kind == "multiclass":
        counts = np.bincount(targets, minlength=classes).astype(np.float64)
        known = counts > 0
        ratio = float(counts[known].max() / counts[known].min())
        weights = _balanced(counts, balance) if ratio > bound else np.ones(classes)
        table = np.stack([np.zeros(classes), weights])
        return Weighting(table=table, known=known, ratio=ratio, applied=ratio > bound, rule=rule)
    present = targets.sum(axis=0).astype(np.float64)
    both = np.stack([len(targets) - present, present])  # (2, C)
    known = both.min(axis=0) > 0
    ratios = both.max(axis=0) / np.maximum(both.min(axis=0), 1)  # (C,)
    table = np.where(ratios > bound, _balanced(both, balance), 1.0)
    ratio = float(ratios[known].max(initial=1.0))
    return Weighting(table=table, known=known, ratio=ratio, applied=ratio > bound, rule=rule)


def _balanced(counts: Floats, exponent: float) -> Floats:
    """Weights of the classes along the first axis, their mean over the examples 1."""
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -exponent, 0.0)
    return np.asarray(weights * counts.sum(axis=0) / (weights * counts).sum(axis=0))
