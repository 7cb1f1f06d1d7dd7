"""onnxruntime on one image, in a process of its own.

python -m benchmarks.peers.plaintext MODEL_FOLDER IMAGE.npy
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from demonstration.plaintext import PlaintextModel


def main() -> None:
    """Evaluate twice and print logits and seconds of the second: the first lets onnxruntime plan its memory."""
    parser = argparse.ArgumentParser(prog="plaintext", description="Evaluate one image with onnxruntime.")
    parser.add_argument("model_folder", type=Path, help="holds model.onnx and card.json")
    parser.add_argument("image", type=Path, help="float32 array of the model's input shape, .npy")
    parser.add_argument("--threads", type=int, default=1, help="of one operation")
    arguments = parser.parse_args()
    model = PlaintextModel(arguments.model_folder, threads=arguments.threads)
    image = np.load(arguments.image, allow_pickle=False)
    model.logits(image)
    started = time.perf_counter()
    logits = model.logits(image)
    seconds = time.perf_counter() - started
    print(json.dumps({"logits": logits.tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main()
