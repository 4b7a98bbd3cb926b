"""What this kernel can do with BPF: each answer is yes, no, or could not tell, and says why.

    from pybpfload import features
    from pybpfload.uapi import MapType

    if not features.map_type(MapType.ARENA):
        ...

``pybpfload features`` prints it all.
"""

from __future__ import annotations

from pybpfload.kernel import features as _features
from pybpfload.kernel.features import *  # noqa: F403

__all__ = _features.__all__
