"""Every setting, typed, with its unit in its name; read once in `__main__` and passed on."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.identity import BackboneConfig

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=1)]

AUTO = "auto"


def _checked_devices(value: str) -> str:
    if value != AUTO:
        numbers = [int(each) if re.fullmatch("[0-9]{1,3}", each) else None for each in value.split(",")]
        if None in numbers or len(set(numbers)) < len(numbers):
            raise ValueError("it must be auto, or the numbers of CUDA devices, each once, such as 0,1")
    return value


class Settings(BaseSettings):
    """The environment variable of a field is POLYHEAD_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="POLYHEAD_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on: 127.0.0.1, 0.0.0.0 or ::.")
    port: int = Field(8000, ge=1024, le=65535, description="Port to listen on.")
    authentication: Literal["auto", "keys", "none"] = Field(
        "auto",
        description=(
            "Who may ask: whoever has a key (keys), or whoever reaches the port (none, as `--insecure`). "
            "auto: none while it listens on this machine's own address, else keys."
        ),
    )
    key_peppers_file: Path | None = Field(
        None,
        description=(
            "File of the secrets under which keys are kept, one a line: the first for new keys, all to "
            "verify. Default: `key-peppers` in the data folder, which the first `polyhead key create` makes."
        ),
    )
    key_requests_per_minute: Count | None = Field(
        None,
        description=(
            "Requests that a key without a rate of its own may make of each HTTP process in a minute; "
            "default: any number."
        ),
    )
    open_probes: Literal["all", "health", "none"] = Field(
        "all",
        description=(
            "What answers without a key where keys are on: /livez, /readyz and /metrics (all), the first two "
            "(health), or nothing."
        ),
    )
    data_dir: Path = Field(Path("polyhead-data"), description="Folder of the embedded database and blobs.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL; default: SQLite under the data folder."
    )
    blob_url: str | None = Field(
        None,
        description="obstore URL (file:///…, s3://…, gs://…, az://…); default: blobs/ under the data folder.",
    )
    cache_dir: Path = Field(
        Path(platformdirs.user_cache_dir("polyhead")),
        description="Folder of exported backbones, by digest; safe to delete.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line logged."
    )

    backbone: str = Field(
        "efficientnet_lite0", description="A timm name, or package.module:factory for a network of your own."
    )
    weights: Path | None = Field(
        None, description="Local weights (.safetensors or .pth); default: the package or the hub."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of the backbone; part of its digest. fp16 is for CUDA, and slow elsewhere."
    )
    input_size: int | None = Field(
        None, ge=16, le=2048, description="Pixels; default: the weights' own. Part of the backbone's digest."
    )
    crop_pct: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Central share of an image that is seen; default: the weights' own. Part of the digest.",
    )
    runtime: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="What runs the backbone: auto is torch where there is CUDA, else OpenVINO."
    )
    devices: Annotated[str, AfterValidator(_checked_devices)] = Field(
        "auto",
        description=(
            "CUDA devices that inference workers run on, by number, such as 0,1; auto: all that the driver "
            "shows, or the CPU where it shows none. Each worker has a backbone of its own. Trainers and "
            "bulk-embed take the first that is shown (CUDA_VISIBLE_DEVICES), whatever is said here."
        ),
    )
    workers_per_device: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Inference workers of each device, or of the CPU, whose cores they share."
    )
    inference_threads: int | None = Field(
        None, ge=1, description="Of each inference worker; default: all cores, shared among workers."
    )

    api_processes: Count = Field(1, description="HTTP processes; they share the inference workers.")
    decode_threads: Count = Field(2, description="Of image decoding, in each HTTP process.")
    max_batch_size: Annotated[int, Field(ge=1, le=256)] = Field(8, description="Images in one backbone pass.")
    max_queued_images: Count = Field(
        512, description="Images waiting or in work in one HTTP process; beyond it requests get 429."
    )
    request_deadline_s: Seconds = Field(30.0, description="Seconds after which a prediction gets 504.")
    head_cache_entries: Count = Field(
        1024, description="Heads, tails and networks of tasks held by each inference worker."
    )
    head_cache_bytes: Bytes = Field(
        2 * 2**30, description="Bytes of them; beyond it the least used make room."
    )
    embedding_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Bytes of embeddings of images sent before that each HTTP process keeps, by their digest; beyond "
            "it the least used make room. 0: none are kept."
        ),
    )
    resolve_cache_s: Annotated[float, Field(ge=0, le=60)] = Field(
        1.0, description="Seconds for which a resolved alias may be stale."
    )
    drain_s: Seconds = Field(20.0, description="Seconds that in-flight requests get after SIGTERM.")

    max_images_per_request: Count = Field(256, description="Images in one request.")
    max_request_bytes: Bytes = Field(64 * 2**20, description="Bytes of one request without an archive.")
    max_archive_bytes: Bytes = Field(4 * 2**30, description="Bytes of one uploaded archive.")
    max_unpacked_bytes: Bytes = Field(16 * 2**30, description="Bytes of an archive's members, unpacked.")
    max_archive_members: Count = Field(200_000, description="Members of an archive.")
    max_image_pixels: Count = Field(50_000_000, description="Pixels of one image, checked before decoding.")
    min_examples_per_class: Annotated[int, Field(ge=2)] = Field(
        2, description="Labelled examples that every class needs before a head is trained."
    )
    allow_origins: tuple[str, ...] = Field(
        (), description="Origins for CORS, as a JSON list; none: CORS is off."
    )

    tenant_max_tasks: Count | None = Field(None, description="Tasks of one tenant; default: any number.")
    tenant_max_examples: Count | None = Field(
        None, description="Examples of one tenant, in all its tasks; default: any number."
    )
    tenant_max_image_bytes: Bytes | None = Field(
        None, description="Bytes of the images of one tenant's examples; default: any number."
    )
    tenant_max_active_runs: Count | None = Field(
        None,
        description="Trainings and imports of one tenant that are queued or running; default: any number.",
    )

    scratch_dir: Path | None = Field(
        None,
        description="Folder of a training's feature maps or pixels; default: scratch/ in the data folder.",
    )
    scratch_bytes: Bytes = Field(
        8 * 2**30,
        description=(
            "Bytes of one training's feature maps or pixels; beyond it fewer views of an image are cached, "
            "then none, and they are recomputed."
        ),
    )
    trainers: Annotated[int, Field(ge=0)] = Field(
        1, description="Trainer processes that `serve` starts itself."
    )
    metrics_port: int | None = Field(
        None,
        ge=1024,
        le=65535,
        description=(
            "Port on which a trainer that runs alone (`polyhead worker`) answers /livez and /metrics; "
            "default: none."
        ),
    )
    lease_s: Seconds = Field(
        15.0, description="Seconds after which a silent trainer's run is given to another."
    )
    poll_s: Seconds = Field(0.2, description="Seconds between a trainer's looks for work.")
    blob_grace_s: Seconds = Field(
        86_400.0,
        description=(
            "Seconds for which bytes are kept that nothing names any more: deleted, or never finished. "
            "Longer than any run, and than a backup takes."
        ),
    )
    sweep_every_s: Seconds = Field(
        3600.0, description="Seconds between a trainer's looks for such bytes, once for all trainers."
    )
    max_attempts: Count = Field(3, description="Tries at a run whose trainer died.")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str | None) -> str | None:
        """The URL isn't repeated: it may hold a password."""
        if url is None:
            return None
        from sqlalchemy import exc, make_url  # noqa: PLC0415 - most processes keep the default

        try:
            parsed = make_url(url)
            parsed.get_dialect().import_dbapi()
        except (exc.NoSuchModuleError, ImportError) as error:
            raise ValueError(f"there is no driver for {parsed.drivername}: {error}") from None
        except exc.ArgumentError:
            raise ValueError("not an SQLAlchemy URL, such as postgresql+psycopg://user@host/name") from None
        return url

    @property
    def needs_keys(self) -> bool:
        if self.authentication == "auto":
            return not _is_own_address(self.host)
        return self.authentication == "keys"

    @property
    def resolved_key_peppers_file(self) -> Path:
        return self.key_peppers_file or self.data_dir.resolve() / "key-peppers"

    @property
    def device_numbers(self) -> tuple[int, ...] | None:
        """Of CUDA devices; None: all there are."""
        return None if self.devices == AUTO else tuple(int(each) for each in self.devices.split(","))

    @property
    def backbone_config(self) -> BackboneConfig:
        return BackboneConfig(
            name=self.backbone,
            weights=self.weights,
            precision=self.precision,
            input_size=self.input_size,
            crop_pct=self.crop_pct,
            runtime=self.runtime,
            threads=self.inference_threads,
        )

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'polyhead.db'}"

    @property
    def resolved_scratch_dir(self) -> Path:
        return self.scratch_dir or self.data_dir.resolve() / "scratch"

    @property
    def resolved_blob_url(self) -> str:
        return self.blob_url or (self.data_dir.resolve() / "blobs").as_uri()


def _is_own_address(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
