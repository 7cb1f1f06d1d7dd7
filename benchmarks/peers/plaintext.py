"""A batch of images in clear, in a process of its own, by onnxruntime or by torch (the compiled network).

python -m benchmarks.peers.plaintext onnxruntime MODEL_FOLDER IMAGES.npy
python -m benchmarks.peers.plaintext torch NETWORK.json WEIGHTS.npz IMAGES.npy
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Evaluate = Callable[[], Any]


def load_onnxruntime(folder: Path, *, images: NDArray[np.float32], threads: int) -> Evaluate:
    """`folder` holds model.onnx and card.json."""
    from demonstration.plaintext import PlaintextModel

    model = PlaintextModel(folder, threads=threads)
    return lambda: model.logits_of_batch(images)


def load_torch(network_file: Path, weights_file: Path, *, images: NDArray[np.float32], threads: int) -> Evaluate:
    """Batch normalisation is folded into the compiled network already."""
    import torch

    from benchmarks.peers.stock_crypten import read_network
    from secure_computation.float_reference import apply
    from secure_computation.network import INPUT
    from secure_computation.private_weights import PrivateWeights

    torch.set_num_threads(threads)
    network = read_network(network_file)
    held = PrivateWeights.load(network, weights_file)
    weights = {
        operation.name: {
            name.removeprefix(f"{operation.name}."): torch.tensor(held[name]) for name in operation.weight_shapes()
        }
        for operation in network.operations
    }
    values = {INPUT: torch.from_numpy(images)}

    @torch.inference_mode()
    def evaluate() -> torch.Tensor:
        for operation in network.operations:
            inputs = [values[name] for name in operation.inputs]
            values[operation.output] = apply(operation, inputs, weights[operation.name])
        return values[network.output]

    return evaluate


def main() -> None:
    """Evaluate twice and print logits, wall and processor seconds of the second; the first plans and allocates."""
    parser = argparse.ArgumentParser(prog="plaintext", description="Evaluate images in clear.")
    parser.add_argument("library", choices=("onnxruntime", "torch"))
    parser.add_argument("model", type=Path, nargs="+", help="its folder; for torch network.json and weights.npz")
    parser.add_argument("images", type=Path, help="float32 array, shape (batch, channels, height, width), .npy")
    parser.add_argument("--threads", type=int, default=1, help="of one operation")
    arguments = parser.parse_args()
    images = np.load(arguments.images, allow_pickle=False)
    if arguments.library == "onnxruntime":
        evaluate = load_onnxruntime(*arguments.model, images=images, threads=arguments.threads)
    else:
        evaluate = load_torch(*arguments.model, images=images, threads=arguments.threads)
    evaluate()
    started, started_cpu = time.perf_counter(), time.process_time()
    logits = evaluate()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    print(json.dumps({"logits": logits.reshape(-1).tolist(), "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
