"""What the routes of one API process work with; made in its lifespan, after the fork."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from models.identity import BackboneIdentity
from models.tails import Tails, read_tails
from service.engine import Engine
from service.settings import Settings
from service.store import Store
from service.store.tokens import read_peppers
from service.web.decoding import Decoder
from service.web.embedding_cache import EmbeddingCache
from service.web.follower import Follower
from service.web.keyring import Keyring
from service.web.precedence import Precedence
from service.web.reach import Reach
from service.web.resolver import Resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    settings: Settings
    store: Store
    engine: Engine
    identity: BackboneIdentity  # of the backbone that this deployment serves
    backbone_file: Path  # backbone.onnx
    tails: Tails  # that it offers
    runtime: str  # what runs the backbone: "openvino" or "torch"
    decoder: Decoder
    precedence: Precedence
    embedding_cache: EmbeddingCache | None  # None: it is off
    resolver: Resolver
    follower: Follower
    reach: Reach
    keyring: Keyring | None  # None: keys are off

    @classmethod
    def assemble(
        cls,
        *,
        settings: Settings,
        store: Store,
        engine: Engine,
        identity: BackboneIdentity,
        backbone_file: Path,
        runtime: str,
    ) -> "Parts":
        """Make what is this process's own around what it was given; `close` ends that again.

        Raises: UnusablePeppers.
        """
        peppers = read_peppers(settings.resolved_key_peppers_file) if settings.needs_keys else None
        resolver = Resolver(store, identity.digest, fresh_s=settings.resolve_cache_s)
        return cls(
            settings=settings,
            store=store,
            engine=engine,
            identity=identity,
            backbone_file=backbone_file,
            tails=read_tails(backbone_file),
            runtime=runtime,
            decoder=Decoder(
                identity.preprocessing,
                threads=settings.decode_threads,
                max_pixels=settings.max_image_pixels,
                max_pending=settings.max_queued_images,
            ),
            precedence=Precedence(),
            embedding_cache=(
                EmbeddingCache(most_bytes=settings.embedding_cache_bytes)
                if settings.embedding_cache_bytes
                else None
            ),
            resolver=resolver,
            follower=Follower(store.database, resolver.expire),
            reach=Reach(store),
            keyring=None if peppers is None else Keyring(store.api_keys, peppers),
        )

    def close(self) -> None:
        """Stop the threads; the store and the engine belong to the caller."""
        self.follower.close()
        self.decoder.close()


OpenParts = Callable[[FastAPI], AbstractAsyncContextManager[Parts]]
"""Opened once in each API process, with the app that runs there."""
