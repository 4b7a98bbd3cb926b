"""``pybpfload btf``, and the sources of BTF that it takes."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import pytest
from btf_samples import sample

from pybpfload.btf.build import BtfBuilder
from pybpfload.cli import main
from pybpfload.elf import image
from pybpfload.elf.deb import kernel_of_deb
from pybpfload.errors import FormatError

FIXTURES = Path(__file__).parents[2] / "fixtures"
TARGET = str(FIXTURES / "bpfel" / "core_target.bpf.o")


@pytest.fixture
def raw(tmp_path: Path) -> str:
    path = tmp_path / "sample.btf"
    path.write_bytes(sample().build())
    return str(path)


def said(capsys, *arguments: str, status: int = 0) -> str:
    """What a command prints; its errors if it fails."""
    assert main(["btf", *arguments]) == status
    captured = capsys.readouterr()
    assert status or not captured.err
    return captured.err if status else captured.out


def test_dump(capsys, raw: str) -> None:
    text = said(capsys, "dump", raw)
    assert text.startswith("[1] INT 'int' size=4 ")
    assert len(text.splitlines()) == 39
    assert said(capsys, "dump", raw, "--id", "18") == "[18] TYPEDEF 'both_t' type_id=9\n"
    document = json.loads(said(capsys, "dump", raw, "--json"))
    assert [each["id"] for each in document["types"]] == list(range(1, 24))
    assert "type id 99" in said(capsys, "dump", raw, "--id", "99", status=1)


def test_c(capsys, raw: str, tmp_path: Path) -> None:
    text = said(capsys, "c", raw)
    assert "struct event {\n\tint pid;\n" in text
    assert said(capsys, "c", raw, "-o", str(tmp_path / "out.h")) == ""
    assert (tmp_path / "out.h").read_text(encoding="utf-8") == text
    assert json.loads(said(capsys, "c", raw, "--json"))["c"] == text
    assert "event" not in said(capsys, "c", raw, "--type", "both_t", "--type", "union both")
    assert "did you mean 'event'" in said(capsys, "c", raw, "--type", "evnt", status=2)
    assert "no name of a type" in said(capsys, "c", raw, "--type", "class x", status=2)


def test_layout(capsys, raw: str) -> None:
    text = said(capsys, "layout", raw, "struct event")
    assert "\t/* size: 32, cachelines: 1, members: 4 */\n" in text
    document = json.loads(said(capsys, "layout", raw, "event", "--json", "--cacheline", "16"))
    assert (document["name"], document["cachelines"]) == ("struct event", 2)
    assert "cache line" in said(capsys, "layout", raw, "event", "--cacheline", "0", status=2)
    assert "no layout" in said(capsys, "layout", raw, "flags", status=1)
    assert "which of its types?" in said(capsys, "layout", raw, status=2)


def test_find(capsys, raw: str) -> None:
    assert said(capsys, "find", raw, "both").split() == (
        "id kind name size 9 union both 8".split()  # noqa: SIM905
    )
    text = said(capsys, "find", raw, "--member", "high", "--kind", "struct")
    assert text.splitlines()[1].split() == ["7", "struct", "event", "32", "4:3", "int", "high"]
    assert json.loads(
        said(capsys, "find", raw, "--size", "8", "--json", "--type", "enum wide")
    ) == [
        {
            "id": 9,
            "kind": "UNION",
            "name": "both",
            "size": 8,
            "members": [{"path": "e", "bits_offset": 0, "declaration": "enum wide e"}],
        }
    ]
    assert "no such type" in said(capsys, "find", raw, "nothing", status=1)
    assert "what to find" in said(capsys, "find", raw, status=2)
    assert "did you mean 'struct'" in said(capsys, "find", raw, "--kind", "strct", status=2)


HANDLE = (
    'int (struct event *ctx, const char __attribute__((btf_type_tag("user"))) *restrict text, ...)'
)


@pytest.fixture
def newer(tmp_path: Path) -> str:
    """The sample, changed."""
    b = BtfBuilder("<")
    int_ = b.add_int("int", 4, 1)
    b.add_struct(
        "event",
        40,
        [("low", int_, 32, 2), ("pid", b.add_typedef("pid_t", int_), 64), ("x", int_, 0)],
    )
    b.add_enum("flags", 4, [("NONE", 0), ("ONE", 2), ("TWO", 4)])
    b.add_func("handle", b.add_func_proto(0, []))
    path = tmp_path / "newer.btf"
    path.write_bytes(b.build())
    return str(path)


def test_diff(capsys, raw: str, newer: str) -> None:
    text = said(capsys, "diff", raw, newer)
    assert text.splitlines() == [
        "struct event changed",
        "  size: 32 -> 40",
        "  pid moved: 0 -> 8",
        "  pid type: int -> pid_t",
        "  low shrank: 3 bits -> 2 bits",
        "  high vanished: int",
        "  comm vanished: char[16]",
        "  x appeared: int",
        "struct event___old vanished",
        "union both vanished",
        "enum flags changed",
        "  ONE value: 1 -> 2",
        "  MINUS vanished: -1",
        "  TWO appeared: 4",
        "enum wide vanished",
        "typedef both_t vanished",
        "typedef pid_t appeared",
        "function handle changed",
        f"  prototype: {HANDLE} -> void (void)",
    ]
    only = said(capsys, "diff", raw, newer, "--kind", "enum", "--name", "w*", "--json")
    assert json.loads(only) == [{"kind": "enum", "name": "wide", "what": "vanished", "changes": []}]
    assert said(capsys, "diff", raw, raw) == ""


def test_relocations_that_differ(capsys, tmp_path: Path) -> None:
    """Two kernels, of which one has ``pid`` elsewhere and no ``tgid``."""
    kernels = []
    for number, members in enumerate([("pid", "tgid"), ("flags", "pid")]):
        b = BtfBuilder("<")
        int_ = b.add_int("int", 4, 1)
        b.add_struct("task_struct", 8, [(n, int_, 32 * i) for i, n in enumerate(members)])
        kernels.append(tmp_path / f"{number}.btf")
        kernels[-1].write_bytes(b.build())
    object_ = str(FIXTURES / "bpfel" / "execsnoop.bpf.o")
    arguments = ("diff", *map(str, kernels), "--object", object_)
    text = said(capsys, *arguments)
    document = json.loads(said(capsys, *arguments, "--json"))
    assert {each["local"].split(" (")[0].split(".")[-1] for each in document} == {"pid", "tgid"}
    pid = next(each for each in document if ".pid " in each["local"])
    assert (pid["before"]["value"], pid["after"]["value"]) == (0, 4)
    tgid = next(each for each in document if ".tgid " in each["local"])
    assert (tgid["before"]["outcome"], tgid["after"]["outcome"]) == ("unchanged", "poisoned")
    assert len(text.splitlines()) == 1 + len(document)
    assert said(capsys, "diff", str(kernels[0]), str(kernels[0]), "--object", object_) == ""


def test_split_btf_needs_its_base(capsys, raw: str, tmp_path: Path) -> None:
    split = BtfBuilder("<", base=sample().btf())
    split.add_typedef("more", 7)
    module = tmp_path / "veth.ko"
    module.write_bytes(split.build())
    assert said(capsys, "dump", str(module), "--base", raw) == "[24] TYPEDEF 'more' type_id=7\n"
    assert "give it by --base" in said(capsys, "dump", str(module), status=1)


def test_sources_that_are_none(capsys, tmp_path: Path) -> None:
    assert "No such file" in said(capsys, "dump", str(tmp_path / "missing"), status=1)
    assert "id:1" in said(capsys, "dump", "id:one", status=2)
    assert "no BTF in it" in said(capsys, "dump", __file__, status=1)


def deb(members: dict[str, bytes], pack=lzma.compress, suffix: str = ".xz") -> bytes:
    """A Debian package with files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    made = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar", b"odd"),
        (f"data.tar{suffix}", pack(content.getvalue())),
    ):
        made += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        made += data + b"\n" * (len(data) % 2)
    return made


KERNEL = {"./usr/share/doc/x": b"x" * 5000, "./boot/vmlinuz-6.1": gzip.compress(sample().build())}


@pytest.mark.parametrize(
    ("pack", "suffix"), [(lzma.compress, ".xz"), (gzip.compress, ".gz"), (bytes, "")]
)
def test_debian_package(capsys, tmp_path: Path, pack, suffix: str) -> None:
    path = tmp_path / "linux-image.deb"
    path.write_bytes(deb(KERNEL, pack, suffix))
    assert said(capsys, "dump", str(path), "--id", "18") == "[18] TYPEDEF 'both_t' type_id=9\n"


def test_damaged_debian_packages() -> None:
    whole = deb(KERNEL)
    assert kernel_of_deb(whole)[0] == "boot/vmlinuz-6.1"
    plain = deb(KERNEL, bytes, "")
    start = plain.index(b"./usr")
    for damaged, message in [
        (deb({"./usr/bin/x": b""}), "no kernel"),
        (b"x" * 100, "no Debian package"),
        *((whole[:size], "damaged|ends early") for size in range(30, len(whole), 23)),
        (plain[:start] + b"\xff" * 512 + plain[start + 512 :], "damaged"),
    ]:
        with pytest.raises(FormatError, match=message):
            kernel_of_deb(damaged)


def test_debian_package_that_is_a_bomb(monkeypatch) -> None:
    monkeypatch.setattr(image, "_OUTPUT_BASE", 0)
    bomb = deb({"a": bytes(1 << 20), **KERNEL}, gzip.compress, ".gz")
    with pytest.raises(FormatError, match="decompresses to more than"):
        kernel_of_deb(bomb)


def test_layout_as_a_picture(capsys, raw: str, tmp_path: Path) -> None:
    svg = said(capsys, "layout", raw, "event", "--svg", "--expand")
    assert svg.startswith("<?xml")
    assert "struct event" in svg
    path = tmp_path / "event.svg"
    assert said(capsys, "layout", raw, "event", "--svg", "--expand", "-o", str(path)) == ""
    assert path.read_text() == svg
