"""The competition's facts, each in this one place; imports nothing."""

COMPETITION = "an-2-dl-2024-2025-homework-2"
"""Its name in Kaggle's addresses."""

DATA_FILE = "mars_for_students.npz"
DATA_BYTES = 75_001_810
DATA_SHA256 = "70498488de0e67d414c4b8f983e6d5f342761a02690db42dee6c006262ef7f09"

HEIGHT, WIDTH = 64, 128
"""Pixels of a tile."""

CLASSES = ("background", "soil", "bedrock", "sand", "big rock")
"""Class names by label 0..4. Background is what nobody labelled; the score leaves it out."""

BIG_ROCK = 4
"""Label of the rarest class."""

TEST_TILES = 10_022

GREY_MEAN, GREY_SPREAD = 64, 32
"""Of the tiles' grey levels 0..255, rounded: what networks subtract and divide by."""
