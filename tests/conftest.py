"""Shared by all tests: the project's root on the path, quiet TensorFlow, the real-tile stand-in where it exists."""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the scripts have it
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Two tests at a time on two cores: more threads would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A suite that was started in the background ignores Ctrl-C, and so would the scripts that it interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STANDIN = ROOT.parent / "shared" / "data" / "mars_standin.npz"


@pytest.fixture(scope="session")
def standin() -> Path:
    """Path of the real-tile stand-in; the test is skipped where it is absent."""
    if not STANDIN.exists():
        pytest.skip("no stand-in data here")
    return STANDIN
