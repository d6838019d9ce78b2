"""`polyhead key`, and what a server asks before it listens to others."""

import json
import subprocess

import pytest

from service.__main__ import ScopeName
from service.settings import Settings
from service.store.records import SCOPES
from service.store.tokens import Token
from tests.servers import free_port
from tests.unit.test_command import polyhead


@pytest.fixture
def data_dir(tmp_path):
    return str(tmp_path / "data")


def create(data_dir, *more, **environment) -> "subprocess.CompletedProcess[str]":
    return polyhead("key", "create", "--name", "shop", "--data-dir", data_dir, *more, **environment)


def listed(data_dir):
    return json.loads(polyhead("key", "list", "--json", "--data-dir", data_dir).stdout)["data"]


def test_the_command_knows_every_scope():
    assert tuple(ScopeName) == SCOPES


def test_a_key_is_printed_once_and_listed_without_its_secret(data_dir):
    done = create(data_dir, "--scope", "train", "--scope", "predict", "--tenant", "acme")
    assert done.returncode == 0, done.stderr
    token = Token.parse(done.stdout.removesuffix("\n"))
    (key,) = listed(data_dir)
    assert (key["id"], key["name"], key["tenant"]) == (token.id, "shop", "acme")
    assert (key["scopes"], key["pepper"], key["revoked_at"]) == (["predict", "train"], "current", None)
    shown = polyhead("key", "list", "--data-dir", data_dir)
    assert [token.id, "shop", "acme", "predict", "train", "never", "valid"] in map(
        str.split, shown.stdout.splitlines()
    )
    for said in (json.dumps(key), shown.stdout, done.stderr):
        assert token.secret not in said
        assert "digest" not in said


def test_json_has_the_key_too(data_dir):
    said = json.loads(create(data_dir, "--scope", "admin", "--json").stdout)
    assert Token.parse(said["key"]).id == said["id"]


def test_a_key_is_revoked_by_its_id(data_dir):
    token = Token.parse(create(data_dir, "--scope", "predict").stdout.strip())
    assert "is revoked since" in polyhead("key", "revoke", token.id, "--data-dir", data_dir).stdout
    assert listed(data_dir)[0]["revoked_at"].endswith("Z")
    assert " revoked" in polyhead("key", "list", "--data-dir", data_dir).stdout
    unknown = polyhead("key", "revoke", "key_none", "--data-dir", data_dir)
    assert (unknown.returncode, unknown.stderr) == (2, "polyhead: there is no API key 'key_none'\n")


def test_a_key_made_elsewhere_is_kept_once_and_never_printed(data_dir, tmp_path):
    """What a pod does at each start, with a key from a Secret."""
    token, file = Token.new(), tmp_path / "key"
    file.write_text(token.text + "\n")
    for _ in range(2):
        done = create(data_dir, "--scope", "admin", "--from", str(file))
        assert (done.returncode, done.stdout) == (0, "")
        assert token.secret not in done.stderr
    assert [key["id"] for key in listed(data_dir)] == [token.id]


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("--scope", "predict", "--tenant", "../x"), {}, "is no name"),
        (("--scope", "predict", "--from", "/none"), {}, "can't read /none"),
        (("--scope", "predict", "--from", "/dev/null"), {}, "holds no key"),
        (("--scope", "predict"), {"key_peppers_file": "/none"}, "can't read the peppers"),
        (("--scope", "none"), {}, "none"),
        ((), {}, "--scope"),
    ],
    ids=["tenant", "no file", "no key", "no peppers", "no such scope", "no scope"],
)
def test_what_is_wrong_is_said_and_nothing_is_made(data_dir, arguments, environment, says):
    done = create(data_dir, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert listed(data_dir) == []


def test_a_database_that_servers_share_needs_a_pepper_that_they_share(data_dir, tmp_path):
    shared = f"sqlite:///{tmp_path}/shared.db"
    done = create(data_dir, "--scope", "predict", database_url=shared)
    assert done.returncode == 2
    assert "POLYHEAD_KEY_PEPPERS_FILE" in done.stderr
    (tmp_path / "peppers").write_text("p" * 32)
    peppers = str(tmp_path / "peppers")
    done = create(data_dir, "--scope", "predict", database_url=shared, key_peppers_file=peppers)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "127.0.0.2"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "192.0.2.1"}, True),
        ({"host": "example.com"}, True),
        ({"host": "0.0.0.0", "authentication": "none"}, False),
        ({"authentication": "keys"}, True),
    ],
)
def test_keys_are_asked_for_unless_only_this_machine_gets_there(settings, asked):
    assert Settings(**settings).needs_keys is asked


def serve(data_dir, *more, **environment):
    """Of a backbone that can't be had, so that a start that goes on ends all the same."""
    changed = {"port": str(free_port()), "backbone": "no_such_network"} | environment
    return polyhead("serve", "--data-dir", data_dir, *more, **changed)


def test_a_server_that_others_reach_refuses_to_start_without_keys(data_dir):
    done = serve(data_dir, "--host", "0.0.0.0")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "polyhead key create" in done.stderr
    assert "--insecure" in done.stderr


@pytest.mark.parametrize("insecure", [True, False])
def test_it_starts_with_a_key_or_when_told_to_be_insecure(data_dir, insecure):
    if not insecure:
        create(data_dir, "--scope", "predict")
    done = serve(data_dir, "--host", "0.0.0.0", *(["--insecure"] if insecure else []))
    assert "no_such_network" in done.stderr


def test_a_revoked_key_or_one_of_a_lost_pepper_is_none(data_dir, tmp_path):
    token = Token.parse(create(data_dir, "--scope", "predict").stdout.strip())
    (tmp_path / "other").write_text("p" * 32)
    for environment in ({"key_peppers_file": str(tmp_path / "other")}, {}):
        done = serve(data_dir, authentication="keys", **environment)
        assert "there is none that is valid" in done.stderr
        polyhead("key", "revoke", token.id, "--data-dir", data_dir)
