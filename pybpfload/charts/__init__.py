"""Things to look at: histograms, folded stacks, flame graphs, diagrams, pairs, trees.

Pure functions of dictionaries and lists: no kernel and no Linux is needed.
"""

from __future__ import annotations

from pybpfload.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybpfload.charts.bytes import Cell, byte_map
    from pybpfload.charts.diagram import Box, Diagram, Way
    from pybpfload.charts.flame import flame_graph
    from pybpfload.charts.folded import read_folded, write_folded
    from pybpfload.charts.gutter import arrows
    from pybpfload.charts.histogram import Bucket, Histogram, by_key
    from pybpfload.charts.pair import Column, Line, Pair
    from pybpfload.charts.tree import Tree

__all__ = [
    "Box",
    "Bucket",
    "Cell",
    "Column",
    "Diagram",
    "Histogram",
    "Line",
    "Pair",
    "Tree",
    "Way",
    "arrows",
    "by_key",
    "byte_map",
    "flame_graph",
    "read_folded",
    "write_folded",
]

_HOMES = {
    "Box": "diagram",
    "Bucket": "histogram",
    "Cell": "bytes",
    "Column": "pair",
    "Diagram": "diagram",
    "Line": "pair",
    "Pair": "pair",
    "Tree": "tree",
    "Way": "diagram",
    "arrows": "gutter",
    "Histogram": "histogram",
    "by_key": "histogram",
    "byte_map": "bytes",
    "flame_graph": "flame",
    "read_folded": "folded",
    "write_folded": "folded",
}

__getattr__ = lazily(__name__, _HOMES)
