"""``IOBinding``: inputs and outputs chosen once, for many runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .devices import check_cpu
from .errors import InvalidArgument, argument, status
from .values import OrtValue, OrtValueVector, at_address, element_type

if TYPE_CHECKING:
    from .session import InferenceSession


class IOBinding:
    """What :meth:`InferenceSession.run_with_iobinding` reads and writes.

    Inputs are read when it runs, so a bound array may be refilled between runs. An output that is
    bound to memory is copied there; any other is a new array on each run.

    Args:
        session: the session whose inputs and outputs these are.
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, OrtValue | np.ndarray] = {}
        self._outputs: dict[str, OrtValue | None] = {}
        self._results: list[OrtValue] = []

    def _check(self, name: str, kind: str, known: Sequence[Any]) -> None:
        names = [n.name for n in known]
        if name not in names:
            error = InputError(f"no {kind} {name!r}; the model has {', '.join(names)}")
            raise status(error, InvalidArgument, RuntimeError)

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        """Read an input from an array.

        Raises:
            InputError: there is no such input (a ``RuntimeError`` too, as in onnxruntime).
        """
        self._check(name, "input", self._session.get_inputs())
        self._inputs[name] = arr_on_cpu

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Read an input from memory of the caller's, which must stay valid while it is bound.

        Args:
            name: the input.
            device_type, device_id: ``"cpu"``, 0.
            element_type: NumPy dtype, or a number of ``TensorProto.DataType``.
            shape: dimensions.
            buffer_ptr: the address of the first element.

        Raises:
            InputError: there is no such input.
            OptionError: the address, shape or type makes no sense.
            UnsupportedError: a device other than the CPU.
        """
        check_cpu(device_type)
        self._check(name, "input", self._session.get_inputs())
        self._inputs[name] = _at(buffer_ptr, shape, element_type)

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Read an input from a value.

        Raises:
            InputError: there is no such input.
        """
        self._check(name, "input", self._session.get_inputs())
        self._inputs[name] = OrtValue(ortvalue)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Ask for an output, in memory of the caller's when ``buffer_ptr`` is given.

        Raises:
            InputError: there is no such output.
            OptionError: a pointer without a type or shape, or one that makes no sense.
            UnsupportedError: a device other than the CPU.
        """
        check_cpu(device_type)
        self._check(name, "output", self._session.get_outputs())
        if buffer_ptr is None:
            self._outputs[name] = None
            return
        if element_type is None or shape is None:
            raise argument(
                "`element_type` and `shape` are to be provided if pre-allocated memory is provided"
            )
        self._outputs[name] = _at(buffer_ptr, shape, element_type)

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Ask for an output in a value's memory.

        Raises:
            InputError: there is no such output.
        """
        self._check(name, "output", self._session.get_outputs())
        self._outputs[name] = OrtValue(ortvalue)

    def synchronize_inputs(self) -> None:
        """Nothing to wait for."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for."""

    def clear_binding_inputs(self) -> None:
        """Forget all inputs."""
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forget all outputs, and the results of the last run."""
        self._outputs.clear()
        self._results = []

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order they were bound in."""
        return list(self._results)

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        """The same as a vector."""
        return OrtValueVector(self._results)

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs of the last run as arrays."""
        return [v.feed() for v in self._results]

    def run(self, options: Any) -> None:
        """Run once on what is bound.

        Raises:
            InputError: an input is missing or does not fit, or no output was asked for.
        """
        if not self._outputs:
            error = InputError("At least one output should be requested: bind one")
            raise status(error, InvalidArgument)
        names = list(self._outputs)
        arrays = self._session.run(names, self._inputs, options)
        results = []
        for name, array in zip(names, arrays, strict=True):
            target = self._outputs[name]
            if target is None:
                results.append(OrtValue(array))
                continue
            value = OrtValue(array)
            if (value.shape(), value.data_type()) != (target.shape(), target.data_type()):
                error = InputError(
                    f"output {name!r} is {value.data_type()}{value.shape()}, but the memory bound "
                    f"to it is {target.data_type()}{target.shape()}"
                )
                raise status(error, InvalidArgument)
            target.update_inplace(value)
            results.append(target)
        self._results = results

    @property
    def _iobinding(self) -> IOBinding:
        return self


def _at(address: int, shape: Sequence[int], kind: Any) -> OrtValue:
    number = element_type(kind)
    return OrtValue._typed(at_address(address, shape, number), number)


__all__ = ["IOBinding"]
