"""The names of the networks that fetch_zoo.py makes; each becomes ``<name>.onnx``."""

from __future__ import annotations

#: torchvision networks that the benchmarks compare engines on.
CLASSIC = [
    "resnet18",
    "resnet50",
    "vgg16",
    "alexnet",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "densenet121",
    "googlenet",
    "inception_v3",
]
#: Further torchvision families.
MORE = [
    "resnext50_32x4d",
    "regnet_y_400mf",
    "convnext_tiny",
    "efficientnet_v2_s",
    "mnasnet1_0",
]
#: torchvision networks whose output is a map, [N, classes, H, W].
SEGMENTATION = ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]
#: All that have made-up weights.
RANDOM = CLASSIC + MORE + SEGMENTATION

MTCNN = ["mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet"]
EFFICIENTNET_LITE0 = "efficientnet_lite0"
IMAGENET_MOBILENET = "mobilenet_v2_imagenet"
#: All that have trained weights.
TRAINED = [*MTCNN, EFFICIENTNET_LITE0, IMAGENET_MOBILENET]
