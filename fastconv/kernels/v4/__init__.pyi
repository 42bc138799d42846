"""The kernel families built for one instruction set: one compiled module each."""

from ..base import conv as conv
from ..base import deform as deform
from ..base import depthwise as depthwise
from ..base import detect as detect
from ..base import elementwise as elementwise
from ..base import matmul as matmul
from ..base import move as move
from ..base import norm as norm
from ..base import pack as pack
from ..base import pool as pool
from ..base import qconv as qconv
from ..base import qdepthwise as qdepthwise
from ..base import qelementwise as qelementwise
from ..base import recurrent as recurrent
from ..base import reduce as reduce
from ..base import resize as resize
from ..base import winograd as winograd
