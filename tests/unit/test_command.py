"""The `polyhead` command: quick help, one clear line for what is wrong, and its exit codes."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.processes.preflight import check_folders
from service.settings import Settings
from tests.servers import clean_environment, free_port


def polyhead(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    settings = {f"POLYHEAD_{name.upper()}": value for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=clean_environment() | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['polyhead', '--help']\nfrom service.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'litserve', 'openvino', 'onnxruntime', 'fastapi', 'sqlalchemy', 'numpy', 'ray'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for command in ("serve", "worker", "migrate", "bulk-embed", "backup", "restore", "verify", "backbone"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "80", "POLYHEAD_PORT: Input should be greater than or equal to 1024"),
        ("port", "eight", "POLYHEAD_PORT: Input should be a valid integer"),
        ("max_batch_size", "0", "POLYHEAD_MAX_BATCH_SIZE: Input should be greater than or equal to 1"),
        ("precision", "int4", "POLYHEAD_PRECISION: Input should be 'fp32', 'bf16' or 'fp16'"),
        ("allow_origins", "not JSON", "allow_origins"),
        ("database_url", "postgres", "POLYHEAD_DATABASE_URL: not an SQLAlchemy URL"),
        (
            "database_url",
            "nosuch://me:secret@host/db",
            "POLYHEAD_DATABASE_URL: there is no driver",
        ),
        ("host", "no.such.host.invalid", "can't listen on no.such.host.invalid"),
        ("devices", "cuda", "such as 0,1"),
        ("devices", "", "such as 0,1"),
        ("devices", "0,00", "each once"),
        ("devices", "999", "no CUDA device 999"),
        ("workers_per_device", "0", "POLYHEAD_WORKERS_PER_DEVICE"),
    ],
    ids=[
        "privileged-port", "no-number", "zero", "no-choice", "no-json", "no-url", "no-driver", "no-host",
        "no-devices", "empty-devices", "a-device-twice", "no-such-device", "no-worker",
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path, name, value, says):
    done = polyhead("serve", **{"data_dir": str(tmp_path), name: value})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert "secret" not in done.stderr
    assert done.stdout == ""


def test_every_wrong_setting_has_a_line(tmp_path):
    done = polyhead("serve", data_dir=str(tmp_path), drain_s="-1", poll_s="x")
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "POLYHEAD_DRAIN_S",
        "POLYHEAD_POLL_S",
    ]


def test_a_port_in_use_is_one_line_before_anything_slow(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = polyhead("serve", data_dir=str(tmp_path), port=str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Address already in use" in done.stderr


def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path):
    """A file where the folder should be: permissions don't stop root."""
    (tmp_path / "taken").write_text("")
    done = polyhead("serve", "--data-dir", str(tmp_path / "taken" / "data"), port=str(free_port()))
    assert done.returncode == 2
    assert done.stderr == f"polyhead: can't write to {tmp_path / 'taken' / 'data'}: Not a directory\n"


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("no_such_network", "no_such_network"),
        ("tests.networks:nothing", "tests.networks:nothing"),
        ("no_such_package.module:factory", "no_such_package"),
    ],
    ids=["timm-name", "factory", "package"],
)
def test_a_backbone_that_cannot_be_had_is_one_line_before_the_server_starts(tmp_path, backbone, says):
    done = polyhead(
        "serve",
        data_dir=str(tmp_path / "data"),
        cache_dir=str(tmp_path / "cache"),
        port=str(free_port()),
        backbone=backbone,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_weights_that_are_not_there_are_one_line(tmp_path):
    done = polyhead(
        "serve",
        data_dir=str(tmp_path / "data"),
        cache_dir=str(tmp_path / "cache"),
        port=str(free_port()),
        weights=str(tmp_path / "none.safetensors"),
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "none.safetensors" in done.stderr


def test_a_folder_named_like_our_packages_hides_nothing(tmp_path):
    """Users stand in projects that have a `models` or a `service` of their own."""
    for name in ("models", "service"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong package')")
    script = Path(sys.executable).with_name("polyhead")
    done = subprocess.run(
        [script, "serve", "--data-dir", "data", "--port", str(free_port())],
        cwd=tmp_path,
        env=clean_environment() | {"POLYHEAD_BACKBONE": "no_such_network", "POLYHEAD_CACHE_DIR": "cache"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "the wrong package" not in done.stderr
    assert "no_such_network" in done.stderr


def test_a_new_data_folder_is_its_owner_s_alone_and_an_old_one_stays_as_it_is(tmp_path):
    """It holds users' images; what is inside needs no mode of its own."""
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    for folder in (tmp_path / "new", old):
        check_folders(Settings(data_dir=folder, cache_dir=tmp_path / "cache"))
    assert [oct(folder.stat().st_mode & 0o777) for folder in (tmp_path / "new", old)] == ["0o700", "0o755"]


def test_migrate_makes_the_database_and_may_be_run_again(tmp_path):
    for _ in range(2):
        done = polyhead("migrate", "--data-dir", str(tmp_path / "data"))
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "data" / "polyhead.db").exists()


def test_openapi_prints_the_schema():
    done = polyhead("openapi")
    assert done.returncode == 0
    assert json.loads(done.stdout)["openapi"].startswith("3.")
