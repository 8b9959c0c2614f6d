"""How time and memory grow with the number of test tiles, the width of the network and the number of views: a picture.

    python -m bench.growth [--scale 1] [--picture docs/growth.png]

1,000, 10,000 and 100,000 generated tiles are predicted and encoded by the scripts, with a network that is narrow, so
that it ends today; and training is given the same files. Width and views: `best --tiny`, untrained.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Scale, Took, machine, script
from lib import terrain
from lib.console import ArgumentParser, Console, add_console_options, run_main
from lib.files import replacing
from lib.schema import option

TILES = (1_000, 10_000, 100_000)
WIDTHS = (8, 16, 24, 32, 48, 64)
VIEWS = ("identity", "hflip", "shift(0,8)", "shift(0,-8)", "shift(4,0)", "shift(-4,0)", "vflip", "hflip+vflip")
SMALL = ("--tiny", "--set", "width=2", "epochs=1", "neighbours=off")
STEPS = ("training", "prediction", "encoding")


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m bench.growth")
    parser.add_argument(
        "--scale", type=option(Scale), default=1.0, metavar="X", help="of the numbers of tiles; default 1"
    )
    parser.add_argument("--picture", type=Path, default=Path("growth.png"), metavar="FILE", help="default: growth.png")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    tiles = [max(100, round(count * args.scale)) for count in TILES]
    by_tiles = {count: grown(count) for count in tiles}
    rows = [
        (f"{count:,}", *(f"{took[step].seconds:.1f} s, {took[step].megabytes:.0f} MB" for step in STEPS))
        for count, took in by_tiles.items()
    ]
    console.table(("test tiles", *STEPS), rows)
    widths, views = by_width(), by_views()
    console.line()
    console.table(
        ("width", "training: tiles/s", "prediction: tiles/s"),
        [(width, *(f"{rate:,.0f}" for rate in rates)) for width, rates in widths.items()],
    )
    console.line()
    console.table(("views", "ms for a tile"), [(count, f"{1000 * seconds:.1f}") for count, seconds in views.items()])
    with replacing(args.picture, "wb") as stream:
        draw(by_tiles, widths, views).savefig(stream, format="png", dpi=100)
    console.line(f"\n{args.picture}: written")
    told = {count: {step: vars(one) for step, one in took.items()} for count, took in by_tiles.items()}
    console.result(machine=machine(), tiles=told, widths=widths, views=views, picture=args.picture)


def grown(tiles: int) -> dict[str, Took]:
    """What each of STEPS takes where there are so many test tiles."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, masks = folder / "tiles.npz", folder / "masks.npz"
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # this process stays small: see `script`
            pool.apply(make, (data, tiles))
        source = ("--data", data, "--runs", folder)
        training = script("train.py", "best", *SMALL, *source)
        prediction = script("infer.py", "best", *source, "--out", masks)
        encoding = script("submission.py", masks, "--out", folder / "submission.csv")
    return dict(zip(STEPS, (training, prediction, encoding)))


def make(path: Path, tiles: int) -> None:
    """A file with few training tiles and so many test tiles."""
    some: dict[str, Any] = terrain.generate(train=100, test=100)
    test = np.resize(some["test_set"], (tiles, *some["test_set"].shape[1:])).astype(np.uint8)
    np.savez(path, training_set=some["training_set"].astype(np.uint8), test_set=test)


def by_width() -> dict[int, tuple[float, float]]:
    """Tiles a second in training and in prediction."""
    from bench.gpu import measure
    from lib.experiments import make_config

    config = make_config("best", tiny=True)
    rates = {width: measure(config.replace(width=width), 1) for width in WIDTHS}
    return {width: rate[:2] for width, rate in rates.items() if rate}


def by_views() -> dict[int, float]:
    """Seconds for a tile."""
    from bench.augment import make_tiles
    from bench.harness import by_turns
    from lib.experiments import make_config
    from lib.models import build_model
    from lib.predict import BATCH, predict_probabilities, probability_model

    model, (tiles, _) = probability_model(build_model(make_config("best", tiny=True))), make_tiles(BATCH)
    counts = {f"{count}": count for count in range(1, len(VIEWS) + 1)}
    ways = {
        name: lambda count=count: predict_probabilities(model, tiles, VIEWS[:count]) for name, count in counts.items()
    }
    return {counts[name]: took.seconds / len(tiles) for name, took in by_turns(ways, 3).items()}


def draw(tiles: dict[int, dict[str, Took]], widths: dict[int, tuple[float, float]], views: dict[int, float]):
    """Four panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    (seconds, megabytes), (width, view) = figure.subplots(2, 2)
    for step in STEPS:
        found = [took[step] for took in tiles.values()]
        seconds.loglog(list(tiles), [took.seconds for took in found], "o-", label=step)
        megabytes.semilogx(list(tiles), [took.megabytes for took in found], "o-", label=step)
    seconds.set(title="time, narrow network", xlabel="test tiles", ylabel="seconds")
    megabytes.set(title="most memory", xlabel="test tiles", ylabel="MB", ylim=(0, None))
    for number, name in enumerate(("training", "prediction")):
        width.plot(list(widths), [rates[number] for rates in widths.values()], "o-", label=name)
    width.set(title="speed by width", xlabel="filters at the finest map", ylabel="tiles/s", ylim=(0, None))
    view.plot(list(views), [1000 * one for one in views.values()], "o-", label="prediction")
    view.set(title="time by views", xlabel="views", ylabel="ms for a tile", ylim=(0, None))
    for panel in (seconds, megabytes, width, view):
        panel.grid(alpha=0.3)
        panel.legend()
    return figure


if __name__ == "__main__":
    run_main(main)
