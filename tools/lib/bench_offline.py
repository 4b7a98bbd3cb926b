"""What tools/bench measures without a kernel: imports, opening, BTF, relocation, decoding."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench_btf import btf_c
from bench_check import check
from bench_process import ENVIRONMENT, processor_seconds
from bench_result import Result, median_and_spread
from environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIXTURES = ROOT / "fixtures" / "bpfel"
VMLINUX = Path("/sys/kernel/btf/vmlinux")

_BARE = ["-c", "pass"]
# Peak memory of the process itself; that of getrusage() would begin with the parent's.
_PRINT_PEAK = """
import re
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
_RELOCATE = f"""
import pybpfload
spec = pybpfload.open({str(FIXTURES / "execsnoop.bpf.o")!r})
spec.relocate(pybpfload.read_btf({str(VMLINUX)!r}))
"""


def _seconds(arguments: list[str]) -> float:
    """Processor time of a fresh process of Python."""
    return processor_seconds([sys.executable, *arguments])


def _beside_bare(arguments: list[str], runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a process and, alternating with it, of the bare interpreter."""
    _seconds(arguments)  # fills caches
    pairs = [(_seconds(arguments) * 1e3, _seconds(_BARE) * 1e3) for _ in range(runs)]
    return [own for own, _ in pairs], [bare for _, bare in pairs]


def _times_bare(ratio: float) -> str:
    return f"{ratio:.1f} x bare interpreter"


def _process(
    name: str, what: str, arguments: list[str], runs: int, *, bar: float, over_bare: bool
) -> Result:
    """Measure a process, in all or over the bare interpreter."""
    own, bare = _beside_bare(arguments, runs)
    values = [a - b for a, b in zip(own, bare, strict=True)] if over_bare else own
    median, spread = median_and_spread(values)
    ratio = statistics.median(own) / statistics.median(bare)
    return Result(name, what, "ms", median, spread, _times_bare(ratio), bar)


def _repeated(name: str, what: str, action: Callable[[], object], runs: int) -> Result:
    """Measure an action within this process."""
    action()
    values = []
    for _ in range(runs):
        started = time.process_time()
        action()
        values.append((time.process_time() - started) * 1e3)
    return Result(name, what, "ms", *median_and_spread(values))


def _import(runs: int) -> Iterator[Result]:
    what = "import pybpfload, over the bare interpreter"
    arguments = ["-c", "import pybpfload"]
    yield _process("import", what, arguments, runs, bar=40, over_bare=True)


def _help(runs: int) -> Iterator[Result]:
    arguments = ["-m", "pybpfload", "--help"]
    what = "pybpfload --help, in all"
    yield _process("help", what, arguments, runs, bar=60, over_bare=False)


def _relocate(runs: int) -> Iterator[Result]:
    what = "relocate execsnoop against vmlinux BTF, fresh process"
    yield _process("relocate", what, ["-c", _RELOCATE], runs, bar=250, over_bare=False)

    def peak(code: str) -> float:
        command = [sys.executable, "-c", code + _PRINT_PEAK]
        return int(subprocess.check_output(command, env=ENVIRONMENT)) * 1024 / 1e6

    pairs = [(peak(_RELOCATE), peak("")) for _ in range(runs)]
    median, spread = median_and_spread([own - bare for own, bare in pairs])
    ratio = statistics.median(own / bare for own, bare in pairs)
    what = "  its peak memory, over the bare interpreter"
    yield Result("relocate", what, "MB", median, spread, _times_bare(ratio), 40)


def _inspect(runs: int) -> Iterator[Result]:
    arguments = ["-m", "pybpfload", "inspect", str(FIXTURES / "execsnoop.bpf.o")]
    what = "pybpfload inspect execsnoop, in all"
    yield _process("inspect", what, arguments, runs, bar=200, over_bare=False)


def _open(runs: int) -> Iterator[Result]:
    import pybpfload

    for name in ("minimal", "execsnoop", "core_local"):
        data = (FIXTURES / f"{name}.bpf.o").read_bytes()
        what = f"open {name} ({len(data) / 1e3:.0f} kB)"
        yield _repeated("open", what, lambda data=data: pybpfload.open(data), runs)


def _btf(runs: int) -> Iterator[Result]:
    import pybpfload

    data = VMLINUX.read_bytes()
    what = f"index vmlinux BTF ({len(data) / 1e6:.1f} MB)"
    yield _repeated("btf", what, lambda: pybpfload.Btf.from_bytes(data), runs)
    btf = pybpfload.Btf.from_bytes(data)
    what = "  find a struct by name in it"
    yield _repeated("btf", what, lambda: btf.find("task_struct"), runs)
    spec = pybpfload.open(FIXTURES / "execsnoop.bpf.o")
    what = "  relocate execsnoop against it"
    yield _repeated("btf", what, lambda: spec.relocate(btf), runs)


def _events(runs: int) -> Iterator[Result]:
    import pybpfload
    from pybpfload.btf.values import codec

    btf = pybpfload.open(FIXTURES / "execsnoop.bpf.o").btf
    assert btf is not None
    event = codec(btf, btf.find("event"))
    record = event.encode({"pid": 1234, "comm": "bash", "filename": "/usr/bin/bash"})
    count = 1000

    def decode() -> None:
        for _ in range(count):
            event.decode(record)

    what = f"decode {count} events of execsnoop ({len(record)} bytes, 12 members)"
    yield _repeated("events", what, decode, runs)


def _interpreter(runs: int) -> Iterator[Result]:
    import pybpfload
    from pybpfload.isa import insn as isa
    from pybpfload.testing import Interpreter

    rounds = 20_000
    loop = [
        isa.mov64_imm(0, 0),
        isa.mov64_imm(1, rounds),
        isa.stx(isa.SIZE_DW, 10, 1, -8),
        isa.ldx(isa.SIZE_DW, 2, 10, -8),
        isa.alu64_reg(isa.ALU_ADD, 0, 2),
        isa.alu64_imm(isa.ALU_SUB, 1, 1),
        isa.jmp_imm(isa.JMP_JNE, 1, 0, -5),
        isa.exit_(),
    ]
    interpreter = Interpreter()
    count = interpreter.run(loop).steps
    what = f"interpret {count} instructions"
    yield _repeated("interpreter", what, lambda: interpreter.run(loop), runs)
    spec = pybpfload.open(FIXTURES / "core_fields.bpf.o")
    relocation = spec.relocate(spec.btf)
    length = len(relocation.programs["numbers"].insns)
    what = f"make an interpreter, link {length} instructions, run few of them"
    yield _repeated(
        "interpreter", what, lambda: Interpreter(relocation).run("numbers", ctx=[0]), runs
    )


OFFLINE: dict[str, Callable[[int], Iterator[Result]]] = {
    "import": _import,
    "help": _help,
    "relocate": _relocate,
    "inspect": _inspect,
    "check": check,
    "btf-c": btf_c,
    "open": _open,
    "btf": _btf,
    "events": _events,
    "interpreter": _interpreter,
}
