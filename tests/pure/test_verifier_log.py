"""Verifier logs: read and explained.

``verifier-logs.txt`` has logs of programs of ``fixtures/bad/verifier_causes.bpf.c``, as kernels of
three ages wrote them; ``tests/kernel/test_verifier_causes.py`` does the same on running kernels.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.cli import main
from pybpfload.errors import VerifierError
from pybpfload.verifier import explain, read, split
from pybpfload.verifier.causes import CAUSES, find
from pybpfload.verifier.flow import effect

TEXT = Path(__file__).with_name("verifier-logs.txt").read_text()
LOGS = {
    (kernel, program): log
    for kernel, program, log in re.findall(
        r"^== (\S+) (\S+)\n(.*?)(?=^==|\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
}
KERNELS = sorted({kernel for kernel, _ in LOGS})


@pytest.mark.parametrize("kernel", KERNELS)
class TestRecorded:
    def test_unbounded_index(self, kernel):
        found = explain(LOGS[kernel, "map_unbounded"], program="map_unbounded")
        assert found.cause.name == "negative"
        assert (found.step.insn, found.step.text) == (12, "r0 += r1")
        assert found.step.source.endswith("return value[offset];")
        pointer, index = found.registers
        assert (pointer.name, index.name) == ("R0", "R1")
        assert [step.insn for step in pointer.steps] == [4, 6]
        assert [step.insn for step in index.steps] == [8, 10, 11]
        assert [step.insn for step in pointer.checks] == [7]
        assert pointer.state.startswith("map_value(")
        assert index.state.startswith("scalar(" if kernel != "5.10" else "")
        assert [step.insn for step in found.path] == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 12]
        numbers = found.log.statistics
        assert (numbers.processed, numbers.limit) == (11, 1_000_000)

    def test_the_other_way_of_a_branch(self, kernel):
        """``from A to B``: the path goes on from the jump, not from the line before in the log."""
        found = explain(LOGS[kernel, "negative_index"])
        assert found.cause.name == "negative"
        assert [step.insn for step in found.path] == sorted({s.insn for s in found.path})
        index = found.registers[-1]
        assert [step.text for step in index.checks] == ["if r7 s> 0x3 goto pc+2"]

    def test_packet(self, kernel):
        found = explain(LOGS[kernel, "packet_bounds"])
        assert "1 bytes at offset 14" in found.cause.why
        assert "14 bytes" in found.cause.why
        assert "if r2 > r1: no" in str(found)

    def test_a_call_takes_registers(self, kernel):
        found = explain(LOGS[kernel, "clobbered"])
        (register,) = found.registers
        assert register.name == "R1"
        assert [step.text for step in register.steps] == ["call bpf_ktime_get_ns#5"]
        assert register.state == ""

    def test_loop(self, kernel):
        found = explain(LOGS[kernel, "endless"])
        assert found.cause.name == "infinite-loop"
        assert "again and again" in str(found)

    def test_leak(self, kernel):
        found = explain(LOGS[kernel, "reference_kept"])
        assert found.cause.name == "reference-leak"
        assert found.step.text == "exit"


def test_no_instruction():
    found = explain(LOGS["5.10", "stack_depth"])
    assert found.cause.name == "stack-depth"
    assert "3 functions that call each other use 672 bytes" in found.cause.why


CALLS = """\
0: R1=ctx() R10=fp0
; outer(7) @ a.c:9
0: (b7) r6 = 5                        ; R6=5
1: (bf) r1 = r6                       ; R1=5 R6=5
2: (85) call pc+3
caller:
 R6=5 R10=fp0
callee:
 frame1: R1=5 R10=fp0
; return x * 2; @ a.c:3
6: (bf) r0 = r1                       ; frame1: R0=5 R1=5
7: (67) r0 <<= 1                      ; frame1: R0=10
8: (95) exit
returning from callee:
 frame1: R0=10 R1=5 R10=fp0
to caller at 3:
 R0=10 R6=5 R10=fp0
; return *(u64 *)y; @ a.c:10
3: (7b) *(u64 *)(r10 -8) = r0         ; R0=10 R10=fp0 fp-8=10
4: (79) r3 = *(u64 *)(r10 -8)         ; R3=10 R10=fp0 fp-8=10
5: (79) r0 = *(u64 *)(r3 +0)
R3 invalid mem access 'scalar'
processed 9 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""


def test_values_are_followed_through_the_stack_and_calls():
    found = explain(CALLS)
    (register,) = found.registers
    assert [step.insn for step in register.steps] == [0, 1, 6, 7, 3, 4]
    assert register.state == "10"
    assert [step.frame for step in found.path] == [0, 0, 0, 1, 1, 1, 0, 0, 0]


LIBBPF = """\
libbpf: prog 'bad': BPF program load failed: Permission denied
libbpf: prog 'bad': -- BEGIN PROG LOAD LOG --
0: (95) exit
R0 !read_ok
processed 1 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
libbpf: prog 'bad': failed to load: -13
libbpf: prog 'worse': -- BEGIN PROG LOAD LOG --
1: (b7) r0 = 0
"""


def test_what_libbpf_prints():
    (bad, first), (worse, second) = split(LIBBPF)
    assert (bad, worse) == ("bad", "worse")
    assert explain(first).reason == "R0 !read_ok"
    cut = explain(second)
    assert cut.log.truncated
    assert not cut.accepted
    assert "a part of the log is missing" in str(cut)


def test_a_limit_shows_where_time_went():
    turn = "3: (07) r1 += 1  ; R1=1\n4: (15) if r1 == 0x5 goto pc-2\n"
    log = (
        "0: R1=ctx() R10=fp0\n0: (b7) r1 = 0\n" + turn * 500 + "BPF program is too large. "
        "Processed 1000001 insn\nprocessed 1000001 insns (limit 1000000) max_states_per_insn 4\n"
    )
    found = explain(log)
    assert found.cause.name == "too-complex"
    assert found.hottest() == [(3, 500), (4, 500)]
    assert "500 times  3: r1 += 1" in str(found)


@pytest.mark.parametrize(
    ("text", "reads", "writes"),
    [
        ("r1 = r6", ["R6"], ["R1"]),
        ("w1 = 5", [], ["R1"]),
        ("r2 += r1", ["R2", "R1"], ["R2"]),
        ("r2 s>>= 3", ["R2"], ["R2"]),
        ("r0 = *(u32 *)(r1 +8)", ["R1"], ["R0"]),
        ("r0 = *(u32 *)(r10 -12)", ["fp-16"], ["R0"]),
        ("*(u64 *)(r10 -8) = r3", ["R3"], ["fp-8"]),
        ("*(u8 *)(r1 +0) = 5", ["R1"], []),
        ("if r1 s> r2 goto pc+4", ["R1", "R2"], []),
        ("r1 = atomic64_fetch_add((u64 *)(r2 +0), r1)", ["R2", "R1"], ["R1"]),
        ("exit", ["R0"], []),
    ],
)
def test_effects(text, reads, writes):
    found = effect(text)
    assert list(found.reads) == reads
    assert [place for place in found.writes if place in writes] == writes
    assert set(found.writes) == set(writes)


@given(st.text(st.sampled_from("R0123: ()=fp-;from to\nexitcallgotoaf'<>"), max_size=400))
def test_anything_is_explained(text):
    found = explain(text)
    assert json.dumps(found.to_dict())
    assert str(found)


@given(st.lists(st.sampled_from(TEXT.splitlines()), max_size=60))
def test_shuffled_logs_are_explained(lines):
    found = explain("\n".join(lines))
    assert len(found.path) <= len(found.log.steps)
    assert json.dumps(found.to_dict())


def test_every_cause_says_what_helps():
    for pattern, cause in CAUSES:
        assert cause.remedies, cause.name
        groups = {name.rstrip("0123456789") for name in pattern.groupindex}
        assert set(re.findall(r"\{(\w+)\}", cause.why)) <= groups, cause.name


# What else kernels say, behind the name of the cause.
SENTENCES = """\
argument-type     R1 pointer type STRUCT cgroup must point to scalar, or struct with scalar
atomic            BPF_ATOMIC stores into R2 pkt is not allowed
buffer-bounds     R2 invalid negative rdwr buffer offset: off=0, var_off=-8
buffer-bounds     invalid access to flow keys off=4096 size=8
call-depth        the call stack of 17 frames is too deep
compiler-trap     unexpected __bpf_trap() due to uninitialized variable?
constant-argument R4 must be a known constant
context-moved     dereference of modified ctx ptr R1 off=8 disallowed
critical-section  tail_call cannot be used inside bpf_preempt_disable-ed region
critical-section  R1 doesn't point to an irq flag on stack
critical-section  cannot restore irq state out of order, expected id=2 acquired at insn_idx=7
division          div by zero
exception         bpf_throw kfunc (insn 9) cannot be called from callback subprog 1
frame-pointer     frame pointer is read only
graph             R2 expected pointer to allocated object
iterator          R1 expected pointer to an iterator on stack
jump-table        jump table for insn 4 points outside of the subprog [0,10]
kfunc             calling kernel function bpf_dynptr_from_skb is not allowed
kptr              store to referenced kptr disallowed
lock              bpf_spin_lock at off=16 must be held for bpf_rb_root
map-field         R1 doesn't have constant offset. bpf_wq has to be at the constant offset
map-reference     fd 1 is not pointing to valid bpf_map
map-type          cannot pass map_type 7 into func bpf_map_lookup_elem#1
negative          value 1073741823 makes map_value pointer be out of bounds
pointer-moved     dereference of modified ptr_ ptr R1 off=8 disallowed
rcu               kernel func bpf_iter_css_new requires RCU critical section protection
return-value      At async callback return the register R0 has smin=9 should have been in [0, 0]
return-value      At program exit the register R0 has smin=2 smax=2 should have been in [0, 1]
stack-bounds      invalid variable-offset read from stack R2 var_off=(0xff8; 0x4) off=0 size=8
struct-bounds     R6 is bpf_array invalid negative access: off=-8
too-complex       liveness analysis exceeded complexity limit (9000 calls)
trusted           release kfunc bpf_task_release expects referenced PTR_TO_BTF_ID passed to R1
zero-size         R1 invalid zero-sized read: u64=[0,4]
"""


@pytest.mark.parametrize("line", SENTENCES.splitlines())
def test_sentence(line):
    name, sentence = line.split(maxsplit=1)
    assert find([sentence]).name == name


def test_a_cause_says_what_the_sentence_names():
    assert "not on pkt" in find(["BPF_ATOMIC stores into R2 pkt is not allowed"]).why
    assert "and 1 is not" in find(["fd 1 is not pointing to valid bpf_map"]).why


LONG = "1" * 5000  # Python reads no number of more than 4,300 digits


@pytest.mark.parametrize(
    "line",
    [
        f"{LONG}: (b7) r0 = 0",
        f"{LONG}: <invalid CO-RE relocation>",
        f"1: (79) r1 = *(u64 *)(r10 -{LONG})",
        f"from {LONG} to 1: R0=1",
        f"insn {LONG} is odd",
        f"processed {LONG} insns (limit {LONG})",
        f"processed 1 insns (limit 2) total_states {LONG} stack depth +",
        f"verification time {LONG} usec",
        f"stack depth {LONG}+",
        "-" * 50_000,
        "0: (b7) r0 = 0 ;" + " " * 50_000 + "x",
    ],
    ids=lambda line: line[:12],
)
def test_lines_that_no_verifier_writes(line):
    started = time.process_time()
    for text in (line, f"0: (b7) r0 = 0\n{line}\nR1 type=scalar\n"):
        [(_, log)] = split(text)
        assert str(explain(log))
    assert time.process_time() - started < 1  # the dashes took half a minute


def test_sentences_that_no_verifier_says_take_no_longer():
    started = time.process_time()
    assert find(["iterator " * 20_000]) is None
    assert find(["R1 is odd"] * 100_000) is None
    assert time.process_time() - started < 1  # the first one alone took 15 seconds
    assert (
        find(["nothing", "jump out of range from insn 1 to 9", *["."] * 99]).name == "unreachable"
    )


def test_statistics_behind_an_unfinished_line():
    """Some sentences of the kernel lack their line feed."""
    found = explain("insn 3 cannot call exception cb directlyprocessed 7 insns (limit 1000000)\n")
    assert found.reason == "insn 3 cannot call exception cb directly"
    assert found.cause.name == "exception"
    assert found.log.insn == 3
    assert found.log.statistics.processed == 7


def test_an_error_explains_itself():
    error = VerifierError(13, "bad", LOGS["7.2", "clobbered"])
    assert error.explanation.cause.name == "uninitialized"
    assert error.explanation is error.explanation


def test_command(tmp_path, capsys):
    path = tmp_path / "refused.txt"
    path.write_text(LIBBPF)
    assert main(["log", str(path)]) == 0
    assert "program bad: refused: R0 !read_ok" in capsys.readouterr().out
    assert main(["log", "--json", str(path)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["program"], second["program"]) == ("bad", "worse")
    path.write_text("hello\n")
    assert main(["log", str(path)]) == 1
    assert "no verifier log" in capsys.readouterr().err


def test_reading_forgets_the_beginning_of_endless_logs(monkeypatch):
    monkeypatch.setattr("pybpfload.verifier.log._MOST_STEPS", 1000)
    log = read("".join(f"{n % 7}: (b7) r1 = {n}\n" for n in range(4100)))
    assert log.first > 0
    assert 1000 <= len(log.steps) <= 2000
    assert sum(log.visits.values()) == 4100
    assert len(log.path()) == len(log.steps)


def test_what_pybpfload_itself_printed_is_read():
    """``pybpfload run -v OBJ 2>&1 | pybpfload log``."""
    lines = ["0: (79) r0 = *(u64 *)(r0 +0)", "R0 invalid mem access 'scalar'"]
    own = ["pybpfload: program a: the verifier refused it", "  why    a reason"]
    for name in "ab":
        own += [f"verifier log of program {name}:", *(f"  {line}" for line in lines)]
    own.append("pybpfload: and more")
    assert list(split("\n".join(own))) == [("a", "\n".join(lines)), ("b", "\n".join(lines))]
