"""tools/corpus: making objects by commands, again and again, and telling what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the cache needs Linux or macOS")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "lib"))

import corpus

SHELL = ["sh", "-c"]
MAKEFILE = """\
SKELS := one.skel.h two.skel.h \\
	three.skel.h
one.skel.h-deps := one.bpf.o
two.skel.h-deps := two_a.bpf.o \\
	two_b.bpf.o
"""


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PYBPFLOAD_CACHE", str(tmp_path))
    return tmp_path


def make(folder: Path, **commands: str) -> None:
    # The file to be made comes last: the script's first argument.
    objects = {f"bpfel/{name}.bpf.o": [*SHELL, text, "sh"] for name, text in commands.items()}
    corpus._make_all(folder, objects, 2, folder)


def test_only_what_is_missing_is_made(tmp_path):
    make(tmp_path, one='echo 1 > "$1"')
    make(tmp_path, one='echo again > "$1"', two='echo 2 > "$1"')
    made = {path.name: path.read_text() for path in (tmp_path / "bpfel").iterdir()}
    assert made == {"one.bpf.o": "1\n", "two.bpf.o": "2\n"}


def test_the_output_can_be_named_anywhere(tmp_path):
    command = ["cp", "/dev/null", corpus.Output]
    corpus._make_all(tmp_path, {"linked/empty.bpf.o": command}, 1, tmp_path)
    assert (tmp_path / "linked" / "empty.bpf.o").read_bytes() == b""


def test_failures_are_kept_and_not_tried_again(tmp_path, capsys):
    broken = 'echo x > "$1"; echo "a.c:1:2: error: no  such type" >&2; exit 1'
    make(tmp_path, good='echo 1 > "$1"', bad=broken, worse=broken)
    log = tmp_path / "bpfel" / "bad.log"
    assert "no  such type" in log.read_text()
    assert sorted(path.name for path in log.parent.iterdir()) == [
        "bad.log", "good.bpf.o", "worse.log",
    ]  # fmt: skip
    make(tmp_path, bad='echo 1 > "$1"')
    assert not (tmp_path / "bpfel" / "bad.bpf.o").exists()
    log.unlink()
    make(tmp_path, bad='echo 1 > "$1"')
    assert (tmp_path / "bpfel" / "bad.bpf.o").exists()


def test_the_report_counts_and_gives_reasons(cached, capsys):
    mine = corpus.Corpus("mine", "some objects", lambda folder, jobs: None)
    corpus.report(mine)
    assert "(not built)" in capsys.readouterr().out
    broken = 'echo "a.c:1:2: error: no  such type" >&2; exit 1'
    mine.folder.mkdir(parents=True)
    make(mine.folder, good='echo 1 > "$1"', bad=broken, worse=broken, silent="exit 1")
    corpus.report(mine)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mine: some objects"
    assert lines[2:] == [
        "  bpfel: 1 of 4 objects",
        "    2 not: no such type (bad, worse)",
        "    1 not: it says nothing (silent)",
    ]


def test_what_is_made_of_other_things_is_made_anew(tmp_path):
    folder = tmp_path / "objects"
    for made_of, left in (("6.12", []), ("6.12", ["one"]), ("7.2", [])):
        folder.mkdir(exist_ok=True)
        corpus._start_anew_unless(folder, made_of)
        assert [path.name for path in folder.iterdir() if path.name != "made-of"] == left
        (folder / "one").write_text("")


def test_objects_linked_together_are_those_of_the_makefile(tmp_path):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    assert corpus._linked_together(tmp_path / "Makefile") == {"two.linked": ["two_a", "two_b"]}


def test_unknown_names_are_refused(cached, capsys):
    with pytest.raises(SystemExit) as caught:
        corpus.main("what it does", ["build", "nothing"])
    assert caught.value.code == 2
    assert "no such corpus: nothing" in capsys.readouterr().err
    assert corpus.main("what it does", ["list"]) == 0
    assert "clang14: our fixtures built by clang 14" in capsys.readouterr().out
