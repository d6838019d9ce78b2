"""What is relied on in LitServe's source: an upgrade must fail here before it fails in production."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import litserve
import pytest
from litserve.loops.base import LitLoop, _BaseLoop

import service.engine
import service.inference.lit_api

SERVICE = Path(service.engine.__file__).parent


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_whose_source_was_read():
    assert version("litserve") == "0.2.19"


def test_the_private_parts_that_are_used_are_as_they_were():
    server = litserve.LitServer
    assert parameters(server.launch_single_inference_worker) == ["self", "lit_api", "worker_id"]
    launched = inspect.getsource(server.launch_single_inference_worker)
    for given in (
        "self._get_request_queue(lit_api.api_path)",
        "self._transport",
        "self.workers_setup_status",
    ):
        assert given in launched
    assert "return self.devices * wpd" in inspect.getsource(server._inference_workers_config_for_api)
    assert "return self.litapi_request_queues[api_path]" in inspect.getsource(server._get_request_queue)


def test_the_loop_is_called_as_ours_is_written():
    assert parameters(_BaseLoop.run) == parameters(service.inference.lit_api.BatchLoop.run)
    assert parameters(LitLoop.get_batch_requests) == parameters(
        service.inference.lit_api.BatchLoop.get_batch_requests
    )


def test_private_names_of_litserve_are_used_in_one_module_only():
    """Others may subclass its public classes; what starts with an underscore is the seam's alone."""
    for path in SERVICE.rglob("*.py"):
        imported = {
            node.module.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
        } | {
            alias.name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if "litserve" in imported:
            assert path.name in {"engine.py", "lit_api.py"}, path


def test_no_form_is_read_with_starlettes_parser():
    """Importing LitServe lets its files grow in memory without bound."""
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("fastapi", "starlette")):
                imported = {alias.name for alias in node.names}
                assert not imported & {"File", "Form", "MultiPartParser", "UploadFile"}, path
            elif isinstance(node, ast.Attribute) and ast.unparse(node) == "request.form":
                pytest.fail(f"{path} reads a form")


@pytest.mark.parametrize(
    "module", ["service.engine", "service.processes.server", "service.app", "service.__main__"]
)
def test_what_the_main_process_imports_brings_no_torch(module):
    """The main process forks, and the API processes have no use for 0.9 GB."""
    code = f"import sys, {module}; print([name for name in ('torch', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
