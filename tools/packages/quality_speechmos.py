"""speechmos (DNSMOS, PLCMOS) rates the quality of speech."""

import inputs
import numpy as np
from speechmos import dnsmos, plcmos

audio = inputs.speech(16000)[: 10 * 16000]
audio = audio / max(1.0, abs(audio).max())
np.random.seed(0)  # noqa: NPY002 (PLCMOS asks raters that it draws)
found = {"dnsmos": dnsmos.run(audio, 16000), "plcmos": plcmos.run(audio, 16000)}
inputs.show({n: {k: v for k, v in r.items() if k != "filename"} for n, r in found.items()})
