"""Places to attach, out of a made-up kernel's BTF and a scripted kernel; the command `probes`."""

from __future__ import annotations

import json

import pytest
from user_binary import UserBinaryBuilder

from pybpfload.btf.build import BtfBuilder
from pybpfload.cli import main
from pybpfload.kernel import places as live
from pybpfload.object.places import Place, Wanted, places_in_btf, traceable
from pybpfload.testing.fakekernel import FakeKernel


@pytest.fixture(scope="module")
def kernel():
    """BTF with one or two of each kind, and what only looks like them."""
    made = BtfBuilder()
    integer = made.add_int("int", 4)
    void_ptr = made.add_ptr(0)
    task = made.add_ptr(made.add_struct("task_struct", 64, []))
    large = made.add_struct("large", 24, [("a", integer, 0)])

    def function(name: str, result: int, *arguments: tuple[str, int]) -> int:
        return made.add_func(name, made.add_func_proto(result, list(arguments)))

    function("do_work", integer, ("task", task), ("flags", integer))
    function("do_print", integer, ("format", void_ptr), ("", 0))
    function("take_large", 0, ("large", large))
    function("give_large", large)
    function("take_many", 0, *[(f"a{i}", integer) for i in range(13)])
    # A tracepoint: a typedef without names of arguments, a function with them.
    proto = made.add_func_proto(0, [("", void_ptr), ("", task), ("", integer)])
    made.add_typedef("btf_trace_task_end", made.add_ptr(proto))
    function("__bpf_trace_task_end", 0, ("__data", void_ptr), ("task", task), ("code", integer))
    made.add_typedef("btf_trace_unnamed", made.add_ptr(proto))
    function("bpf_iter_task", integer, ("meta", void_ptr), ("task", task))
    made.add_struct("bpf_iter__task", 16, [("task", task, 0)])
    function("bpf_iter_task_next", task)
    function("bpf_lsm_file_open", integer, ("file", void_ptr))
    function("bpf_lsm_verify_prog", integer)
    made.add_union("security_list_options", 8, [("file_open", void_ptr, 0)])
    kfunc = function("bpf_task_acquire", task, ("p", task))
    made.add_decl_tag("bpf_kfunc", kfunc)
    ops = made.add_struct("tcp_congestion_ops", 8, [("init", void_ptr, 0)])
    made.add_struct("bpf_struct_ops_tcp_congestion_ops", 16, [("data", ops, 64)])
    made.add_struct("bpf_struct_ops_map", 8, [("data", integer, 0)])
    return made.btf("vmlinux")


def sections(kernel, pattern: str) -> list[str]:
    return [place.section for place in places_in_btf(kernel, Wanted(pattern))]


def test_all_kinds(kernel):
    assert sections(kernel, "*") == [
        "fentry/bpf_task_acquire",
        "fentry/do_work",
        "tp_btf/task_end",
        "tp_btf/unnamed",
        "raw_tp/task_end",
        "raw_tp/unnamed",
        "iter/task",
        "lsm/file_open",
        "kfunc/bpf_task_acquire",
        "struct_ops/tcp_congestion_ops",
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*task_end", ["tp_btf/task_end", "raw_tp/task_end"]),
        ("raw_tp/*", ["raw_tp/task_end", "raw_tp/unnamed"]),
        ("fentry/do_wor?", ["fentry/do_work"]),
        ("fentry/do_wor", []),
        ("f?ntry/do_work", ["fentry/do_work"]),
        ("[a-z]*", []),
        ("file_open", ["lsm/file_open"]),
    ],
)
def test_patterns(kernel, pattern, found):
    assert sections(kernel, pattern) == found


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("fentry/do_work", "int do_work(struct task_struct *task, int flags)"),
        ("tp_btf/task_end", "void task_end(struct task_struct *task, int code)"),
        ("raw_tp/unnamed", "void unnamed(struct task_struct *, int)"),
        ("kfunc/*", "struct task_struct *bpf_task_acquire(struct task_struct *p)"),
    ],
)
def test_prototypes(kernel, pattern, text):
    (found,) = places_in_btf(kernel, Wanted(pattern), prototypes=True)
    assert found.prototype == text


def test_what_a_trampoline_cannot_carry(kernel):
    for name in ("do_print", "take_large", "give_large", "take_many"):
        assert not traceable(kernel, kernel.find(name))
    assert traceable(kernel, kernel.find("do_work"))


def test_modules_are_named():
    made = BtfBuilder()
    made.add_func("nft_do", made.add_func_proto(0, []))
    (place,) = places_in_btf(made.btf(), Wanted("*"), module="nf_tables")
    assert place == Place("fentry", "nft_do", "nf_tables", "")
    assert place.section == "fentry/nf_tables:nft_do"


FORMAT = (
    b"name: wake\nID: 7\nformat:\n\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
    b'\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\nprint fmt: "%s", REC->comm\n'
)


@pytest.fixture
def running(kernel):
    tracing = "/sys/kernel/tracing"
    files = {
        "/sys/kernel/btf/vmlinux": kernel.to_bytes(),
        f"{tracing}/available_filter_functions": b"do_work\nnft_do [nf_tables]\n__pfx_do_work\n",
        f"{tracing}/events/sched/wake/format": FORMAT,
        f"{tracing}/events/sched/wake/id": b"7\n",
        f"{tracing}/events/ftrace/print/format": FORMAT,
        f"{tracing}/events/sched/filter": b"none\n",
        **dict.fromkeys(
            f"{tracing}/events/{name}" for name in ("enable", "header_event", "header_page")
        ),
    }
    with FakeKernel(files=files) as fake:
        yield fake


def test_running_kernel(running):
    found = [place.section for place in live.places(Wanted("*"))]
    assert found[:3] == ["kprobe/do_work", "kprobe/nft_do", "tp/sched/wake"]
    assert "fentry/do_work" in found
    (wake,) = live.places(Wanted("tp/wake"), prototypes=True)
    assert wake.prototype == "char[16] comm"


def test_without_tracefs_functions_come_from_kallsyms(kernel):
    symbols = b"ffffffff81000000 T do_work\nffffffff81000010 d data\nffffffff81000020 t f\t[mod]\n"
    with FakeKernel(files={"/proc/kallsyms": symbols}):
        told = []
        found = list(live.places(Wanted("*"), missing=told.append))
        assert [(place.name, place.module) for place in found] == [("do_work", ""), ("f", "mod")]
    assert told[0].startswith("tp: ")
    assert "not mounted" in told[0]


def test_command(running, capsys, tmp_path, kernel):
    assert main(["probes", "lsm", "*/do_work"]) == 0
    assert capsys.readouterr().out.split() == ["lsm/file_open", "kprobe/do_work", "fentry/do_work"]
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel.to_bytes())
    assert main(["probes", "-v", "--btf", str(path), "fentry/do_work"]) == 0
    assert capsys.readouterr().out == (
        "fentry/do_work\n    int do_work(struct task_struct *task, int flags)\n"
    )
    assert main(["probes", "--json", "iter"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["section"], found["kind"], found["module"]) == ("iter/task", "iter", None)
    assert main(["probes", "there-is-no-such"]) == 1
    assert capsys.readouterr().err == "pybpfload: nothing matches\n"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("fexit/do_w*", "fentry/do_work"),
        ("fexit:do_w*", "fentry/do_work"),
        ("kretprobe/do_work", "kprobe/do_work"),
        ("tracepoint/sched/*", "tp/sched/wake"),
        ("tracepoint:sched:wake", "tp/sched/wake"),
        ("tracepoint", "tp/sched/wake"),
        ("raw_tracepoint:task_*", "raw_tp/task_end"),
    ],
)
def test_as_sections_and_bpftrace_write_it(running, capsys, pattern, found):
    assert main(["probes", pattern]) == 0
    assert capsys.readouterr().out == f"{found}\n"


def test_what_makes_no_sense(running, capsys, tmp_path, kernel):
    with pytest.raises(ValueError, match="empty"):
        Wanted("")
    for patterns, text in ((["iter", ""], "empty pattern"), (["uprobe/:main"], "names no file")):
        assert main(["probes", *patterns]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert text in err
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel.to_bytes())
    assert main(["probes", "--btf", str(path), "kprobe/do_*"]) == 1
    assert "BTF tells nothing of that kind" in capsys.readouterr().err


def test_functions_and_probes_of_a_file(capsys, tmp_path):
    made = UserBinaryBuilder()
    made.code += bytes(64)
    made.symbol("one")
    made.symbol("two", 16)
    made.probe("server", "request", "-4@%edi 8@%rsi", 8)
    path = tmp_path / "lib.so"
    path.write_bytes(made.build())
    assert main(["probes", f"uprobe/{path}:t*"]) == 0
    assert capsys.readouterr().out == f"uprobe/{path}:two\n"
    assert main(["probes", "-v", f"usdt/{path}:server:*"]) == 0
    assert capsys.readouterr().out == f"usdt/{path}:server:request\n    -4@%edi 8@%rsi\n"
    assert main(["probes", f"uprobe/{tmp_path}/missing:*"]) == 1
    assert "there is no file" in capsys.readouterr().err
