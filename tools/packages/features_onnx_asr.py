"""onnx-asr's preprocessors: log-mel features as ONNX graphs (STFT, or Conv)."""

import inputs
import numpy as np
import onnxruntime

folder = inputs.folder("onnx_asr", "preprocessors", "data")
audio = inputs.speech(16000)[-3 * 16000 :]  # not the silence before it, of which the log is taken
found = {}
for path in sorted(folder.glob("*.onnx")):
    session = onnxruntime.InferenceSession(path.read_bytes())
    feed = {
        "waveforms": np.stack([audio, audio[::-1]]),
        "waveforms_lens": np.array([len(audio), 2 * 16000]),
    }
    names = [i.name for i in session.get_inputs()]
    outs = session.run(None, {n: feed[n] for n in names})
    found[path.name] = [np.asarray(o)[..., ::37] for o in outs]
inputs.show(found)
