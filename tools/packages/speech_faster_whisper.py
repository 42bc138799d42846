"""faster-whisper's voice activity filter: silero-vad v6 on whole recordings."""

import inputs
from faster_whisper.vad import VadOptions, get_speech_timestamps, get_vad_model

audio = inputs.speech(16000)
model = get_vad_model()
inputs.show(
    {
        "timestamps": get_speech_timestamps(audio, VadOptions(threshold=0.4)),
        "probabilities": model(audio[: len(audio) // 512 * 512]),
    }
)
