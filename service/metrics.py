"""Every metric, counted by all processes of a server together. None carries the name of a task or a key."""

import os

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from service.telemetry import METRICS_FOLDER

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

BACKBONE_IMAGES = Counter("polyhead_backbone_images", "Images that went through the backbone.")
BACKBONE_PASSES = Counter("polyhead_backbone_passes", "Batches that went through the backbone.")
BATCH_IMAGES = Histogram(
    "polyhead_batch_images",
    "Images in a batch, with those whose embedding is known.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
STAGE_SECONDS = Histogram(
    "polyhead_stage_seconds",
    "Seconds in a stage of a prediction: decode and total of a request, queue of a job, "
    "backbone and heads of a batch.",
    ("stage",),
    buckets=SECONDS,
)
EMBEDDING_CACHE = Counter(
    "polyhead_embedding_cache", "Look-ups of images whose embedding may be known, by outcome.", ("outcome",)
)
EMBEDDING_CACHE_BYTES = Gauge(
    "polyhead_embedding_cache_bytes",
    "Bytes of the embeddings that HTTP processes keep.",
    multiprocess_mode="livesum",
)
HEAD_CACHE = Counter("polyhead_head_cache", "Look-ups of heads in the worker, by outcome.", ("outcome",))
HEAD_CACHE_BYTES = Gauge(
    "polyhead_head_cache_bytes",
    "Bytes of what the worker holds of the tasks: heads, tails and networks.",
    ("kind",),
    multiprocess_mode="livesum",
)
HEAD_CACHE_EVICTIONS = Counter("polyhead_head_cache_evictions", "Heads that made room for others.")
EXPIRED_JOBS = Counter(
    "polyhead_expired_jobs", "Jobs dropped in the queue because their deadline had passed."
)
RESUBMITTED_JOBS = Counter("polyhead_resubmitted_jobs", "Jobs queued again after a worker was replaced.")
QUEUED_IMAGES = Gauge("polyhead_queued_images", "Images waiting or in work.", multiprocess_mode="livesum")
REJECTIONS = Counter("polyhead_rejections", "Requests refused because too many images were waiting.")
REQUESTS = Counter("polyhead_requests", "Requests by route template.", ("method", "route", "status"))
REQUEST_SECONDS = Histogram(
    "polyhead_request_seconds", "Seconds from request to answer.", ("method", "route"), buckets=SECONDS
)
TRAINER_RUNS = Counter("polyhead_trainer_runs", "Runs that a trainer ended.", ("kind", "state"))
PROCESS_DEATHS = Counter("polyhead_process_deaths", "Processes that died and were replaced.", ("process",))


def metrics_text() -> bytes:
    """All metrics of all processes, in the text format of `CONTENT_TYPE`."""
    if METRICS_FOLDER not in os.environ:  # a process on its own, as in tests
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """Take a dead process out of the gauges; what it counted stays."""
    if METRICS_FOLDER in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
