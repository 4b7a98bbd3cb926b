"""Kernels to check objects against: every file that one comes in, and what lies beside it."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from test_check import kernel, kernel_btf, opened, said

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.check import FAILS, LOADS, Kernel, check, check_files, find_kernels
from pybpfload.check.kernel import module_name
from pybpfload.check.reach import explore
from pybpfload.check.rules import GPL_HELPERS
from pybpfload.cli import check as cli_check
from pybpfload.cli import check_report as report
from pybpfload.cli import main
from pybpfload.cli.check_report import _columns
from pybpfload.isa import insn as isa
from pybpfload.relocate import Target, relocate
from pybpfload.testing import ObjectBuilder
from pybpfload.uapi import Helper

OBJECTS = Path(__file__).parents[2] / "fixtures" / "bpfel"
CONFIG = "# Linux/x86 7.2.13 Kernel Configuration\nCONFIG_BPF_SYSCALL=y\nCONFIG_BPF_EVENTS=y\n"
RELEASE = "7.2.13-test"


@pytest.fixture(scope="module")
def vmlinux() -> bytes:
    return kernel_btf("7.2", tracepoints=("sys_enter",))


@pytest.fixture(scope="module")
def module(vmlinux) -> bytes:
    made = BtfBuilder("<", base=pybpfload.Btf.from_bytes(vmlinux))
    made.add_func("nf_tables_newtable", made.add_func_proto(0), 1)
    return made.build()


def package(files: dict[str, bytes]) -> bytes:
    """A Debian package of some files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    whole = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", packed.getvalue())):
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        whole += content + b"\n" * (len(content) % 2)
    return whole


def test_a_package_with_its_configuration_symbols_and_modules(tmp_path, vmlinux, module):
    symbols = b"ffffffff81000000 T schedule\n" * 200
    files = {
        f"boot/System.map-{RELEASE}": symbols,
        f"boot/config-{RELEASE}": CONFIG.encode(),
        f"boot/vmlinuz-{RELEASE}": vmlinux,
        f"lib/modules/{RELEASE}/kernel/net/nf-tables.ko": module,
        f"lib/modules/{RELEASE}/kernel/net/none.ko": b"no BTF in it",
    }
    path = tmp_path / "linux-image.deb"
    path.write_bytes(package(files))
    found = Kernel.read(path)
    assert (found.release, found.version, found.kconfig) == (RELEASE, (7, 2, 13), CONFIG)
    assert [module_name(each) for each in found.target.modules] == ["nf_tables"]
    assert found.has_symbol("schedule")
    assert found.has_symbol("of_a_module_perhaps") is None
    verdict = check(opened("module_fentry"), found)
    assert not [each for each in verdict.problems if each.kind == "target"]

    files[f"boot/System.map-{RELEASE}"] = b"ffffffffffffffff B The real one is in the dbg package\n"
    path.write_bytes(package(files))
    assert Kernel.read(path).symbols is None
    path.write_bytes(package({"usr/share/doc/x": b""}))
    with pytest.raises(pybpfload.FormatError, match="no kernel in this package"):
        Kernel.read(path)


@pytest.fixture
def root(tmp_path, vmlinux, module) -> Path:
    """A system with two kernels."""
    boot = tmp_path / "boot"
    boot.mkdir()
    for release in ("6.2-a", "6.12-a"):
        (boot / f"vmlinuz-{release}").write_bytes(vmlinux)
        (boot / f"config-{release}").write_text(CONFIG)
        tree = tmp_path / "lib/modules" / release
        (tree / "kernel/net").mkdir(parents=True)
        (tree / "modules.order").write_text("kernel/net/nf_tables.ko\n")
        (tree / "kernel/net/nf_tables.ko").write_bytes(module)
    return tmp_path


def test_what_lies_beside_an_image(root):
    found = Kernel.read(root / "boot/vmlinuz-6.2-a")
    assert (found.release, found.kconfig) == ("6.2-a", CONFIG)
    assert [module_name(each) for each in found.target.modules] == ["nf_tables"]
    tree = Kernel.read(root / "lib/modules/6.12-a")
    assert tree.release == "6.12-a"
    assert len(tree.target.modules) == 1


def test_a_directory_of_kernels_is_each_of_them_in_order(root):
    boot = root / "boot"
    assert find_kernels(boot) == [str(boot / "vmlinuz-6.2-a"), str(boot / "vmlinuz-6.12-a")]
    trees = root / "lib/modules"
    assert find_kernels(trees) == [str(trees / "6.2-a"), str(trees / "6.12-a")]
    assert find_kernels(trees / "6.2-a") == [str(trees / "6.2-a")]
    with pytest.raises(pybpfload.FormatError, match="no vmlinux and no vmlinuz"):
        find_kernels(root / "lib")


def test_a_module_is_checked_with_its_kernel(root, tmp_path, vmlinux, module):
    inside = root / "lib/modules/6.2-a/kernel/net/nf_tables.ko"
    found = Kernel.read(inside)
    assert [module_name(each) for each in found.target.modules] == ["nf_tables"]
    assert found.release == "6.2-a"
    alone = tmp_path / "nf_tables.ko"
    alone.write_bytes(module)
    with pytest.raises(pybpfload.FormatError, match="--base"):
        Kernel.read(alone)
    (tmp_path / "vmlinux").write_bytes(vmlinux)
    given = Kernel.read(alone, base=tmp_path / "vmlinux")
    assert given.target.btf.to_bytes() == vmlinux
    assert len(given.target.modules) == 1


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("5.10-5.10.0-32-cloud-amd64.btf", "5.10.0-32-cloud-amd64"),
        ("4.18.0-348.el8.x86_64.btf", "4.18.0-348.el8.x86_64"),
        ("5.15.btf", "5.15"),
        ("mine.btf", ""),
    ],
)
def test_the_release_in_the_name_of_a_file(tmp_path, vmlinux, name, release):
    (tmp_path / name).write_bytes(vmlinux)
    assert Kernel.read(tmp_path / name).release == release


def test_columns_are_releases_if_they_tell_kernels_apart():
    def verdicts(*releases):
        found = [check(opened("minimal"), kernel("7.2")) for _ in releases]
        for number, (each, release) in enumerate(zip(found, releases, strict=True)):
            each.kernel, each.release = f"k/{number}", release
        return found, [each.kernel for each in found]

    assert _columns(*verdicts("5.10.0-32-cloud-amd64", "6.1.0-50-cloud-amd64")) == [
        "5.10.0-32",
        "6.1.0-50",
    ]
    assert _columns(*verdicts("6.12.1", "6.12.1")) == ["0", "1"]
    assert _columns(*verdicts("6.12.1", "")) == ["0", "1"]


class Inline(Executor):
    """Runs what it is given at once."""

    def submit(self, work, /, *args, **named):
        future: Future = Future()
        future.set_result(work(*args, **named))
        return future


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, vmlinux):
    path = tmp_path_factory.mktemp("kernels") / "7.2.13.btf"
    path.write_bytes(vmlinux)
    objects = [OBJECTS / f"{name}.bpf.o" for name in ("minimal", "arena", "bad_map_attr")]
    kernels = [path, Kernel.read(path), kernel("5.10", kconfig=CONFIG)]
    return objects, kernels, outcome(check_files(objects, kernels))


def outcome(verdicts) -> dict[tuple[str, str], list[dict]]:
    found: dict[tuple[str, str], list[dict]] = {}
    for each in verdicts:
        found.setdefault((Path(each.object).name, each.kernel), []).append(each.to_dict())
    return found


@pytest.mark.parametrize("executor", [Inline, lambda: ThreadPoolExecutor(3)])
def test_any_executor_gives_the_same(pairs, executor):
    objects, kernels, serial = pairs
    results = {key: each[0]["result"] for key, each in serial.items()}
    assert results["arena.bpf.o", "5.10"] == FAILS
    assert results["arena.bpf.o", str(kernels[0])] == LOADS
    assert results["bad_map_attr.bpf.o", "5.10"] == FAILS
    with executor() as pool:
        assert outcome(check_files(objects, kernels, executor=pool)) == serial


@pytest.mark.slow
def test_processes_give_the_same(pairs):
    objects, kernels, serial = pairs
    with ProcessPoolExecutor(2) as pool:
        assert outcome(check_files(objects, kernels, executor=pool)) == serial


def test_kernels_can_be_pickled(pairs, module):
    _, (_, read, made), _ = pairs
    assert pickle.loads(pickle.dumps(read)) is pickle.loads(pickle.dumps(read)), "read once"
    assert len(pickle.dumps(read)) < 1000, "sent as where it is from"
    base = made.target.btf
    whole = Kernel("whole", Target(base, [pybpfload.Btf.from_bytes(module, base=base, name="m")]))
    again = pickle.loads(pickle.dumps(whole))
    assert again.target.btf.to_bytes() == base.to_bytes()
    assert [each.to_bytes() for each in again.target.modules] == [module]


def test_a_kernel_that_cannot_be_read_says_so_in_one_line(tmp_path, capsys):
    text = tmp_path / "vmlinuz-1.2"
    text.write_bytes(b"nothing")
    for source in (str(text), "no_such_module", "id:x", str(tmp_path / "missing")):
        assert main(["check", str(OBJECTS / "minimal.bpf.o"), "--kernel", source]) in (1, 2, 3, 4)
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1
        assert err.startswith("pybpfload: ")


# --- what the kernel's files tell beyond types ----------------------------------------------------


def whole(**settings: str) -> str:
    more = "".join(f"CONFIG_{name}={value}\n" for name, value in settings.items())
    return CONFIG + more


def test_what_a_kernel_was_built_without():
    spec = opened("lirc")
    for program in spec.programs.values():
        program.autoload = True
    assert check(spec, kernel("7.2")).result == LOADS
    told = check(spec, kernel("7.2", kconfig=whole()))
    assert told.result == FAILS
    assert "built without CONFIG_BPF_LIRC_MODE2, which program type lirc_mode2" in said(
        told.problems
    )
    assert check(spec, kernel("7.2", kconfig=whole(BPF_LIRC_MODE2="y"))).result == LOADS
    cut = check(spec, kernel("7.2", kconfig="CONFIG_HZ=250\n"))
    assert cut.result == LOADS, "only a whole configuration tells that something is off"


def test_licences():
    spec = opened("printk")
    assert not [e for e in check(spec, kernel("7.2")).problems if e.kind == "license"]
    spec.license = "Proprietary"
    [first, *_] = [e for e in check(spec, kernel("7.2")).problems if e.kind == "license"]
    assert "bpf_trace_printk is for programs under the GPL" in first.what
    assert "'Proprietary'" in first.what
    assert 'SEC("license")' in first.remedy
    assert first.source, "with its line of C"
    spec.license = "Dual MIT/GPL"
    assert not [e for e in check(spec, kernel("7.2")).problems if e.kind == "license"]


def test_the_helpers_under_the_gpl_are_helpers():
    helpers = {f"bpf_{each.name.lower()}" for each in Helper}
    assert not GPL_HELPERS - helpers


def test_symbols_without_a_type():
    spec = opened("bad_ksym_typeless")
    [name] = [e.name for e in spec.externs.values() if not e.is_typed]
    assert "types do not say" in said(check(spec, kernel("7.2")).unknown)
    other = b"ffffffff81000000 T schedule\n"
    running = check(spec, kernel("7.2", symbols=other, all_symbols=True))
    assert f"the kernel has no symbol {name}" in said(running.problems)
    only_map = check(spec, kernel("7.2", symbols=other))
    assert not [e for e in only_map.problems if e.kind == "extern"], "a module may have it"
    there = kernel("7.2", symbols=f"ffffffff81000000 D {name}\n".encode(), all_symbols=True)
    assert not [e for e in check(spec, there).problems if e.kind == "extern"]


def test_functions_that_the_compiler_renamed():
    spec, name = opened("kprobe"), "vfs_unlink"
    for program in spec.programs.values():
        program.autoload = program.section == f"kprobe/{name}"
    assert len(spec.loaded_programs) == 1
    symbols = f"ffffffff81000000 t {name}.isra.0\n".encode()
    told = said(check(spec, kernel("7.2", symbols=symbols)).unknown)
    assert f"the compiler has made {name}.isra.0 of it" in told
    gone = check(spec, kernel("7.2", symbols=symbols, all_symbols=True))
    assert f"the kernel has no function '{name}'" in said(gone.problems)
    close = said(check(spec, kernel("7.2", f"{name}2")).unknown)
    assert f"did you mean '{name}2'?" in close


def test_settings_decide_what_is_reached():
    """With the configuration the verifier sees a constant, and so does check."""
    spec = opened("linked_core")  # if (CONFIG_BPF_SYSCALL && bpf_rcu_read_lock)
    for function in spec.functions:
        function.core_relos = []
    program = relocate(spec, Target(None)).programs["first_extern"]

    def reached(**settings: bytes) -> set[int]:
        return explore(program, spec, settings=settings).alive

    name = "CONFIG_BPF_SYSCALL"
    on, off = reached(**{name: b"\1"}), reached(**{name: b"\0"})
    assert on | off == reached()
    assert off - on, "what is there for its being off"


# --- the few rules of the verifier that are judged ------------------------------------------------


def made(*insns: isa.Insn, section: str = "raw_tp/sys_enter") -> pybpfload.ObjectSpec:
    built = ObjectBuilder()
    built.license()
    built.program(section, list(insns), "main")
    return pybpfload.open(built.build())


def kinds(spec: pybpfload.ObjectSpec, version: str) -> list[str]:
    found = check(spec, kernel(version, tracepoints=("sys_enter",)))
    return [each.kind for each in found.problems]


def test_the_context_through_a_moved_pointer():
    load = [isa.ldx(isa.SIZE_DW, 0, 6, 0), isa.exit_()]
    keep = isa.alu64_reg(isa.ALU_MOV, 6, 1)
    moved = made(keep, isa.alu64_imm(isa.ALU_ADD, 6, 8), *load)
    assert kinds(moved, "6.12") == ["context"]
    assert kinds(moved, "7.2") == [], "Linux 7.2 goes by the type of the program"
    there_and_back = [isa.alu64_imm(isa.ALU_ADD, 6, 8), isa.alu64_imm(isa.ALU_ADD, 6, -8)]
    assert kinds(made(keep, *there_and_back, *load), "6.12") == []
    never = [isa.mov64_imm(2, 0), isa.jmp_imm(isa.JMP_JEQ, 2, 0, 2)]
    guarded = made(keep, *never, isa.alu64_imm(isa.ALU_ADD, 6, 8), load[0], *load)
    assert kinds(guarded, "6.12") == []
    # On one way it was moved, on the other it was not: not known here.
    either = [isa.ldx(isa.SIZE_DW, 2, 1, 0), isa.jmp_imm(isa.JMP_JEQ, 2, 0, 1)]
    assert kinds(made(keep, *either, isa.alu64_imm(isa.ALU_ADD, 6, 8), *load), "6.12") == []


def test_more_stack_than_there_is():
    spec = made(isa.st(isa.SIZE_DW, 10, -520, 0), isa.mov64_imm(0, 0), isa.exit_())
    assert kinds(spec, "5.10") == ["size"]
    assert kinds(made(isa.mov64_imm(0, 0), isa.exit_()), "5.10") == []


# --- files from strangers: no more work than they are long ---------------------------------------


def test_many_computed_jumps_to_anywhere():
    jump = isa.Insn(isa.JMP | isa.JMP_JA | isa.SRC_X, 1, 0, 0, 0)
    code = [each for n in range(2000) for each in (isa.mov64_imm(n % 10, n), jump)]
    spec = made(*code, isa.exit_())
    started = time.process_time()
    assert len(explore(relocate(spec).programs["main"], spec).alive) == len(code) + 1
    assert time.process_time() - started < 5  # a minute and more if each led to all by itself


def test_many_programs_that_cannot_be_relocated():
    built = ObjectBuilder()
    built.license()
    number = built.btf.add_int("int", 4)
    for n in range(80):
        built.program(f"raw_tp/{n}", [isa.mov64_imm(0, 0), isa.exit_()], f"p{n}")
        built.core[f"raw_tp/{n}"] = [(0, number, "0", 99)]
    verdict = check(pybpfload.open(built.build()), kernel("6.12"))
    assert [each.program for each in verdict.problems] == [f"p{n}" for n in range(64)]
    assert "whether 16 more programs can be relocated" in said(verdict.unknown)


def test_functions_of_the_kernel_that_programs_may_not_call():
    def types(*marked: str) -> Kernel:
        made = BtfBuilder("<")
        made.add_int("int", 4, 1)
        proto = made.add_func_proto(0)
        for name in ("bpf_rcu_read_lock", "bpf_rcu_read_unlock", "bpf_other"):
            number = made.add_func(name, proto, 1)
            if name in marked:
                made.add_decl_tag("bpf_kfunc", number, -1)
        return Kernel("made", Target(made.btf("made")))

    spec = opened("kfuncs")
    for program in spec.programs.values():
        program.autoload = program.name == "call_missing"
    names = ("bpf_rcu_read_lock", "bpf_rcu_read_unlock")
    refused = said(check(spec, types("bpf_other")).problems)
    assert "bpf_rcu_read_lock() is a function of the kernel, but none that" in refused
    allowed = check(spec, types(*names))
    assert "none that programs may call" not in said(allowed.problems)
    assert "may call bpf_rcu_read" in said(allowed.unknown)
    assert "none that programs may call" not in said(check(spec, types()).problems), "not marked"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "passed", "shown"), [
    (Terminal, 2.0, True), (Terminal, 0.5, False), (io.StringIO, 2.0, False),
])  # fmt: skip
def test_a_bar_on_a_terminal_after_a_second(monkeypatch, stream, passed, shown):
    monkeypatch.setattr("sys.stderr", written := stream())
    verdict = check(opened("minimal"), kernel("7.2"))
    with cli_check._Progress(100) as progress:
        progress.start -= passed
        progress.show(1, verdict)
        progress.show(50, verdict)
    text = written.getvalue()
    assert bool(text) == shown
    if shown:
        first, second, end = text.split("\r")[1:]
        assert "1 of 100, minimal.bpf.o" in first
        assert "#####" in second
        assert "50 of 100, 2 s left" in second
        assert end == "\x1b[K", "and nothing is left of it"


def test_signs_of_terminals_without_unicode(monkeypatch):
    verdicts = list(check_files([OBJECTS / "arena.bpf.o"], [kernel("5.10"), kernel("7.2")]))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    shown = list(report.text(verdicts, [verdicts[0].object], ["5.10", "7.2"]))
    assert shown[1].split() == ["arena.bpf.o", "x", "+"]
    assert all(line.isascii() for line in shown)


# --- probes of several kernels --------------------------------------------------------------------


@pytest.fixture
def two(tmp_path, module, vmlinux) -> list[str]:
    (tmp_path / "5.10.btf").write_bytes(kernel_btf("5.10", "do_work", "do_old"))
    folder = tmp_path / "7.2"
    folder.mkdir()
    (folder / "vmlinux").write_bytes(vmlinux)
    (folder / "nf_tables").write_bytes(module)
    return ["--btf", str(tmp_path / "5.10.btf"), "--btf", str(folder)]


def test_which_kernels_have_a_place(two, capsys):
    assert main(["probes", *two, "fentry/do_*", "fentry/schedule"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["SECTION", two[1], two[3]], "one release is not known"
    assert [line.split()[1:] for line in lines[1:]] == [["yes", "-"], ["yes", "-"], ["yes", "yes"]]
    assert main(["probes", *two, "--json", "fentry/do_work"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert list(entry["prototypes"].values()) == ["int do_work(void)"]
    assert main(["probes", *two, "-v", "fentry/do_work"]) == 0
    out = capsys.readouterr().out
    assert ": int do_work(void)" in out
    assert ": not there" in out


def test_places_in_modules_beside_a_kernel(two, capsys):
    assert main(["probes", "--btf", two[3], "fentry/nf_tables_new*"]) == 0
    assert capsys.readouterr().out == "fentry/nf_tables:nf_tables_newtable  [nf_tables]\n"


def test_a_function_that_is_not_there_may_be_meant(two, capsys):
    assert main(["probes", "--btf", two[1], "fentry/do_wrok"]) == 1
    assert "fentry/do_wrok: did you mean do_work?" in capsys.readouterr().err
