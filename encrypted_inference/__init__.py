"""Encrypted inference for a researcher's notebook: both engines in one process, or sessions against real servers.

Load an ONNX file, or a torch module, with images like those that it will see, which set the scales of its numbers:

>>> import numpy as np
>>> import encrypted_inference as ei
>>> images = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32)
>>> model = ei.load("model.onnx", calibration=images)
>>> model
<Model: images (1, 32, 32) -> 3 logits, 283 weights, engines masked and crypten>

Run an engine. The data owner, the model owner and the crypto provider play their parts in threads and send each other
the very messages that they would send over a network, so the cost is counted, not estimated:

>>> answer = model.run(images[0], engine="masked")
>>> answer.logits.shape, bool(answer.error < 0.05)
((3,), True)
>>> answer.cost
<Cost: online 25.2 kB in 6 trips; offline 117.0 kB, of it material 109.4 kB and weights 822 B>

`answer.plain` holds the logits of the model in clear, by onnxruntime; `answer.error` is the largest difference from
them. Several images are run together:

>>> model.run(images, engine="crypten").logits.shape
(2, 3)

What cannot be done is said in one line, by an `EncryptedInferenceError`:

>>> model.run(images[0, :, :8])
Traceback (most recent call last):
    ...
contract.errors.CallerError: the images have shape (1, 8, 32): give (1, 32, 32), or (images, 1, 32, 32) for several

In one process nothing is protected: image and weights lie beside each other. `connect` runs sessions against servers,
as the data owner that a settings file describes. docs/notebook.md goes through all of this.
"""

from contract.errors import EncryptedInferenceError
from encrypted_inference.connection import Connection, connect
from encrypted_inference.evaluation import Cost, Evaluation
from encrypted_inference.model import Model, load

__all__ = ["Connection", "Cost", "EncryptedInferenceError", "Evaluation", "Model", "connect", "load"]
