"""The kernel families built for tile matrices: one compiled module each."""

from ..base import _SizedFamily

amx_conv: _SizedFamily
