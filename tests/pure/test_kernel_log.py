"""The verifier's log, and loading around it."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import KernelError, NotPermittedError, VerifierError
from pybpfload.kernel import progload
from pybpfload.kernel.log import explain_poison, read_log
from pybpfload.kernel.progload import kernel_name, load_btf, load_program
from pybpfload.testing.fakekernel import Call, FakeKernel, memory, store
from pybpfload.uapi import ProgType

RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")
STATISTICS = "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0\n"

# (log, reason, instruction, source), as kernels of several ages have written them.
GOLDEN = [
    (
        "0: R1=ctx() R10=fp0\n0: (95) exit\nR0 !read_ok\n" + STATISTICS,
        "R0 !read_ok",
        0,
        None,
    ),
    (
        (
            "0: R1=ctx(off=0,imm=0) R10=fp0\n; return *(int *)ctx; @ a.bpf.c:12\n"
            "0: (61) r0 = *(u32 *)(r1 +400)\ninvalid bpf_context access off=400 size=4\n"
            + STATISTICS
        ),
        "invalid bpf_context access off=400 size=4",
        0,
        "a.bpf.c:12: return *(int *)ctx;",
    ),
    (
        (
            "; if (x)\n4: (15) if r1 == 0x0 goto pc+1\n R1_w=inv(id=0) R10=fp0\n; y = *x;\n"
            "5: (79) r2 = *(u64 *)(r1 +0)\nR1 invalid mem access 'inv'\n\n"
            "from 4 to 6: safe\nprocessed 6 insns (limit 131072), stack depth 0\n"
        ),
        "R1 invalid mem access 'inv'",
        5,
        "y = *x;",
    ),
    (
        "jump out of range from insn 0 to 77\nprocessed 0 insns (limit 1000000)\n",
        "jump out of range from insn 0 to 77",
        0,
        None,
    ),
    (
        "attach_btf_id 1 is not a function\nprocessed 0 insns (limit 1000000)\n",
        "attach_btf_id 1 is not a function",
        None,
        None,
    ),
    (
        (
            "func#0 @0\nfunc#1 @4\nLive regs before insn:\n      0: .......... (b7) r0 = 0\n"
            "0: R1=ctx() R10=fp0\n0: (85) call pc+3\ncaller:\n R10=fp0\ncallee:\n"
            " frame1: R1=ctx()\n"
            "7: (85) call bpf_probe_write_user#36\n"
            "program of this type cannot use helper bpf_probe_write_user#36\n"
            "verification time 33 usec\nstack depth 0+8\n" + STATISTICS
        ),
        "program of this type cannot use helper bpf_probe_write_user#36",
        7,
        None,
    ),
    (
        (
            "3: (85) call bpf_map_lookup_elem#1\nmark_precise: frame0: last_idx 3 first_idx 0\n"
            "mark_precise: frame0: regs=r2 stack= before 2\n"
            "R2 type=ctx expected=fp, pkt, pkt_meta\nmore about it\n" + STATISTICS
        ),
        "R2 type=ctx expected=fp, pkt, pkt_meta; more about it",
        3,
        None,
    ),
    ("", "", None, None),
    (STATISTICS, "", None, None),
]


@pytest.mark.parametrize(("log", "summary", "insn", "source"), GOLDEN)
def test_reading(log: str, summary: str, insn: int | None, source: str | None) -> None:
    reading = read_log(log)
    assert (reading.summary, reading.insn, reading.source) == (summary, insn, source)


@given(st.text())
def test_reading_anything(log: str) -> None:
    read_log(log)
    explain_poison(log, {0: "x"})


@given(st.lists(st.sampled_from([line for log, *_ in GOLDEN for line in log.splitlines()])))
def test_reading_any_lines(lines: list[str]) -> None:
    read_log("\n".join(lines))


@pytest.mark.parametrize(
    ("number", "kind", "title"),
    [
        (195896080, "core", "<invalid CO-RE relocation>"),
        (2001000007, "map", "<invalid BPF map reference>"),
        (2002000001, "kfunc", "<invalid kfunc call>"),
    ],
)
def test_poison(number: int, kind: str, title: str) -> None:
    call = f"6: (85) call unknown#{number}\ninvalid func unknown#{number}\n"
    log = f"5: (b7) r1 = 0\n{call}{STATISTICS}"
    text, found, meaning = explain_poison(log, {6: "that is why"})
    assert text == f"5: (b7) r1 = 0\n6: {title}\nthat is why\n{STATISTICS}"
    assert (found, meaning) == (kind, "that is why")
    reading = read_log(text)
    assert (reading.summary, reading.insn) == ("that is why", 6)


@pytest.mark.parametrize(
    "log",
    [
        "6: (85) call unknown#195896081\ninvalid func unknown#195896081\n",
        "6: (85) call unknown#195896080\ninvalid func unknown#5\n",
        "6: (85) call unknown#195896080\n",
        "7: (85) call unknown#195896080\ninvalid func unknown#195896080\n",
        "6: (85) call unknown#195896080\ninvalid func unknown#195896080\n" + "x\n" * 12,
        "invalid func unknown#195896080",
    ],
)
def test_what_is_no_poison(log: str) -> None:
    assert explain_poison(log, {6: "why"}) == (log, None, None)


def answer(log: str, number: int = errno.EINVAL, *, true_size: bool = True) -> object:
    """A verifier that always says the same."""

    def verifier(call: Call) -> int:
        size = call.fields["log_size"]
        if not call.fields["log_level"]:
            return -number
        text = log.encode()
        store(call.fields["log_buf"], text[: size - 1] + b"\0")
        if true_size:
            # As the kernel since 6.4: written behind the attribute that was read.
            struct.pack_into("=I", call_attr[0], 140, len(text) + 1)
        return -errno.ENOSPC if len(text) + 1 > size else -number

    return verifier


call_attr: list[bytearray] = []


class Kernel(FakeKernel):
    def bpf(self, cmd: int, attr: bytearray, size: int) -> int:
        call_attr[:] = [attr]
        return super().bpf(cmd, attr, size)


def test_without_a_log_first() -> None:
    with Kernel() as fake:
        fake.on("PROG_LOAD", answer("0: (95) exit\nR0 !read_ok\n", errno.EACCES))
        with pytest.raises(VerifierError) as caught:
            load_program(ProgType.XDP, RETURN_0, name="bad")
    loads = [c for c in fake.calls if c.command == "PROG_LOAD" and c.fields["prog_type"] == 6]
    assert [c.fields["log_level"] for c in loads] == [0, 1]
    error = caught.value
    assert error.errno == errno.EACCES
    assert error.log == "0: (95) exit\nR0 !read_ok\n"
    assert str(error).startswith(
        "program bad: the verifier refused it at instruction 0: R0 !read_ok; R0 has no value here"
    )
    assert not isinstance(error, PermissionError)


@pytest.mark.parametrize(("true_size", "sizes"), [(True, 2), (False, 6)])
def test_the_buffer_grows_until_the_log_fits(true_size: bool, sizes: int) -> None:
    log = "0: (95) exit\n" + "x" * (1 << 20) + "\nthe end\n"
    with Kernel() as fake:
        fake.on("PROG_LOAD", answer(log, true_size=true_size))
        with pytest.raises(VerifierError) as caught:
            load_program(ProgType.XDP, RETURN_0)
    assert caught.value.log == log
    asked = [c.fields["log_size"] for c in fake.calls if c.fields.get("log_size")]
    assert asked[0] == 1 << 16
    assert len(asked) == sizes


def test_old_kernels_have_a_lower_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def verifier(call: Call) -> int:
        if call.fields["log_size"] > 0xFFFFFF:
            return -errno.EINVAL
        store(call.fields["log_buf"], b"0: (95) exit\nvery long\0")
        return -errno.ENOSPC if call.fields["log_level"] else -errno.EACCES

    with Kernel() as fake:
        fake.on("PROG_LOAD", verifier)
        with pytest.raises(VerifierError, match="log is longer") as caught:
            load_program(ProgType.XDP, RETURN_0)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.log == "0: (95) exit\nvery long"
    assert 0xFFFFFF in [c.fields.get("log_size") for c in fake.calls]


def test_permission_is_not_a_verdict() -> None:
    with FakeKernel(refuses={"PROG_LOAD": errno.EPERM}):
        with pytest.raises(NotPermittedError, match=r"program x.*policy") as caught:
            load_program(ProgType.TRACING, RETURN_0, name="x")
        assert not isinstance(caught.value, VerifierError)


def test_refused_before_the_verifier() -> None:
    with (
        FakeKernel(refuses={"PROG_LOAD": errno.EINVAL}),
        pytest.raises(KernelError, match="not even asked") as caught,
    ):
        load_program(ProgType.TRACING, RETURN_0, name="x")
    assert not isinstance(caught.value, VerifierError)


def test_trampolines_without_a_jit() -> None:
    with (
        FakeKernel(refuses={"PROG_LOAD": errno.ENOMEM}),
        pytest.raises(KernelError, match="bpf_jit_enable"),
    ):
        load_program(ProgType.TRACING, RETURN_0, attach_btf_id=7)


def test_names_are_left_out_on_old_kernels() -> None:
    with FakeKernel() as fake:
        load_program(ProgType.XDP, RETURN_0, name="a-very.long name of a program")
        assert fake.calls[-1].fields["prog_name"].rstrip(b"\0") == b"a_very.long_nam"
    with FakeKernel(lacks={"PROG_NAME"}) as fake:
        load_program(ProgType.XDP, RETURN_0, name="x")
        assert not any(fake.calls[-1].fields["prog_name"])
    assert kernel_name("Größe") == b"Gr____e"


def test_a_log_on_success() -> None:
    def verifier(call: Call) -> int | None:
        store(call.fields["log_buf"], b"all is well\0")
        return None

    with FakeKernel() as fake:
        fake.on("PROG_LOAD", verifier)
        fd, log = load_program(ProgType.XDP, RETURN_0, log_level=2)
        assert log == "all is well"
        assert fake.calls[-1].fields["log_level"] == 2
        assert [fd] == list(fake.fds)


def test_short_records() -> None:
    """A kernel with shorter records says how long its own are; the rest must then be zero."""
    seen: list[bytes] = []

    class Old(FakeKernel):
        def bpf(self, cmd: int, attr: bytearray, size: int) -> int:
            self.attr = attr
            return super().bpf(cmd, attr, size)

    def verifier(call: Call) -> int | None:
        if not call.fields["line_info"]:
            return None
        records = memory(call.fields["line_info"], call.fields["line_info_cnt"] * 24)
        assert call.fields["line_info_rec_size"] == 24
        seen.append(records)
        if any(records[16:24]) or any(records[40:48]):
            struct.pack_into("=I", fake.attr, 92, 16)
            return -errno.E2BIG
        return None

    with Old() as fake:
        fake.on("PROG_LOAD", verifier)
        records = bytes(range(1, 49))
        load_program(
            ProgType.XDP,
            RETURN_0,
            func_info=bytes(8),
            line_info=records,
            line_info_rec_size=24,
        )
    assert len(seen) == 2
    assert seen[1] == records[:16] + bytes(8) + records[24:40] + bytes(8)


def test_too_big_for_good() -> None:
    with FakeKernel(refuses={"PROG_LOAD": errno.E2BIG}) as fake:
        with pytest.raises(KernelError):
            load_program(ProgType.XDP, RETURN_0, func_info=bytes(8), line_info=bytes(16))
        assert len([c for c in fake.calls if c.fields.get("func_info")]) == 2


def test_poisoned_programs() -> None:
    log = "0: (85) call unknown#195896080\ninvalid func unknown#195896080\n" + STATISTICS
    with Kernel() as fake:
        fake.on("PROG_LOAD", answer(log))
        with pytest.raises(VerifierError) as caught:
            load_program(ProgType.XDP, RETURN_0, name="x", poisons={0: "no such field"})
    assert caught.value.relocation == "no such field"
    assert "<invalid CO-RE relocation>" in caught.value.log


def test_btf_log() -> None:
    def loader(call: Call) -> int:
        if call.fields["log_level"]:
            store(call.fields["log_buf"], b"magic: 0xeb9f\n[1] INT (anon) Invalid\n\0")
        return -errno.EINVAL

    with FakeKernel() as fake:
        fake.on("BTF_LOAD", loader)
        with pytest.raises(KernelError, match=r"the kernel says: \[1\] INT \(anon\) Invalid"):
            load_btf(b"bad")
        assert fake.commands()[-2:] == ["BTF_LOAD", "BTF_LOAD"]
        fake.on("BTF_LOAD", lambda call: fake.open_object(fake.make("btf")))
        fd, log = load_btf(b"good")
        assert (list(fake.fds), log) == ([fd], "")


def test_limits_are_the_kernels() -> None:
    assert progload.LOG_LIMIT == (2**32 - 1) >> 2
