"""How much is measured: the real run, and the tiny one that keeps the harness from rotting."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Bounds of every loop."""

    name: str
    backbone: str  # a timm name or package.module:factory
    connections: int  # of a saturating round
    rounds: int  # interleaved
    images: int  # of a saturating round, at most
    seconds: float  # of a saturating round: no request starts later
    lone: int  # requests of a lone round
    tasks: tuple[int, ...]  # the first is what the others are compared with
    task_rounds: int
    fan_outs: tuple[int, ...]  # tasks asked about one image; the first is the base
    fan_out_goal: int  # the one with a goal
    shape_images: int  # of a round of one shape
    large_images: int  # of a round of 12 Mpx
    classes: int
    labelled: int  # images of a training
    added: int  # before the training is repeated
    trainings: int
    epochs: int  # of the fine-tuning loop
    starts: int
    floods: int  # rounds of overload
    flood_connections: int  # more than an API process lets wait
    taught: int  # tasks that are uploaded and trained beside predictions
    uploaded: int  # photos of each
    quiet_slices: int  # seconds of predictions alone, before each
    peers: int  # how many of bench.peers: the first needs nothing, the others packages of their own
    peer_tasks: tuple[int, int]  # at which they are measured


FULL = Scale(
    name="full", backbone="efficientnet_lite0", connections=16, rounds=5, images=400, seconds=6.0, lone=40,
    tasks=(1, 10, 100, 1000), task_rounds=5, fan_outs=(1, 10, 50, 200), fan_out_goal=50, shape_images=200,
    large_images=40, classes=37, labelled=400, added=10, trainings=3, epochs=2, starts=3,
    floods=3, flood_connections=700, taught=2, uploaded=2000, quiet_slices=10, peers=3, peer_tasks=(1, 8),
)  # fmt: skip

QUICK = Scale(
    name="quick", backbone="tests.networks:tiny", connections=4, rounds=2, images=16, seconds=2.0, lone=4,
    tasks=(1, 4), task_rounds=1, fan_outs=(1, 4), fan_out_goal=4, shape_images=6, large_images=2,
    classes=3, labelled=12, added=3, trainings=1, epochs=1, starts=1,
    floods=1, flood_connections=600, taught=1, uploaded=40, quiet_slices=1, peers=1, peer_tasks=(1, 2),
)  # fmt: skip
