"""``pybpfload inspect``."""

import json
import re
import subprocess
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from insns import EXIT, mov

import pybpfload
from pybpfload.cli import describe_html, main
from pybpfload.cli.describe import describe
from pybpfload.cli.describe_html import html
from pybpfload.cli.describe_text import render
from pybpfload.cli.describe_tree import tree
from pybpfload.cli.table import shorten, table
from pybpfload.testing.objects import FUNC, GLOBAL, ObjectBuilder

FIXTURES = Path(__file__).parents[2] / "fixtures"
OBJECTS = sorted(FIXTURES.glob("bpfe?/*.bpf.o"))
LITTLE = FIXTURES / "bpfel"

KEYS = {
    "object": str,
    "name": str,
    "byteorder": str,
    "license": str,
    "kernel_version": (int, type(None)),
    "needs": dict,
    "programs": list,
    "subprograms": list,
    "maps": list,
    "variables": list,
    "externs": list,
    "core_relocations": dict,
    "btf": (dict, type(None)),
    "definitions": dict,
    "notes": list,
}
PROGRAM_KEYS = {
    "name": str,
    "section": str,
    "type": str,
    "expected_attach_type": (str, type(None)),
    "attach_to": (str, type(None)),
    "attached_by": (str, type(None)),
    "flags": list,
    "autoload": bool,
    "insn_count": int,
    "linked_insn_count": (int, type(None)),
    "subprograms": (list, type(None)),
    "maps": list,
    "helpers": (list, type(None)),
    "kfuncs": (list, type(None)),
    "stack": (int, type(None)),
    "core_relocations": int,
    "core_accesses": list,
}
MAP_KEYS = {
    "name": str,
    "type": str,
    "kind": str,
    "section": str,
    "key_size": int,
    "key_type": (str, type(None)),
    "value_size": int,
    "value_type": (str, type(None)),
    "max_entries": int,
    "flags": list,
    "pinning": (str, type(None)),
    "numa_node": int,
    "map_extra": int,
    "ifindex": int,
    "records": (list, type(None)),
    "inner": (dict, type(None)),
    "values": list,
}
VARIABLE_KEYS = {
    "name": str,
    "declaration": (str, type(None)),
    "section": str,
    "map": str,
    "offset": int,
    "size": int,
    "static": bool,
    "const": bool,
    "value": object,
}


def check(document, keys):
    assert list(document) == list(keys)
    for key, kind in keys.items():
        assert isinstance(document[key], kind), key


def inspect_json(path, capsys):
    assert main(["inspect", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def by_name(items):
    return {item["name"]: item for item in items}


@pytest.mark.slow
@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_fixture_is_described_or_refused_in_one_line(path, capsys):
    status = main(["inspect", "--json", str(path)])
    out, err = capsys.readouterr()
    if status:
        assert status == 1
        assert out == ""
        assert len(err.splitlines()) == 1
        assert path.name in err
        return
    assert err == ""
    document = json.loads(out)
    check(document, KEYS)
    for program in document["programs"]:
        check(program, PROGRAM_KEYS)
    for found in document["maps"]:
        check(found, MAP_KEYS)
        if found["inner"]:
            check(found["inner"], MAP_KEYS)
    for variable in document["variables"]:
        check(variable, VARIABLE_KEYS)
    for extern in document["externs"]:
        assert set(extern) == {"name", "kind", "weak", "declaration"}
    text = "\n".join(render(document, verbose=True))
    for kind in ("programs", "maps", "externs"):
        for item in document[kind]:
            assert item["name"] in text


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_both_byte_orders_say_the_same(order, capsys):
    document = inspect_json(FIXTURES / order / "globals.bpf.o", capsys)
    assert document["byteorder"] == {"bpfel": "little", "bpfeb": "big"}[order]
    values = {name: v["value"] for name, v in by_name(document["variables"]).items()}
    assert values["data_s64"] == -9000000000000000000
    assert values["data_bool"] is True
    assert values["data_text"] == "hello"
    assert values["data_bytes"] == "0102030405"
    assert values["data_matrix"] == [[1, -2, 3], [-4, 5, -6]]
    assert values["data_color"] == "BLUE"
    assert values["bss_wide"] == 0
    assert values["data_point"] == {"x": 3, "y": -4}
    assert values["data_record"]["low"] == 5
    assert values["data_double"] == 2.5
    assert values["bss_array"] == [0, 0, 0, 0]


def test_programs(capsys):
    programs = by_name(inspect_json(LITTLE / "execsnoop.bpf.o", capsys)["programs"])
    on_exec = programs["on_exec"]
    assert on_exec["section"] == "tp_btf/sched_process_exec"
    assert on_exec["type"] == "tracing"
    assert on_exec["expected_attach_type"] == "trace_raw_tp"
    assert on_exec["attach_to"] == "sched_process_exec"
    assert on_exec["autoload"] is True
    assert on_exec["insn_count"] == on_exec["linked_insn_count"] > 0
    assert on_exec["core_relocations"] == 8
    assert set(on_exec["maps"]) == {"events", "execsnoo.rodata", "execsnoo.bss"}


def test_the_question_mark_of_a_section_is_autoload(capsys):
    programs = by_name(inspect_json(LITTLE / "extack.bpf.o", capsys)["programs"])
    assert programs["fentry__netlink_extack"]["autoload"] is False
    assert programs["fentry__netlink_extack"]["section"] == "fentry"
    assert programs["tp__netlink_extack"]["autoload"] is True


def test_subprograms_are_those_that_are_linked(capsys):
    document = inspect_json(LITTLE / "callbacks.bpf.o", capsys)
    nested = by_name(document["programs"])["loop_nested"]
    assert nested["subprograms"] == ["add_half", "half"]
    sizes = {f["name"]: f["insn_count"] for f in document["subprograms"]}
    assert nested["linked_insn_count"] == nested["insn_count"] + sizes["add_half"] + sizes["half"]


def test_maps(capsys):
    maps = by_name(inspect_json(LITTLE / "maps_attrs.bpf.o", capsys)["maps"])
    every = maps["all_attributes"]
    assert every["key_type"] == "struct key"
    assert every["value_type"] == "struct value"
    assert every["flags"] == ["no_prealloc", "numa_node"]
    assert maps["bloom"]["map_extra"] == 3
    inner = by_name(inspect_json(LITTLE / "maps_inner.bpf.o", capsys)["maps"])["outer_array"]
    assert inner["inner"]["type"] == "array"
    assert inner["values"] == ["first", None, None, "second"]
    ring = by_name(inspect_json(LITTLE / "ringbuf.bpf.o", capsys)["maps"])["events"]
    assert ring["records"] == ["struct number", "struct text", "struct pair"]


def test_definitions_are_in_c(capsys):
    definitions = inspect_json(LITTLE / "execsnoop.bpf.o", capsys)["definitions"]
    assert set(definitions) == {"struct event", "enum event_kind"}
    assert "char comm[16]; /* 40 */" in definitions["struct event"]


def test_externs(capsys):
    externs = by_name(inspect_json(LITTLE / "kconfig.bpf.o", capsys)["externs"])
    assert externs["CONFIG_HZ"]["kind"] == "kconfig"
    kfuncs = by_name(inspect_json(LITTLE / "kfuncs.bpf.o", capsys)["externs"])
    assert kfuncs["pybpfload_missing"]["weak"] is True
    assert kfuncs["bpf_rcu_read_lock"]["declaration"] == "void bpf_rcu_read_lock(void)"


def test_the_text(capsys):
    assert main(["inspect", str(LITTLE / "execsnoop.bpf.o")]) == 0
    out = capsys.readouterr().out
    assert "byte order  little endian" in out
    assert "CO-RE       16 relocations (16 byte_off)" in out
    assert re.search(r"const volatile u32 target_ppid +\.rodata +0 +4 +0\n", out)
    assert "struct event {" not in out
    assert main(["inspect", "-v", str(LITTLE / "execsnoop.bpf.o")]) == 0
    assert "struct event {" in capsys.readouterr().out


def test_several_objects(capsys):
    one, two = str(LITTLE / "minimal.bpf.o"), str(LITTLE / "rawtp.bpf.o")
    assert main(["inspect", "--json", one, "missing.o", two]) == 1
    out, err = capsys.readouterr()
    assert [document["object"] for document in json.loads(out)] == [one, two]
    assert err == "pybpfload: missing.o: No such file or directory\n"


def test_a_program_that_cannot_be_linked_is_a_note():
    described = describe(pybpfload.open(LITTLE / "bad_exception_cb.bpf.o"))
    assert "cannot be put together" in described["notes"][0]
    assert described["programs"][0]["subprograms"] is None


def test_a_section_that_claims_to_be_huge_costs_nothing():
    spec = pybpfload.open(LITTLE / "minimal.bpf.o")
    spec.variables["hits"].map.value_size = 1 << 40
    spec.variables["hits"].size = 1 << 40
    described = describe(spec)
    assert by_name(described["variables"])["hits"]["value"] is None
    assert "values are shown" in described["notes"][-1]


def test_tables():
    assert table(("a", "b"), []) == []
    rows = [("x", 1, None), ("long", 200, None), ("\x1b", None, None)]
    assert table(("name", "size", "empty"), rows) == [
        "  name  size",
        "  x        1",
        "  long   200",
        "  \\x1b     -",
    ]
    assert table(("name", "uses", "size"), [("x", ["a,", "bcd"], 7), ("y", "e", 12)]) == [
        "  name  uses  size",
        "  x     a,       7",
        "        bcd",
        "  y     e       12",
    ]
    assert shorten("a" * 100, 20) == "aaaaaaaaaaa...aaaaaa"
    assert shorten("short") == "short"


def test_lists_of_names_are_wrapped_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    described = describe(pybpfload.open(LITTLE / "execsnoop.bpf.o"))
    whole = [*render(described, verbose=False)]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    wrapped = [*render(described, verbose=False)]
    at = wrapped.index("  on_exec  bpf_ringbuf_reserve,        execsnoo.rodata, events,")
    assert wrapped[at + 1] == "           bpf_get_current_uid_gid,    execsnoo.bss"
    assert len(wrapped) == len(whole) + 10


def test_what_an_object_needs():
    def needs(name):
        return describe(pybpfload.open(LITTLE / f"{name}.bpf.o"))["needs"]

    assert needs("user_ringbuf") == {
        "kernel": "6.1",
        "because": [
            {"what": "map type user_ringbuf", "whose": ["map orders"]},
            {"what": "helper bpf_user_ringbuf_drain", "whose": ["program drain"]},
        ],
        "optional": [],
    }
    # Called only where the kernel says that it has a field.
    optional = [{"what": "helper bpf_probe_read_kernel", "since": "5.5"}]
    assert needs("my_program") == {
        "kernel": "5.2", "because": needs("my_program")["because"], "optional": optional,
    }  # fmt: skip


def test_stack_of_functions_that_call_each_other():
    programs = describe(pybpfload.open(LITTLE / "verifier_causes.bpf.o"))["programs"]
    depths = {program["name"]: program["stack"] for program in programs}
    assert depths["stack_depth"] == 3 * 40 * 8
    assert depths["map_bounds"] == 8
    assert depths["endless"] == 0


def test_names_in_what_is_needed_cannot_command_the_terminal():
    described = describe(pybpfload.open(LITTLE / "user_ringbuf.bpf.o"))
    described["needs"]["because"][0]["whose"] = ["map a\x1b[31m\nb"]
    described["needs"]["optional"] = [{"what": "helper\x07", "since": None}]
    assert all(line.isprintable() for line in render(described, verbose=False))


def test_the_tree(capsys):
    assert main(["inspect", "--tree", "--ascii", str(LITTLE / "maps_inner.bpf.o")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.isascii()
    lines = out.splitlines()
    assert lines[0].endswith("maps_inner.bpf.o")
    assert lines[1:4] == [
        "|-- needs",
        "|   `-- Linux 4.17",
        "|       `-- program type raw_tracepoint  program sum_inner, program sum_hash",
    ]
    start = lines.index("    |-- outer_array  array_of_maps, max_entries 4")
    assert lines[start + 1 : start + 10] == [
        "    |   |-- key  u32 (4)",
        "    |   |-- value  4 bytes",
        "    |   |-- inner",
        "    |   |   `-- outer_array.inner  array, max_entries 4",
        "    |   |       |-- key  u32 (4)",
        "    |   |       `-- value  u64 (8)",
        "    |   `-- values",
        "    |       |-- first",
        "    |       `-- second",
    ]


def test_the_tree_has_what_programs_use(capsys):
    assert main(["inspect", "--tree", str(LITTLE / "execsnoop.bpf.o")]) == 0
    out = capsys.readouterr().out
    mm = "│   │       └── struct mm_struct\n│   │           ├── .arg_start  byte_off\n"
    assert mm in out
    assert "│   │       │   ├── .tgid  byte_off x 2\n" in out
    assert "    │   └── const volatile u32 target_ppid = 0\n" in out
    assert main(["inspect", "--tree", str(LITTLE / "callbacks.bpf.o")]) == 0
    out = capsys.readouterr().out
    assert "│       │   ├── add_half\n│       │   └── half\n" in out
    assert "│   └── half  static, 3 instructions\n" in out


def test_what_is_asked_of_types():
    programs = by_name(describe(pybpfload.open(LITTLE / "core_local.bpf.o"))["programs"])
    asked = {(a["kind"], a["type"], a["path"]) for a in programs["enums"]["core_accesses"]}
    assert ("enumval_value", "enum ct_grown", "::CT_GROWN_A") in asked
    fields = {(a["kind"], a["type"], a["path"]) for a in programs["fields"]["core_accesses"]}
    assert ("byte_off", "struct ct_nested", "[2].arr[3].q[1]") in fields
    for program in programs.values():
        assert sum(a["count"] for a in program["core_accesses"]) == program["core_relocations"]


class Page(HTMLParser):
    """A page, which is refused unless it is well formed, whole and by itself."""

    VOID = frozenset({"meta", "img", "br"})
    KNOWN = VOID | {
        "html", "head", "title", "style", "body", "nav", "h1", "h2", "h3", "p", "a", "div", "span",
        "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "details", "summary", "ul",
        "li",
    }  # fmt: skip

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.targets, self.images, self.texts = [], [], [], [], []
        assert text.startswith("<!DOCTYPE html>\n<html ")
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)
        assert set(self.targets) <= set(self.ids)
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag, attrs):
        assert tag in self.KNOWN
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        assert not {name for name in attributes if name.startswith("on")}
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attributes:
            assert re.fullmatch(r"[\w-]+", attributes["id"])
            self.ids.append(attributes["id"])
        if "href" in attributes:
            assert attributes["href"].startswith("#")
            self.targets.append(attributes["href"][1:])
        if "src" in attributes:
            head, data = attributes["src"].split(",")
            assert head == "data:image/svg+xml;base64"
            self.images.append(ElementTree.fromstring(b64decode(data, validate=True)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    unknown_decl = handle_pi = handle_comment


def test_the_page(tmp_path, capsys):
    path = tmp_path / "page.html"
    one, two = str(LITTLE / "execsnoop.bpf.o"), str(LITTLE / "callbacks.bpf.o")
    assert main(["inspect", "--html", str(path), one, two]) == 0
    assert "callbacks" in capsys.readouterr().out
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.images) == 2 + 10
    assert "https:" not in path.read_text(encoding="utf-8").replace("http://www.w3.org", "")
    for words in (
        "Linux 5.8", "map type ringbuf", "tp_btf/sched_process_exec", "records struct event",
        "const volatile u32 target_ppid", ".real_parent", "char comm[16]; /* 40 */",
        "CO-RE byte_off struct task_struct.real_parent", "add_half", "] INT 'int' size=4",
        "; callbacks.bpf.c:", "loop_nested",
    ):  # fmt: skip
        assert words in page.text, words
    assert "o0-f0" in page.targets
    assert "o1-overview" in page.ids


@pytest.mark.slow
@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_fixture_has_a_page(path):
    try:
        spec = pybpfload.open(path)
    except pybpfload.BpfError:
        return  # test_every_fixture_is_described_or_refused_in_one_line
    page = Page(html([spec]))
    for name in (*spec.programs, *spec.maps, *spec.externs):
        assert name in page.text


def test_hostile_names_are_text_on_the_page_and_in_the_tree():
    spec = pybpfload.open(LITTLE / "callbacks.bpf.o")
    hostile = '"></td></style><script>alert(1)</script>\x1b[31m\u202e\udc80<!--'
    spec.license = spec.path = hostile
    spec.notes.append(hostile)
    for found in spec.functions:
        found.name = hostile
    page = Page(html([spec]))
    seen = (
        hostile.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\udc80", "\\udc80")
    )
    assert page.text.count(seen) > 15
    lines = list(tree(describe(spec)).lines(unicode=True))
    assert any(seen in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_a_page_has_so_much_code_and_no_more(monkeypatch):
    spec = pybpfload.open(LITTLE / "core_local.bpf.o")
    monkeypatch.setattr(describe_html, "_MOST_INSNS", 100)
    monkeypatch.setattr(describe_html, "_MOST_DRAWN", 60)
    monkeypatch.setattr(describe_html, "_MOST_TYPES", 10)
    page = Page(html([spec]))
    assert "Not listed: there is too much code" in page.text
    assert "Not drawn: it is too large" in page.text
    assert "and 241 more, which pybpfload btf dump shows" in page.text
    assert len(page.images) == 1


def test_no_kernel_is_imported():
    """Half of the bar of tools/bench is imports; what check knows of kernels is no small part."""
    code = "import sys, pybpfload.cli.describe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "pybpfload.check.asks" in imported
    assert not {"pybpfload.check.kernel", "pybpfload.kernel.door", "ctypes"}.intersection(imported)


def test_long_names_that_many_relocations_ask_for():
    made = ObjectBuilder()
    made.program("tc", [mov(0), EXIT])
    number = made.btf.add_int("int", 4)
    members = [(f"m{at}", number, 32 * at) for at in range(200)]
    struct = made.btf.add_struct("s" * 20000, 800, members)
    made.core = {"tc": [(0, struct, f"0:{at}", 0) for at in range(200)]}
    (program,) = describe(pybpfload.open(made.build()))["programs"]
    assert len(program["core_accesses"]) == 200
    assert program["core_accesses"][0]["path"] == ".m0"
    assert program["core_accesses"][-1]["type"] is None
    assert len(json.dumps(program)) < 1.2 * (1 << 20)


@pytest.mark.slow
def test_many_functions_on_a_page():
    """Each was looked for among all."""
    made = ObjectBuilder()
    count = 1000
    text = made.code(".text", [mov(0), EXIT] * count)
    for at in range(count):
        made.symbol(f"f{at}", text, 16 * at, 16, kind=FUNC, binding=GLOBAL)
    spec = pybpfload.open(made.build())
    started = time.process_time()
    page = html([spec])
    assert time.process_time() - started < 2
    assert page.count("<details>") >= 2 * count
