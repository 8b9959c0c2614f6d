"""Measurements, none of which the pipeline needs. Some import TensorFlow at their top: it starts as in the scripts."""

from lib.console import prepare_tensorflow

prepare_tensorflow()
