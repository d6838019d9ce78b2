"""A backbone's graph in the cache, keyed by its digest, and the check that it still computes what it did.

    cache_dir/
      requests/<key>.json     what was asked for → the digest that answers it
      <digest>/backbone.onnx  identity.json  tails.json  classifier.npz  reference.npy  manifest.json

With a warm cache nothing here imports torch. A manifest is written last and holds the sha256 of each file, so
that an entry that was cut off or damaged counts as missing and is made again.
"""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock

from models.arrays import FloatArray
from models.domain import FILE as CLASSIFIER
from models.domain import Classifier, read_classifier
from models.errors import BackboneError, ReferenceMismatch
from models.identity import BackboneConfig, BackboneIdentity, Stage
from models.prepared import PreparedBackbone, Runtime
from models.reference import RECORDED, recorded_embeddings, reference_pixels
from models.tails import FILE as TAILS
from models.weights import find_weights, is_factory, shown_name

__all__ = ["BackboneConfig", "PreparedBackbone", "check_reference", "prepare_backbone"]

FILES = ("backbone.onnx", "identity.json", "reference.npy", TAILS, CLASSIFIER)
FORMAT = 2  # of the cache and of the graph: a change makes every entry anew
# Least cosine to the reference. At fp32 runtimes agree to 1e-5, and versions of libjpeg differ by more; bf16
# has come down to 0.988 on photos, fp16 to 0.9999.
REQUIRED_COSINE = {"fp32": 0.999, "bf16": 0.98, "fp16": 0.99}


def prepare_backbone(config: BackboneConfig, cache_dir: Path) -> PreparedBackbone:
    """Find the backbone's graph in the cache, or build and export it (seconds to a minute).

    Safe where several processes do it at once: one exports, the others wait for it.

    Raises: BackboneError: one line, as of `build_backbone`; or the cache folder can't be used.
    """
    name = shown_name(config.name)
    # A factory is code, which no key stands for: it is always built, and only its export is cached.
    key = None if is_factory(config.name) else _request_key(config)
    try:
        requests = cache_dir / "requests"
        requests.mkdir(parents=True, exist_ok=True)
        request = requests / f"{key}.json" if key else None
        identity = _warm(request, cache_dir)
        if identity is None:
            with FileLock(cache_dir / "prepare.lock"):
                identity = _warm(request, cache_dir) or _cold(config, request, cache_dir)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackboneError(
            f"backbone {name}: the cache folder {cache_dir} can't be used: {reason}"
        ) from error
    return PreparedBackbone(
        identity=identity, onnx_path=cache_dir / identity.digest / "backbone.onnx", config=config
    )


def check_reference(runtime: Runtime, prepared: PreparedBackbone) -> None:
    """Embed the packaged images and compare with what they gave when they were recorded.

    The default backbone's record ships with the package; another's is what torch gave when it was exported.

    Raises: ReferenceMismatch: the weights, the decoder or the runtime compute something else.
    """
    identity, config = prepared.identity, prepared.config
    pixels = reference_pixels(identity.preprocessing)
    embeddings = runtime.run(pixels)["embedding"]
    as_shipped = (
        config.weights is None and config.input_size in (None, 224) and config.crop_pct in (None, 0.875)
    )
    if identity.name in RECORDED and as_shipped and not is_factory(config.name):
        expected = recorded_embeddings(identity.name)
    else:
        expected = np.load(prepared.onnx_path.with_name("reference.npy"), allow_pickle=False)
    cosine = least_cosine(embeddings, expected)
    required = REQUIRED_COSINE[identity.precision]
    if not cosine >= required:
        raise ReferenceMismatch(name=identity.name, cosine=cosine, required=required)


def least_cosine(embeddings: FloatArray, expected: FloatArray) -> float:
    """The least of the rows' cosines; -1 for embeddings of other shapes, or that aren't finite."""
    if embeddings.shape != expected.shape or not np.isfinite(embeddings).all():
        return -1.0
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(expected, axis=1)
    products = (embeddings * expected).sum(axis=1)
    same = (embeddings == expected).all(axis=1)  # a network may embed an image as zeros, which have no cosine
    return float(np.where(same, 1.0, products / np.maximum(lengths, 1e-12)).min())


def _request_key(config: BackboneConfig) -> str:
    """sha256 over all that decides which graph answers a request for a timm name."""
    source = find_weights(config.name, config.weights)
    said = {
        "format": FORMAT,
        "timm": version("timm"),  # it declares the preprocessing, and which of the hub's files a name means
        "name": shown_name(config.name),
        "source": source.kind,
        "weights": _sha256(source.path) if source.path else None,
        "precision": config.precision,
        "input_size": config.input_size,
        "crop_pct": config.crop_pct,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _warm(request: Path | None, cache_dir: Path) -> BackboneIdentity | None:
    """The identity that answered this request before, if its files are whole."""
    if request is None:
        return None
    try:
        identity = BackboneIdentity.from_json(request.read_text())
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: made again
        return None
    return identity if _intact(cache_dir / identity.digest) else None


def _intact(folder: Path) -> bool:
    try:
        said = json.loads((folder / "manifest.json").read_text())
        files = said["files"]
        return said["format"] == FORMAT and all(_sha256(folder / name) == files[name] for name in FILES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _cold(config: BackboneConfig, request: Path | None, cache_dir: Path) -> BackboneIdentity:
    from models import graph  # noqa: PLC0415 - brings torch
    from models.backbone import build_backbone  # noqa: PLC0415 - brings torch
    from models.tail import describe_tails  # noqa: PLC0415 - brings torch

    backbone = build_backbone(config)
    identity = graph.identify(backbone, config.precision)
    embeddings = graph.embed(backbone, reference_pixels(identity.preprocessing))
    folder = cache_dir / identity.digest
    classifier = _classifier(backbone.classifier, identity)
    # what stages a factory declares is no part of the digest, and a graph without one can't serve it; nor is
    # the classifier, which another file of the same network may lack
    if _intact(folder) and _stages(folder) == identity.stages and _knows(folder, classifier):
        _check_unchanged(embeddings, folder, identity.name)
    else:
        for left in cache_dir.glob("building-*"):  # by a process that was killed: we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=cache_dir) as scratch:
            graph.export_onnx(backbone, identity, Path(scratch) / "backbone.onnx")
            np.save(Path(scratch) / "reference.npy", embeddings, allow_pickle=False)
            (Path(scratch) / "identity.json").write_text(identity.to_json())
            (Path(scratch) / TAILS).write_text(describe_tails(backbone).to_json())
            classifier.write(Path(scratch) / CLASSIFIER)
            _move_in(Path(scratch), folder)
    if request is not None:
        _replace(request, identity.to_json())
    return identity


def _stages(folder: Path) -> tuple[Stage, ...]:
    return BackboneIdentity.from_json((folder / "identity.json").read_text()).stages


def _classifier(found: Classifier | None, identity: BackboneIdentity) -> Classifier:
    """What is kept: one without classes where there is none, or none that takes the embedding."""
    if found is not None and found.weight.shape[1] == identity.embedding_dim:
        return found
    return Classifier.none(identity.embedding_dim)


def _knows(folder: Path, classifier: Classifier) -> bool:
    return not len(classifier.weight) or read_classifier(folder / "backbone.onnx") is not None


def _check_unchanged(embeddings: FloatArray, folder: Path, name: str) -> None:
    before = np.load(folder / "reference.npy", allow_pickle=False)
    if least_cosine(embeddings, before) < REQUIRED_COSINE["fp32"]:
        raise BackboneError(
            f"backbone {name}: with the same weights and `features` it computes something else than before: "
            f"give its `features` another name, or delete {folder} if no embeddings of it are kept"
        )


def _move_in(scratch: Path, folder: Path) -> None:
    """Move the files over whatever is there, the manifest last."""
    folder.mkdir(exist_ok=True)
    digests = {path.name: _sha256(path) for path in sorted(scratch.iterdir())}
    for name in digests:
        (scratch / name).replace(folder / name)
    _replace(folder / "manifest.json", json.dumps({"format": FORMAT, "files": digests}))


def _replace(path: Path, text: str) -> None:
    """Write a small file so that readers see the old one or the whole new one. Only under the lock."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
