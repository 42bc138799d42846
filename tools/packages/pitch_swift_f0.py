"""SwiftF0 finds the pitch of speech."""

import inputs
import numpy as np
from swift_f0 import SwiftF0

r = SwiftF0().detect(inputs.speech(16000), 16000)
fields = {k: v for k, v in vars(r).items() if isinstance(v, np.ndarray)}
assert fields
inputs.show(fields)
