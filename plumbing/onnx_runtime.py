"""The one way to import onnxruntime, whose official builds send usage data to their maker unless they are set not to.

From 1.29 on they open connections to the outside, name the models that are loaded, and keep an identifier of the
machine on its disk. Where a model is private or a machine stands in a hospital, none of that may happen.
"""

import os
from types import ModuleType


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry off: it decides when it starts, once for the process."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    module: ModuleType = onnxruntime
    return module
