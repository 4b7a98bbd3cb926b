"""Histograms, folded stacks, flame graphs and trees."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter, namedtuple
from itertools import pairwise
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.charts import (
    Bucket,
    Histogram,
    Tree,
    by_key,
    flame_graph,
    read_folded,
    write_folded,
)
from pybpfload.charts.flame import Box, flame_boxes
from pybpfload.errors import FormatError

SVG = "{http://www.w3.org/2000/svg}"

# Histograms


def test_log2_slots_are_ranges():
    made = Histogram.log2({0: 1, 1: 2, 3: 4}, unit="us")
    assert made.buckets == (Bucket(0, 2, 1), Bucket(2, 4, 2), Bucket(4, 8, 0), Bucket(8, 16, 4))
    assert made.total == 7
    assert Histogram.log2([0, 1, 2, 0, 4], first=1).buckets == made.buckets
    assert Histogram.log2([0, 0, 0, 5, 0]).buckets == (Bucket(8, 16, 5),)
    assert Histogram.log2({64: 1}).buckets == (Bucket(1 << 64, 1 << 65, 1),)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_every_value_is_in_its_bucket(values):
    slots = Counter(max(value.bit_length() - 1, 0) for value in values)
    made = Histogram.log2(slots)
    for low, high, count in made.buckets:
        assert count == sum(low <= value < high for value in values)
    assert [b.low for b in made.buckets[1:]] == [b.high for b in made.buckets[:-1]]
    in_order = sorted(values)
    estimate = made.percentile(50)
    median = in_order[(len(in_order) - 1) // 2]
    assert median // 2 <= estimate <= 2 * median + 2
    assert made.percentile(0) <= estimate <= made.percentile(100)


def test_linear_slots_are_ranges():
    made = Histogram.linear([0, 3, 0, 1], step=10, start=-5)
    assert made.buckets == (Bucket(5, 15, 3), Bucket(15, 25, 0), Bucket(25, 35, 1))
    assert made.mean() == 15
    assert made.percentile(50) == pytest.approx(5 + 10 * 2 / 3)


def test_counts_of_all_cpus_are_added():
    class PerCpu(list):
        pass

    slots = MappingProxyType({2: PerCpu([1, 0, 2]), 3: PerCpu([0, 0, 0]), 4: PerCpu([0, 0, 1])})
    assert Histogram.log2(slots).buckets == Histogram.log2({2: 3, 4: 1}).buckets


def test_keys_with_a_slot_are_several_histograms():
    Key = namedtuple("Key", "disk slot flags")
    counts = {Key("sda", 1, 0): 5, Key("sda", 2, 0): 6, Key("sdb", 1, 0): 7}
    assert by_key(counts) == {("sda", 0): {1: 5, 2: 6}, ("sdb", 0): {1: 7}}
    Short = namedtuple("Short", "bucket name")
    assert by_key({Short(3, "x"): 1}, slot="bucket") == {"x": {3: 1}}
    with pytest.raises(ValueError, match="has no field 'slot'"):
        by_key({Short(3, "x"): 1})


def test_text():
    made = Histogram.log2({0: 1, 2: 10, 10: 4}, unit="usecs", title="reads")
    lines = made.text().splitlines()
    assert lines[:4] == [
        "reads",
        "     usecs     : count    distribution",
        "    0 -> 1     : 1        |****                                    |",
        "    2 -> 3     : 0        |                                        |",
    ]
    assert lines[4] == f"    4 -> 7     : 10       |{'*' * 40}|"
    assert lines[-1] == f" 1024 -> 2047  : 4        |{'*' * 16}{' ' * 24}|"
    assert {len(line) for line in lines[2:]} == {len(lines[2])}
    lines = made.text("bpftrace").splitlines()
    assert lines[1:3] == ["@usecs:", f"[0, 2)                  1 |{'@' * 5}{' ' * 47}|"]
    assert lines[-1] == f"[1K, 2K)                4 |{'@' * 20}{' ' * 32}|"
    assert Histogram.linear({}).text() == ""
    with pytest.raises(ValueError, match="'bcc' and 'bpftrace'"):
        made.text("other")


def test_histogram_as_picture():
    made = Histogram.log2({0: 1, 3: 10}, unit="<us>", title="a & b")
    text = made.svg()
    assert text == Histogram.log2({3: 10, 0: 1}, unit="<us>", title="a & b").svg()
    tree = ElementTree.fromstring(text)
    groups = tree.findall(f"{SVG}g")
    assert [group.find(f"{SVG}title").text for group in groups] == [
        "0 – 1 <us>: 1 (9.09%)", "2 – 3 <us>: 0 (0.00%)",
        "4 – 7 <us>: 0 (0.00%)", "8 – 15 <us>: 10 (90.91%)",
    ]  # fmt: skip
    widths = [float(group.find(f"{SVG}rect").get("width")) for group in groups]
    assert widths[0] == pytest.approx(widths[3] / 10, abs=0.01)
    assert widths[1] == widths[2] == 0
    assert widths[3] < 640
    assert "no values" in ElementTree.fromstring(Histogram.log2({}).svg()).find(f"{SVG}desc").text


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Histogram.log2({-1: 1}), "slot -1"),
        (lambda: Histogram.log2({1: -1}), "count of -1"),
        (lambda: Histogram.log2({1000: 1}), r"2\*\*1000"),
        (lambda: Histogram.linear({0: 1, 10**9: 1}), "larger step"),
        (lambda: Histogram.linear([1], step=0), "width of 0"),
        (lambda: Histogram.log2([1]).percentile(101), "101 percent"),
    ],
)
def test_numbers_that_make_no_histogram(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_no_values():
    empty = Histogram.log2({1: 0})
    assert (empty.total, empty.percentile(50), empty.mean()) == (0, None, None)
    assert repr(empty) == "<Histogram: no values>"
    assert empty == Histogram.linear([])
    assert len({empty, Histogram.linear([])}) == 1


# Folded stacks

names = st.sampled_from(["a", "b", "b_[k]", "operator<", 'x & "y"', "é\x01", "\ud800", "_[k]"])
folded_stacks = st.dictionaries(
    st.lists(names, min_size=1, max_size=5).map(tuple), st.integers(1, 1000), max_size=8
)


@settings(max_examples=40)
@given(folded_stacks)
def test_folded_stacks_come_back(folded):
    text = write_folded(folded)
    assert read_folded(text) == folded
    assert read_folded(text.splitlines(keepends=True)) == folded
    lines = text.splitlines()
    assert lines == sorted(lines, key=lambda line: line.rpartition(" ")[0])


def test_folded_text():
    folded = {("a;b", "c\nd"): 1, ("a:b", "c d"): 2, ("x",): 0, (): 5}
    assert write_folded(folded) == "a:b;c d 3\n"
    assert write_folded({"main;read": 30, "main": 2}) == "main 2\nmain;read 30\n"
    assert read_folded("# title\n\nmain;read file 3\nmain;read file 4\n") == {
        ("main", "read file"): 7
    }


@pytest.mark.parametrize(
    "line", ["main", "main x", "main -1", "main 1.5", " 5", "5", "a " + "9" * 19]
)
def test_lines_that_are_no_folded_stacks(line):
    with pytest.raises(FormatError, match="line 2 does not end with a number"):
        read_folded(f"main 1\n{line}\n")


# Flame graphs

FOLDED = {
    ("sh", "main", "read", "vfs_read_[k]"): 3,
    ("sh", "main", "read"): 1,
    ("sh", "main", "write"): 4,
    ("sh", "exit"): 2,
}


def test_stacks_as_text():
    as_text = {";".join(stack): count for stack, count in FOLDED.items()}
    assert flame_graph(as_text) == flame_graph(FOLDED)
    assert flame_graph(as_text, reverse=True) == flame_graph(FOLDED, reverse=True)


def test_boxes():
    assert flame_boxes(FOLDED) == [
        Box("all", 0, 0, 10),
        Box("sh", 1, 0, 10),
        Box("exit", 2, 0, 2),
        Box("main", 2, 2, 8),
        Box("read", 3, 2, 4),
        Box("vfs_read_[k]", 4, 3, 3),
        Box("write", 3, 6, 4),
    ]
    assert [box[:2] for box in flame_boxes({("a", "b"): 1, ("c", "b"): 2}, reverse=True)] == [
        ("all", 0), ("b", 1), ("a", 2), ("c", 2),
    ]  # fmt: skip
    assert flame_boxes({}) == [Box("all", 0, 0, 0)]


@settings(max_examples=40)
@given(folded_stacks, st.booleans())
def test_boxes_hold_all_samples_and_lie_on_each_other(folded, reverse):
    boxes = flame_boxes(folded, reverse=reverse)
    assert boxes[0] == Box("all", 0, 0, sum(folded.values()))
    for level in range(1, 6):
        here = [box for box in boxes if box.level == level]
        assert sum(box.samples for box in here) == sum(
            count for stack, count in folded.items() if len(stack) >= level
        )
        for left, right in pairwise(here):
            assert left.start + left.samples <= right.start
        for box in here:  # exactly one box is below, and reaches as far
            below = [
                each for each in boxes
                if each.level == level - 1 and each.start <= box.start < each.start + each.samples
            ]  # fmt: skip
            assert len(below) == 1
            assert box.start + box.samples <= below[0].start + below[0].samples


def drawn(text: str) -> list[tuple[str, float, float, float, str]]:
    """Title, left end, width, top and colour of each box."""
    found = []
    for group in ElementTree.fromstring(text).findall(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title").text, group.find(f"{SVG}rect")
        assert group.get("aria-label") == title
        place = [float(rect.get(name)) for name in ("x", "width", "y")]
        found.append((title, *place, rect.get("fill")))
    return found


def test_flame_graph():
    text = flame_graph(FOLDED, title='<"a" & b>', width=1020)
    assert text == flame_graph(dict(reversed(FOLDED.items())), title='<"a" & b>', width=1020)
    boxes = {title.split(" (")[0]: rest for title, *rest in drawn(text)}
    assert list(boxes) == ["all", "sh", "exit", "main", "read", "vfs_read", "write"]
    assert {name: rest[:2] for name, rest in boxes.items()} == {
        "all": [10, 1000], "sh": [10, 1000], "exit": [10, 200], "main": [210, 800],
        "read": [210, 400], "vfs_read": [310, 300], "write": [610, 400],
    }  # fmt: skip
    assert boxes["all"][2] > boxes["sh"][2] > boxes["main"][2] == boxes["exit"][2]
    inverted = {title.split(" (")[0]: y for title, _, _, y, _ in drawn(
        flame_graph(FOLDED, inverted=True)
    )}  # fmt: skip
    assert inverted["all"] < inverted["sh"] < inverted["main"] < inverted["vfs_read"]
    titles = [title for title, *_ in drawn(text)]
    assert "vfs_read (3 samples, 30.00%, kernel)" in titles
    assert "write (4 samples, 40.00%)" in titles
    tree = ElementTree.fromstring(text)
    assert tree.find(f"{SVG}title").text == '<"a" & b>'
    assert tree.get("aria-labelledby") == "title desc"


def test_colours_tell_kernel_from_user_space():
    def parts(colour: str) -> tuple[int, ...]:
        return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))

    names = [f"f{index}" for index in range(50)]
    text = flame_graph({("sh", name + mark): 1 for name in names for mark in ("", "_[k]")})
    seen = set()
    for title, *_, colour in drawn(text)[2:]:
        red, green, blue = parts(colour)
        is_kernel = "kernel" in title
        assert (blue > red) == is_kernel
        assert 0.299 * red + 0.587 * green + 0.114 * blue > 125  # black letters are read on it
        seen.add(colour)
    assert len(seen) > 20


@settings(max_examples=40)
@given(folded_stacks)
def test_flame_graphs_are_valid_and_add_up(folded):
    total = sum(folded.values())
    boxes = drawn(flame_graph(folded, width=1220))
    assert boxes[0][1:3] == (10, 1200)
    by_top = Counter()
    for title, left, width, top, _ in boxes:
        samples = int(title.rpartition(" (")[2].split(" ")[0].replace(",", ""))
        assert width == pytest.approx(1200 * samples / max(total, 1), abs=0.02) or not total
        assert left >= 10
        assert left + width <= 1210.01
        by_top[top] += width
    assert max(by_top.values()) <= 1200.01


def test_boxes_too_narrow_to_be_seen_are_not_drawn():
    folded = {("big",): 10**6, ("small",): 1, ("middle",): 1000}
    assert [title.split(" ")[0] for title, *_ in drawn(flame_graph(folded))] == [
        "all", "big", "middle",
    ]  # fmt: skip
    assert drawn(flame_graph({}))[0][0] == "all (0 samples, 0.00%)"


def test_tree():
    made = Tree("a", (Tree("b", (Tree("c"), Tree("d", (Tree("e"),)))), Tree("f", (Tree("g"),))))
    assert list(made.lines()) == [
        "a", "|-- b", "|   |-- c", "|   `-- d", "|       `-- e", "`-- f", "    `-- g",
    ]  # fmt: skip
    assert list(made.lines(unicode=True))[2:6] == [
        "│   ├── c",
        "│   └── d",
        "│       └── e",
        "└── f",
    ]


def test_a_tree_may_be_deeper_than_the_stack():
    made = Tree("bottom")
    for _ in range(2000):
        made = Tree("above", (made,))
    *_, last = made.lines()
    assert last == "    " * 1999 + "`-- bottom"
