"""onnxruntime on one batch of images, in a process of its own.

python -m benchmarks.peers.plaintext MODEL_FOLDER IMAGES.npy
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from demonstration.plaintext import PlaintextModel


def main() -> None:
    """Evaluate twice and print logits, wall and processor seconds of the second.

    The first lets onnxruntime plan its memory.
    """
    parser = argparse.ArgumentParser(prog="plaintext", description="Evaluate images with onnxruntime.")
    parser.add_argument("model_folder", type=Path, help="holds model.onnx and card.json")
    parser.add_argument("images", type=Path, help="float32 array, shape (batch, channels, height, width), .npy")
    parser.add_argument("--threads", type=int, default=1, help="of one operation")
    arguments = parser.parse_args()
    model = PlaintextModel(arguments.model_folder, threads=arguments.threads)
    images = np.load(arguments.images, allow_pickle=False)
    model.logits_of_batch(images)
    started, started_cpu = time.perf_counter(), time.process_time()
    logits = model.logits_of_batch(images)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    print(json.dumps({"logits": logits.reshape(-1).tolist(), "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
