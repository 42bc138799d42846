"""The kernel families built for tile matrices: one compiled module each."""

from ..base import _SizedFamily
from ..base import qconv as qconv

amx_conv: _SizedFamily
amx_winograd: _SizedFamily
