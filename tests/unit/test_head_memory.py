"""What one more task costs the inference worker: its head, and nothing like a backbone."""

import subprocess
import sys

HEADS = 200
KILOBYTES_A_HEAD = 150  # 51 KB of weights and a session without a second copy of them

LOADING = f"""
import re
import numpy as np
from models.export import head_onnx
from models.head import LinearHead
from models.head_session import HeadSession

def resident_kb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

def load(number):
    rng = np.random.default_rng(number)
    weight, bias = rng.normal(size=(10, 1280)).astype("f4"), np.zeros(10, "f4")
    head = LinearHead(kind="multiclass", labels=tuple("abcdefghij"), weight=weight, bias=bias)
    session = HeadSession(head_onnx(head, metadata={{"backbone_digest": "d", "labels": "[]"}}), "d")
    session.run(np.zeros((8, 1280), "f4"))
    return session

first = [load(number) for number in range(20)]
before = resident_kb()
more = [load(number) for number in range({HEADS})]
print((resident_kb() - before) / {HEADS})
"""


def test_memory_grows_by_head_bytes():
    """Every session is held and has run once, as in a worker that serves all these tasks."""
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True)
    assert float(done.stdout) < KILOBYTES_A_HEAD
