"""Rows of what a request may look like: form, JSON or bare bytes; small, usual and phone-sized JPEG; PNG."""

from bench.contenders import Contenders
from bench.photos import JPEG_12MPX, JPEG_224, JPEG_640, PNG_640
from bench.rows import Row, ratios

# name -> (shape of the request, kind of photo)
SHAPES = {
    "multipart, JPEG 640x480": ("multipart", JPEG_640),
    "raw, JPEG 640x480": ("raw", JPEG_640),
    "JSON base64, JPEG 640x480": ("base64", JPEG_640),
    "multipart, JPEG 224x224": ("multipart", JPEG_224),
    "multipart, PNG 640x480": ("multipart", PNG_640),
    "multipart, JPEG 12 Mpx": ("multipart", JPEG_12MPX),
}
ROUNDS = 3  # at most


def shapes(run: Contenders) -> list[Row]:
    """Throughput of each, against the limit on photos of the same kind."""
    scale = run.scale
    served: dict[str, list[float]] = {name: [] for name in SHAPES}
    bare: dict[str, list[float]] = {name: [] for name in SHAPES}
    with run.plain.running.frozen():
        for _ in range(min(ROUNDS, scale.rounds)):
            for name, (shape, kind) in SHAPES.items():
                count = scale.large_images if kind is JPEG_12MPX else scale.shape_images
                bare[name].append(run.limit.stream(count, scale.seconds, kind.name)[0])
                done = run.polyhead.load(
                    count, kind=kind.name, shape=shape, connections=scale.connections, seconds=scale.seconds
                )
                served[name].append(done.per_second)
    return [
        Row(
            name=f"request as {name}",
            unit="images/s",
            values={"limit": bare[name], "polyhead": served[name]},
            compared="polyhead / limit",
            figures=ratios(served[name], bare[name]),
            notes=[f"{run.polyhead.pools[kind.name].photos.mean_bytes / 1000:.0f} KB an image"],
        )
        for name, (_, kind) in SHAPES.items()
    ]
