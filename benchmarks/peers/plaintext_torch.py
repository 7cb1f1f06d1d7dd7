"""torch on one batch of images, in a process of its own: the compiled network, its batch normalisation folded already.

python -m benchmarks.peers.plaintext_torch NETWORK.json WEIGHTS.npz IMAGES.npy
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Evaluate twice in float32 and print logits, wall and processor seconds of the second."""
    parser = argparse.ArgumentParser(prog="plaintext_torch", description="Evaluate images with torch.")
    parser.add_argument("network", type=Path, help="network.json of a compiled model")
    parser.add_argument("weights", type=Path, help="its weights, .npz")
    parser.add_argument("images", type=Path, help="float32 array, shape (batch, channels, height, width), .npy")
    parser.add_argument("--threads", type=int, default=1, help="of one operation")
    arguments = parser.parse_args()

    import torch

    from benchmarks.peers.stock_crypten import read_network
    from secure_computation.float_reference import apply
    from secure_computation.network import INPUT
    from secure_computation.private_weights import PrivateWeights

    torch.set_num_threads(arguments.threads)
    network = read_network(arguments.network)
    held = PrivateWeights.load(network, arguments.weights)
    weights = {
        operation.name: {
            name.removeprefix(f"{operation.name}."): torch.tensor(held[name]) for name in operation.weight_shapes()
        }
        for operation in network.operations
    }
    values = {INPUT: torch.from_numpy(np.load(arguments.images, allow_pickle=False))}

    def evaluate() -> torch.Tensor:
        for operation in network.operations:
            inputs = [values[name] for name in operation.inputs]
            values[operation.output] = apply(operation, inputs, weights[operation.name])
        return values[network.output]

    with torch.inference_mode():
        evaluate()
        started, started_cpu = time.perf_counter(), time.process_time()
        logits = evaluate()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    print(json.dumps({"logits": logits.reshape(-1).tolist(), "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
