"""rapidocr_onnxruntime (the older package, with PP-OCRv4) reads pictures of text."""

import os
import pathlib
import tempfile

import inputs
from rapidocr_onnxruntime import RapidOCR

engine = RapidOCR()
found = {}
with tempfile.TemporaryDirectory() as folder:
    sign = inputs.sign(pathlib.Path(folder) / "sign.png")
    for path in (inputs.picture("page.png"), inputs.picture("text.png"), sign):
        lines, _ = engine(os.fspath(path))
        found[path.name] = [(box, text, float(score)) for box, text, score in lines or []]
inputs.show(found)
