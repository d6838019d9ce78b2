"""service/trainer/jobs.py: the trainer knows work by name, the child by heart."""

import importlib
import subprocess
import sys

from service.trainer import jobs

HEAVY = ("torch", "sklearn", "scipy", "onnx", "onnxruntime", "openvino")


def test_every_named_work_is_a_function_of_the_child():
    named = [value for value in vars(jobs).values() if isinstance(value, jobs.Work)]
    assert len(named) == 17
    for work in named:
        assert callable(getattr(importlib.import_module(f"service.trainer.{work.module}"), work.name))


def test_the_trainer_itself_imports_nothing_heavy():
    """Its child does; a trainer that waits for work costs a few megabytes."""
    code = f"import sys, service.trainer.worker; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
