"""NudeNet's YOLOv8 detector."""

import os

import inputs
from nudenet import NudeDetector

detector = NudeDetector()
names = (inputs.picture("astronaut.png"), inputs.street("zidane.jpg"), inputs.street("bus.jpg"))
inputs.show({p.name: detector.detect(os.fspath(p)) for p in names})
