"""Every ``FASTCONV_*`` environment variable, declared once (``fastconv info`` lists them)."""

from __future__ import annotations

import os

from .errors import OptionError
from .records import record


@record(frozen=True)
class Knob:
    """One environment variable: its name, what it does, and the values it may have."""

    name: str
    help: str
    choices: tuple[str, ...] = ()
    integer: bool = False

    def get(self) -> str | None:
        """The value set in the environment, or None when unset or empty.

        Raises:
            OptionError: the value is not one of ``choices``, or not a whole number ≥ 1.
        """
        value = os.environ.get(self.name, "").strip()
        if not value:
            return None
        if self.choices and value not in self.choices:
            raise OptionError(
                f"{self.name}={value!r}: expected one of {', '.join(self.choices)} ({self.help})"
            )
        if self.integer and not (value.isdecimal() and 1 <= int(value) <= 4096):
            raise OptionError(f"{self.name}={value!r}: expected a whole number from 1 to 4096")
        return value


ISA = Knob(
    "FASTCONV_ISA",
    "use the kernels built for this instruction set instead of the best the CPU has",
    choices=("base", "v3", "v4", "amx"),
)
THREADS = Knob(
    "FASTCONV_THREADS",
    "default number of threads of a model (else affinity, container quota and physical cores)",
    integer=True,
)
PLANS = Knob(
    "FASTCONV_PLANS",
    "how many plans (one per set of input shapes) a model keeps (default 8)",
    integer=True,
)
CACHE = Knob(
    "FASTCONV_CACHE",
    "folder where fastconv tune keeps its choices (default: fastconv in the user's cache folder); "
    "when set, finished plans are kept there too, unless cache=False",
)

#: All knobs, in the order that ``fastconv info`` prints them.
ALL = (ISA, THREADS, PLANS, CACHE)
