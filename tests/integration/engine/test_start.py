"""A part that can't start ends the whole server with one reason, instead of being tried for ever."""

from dataclasses import replace

from service.processes.preflight import Prepared
from tests.integration.engine.conftest import COMMAND
from tests.servers import kill_group, start


def ended(folder, prepared: Prepared, **environment: str) -> tuple[int, str]:
    """The exit code and the log of a server that is not expected to start."""
    file = folder / "prepared.json"
    file.write_text(prepared.to_json())
    server = start(folder, command=(*COMMAND, str(file)), **environment)
    try:
        code = server.process.wait(60)
        assert not server.remaining()
        return code, server.log.read_text()
    finally:
        kill_group(server.process)


def test_a_worker_that_cannot_open_the_backbone(tmp_path, prepared):
    """LitServe would start it again every two seconds."""
    code, log = ended(tmp_path, replace(prepared, backbone_file=tmp_path / "none.onnx"))
    assert code == 1
    assert "the worker-0 process could not start" in log
    assert "none.onnx" in log


def test_an_api_process_that_cannot_open_the_store(tmp_path, prepared):
    (tmp_path / "no-folder").write_text("")
    code, log = ended(tmp_path, prepared, database_url=f"sqlite:///{tmp_path}/no-folder/polyhead.db")
    assert code == 1
    assert "the api-0 process could not start" in log
