"""What programs import from onnxruntime's extension module: its exceptions and plain types."""

from .. import (  # noqa: F401
    disable_telemetry_events,
    enable_telemetry_events,
    get_build_info,
    get_version_string,
    has_collective_ops,
    set_seed,
)
from ..binding import IOBinding as SessionIOBinding  # noqa: F401
from ..devices import *  # noqa: F403
from ..enums import *  # noqa: F403
from ..errors import *  # noqa: F403
from ..options import *  # noqa: F403
from ..session import InferenceSession, ModelMetadata, NodeArg  # noqa: F401
from ..values import OrtValue, OrtValueVector, copy_tensors  # noqa: F401
