"""Work of a known kind, for processes that are measured: this module imports little, so that they start at once."""

import time

import numpy as np

BUSY = 0.15  # seconds


def busy() -> None:
    """Computes for BUSY seconds."""
    begun = time.process_time()
    while time.process_time() - begun < BUSY:
        pass


def large() -> None:
    """Holds 200 MB."""
    np.ones(200 << 20, np.uint8).sum()
