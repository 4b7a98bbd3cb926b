"""Arrows, layers and diagrams."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.charts import Box, Diagram, Way, arrows, layers
from pybpfload.charts.layers import Size, lay_out
from pybpfload.errors import BpfError

SVG = "{http://www.w3.org/2000/svg}"
LOOP = Diagram(
    'a "loop"',
    (Box("start", ("r1 = 0x1",)), Box("L0", ("if r1 < 0x8 goto <L0>",)), Box("end")),
    (Way(0, 1), Way(1, 1, "taken", "green"), Way(1, 2, "not taken", dashed=True), Way(2, 0)),
)

ways_between = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=16),
    )
)


def test_arrows():
    assert arrows(5, [(0, 3), (1, 4), (2, 2), (9, 1)]) == [
        "  .----",
        ".-|----",
        "| | -->",
        "| '--->",
        "'----->",
    ]
    assert arrows(2, [(1, 0)], unicode=True) == ["╭─▶", "╰──"]
    assert arrows(3, []) == ["", "", ""]


def test_arrows_without_room_are_left_out():
    drawn = arrows(20, [(n, 19 - n) for n in range(10)], most=3)
    assert {len(line) for line in drawn} == {7}
    assert sum(line.endswith(">") for line in drawn) == 3
    assert drawn[0].strip() == ""  # the longest


@settings(max_examples=25)
@given(ways_between)
def test_every_arrow_begins_and_ends_at_its_line(case):
    count, ways = case
    drawn = arrows(count, ways)
    for row, line in enumerate(drawn):
        assert line.endswith(">") == (row in {target for _, target in ways})
        if row in {source for source, _ in ways}:
            assert line[-1] in "->"


def test_text():
    assert LOOP.text() == (
        'a "loop"\n'
        "      +----------+\n"
        ".---> | start    |\n"
        "|     | r1 = 0x1 |\n"
        "|     +----------+\n"
        "|         |\n"
        "|         v\n"
        "|     +-----------------------+\n"
        "| .-> | L0                    |\n"
        "| '-- | if r1 < 0x8 goto <L0> |\n"
        "|     +-----------------------+\n"
        "|         | not taken\n"
        "|         v\n"
        "|     +-----+\n"
        "'---- | end |\n"
        "      +-----+\n"
    )
    assert "╰── │ if r1" in LOOP.text(unicode=True)


def test_dot_and_mermaid():
    dot = LOOP.dot()
    assert dot.startswith('digraph "a \\"loop\\"" {\n')
    assert '  n0 [label="start\\lr1 = 0x1\\l"];\n' in dot
    assert '  n1 -> n2 [color=black, style=dashed, label="not taken"];\n' in dot
    mermaid = LOOP.mermaid()
    assert '  n1["L0<br/>if r1 #60; 0x8 goto #60;L0#62;"]\n' in mermaid
    assert '  n1 -.->|"not taken"| n2\n' in mermaid


def test_hostile_texts_stay_in_their_box():
    hostile = Diagram('x"\n', (Box('"];\n\x1b[2J', ("</text>\\" * 90,)),), ())
    for text in (hostile.text(), hostile.dot(), hostile.mermaid(), hostile.svg()):
        assert "\x1b" not in text
    assert len(hostile.text().splitlines()) == 5
    assert len(hostile.dot().splitlines()) == 5
    assert len(hostile.mermaid().splitlines()) == 5
    [name, line] = ElementTree.fromstring(hostile.svg()).findall(f"{SVG}g/{SVG}text")
    assert name.text == '"];\\u000a\\u001b[2J'
    assert len(line.text) == 100


def numbers(element, names):
    return [float(element.get(name)) for name in names]


def test_svg():
    text = LOOP.svg()
    assert text == LOOP.svg()
    tree = ElementTree.fromstring(text)
    boxes = [numbers(r, ("x", "y", "width", "height")) for r in tree.findall(f"{SVG}g/{SVG}rect")]
    assert len(boxes) == 3
    assert [box[1] for box in boxes] == sorted(box[1] for box in boxes)
    paths = tree.findall(f"{SVG}path")
    assert len(paths) == 4
    for way, path in zip(LOOP.ways, paths, strict=True):
        ends = [tuple(map(float, p)) for p in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path.get("d"))]
        for box, (x, y) in ((boxes[way.source], ends[0]), (boxes[way.target], ends[-1])):
            assert box[0] <= x <= box[0] + box[2]
            assert y == pytest.approx(box[1], abs=0.02) or y == pytest.approx(
                box[1] + box[3], abs=0.02
            )
    assert paths[2].get("stroke-dasharray")


@settings(max_examples=25)
@given(ways_between)
def test_boxes_do_not_overlap_and_arrows_go_down(case):
    count, ways = case
    sizes = [Size(40 + 13 * n % 90, 20 + 7 * n % 40) for n in range(count)]
    layout = lay_out(sizes, ways)
    spots = [(*place, *size) for place, size in zip(layout.places, sizes, strict=True)]
    for a, (x, y, width, height) in enumerate(spots):
        assert x >= -0.01
        assert x + width <= layout.width
        assert y + height <= layout.height + 0.01
        for left, top, wide, high in spots[a + 1 :]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y
    assert [len(path) >= 2 for path in layout.paths] == [True] * len(ways)
    # Without circles all arrows go down.
    forward = [(a, b) for a, b in ways if a < b]
    for path in lay_out(sizes, forward).paths:
        heights = [y for _, y in path]
        assert heights == sorted(heights)


def test_nothing_and_too_much(monkeypatch):
    assert Diagram("empty", (), ()).svg().count("<path") == 0
    assert Diagram("empty", (), ()).text() == "empty\n"
    monkeypatch.setattr(layers, "_MOST", 5)
    with pytest.raises(BpfError, match="3 boxes and 4 ways is too large") as caught:
        LOOP.svg()
    assert "DOT" in caught.value.hint
