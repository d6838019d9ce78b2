"""The run of `polyhead bulk-embed`: list, leave out what is there, embed the rest on Ray, say how it went."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from rich.console import Console

from models.errors import PolyheadError
from models.prepare import prepare_backbone
from service.bulk.destination import Destination, MadeBy, UnusableDestination
from service.bulk.parts import Part, cut
from service.bulk.source import Source
from service.bulk.work import Work
from service.settings import Settings
from service.store.blobs import as_url

WAVE = 1000  # parts whose names are held at once
MOST_FAILED = 10  # files that could not be made: beyond it the run ends, since something is wrong with all
SAY_EVERY_S = 10.0
MOST_RESTARTS = 4  # of an actor, and of a part in one that died: a part that kills its actor ends the run
OBJECT_STORE_BYTES = 128 * 2**20  # of a Ray of our own: only names and counts go through it


class BulkFailed(PolyheadError):
    """One line that says why the run ended."""


class RayMissing(BulkFailed):
    def __init__(self) -> None:
        super().__init__("bulk-embed needs Ray Data: pip install 'polyhead[bulk]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    source: str  # folder or URL
    destination: str  # folder or URL
    images_per_file: int  # on average
    any_name: bool  # also files that aren't called like images
    actors: int | None  # None: as many as there are cores for
    cpus_per_actor: int
    gpus_per_actor: float
    address: str | None  # of a Ray that runs; None: one of our own


@dataclass(slots=True)
class Tally:
    """How far a run is."""

    images: int = 0  # of the files that were made
    unreadable: int = 0  # of them
    files: int = 0
    known: int = 0  # images listed so far that had no file
    skipped: int = 0  # images listed so far that had one
    failed: list[str] = field(default_factory=list)  # why, a line a file
    wanted: set[str] = field(default_factory=set)  # names of files

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises: BulkFailed: too many files could not be made."""
        if row["failed"]:
            self.failed.append(f"{row['name']}: {row['failed']}")
            if len(self.failed) > MOST_FAILED:
                raise BulkFailed(
                    f"{len(self.failed)} files could not be made, the last one {self.failed[-1]}"
                )
            return
        self.files += 1
        self.images += row["images"]
        self.unreadable += row["unreadable"]

    def line(self, seconds: float) -> str:
        return (
            f"{self.images:,} of {self.known:,} images embedded in {self.files:,} files, "
            f"{self.unreadable:,} unreadable, {self.skipped:,} there already, "
            f"{self.images / max(seconds, 0.001):.0f} images/s"
        )


def bulk_embed(settings: Settings, options: BulkOptions, console: Console) -> bool:
    """Embed what SOURCE holds and DESTINATION doesn't.

    Returns: whether DESTINATION now holds just what SOURCE does; else it was said what is missing.
    Raises:  SourceUnavailable, UnusableDestination, StoreUnavailable, StoreFull, BackboneError, BulkFailed.
    """
    source = Source(as_url(options.source))
    url = as_url(options.destination)
    if options.any_name and f"{url}/".startswith(f"{source.url}/"):
        raise UnusableDestination(f"with --any-name, {url} would be read as a part of {source.url}")
    listed = source.images(any_name=options.any_name)
    first = next(listed, None)
    if first is None:
        raise BulkFailed(
            f"{source.url} holds no .jpg, .jpeg, .png or .webp file (--any-name takes all files)"
        )
    identity = prepare_backbone(settings.backbone_config, settings.cache_dir).identity
    destination = Destination(url)
    there = destination.claim(
        MadeBy(
            source=source.url,
            backbone=identity.name,
            backbone_digest=identity.digest,
            images_per_file=options.images_per_file,
            any_name=options.any_name,
        )
    )
    tally = Tally()
    missing = _missing(cut(chain([first], listed), options.images_per_file), there, tally)
    work = Work(
        source=source.url,
        destination=url,
        backbone=settings.backbone_config,
        backbone_digest=identity.digest,
        cache_dir=settings.cache_dir.absolute(),
        decode_threads=settings.decode_threads,
        max_batch_size=settings.max_batch_size,
        max_image_pixels=settings.max_image_pixels,
        max_image_bytes=settings.max_request_bytes,
    )
    _embed(missing, work, options, tally, console)
    for failure in tally.failed:
        console.print(failure, soft_wrap=True)
    if tally.failed:
        console.print(f"{len(tally.failed)} files are missing: run it again", soft_wrap=True)
        return False
    for name in sorted(there - tally.wanted):  # of images that were changed or are gone since
        destination.delete(name)
    return True


def _missing(parts: Iterable[Part], there: set[str], tally: Tally) -> Iterator[Part]:
    for part in parts:
        tally.wanted.add(part.name)
        if part.name in there:
            tally.skipped += len(part.paths)
        else:
            tally.known += len(part.paths)
            yield part


def _embed(parts: Iterator[Part], work: Work, options: BulkOptions, tally: Tally, console: Console) -> None:
    """Work through the parts, a wave at a time. Ray is started if there is any. Raises: BulkFailed."""
    started = said = time.monotonic()
    wave = list(islice(parts, WAVE))
    if wave:
        with _ray(options) as ray:
            while wave:
                for row in _rows(ray, wave, work, options):
                    tally.add(row)
                    now = time.monotonic()
                    if now - said >= SAY_EVERY_S:
                        said = now
                        console.print(tally.line(now - started), soft_wrap=True)
                wave = list(islice(parts, WAVE))
    console.print(tally.line(time.monotonic() - started), soft_wrap=True)


@contextmanager
def _ray(options: BulkOptions) -> Iterator[Any]:
    """Raises: RayMissing; BulkFailed: there is none at that address, or something failed in it."""
    # Read when Ray is imported: no telemetry, no Ray that starts by itself once ours has ended, no chatter.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    if not options.address:
        # Ray takes 127.0.0.1 for a mistake, and listens on every address, unless it is told that it is alone
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise RayMissing from error
    own = {
        "num_cpus": os.cpu_count(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    try:
        ray.init(
            address=options.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if options.address else own),
        )
    except Exception as error:  # Ray raises nearly every built-in type, and Exception itself
        raise BulkFailed(f"Ray: {_cause(error)}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    except ray.exceptions.RayError as error:
        raise BulkFailed(f"Ray: {_cause(error)}") from error
    # Only after a good end: else Ray Data's threads would ask a Ray that is gone, which ends the process
    # before it has said why. A Ray of our own ends with the process.
    ray.shutdown()


def _rows(ray: Any, wave: list[Part], work: Work, options: BulkOptions) -> Iterator[Mapping[str, Any]]:
    """Embed parts, one block each, and give what became of each as it is known."""
    from service.bulk.embedding import PartEmbedder  # noqa: PLC0415 - brings pyarrow, of the extra

    cpus, most = _room(ray.cluster_resources(), options)
    work = replace(
        work,
        backbone=replace(work.backbone, threads=work.backbone.threads or cpus),
        decode_threads=max(cpus, work.decode_threads),
    )
    yield from (
        ray.data.from_items([{"part": part.to_json()} for part in wave], override_num_blocks=len(wave))
        .map(
            PartEmbedder,
            fn_constructor_args=(work,),
            compute=ray.data.ActorPoolStrategy(size=min(options.actors or most, len(wave))),
            num_cpus=cpus,
            num_gpus=options.gpus_per_actor or None,
            ray_remote_args_fn=lambda: {"max_restarts": MOST_RESTARTS, "max_task_retries": MOST_RESTARTS},
        )
        .iter_rows()
    )


def _room(resources: Mapping[str, float], options: BulkOptions) -> tuple[int, int]:
    """CPUs of an actor, and how many actors fit, one at least."""
    cpus = int(resources.get("CPU", 1))
    each = max(1, min(options.cpus_per_actor, cpus))
    most = cpus // each
    if options.gpus_per_actor:
        most = min(most, int(resources.get("GPU", 0) / options.gpus_per_actor))
    if most < 1:
        raise BulkFailed(f"Ray has no room for an actor with {options.gpus_per_actor:g} GPUs")
    return each, most


def _cause(error: BaseException) -> str:
    """The last line, where Ray puts what was raised in an actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
