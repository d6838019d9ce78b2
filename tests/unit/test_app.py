"""The composition root."""

import subprocess
import sys

HEAVY = ("torch", "sklearn", "scipy.optimize", "onnxruntime", "onnx", "openvino", "timm")


def test_importing_the_app_brings_no_framework():
    """API processes stay small, and the main process may fork."""
    code = f"import sys, service.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
