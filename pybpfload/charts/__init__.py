"""Things to look at: histograms, folded stacks, flame graphs, diagrams; as text and as SVG.

Pure functions of dictionaries and lists: no kernel and no Linux is needed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pybpfload.charts.diagram import Box, Diagram, Way
    from pybpfload.charts.flame import flame_graph
    from pybpfload.charts.folded import read_folded, write_folded
    from pybpfload.charts.gutter import arrows
    from pybpfload.charts.histogram import Bucket, Histogram, by_key

__all__ = [
    "Box",
    "Bucket",
    "Diagram",
    "Histogram",
    "Way",
    "arrows",
    "by_key",
    "flame_graph",
    "read_folded",
    "write_folded",
]

_HOMES = {
    "Box": "diagram",
    "Bucket": "histogram",
    "Diagram": "diagram",
    "Way": "diagram",
    "arrows": "gutter",
    "Histogram": "histogram",
    "by_key": "histogram",
    "flame_graph": "flame",
    "read_folded": "folded",
    "write_folded": "folded",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
