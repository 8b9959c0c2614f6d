"""How fast a forward pass is by what computes it: Keras on TensorFlow, a frozen graph, XLA, onnxruntime, OpenVINO.

    python -m bench.runtimes [--scale 1] [--rounds 3]
    pip install onnx onnxruntime tf2onnx openvino       for the last two; what is missing, or crashes here, is left out

`--tiny` networks, untrained; each way is a process of its own and predicts one batch again and again; the first pass is
not counted. In a frozen graph the weights are constants, and Grappler folds batch norm into convolutions.
"""

from __future__ import annotations

import statistics
from functools import partial

from bench.harness import Comparison, Goal, Took, asked, run, said
from bench.infer import EXPERIMENTS
from lib.console import Console, UserError, run_main

PASSES = 8
OURS = "this project: Keras"
WORTH = 1.5  # times as fast a runtime must be to be worth another dependency
START = """
import statistics, sys, tempfile, time
import keras, numpy as np, tensorflow as tf
from bench.augment import make_tiles
from lib.experiments import make_config
from lib.models import build_model
from lib.predict import BATCH, probability_model

tiles, _ = make_tiles(BATCH)
model = probability_model(build_model(make_config(sys.argv[1], tiny=True)))
signature = [tf.TensorSpec((BATCH, *tiles.shape[1:]), tf.float32)]
asked = tiles.astype(np.float32)
folder = tempfile.mkdtemp()
"""
OPENVINO = """
import openvino
model.export(folder, format="tf_saved_model", verbose=False)
graph = openvino.convert_model(folder, input=list(asked.shape))
compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "HINTED"})
predict = lambda: compiled(asked)[0]
"""
WAYS = {
    OURS: """
predict = lambda: np.asarray(model.predict_on_batch(tiles))
""",
    "a frozen graph": """
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
graph = tf.function(lambda batch: model(batch, training=False)).get_concrete_function(*signature)
frozen, batch = convert_variables_to_constants_v2(graph), tf.constant(asked)
predict = lambda: frozen(batch)[0].numpy()
""",
    "XLA": """
graph, batch = tf.function(lambda batch: model(batch, training=False), jit_compile=True), tf.constant(asked)
predict = lambda: graph(batch).numpy()
""",
    "onnxruntime": """
import onnxruntime
model(tiles)  # or it does not know its input
model.export(folder + "/model.onnx", format="onnx", verbose=False)
session = onnxruntime.InferenceSession(folder + "/model.onnx")
name = session.get_inputs()[0].name
predict = lambda: session.run(None, {name: asked})[0]
""",
    "OpenVINO": OPENVINO.replace("HINTED", "f32"),
    "OpenVINO in bfloat16": OPENVINO.replace("HINTED", "bf16"),
}
MEASURE = """
alike = np.abs(predict() - model.predict_on_batch(tiles)).max()
seconds = []
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    predict()
    seconds.append(time.perf_counter() - begun)
print(statistics.median(seconds), alike, len(tiles))
"""


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """A comparison for each experiment."""
    comparisons = []
    missing: set[str] = set()

    def ask(experiment: str, way: str) -> str | None:
        """What a process says of one way; None where it fails, and from then on."""
        if way in missing:
            return None
        try:
            return said("-c", START + WAYS[way] + MEASURE, experiment, max(1, round(PASSES * scale)))
        except UserError as error:
            if way == OURS:
                raise
            console.line(f"{way}: left out: {str(error).splitlines()[-1]}")
            missing.add(way)
            return None

    with console.progress(len(EXPERIMENTS) * rounds * len(WAYS), "runtimes", "process") as bar:
        for name in EXPERIMENTS:
            answers = asked(WAYS, rounds, partial(ask, name), bar)
            last = {way: [answer[-3:] for answer in each] for way, each in answers.items()}  # after what libraries say
            ways = {way: Took(statistics.median(float(took) for took, *_ in each)) for way, each in last.items()}
            goals = [
                goal
                for way in ways
                if way != OURS
                for goal in (
                    Goal(f"{way}: times as fast", ways[OURS].seconds / ways[way].seconds, most=WORTH),
                    Goal(f"{way}: largest difference of a probability", float(last[way][-1][1]), most=1e-4),
                )
            ]
            comparisons.append(Comparison(f"forward passes, {name}", ways, goals, int(last[OURS][-1][2])))
    return comparisons


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.runtimes"))
