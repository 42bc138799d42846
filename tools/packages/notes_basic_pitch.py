"""Spotify's basic-pitch turns sound into notes."""

import tempfile

import inputs
import numpy as np
import soundfile
from basic_pitch import ICASSP_2022_MODEL_PATH  # noqa: F401
from basic_pitch.inference import Model, run_inference

model = Model(inputs.folder("basic_pitch", "saved_models", "icassp_2022", "nmp.onnx"))
t = np.arange(3 * 22050) / 22050
tones = sum(np.sin(2 * np.pi * f * t) * (t > s) for f, s in ((220, 0), (277.2, 1), (329.6, 2)))
with tempfile.NamedTemporaryFile(suffix=".wav") as f:
    soundfile.write(f.name, 0.2 * tones, 22050)
    out = run_inference(f.name, model)
inputs.show({k: np.asarray(v)[::4, ::4] for k, v in out.items()})
