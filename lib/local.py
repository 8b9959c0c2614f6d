"""A network of tiles made to read frames: each pixel sees what it would in the middle of a tile, wherever it lies.

    network = local(model)       # the same weights; any multiples of `step(config)` rows and columns

Squeeze and excitation, channel attention and image pooling average a whole map, which in training is a tile's. On a
frame such a mean would be of much more ground than the network has ever seen, and it would differ from window to window
of the same frame. Here it is taken over as much ground as a tile shows, around each pixel (Chu et al. 2022, "Improving
Image Restoration by Revisiting Global Information Aggregation"). On a tile nothing changes.
"""

from __future__ import annotations

from lib.config import Config
from lib.console import UserError
from lib.task import WIDTH

CELLS = 8
"""Cells along a box: means are worked out for each, an eighth of a tile apart, and not for each pixel."""


def check_local(config: Config, source: object) -> None:
    """Raises UserError, naming `source`, where a config's network sees more than one can give it on a frame."""
    if config.context != "off":
        raise UserError(
            f"{source}: context={config.context} sees a quarter of the resolution around each tile; name runs with "
            "context=off for --frames"
        )
    if config.transformer != "none":
        raise UserError(
            f"{source}: transformer={config.transformer} attends to a whole tile, no more and no less; name runs with "
            "transformer=none for --frames"
        )


def step(config: Config) -> int:
    """What the sides of a map are multiples of: for a config's poolings, and for the cells that means are taken in."""
    return max(WIDTH // CELLS, 2**config.depth)


def local(model):
    """A network for maps of any size with the weights of one for tiles.

    Args:
        model: of `lib.models.build_model`, for tiles, by a config that `check_local` lets pass.

    Returns:
        A keras.Model (B, h, w) -> (B, h, w, 5), as `model` but for h and w: multiples of `step(config)`.
    """
    import keras

    from lib.blocks import Block, Box

    def copy(layer):
        made = type(layer).from_config(layer.get_config())
        if isinstance(made, Block):
            rows, columns = layer.input.shape[1:3]
            made.box = Box((rows, columns), (max(rows // CELLS, 1), max(columns // CELLS, 1)))
        return made

    made = keras.models.clone_model(model, keras.Input((None, None), name="tiles"), clone_function=copy)
    made.set_weights(model.get_weights())
    return made
