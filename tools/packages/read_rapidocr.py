"""rapidocr reads pictures of text: boxes, words and scores."""

import os
import pathlib
import tempfile

import inputs
from rapidocr import RapidOCR

engine = RapidOCR()
found = {}
with tempfile.TemporaryDirectory() as folder:
    sign = inputs.sign(pathlib.Path(folder) / "sign.png")
    for path in (inputs.picture("page.png"), inputs.street("bus.jpg"), sign):
        out = engine(os.fspath(path))
        boxes = None if out.boxes is None else out.boxes
        found[path.name] = {"boxes": boxes, "text": out.txts, "scores": out.scores}
inputs.show(found)
