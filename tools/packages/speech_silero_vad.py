"""silero-vad finds speech, with the model it loads by default and the others in its wheel."""

import inputs
import torch
from silero_vad import get_speech_timestamps, load_silero_vad

torch.set_num_threads(1)
found = {}
for name, arguments, rate in (
    ("default 16 kHz", {"onnx": True}, 16000),
    ("default 8 kHz", {"onnx": True}, 8000),
    ("opset 15", {"onnx": True, "opset_version": 15}, 16000),
):
    model = load_silero_vad(**arguments)
    audio = torch.from_numpy(inputs.speech(rate))
    found[name] = get_speech_timestamps(audio, model, sampling_rate=rate, threshold=0.4)
    model.reset_states()
    chunk = 512 if rate == 16000 else 256
    found[name + " probabilities"] = [
        float(model(audio[i : i + chunk], rate)) for i in range(0, len(audio) - chunk, chunk * 4)
    ]
inputs.show(found)
