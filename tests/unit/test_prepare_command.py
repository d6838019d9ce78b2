"""`polyhead backbone prepare`: what is wrong is one line and exit code 2, and nothing is made."""

import pytest

from service.settings import Settings
from service.store import migrate
from tests.servers import TINY
from tests.unit.test_command import polyhead


def test_where_there_is_no_database_none_is_made(tmp_path):
    folder = tmp_path / "data"
    done = polyhead("backbone", "prepare", TINY, "--data-dir", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"polyhead: there is no database {folder}/polyhead.db: ")
    assert not folder.exists()


def test_what_can_not_be_prepared_is_one_line(tmp_path):
    settings = Settings(data_dir=tmp_path)
    migrate(settings.resolved_database_url)
    done = polyhead(
        *("backbone", "prepare", TINY, "--data-dir", str(tmp_path)),
        cache_dir=str(tmp_path / "cache"),
        backbone="tests.networks:wide",
        log_level="error",
    )
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("polyhead: nothing is published on wide (")
    assert last.endswith("tasks on other backbones: none")


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--tolerance", "-1", "--tolerance"),
        ("--tolerance", "nan", "--tolerance"),
        ("--input-size", "3", "POLYHEAD_INPUT_SIZE: "),
        ("--crop-pct", "0", "POLYHEAD_CROP_PCT: "),
        ("--precision", "int4", "POLYHEAD_PRECISION: "),
    ],
)
def test_an_option_that_can_not_be_used_is_refused(option, value, named):
    done = polyhead("backbone", "prepare", TINY, option, value)
    assert done.returncode == 2
    assert named in done.stderr
