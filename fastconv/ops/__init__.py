"""Single operators on NumPy arrays, with the names, arguments and meanings of torch.nn.functional.

float32 runs on the kernels; float64 and float16 are computed in NumPy, in that precision. Spatial
arrays are (N, C, L), (N, C, H, W) or (N, C, D, H, W), and may lack N. Every function takes
``threads=``: the threads to use, None for the default. Bad arguments raise ``InputError`` with the
name of the function and of the argument.

What a set of shapes needs is prepared once and kept, with a copy of the weights, which is compared
with the weights of each call: they may change from call to call, in place too.
"""

from .conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .dense import (
    batch_norm,
    elu,
    gelu,
    hardswish,
    layer_norm,
    leaky_relu,
    linear,
    log_softmax,
    matmul,
    relu,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from .pool import (
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "elu",
    "gelu",
    "hardswish",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "matmul",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
