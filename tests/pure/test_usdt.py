"""USDT probes: notes, places of arguments, and what BPF code is told of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from user_binary import (
    CODE_ADDRESS,
    CODE_AT,
    DATA_AT,
    EM_AARCH64,
    EM_RISCV,
    EM_S390,
    EM_X86_64,
    UserBinaryBuilder,
)

import pybpfload
from pybpfload.btf import Kind
from pybpfload.btf.values import codec
from pybpfload.elf.binary import UserBinary
from pybpfload.elf.usdt import Argument, Probe, arguments, parse_arguments, probes
from pybpfload.errors import AttachError, BpfError, FormatError, NotSupportedError
from pybpfload.formats.usdt import SPEC_SIZES, ArgumentKind, layouts
from pybpfload.testing.fakekernel import Call, FakeKernel, memory

CONST, REG, DEREF, SIB = ArgumentKind
FIXTURES = Path(__file__).parents[2] / "fixtures"
MACHINES = [EM_X86_64, EM_AARCH64, EM_S390, EM_RISCV]


def opened(builder: UserBinaryBuilder) -> UserBinary:
    return UserBinary(builder.build(), "lib.so")


# Arguments: text, and size (negative: signed), kind, value, register, index register, scale.
# The offsets of registers are those of the kernel's struct pt_regs.
PLACES = {
    EM_X86_64: [
        ("4@%eax", 4, REG, 0, 80, 0, 0),
        ("-8@%rdi", -8, REG, 0, 112, 0, 0),
        ("1@%r15b", 1, REG, 0, 0, 0, 0),
        ("2@%r8w", 2, REG, 0, 72, 0, 0),
        ("-4@%r12d", -4, REG, 0, 24, 0, 0),
        ("1@%sil", 1, REG, 0, 104, 0, 0),
        ("1@%ah", 1, REG, 0, 81, 0, 0),
        ("2@%bp", 2, REG, 0, 32, 0, 0),
        ("8@%rip", 8, REG, 0, 128, 0, 0),
        ("8@(%rsp)", 8, DEREF, 0, 152, 0, 0),
        ("8@0(%rsp)", 8, DEREF, 0, 152, 0, 0),
        ("-4@-20(%rbp)", -4, DEREF, -20, 32, 0, 0),
        ("8 @ -20 ( %rbp )", 8, DEREF, -20, 32, 0, 0),
        ("8@+16(%rax)", 8, DEREF, 16, 80, 0, 0),
        ("1@-96(%rbp,%rax,8)", 1, SIB, -96, 32, 80, 3),
        ("1@-96( %rbp , %rax , 2 )", 1, SIB, -96, 32, 80, 1),
        ("8@(%r10,%r11,4)", 8, SIB, 0, 56, 48, 2),
        ("8@(%rbx,%rcx,1)", 8, SIB, 0, 40, 88, 0),
        ("8@24(%rbx,%rdx)", 8, SIB, 24, 40, 96, 0),
        ("8@(%r9,%r14)", 8, SIB, 0, 64, 8, 0),
        ("-4@$-9", -4, CONST, -9, 0, 0, 0),
        ("8@$18446744073709551615", 8, CONST, (1 << 64) - 1, 0, 0, 0),
        ("8@$-9223372036854775808", 8, CONST, -1 << 63, 0, 0, 0),
        ("8@state(%rip)", 8, DEREF, 0x1000, 128, 0, 0),
        ("-4@80+mp_(%rip)", -4, DEREF, 0x1050, 128, 0, 0),
        ("-4@mp_+4(%rip)", -4, DEREF, 0x1004, 128, 0, 0),
        ("-4@4+mp_-8(%rip)", -4, DEREF, 0xFFC, 128, 0, 0),
        ("8@.LC0.x$1(%rip)", 8, DEREF, 0x1000, 128, 0, 0),
    ],
    EM_AARCH64: [
        ("8@x0", 8, REG, 0, 0, 0, 0),
        ("-4@x30", -4, REG, 0, 240, 0, 0),
        ("4@w7", 4, REG, 0, 56, 0, 0),
        ("8@sp", 8, REG, 0, 248, 0, 0),
        ("-4@[sp,60]", -4, DEREF, 60, 248, 0, 0),
        ("-4@[sp, -60]", -4, DEREF, -60, 248, 0, 0),
        ("2@[ x22 , 20 ]", 2, DEREF, 20, 176, 0, 0),
        ("-4@[x22]", -4, DEREF, 0, 176, 0, 0),
        ("-1@[x0, x1]", -1, SIB, 0, 0, 8, 0),
        ("8@[x2, x3, lsl 3]", 8, SIB, 0, 16, 24, 3),
        ("8@[x2, x3, lsl #2]", 8, SIB, 0, 16, 24, 2),
        ("-4@-42", -4, CONST, -42, 0, 0, 0),
        ("8@5", 8, CONST, 5, 0, 0, 0),
    ],
    EM_S390: [
        ("8@%r0", 8, REG, 0, 24, 0, 0),
        ("-4@%r15", -4, REG, 0, 144, 0, 0),
        ("8@160(%r15)", 8, DEREF, 160, 144, 0, 0),
        ("-4@-8(%r11)", -4, DEREF, -8, 112, 0, 0),
        ("8@0(%r2,%r3)", 8, SIB, 0, 48, 40, 0),
        ("-2@-7", -2, CONST, -7, 0, 0, 0),
    ],
    EM_RISCV: [
        ("8@ra", 8, REG, 0, 8, 0, 0),
        ("8@sp", 8, REG, 0, 16, 0, 0),
        ("-4@t2", -4, REG, 0, 56, 0, 0),
        ("8@s0", 8, REG, 0, 64, 0, 0),
        ("8@a0", 8, REG, 0, 80, 0, 0),
        ("-8@a7", -8, REG, 0, 136, 0, 0),
        ("-8@s11", -8, REG, 0, 216, 0, 0),
        ("1@t6", 1, REG, 0, 248, 0, 0),
        ("-4@-20(s0)", -4, DEREF, -20, 64, 0, 0),
        ("8@0(a5)", 8, DEREF, 0, 120, 0, 0),
        ("8@99", 8, CONST, 99, 0, 0, 0),
    ],
}
CASES = [(machine, *row) for machine, rows in PLACES.items() for row in rows]


def away(name: str) -> int | None:
    return None if name == "stripped" else 0x1000


class TestArguments:
    @pytest.mark.parametrize(
        ("machine", "text", "size", "kind", "value", "register", "index", "scale"), CASES
    )
    def test_form(self, machine, text, size, kind, value, register, index, scale):
        told = Argument(abs(size), size < 0, kind, value, register, index, scale)
        assert parse_arguments(text, machine, away) == (told,)

    @pytest.mark.parametrize("machine", MACHINES)
    def test_several(self, machine):
        rows = PLACES[machine]
        text = "  " + "\t".join(row[0] for row in rows[:12]) + " "
        assert [a.kind for a in parse_arguments(text, machine, away)] == [r[2] for r in rows[:12]]

    @pytest.mark.parametrize("machine", MACHINES)
    def test_none(self, machine):
        assert parse_arguments("", machine) == parse_arguments("  ", machine) == ()

    @given(st.sampled_from(MACHINES), st.data())
    def test_any_list(self, machine, data):
        rows = data.draw(st.lists(st.sampled_from(PLACES[machine]), max_size=12))
        blank = st.sampled_from([" ", "  ", "\t"])
        text = "".join(row[0] + data.draw(blank) for row in rows)
        found = parse_arguments(text, machine, away)
        assert [(a.size * (-1) ** a.signed, *a[2:]) for a in found] == [row[1:] for row in rows]

    @pytest.mark.parametrize(
        ("machine", "text", "message"),
        [
            (EM_X86_64, "3@%eax", "argument 0, '3@%eax', does not begin with its size"),
            (EM_X86_64, "8@%rax %rbx", "argument 1, '%rbx', does not begin with its size"),
            (EM_X86_64, "8%rax", "does not begin with its size"),
            (EM_X86_64, "8@%xmm0", "argument 0, '8@%xmm0': unknown register xmm0"),
            (EM_X86_64, "8@(%rax,%rbx,3)", "wrong scale"),
            (EM_X86_64, "8@0x10(%rax)", "of no known form"),
            (EM_X86_64, "8f@%xmm0", "does not begin with its size"),
            (EM_X86_64, "8@rax", "of no known form"),
            (EM_X86_64, "8@%rax,", "of no known form"),
            (EM_X86_64, "8@$18446744073709551616", "the number is too large"),
            (EM_X86_64, "8@" + "9" * 30 + "(%rax)", "of no known form"),
            (EM_X86_64, "8@stripped(%rip)", "no symbol stripped; it was stripped"),
            (EM_X86_64, " ".join(["8@%rax"] * 13), "more than 12 arguments"),
            (EM_AARCH64, "8@x31", "unknown register x31"),
            (EM_AARCH64, "8@[x0, #:lo12:.LANCHOR]", "of no known form"),
            (EM_S390, "8@%r16", "unknown register r16"),
            (EM_RISCV, "8@x5", "unknown register x5"),
        ],
    )
    def test_refused(self, machine, text, message):
        with pytest.raises(FormatError) as caught:
            parse_arguments(text, machine, away)
        assert message in str(caught.value)

    def test_unknown_machine(self):
        with pytest.raises(NotSupportedError, match="ELF machine 8 "):
            parse_arguments("", 8)

    @given(
        st.sampled_from(MACHINES),
        st.text(max_size=60) | st.text("-48@%()[]raxsp10,$+ ", max_size=60),
    )
    def test_any_text_is_read_or_refused(self, machine, text):
        try:
            found = parse_arguments(text, machine)
        except FormatError:
            found = ()
        assert len(found) <= text.count("@")


class TestNotes:
    @pytest.mark.parametrize(("order", "bits"), [(o, b) for o in "<>" for b in (32, 64)])
    def test_place(self, order, bits):
        builder = UserBinaryBuilder(order=order, bits=bits, base=0x400000)
        builder.probe("python", "audit", "8@%rbx", 0x20, semaphore=6)
        builder.probe("python", "line", "", 0x30)
        assert list(probes(opened(builder))) == [
            Probe(
                "python",
                "audit",
                builder.code_address + 0x20,
                CODE_AT + 0x20,
                DATA_AT + 6,
                "8@%rbx",
            ),
            Probe("python", "line", builder.code_address + 0x30, CODE_AT + 0x30, 0, ""),
        ]

    def test_prelinked(self):
        """The code was moved by so much as the section .stapsdt.base."""
        builder = UserBinaryBuilder()
        builder.stapsdt_base = 0x7000
        builder.probe("p", "n", "", 0x20, base=0x7000 - 0x100)
        builder.probe("p", "n", "", 0x20)
        assert [probe.address - CODE_ADDRESS for probe in probes(opened(builder))] == [0x120, 0x20]

    def test_notes_of_others_are_left_alone(self):
        builder = UserBinaryBuilder()
        builder.note(b"12345", owner=b"GNU\0")
        builder.note(b"", owner=b"stapsdt\0", kind=4)
        builder.note(b"", owner=b"")
        builder.probe("p", "n")
        assert [probe.name for probe in probes(opened(builder))] == ["n"]

    def test_arguments_that_are_none(self):
        builder = UserBinaryBuilder()
        builder.probe("p", "n", ":")
        binary = opened(builder)
        (probe,) = probes(binary)
        assert arguments(binary, probe) == ()

    def test_variable_of_the_file(self):
        builder = UserBinaryBuilder()
        builder.symbol("mp_", 8, section=2, kind=1)
        builder.probe("p", "n", "-4@16+mp_(%rip)", 0x20)
        binary = opened(builder)
        (probe,) = probes(binary)
        distance = builder.data_address + 8 + 16 - (builder.code_address + 0x20)
        assert arguments(binary, probe) == (Argument(4, True, DEREF, distance, 128),)

    @pytest.mark.parametrize(
        ("probe", "message"),
        [
            ({"location": 0x99999999}, "symbol p:n: its location 0x99999999 is not in the code"),
            ({"location": 0x50000}, "its location 0x50000 is not in the code"),
            ({"semaphore": 0x30000}, "its semaphore 0x30000 is not in the data"),
            ({"semaphore": 0x1}, "its semaphore 0x1 is not in the data"),
            ({"name": ""}, "a probe without a name"),
        ],
    )
    def test_refused(self, probe, message):
        builder = UserBinaryBuilder()
        builder.probe("p", "n")
        note = {"location": CODE_ADDRESS, "base": 0, "semaphore": 0, "provider": "p", "name": "n"}
        builder.notes = b""
        builder.note(layouts("<").note.build({**note, "arguments": "", **probe}))
        with pytest.raises(FormatError, match=r"lib\.so, section \.note\.stapsdt") as caught:
            list(probes(opened(builder)))
        assert message in str(caught.value)

    @pytest.mark.parametrize("size", [0, 8, 23, 24, 26, 28])
    def test_note_that_is_cut_short(self, size):
        builder = UserBinaryBuilder()
        whole = layouts("<").note.build(
            {
                "location": CODE_ADDRESS, "base": 0, "semaphore": 0,
                "provider": "pp", "name": "nn", "arguments": "8@%rax",
            }
        )  # fmt: skip
        builder.note(whole[:size])
        with pytest.raises(FormatError, match="damaged note of a probe"):
            list(probes(opened(builder)))

    def test_no_probes(self):
        with pytest.raises(FormatError, match=r"no USDT probes \(no section \.note\.stapsdt\)"):
            list(probes(opened(UserBinaryBuilder())))

    @given(st.data())
    def test_any_damage_is_a_format_error_or_none(self, data):
        order = data.draw(st.sampled_from("<>"))
        builder = UserBinaryBuilder(order=order)
        for name in ("a", "b"):
            builder.probe("p", name, "8@%rax", 8, semaphore=2)
        notes = bytearray(builder.notes)
        for _ in range(data.draw(st.integers(1, 4))):
            notes[data.draw(st.integers(0, len(notes) - 1))] = data.draw(st.integers(0, 255))
        builder.notes = bytes(notes)
        told: BpfError = FormatError("", file="lib.so")
        binary = opened(builder)
        try:
            for probe in probes(binary):
                arguments(binary, probe)
        except BpfError as error:
            told = error
        assert isinstance(told, FormatError)
        assert told.file == "lib.so"


class TestSpecification:
    """What is told to BPF code has the layout that clang gives it."""

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize(("fixture", "size"), [("usdt", 304), ("usdt_old", 208)])
    def test_layout(self, order, fixture, size):
        folder = "bpfel" if order == "<" else "bpfeb"
        btf = pybpfload.open(FIXTURES / folder / f"{fixture}.bpf.o").btf
        assert btf is not None
        # Numbers that are different in all bits; no two fields of an argument have the same.
        told = [
            {
                "value": 0xF0E1D2C3B4A59687 >> place,
                "kind": place % (4 if size == 304 else 3),
                "index": {"offset": 0xA53 ^ place, "scale": 15 - place},
                "register": -0x1234 + 321 * place,
                "signed": place % 2,
                "shift": 5 * place,
            }
            for place in range(12)
        ]
        whole = {"arguments": told, "cookie": 0xFEDCBA9876543210, "count": 0x1234}
        raw = getattr(layouts(order), SPEC_SIZES[size]).build(whole)
        assert len(raw) == size
        read = codec(btf, btf.find("__bpf_usdt_spec", Kind.STRUCT)).decode(raw)
        assert (read.cookie, read.count) == (whole["cookie"], whole["count"])
        for seen, argument in zip(read.args, told, strict=True):
            fields = (seen.value, int(seen.kind), seen.reg, seen.is_signed, seen.shift)
            names = ("value", "kind", "register", "signed", "shift")
            assert fields == tuple(argument[name] for name in names)
            if size == 304:
                assert {"offset": seen.index, "scale": seen.scale} == argument["index"]


class TestAttachWithoutAKernel:
    """What is asked of the kernel, by its age, and that nothing is left when it refuses."""

    PATH = "/usr/lib/libp.so"

    @pytest.fixture
    def machine(self):
        if sys.byteorder != "little":
            pytest.skip("the script is of x86-64")
        return EM_X86_64

    def kernel(self, builder: UserBinaryBuilder, version: str = "") -> FakeKernel:
        unit = "/sys/bus/event_source/devices/uprobe"
        files = {
            self.PATH: builder.build(),
            f"{unit}/type": b"8\n",
            f"{unit}/format/retprobe": b"config:0\n",
            f"{unit}/format/ref_ctr_offset": b"config:32-63\n",
        }
        fake = FakeKernel.like(version, files=files) if version else FakeKernel(files=files)

        def load(call: Call) -> int | None:
            """The script does not see that code for other kernels is never reached."""
            if len(call.insns) < 1000:
                return None
            return fake.open_object(fake.make("prog", **call.fields, insns_=call.insns))

        fake.on("PROG_LOAD", load)
        return fake

    def load(self, *names: str, fixture: str = "usdt"):
        spec = pybpfload.open(FIXTURES / "bpfel" / f"{fixture}.bpf.o")
        for name in names or ("on_probe",):
            spec.programs[name].autoload = True
        return spec.load()

    def builder(self) -> UserBinaryBuilder:
        builder = UserBinaryBuilder(kind=2, base=0x400000)
        builder.probe("p", "n", "8@%rdi", 0, semaphore=2)
        builder.probe("p", "n", "8@%rdi", 16, semaphore=4)
        builder.probe("p", "n", "8@%rsi -4@$-1", 32)
        return builder

    def test_one_link(self, machine):
        lists = {}

        def look(call: Call) -> None:
            if call.text == self.PATH:
                assert call.fields["cnt"] == 3
                for name in ("offsets", "ref_ctr_offsets", "cookies"):
                    lists[name] = memoryview(memory(call.fields[name], 24)).cast("Q").tolist()

        with self.kernel(self.builder()) as fake:
            fake.on("LINK_CREATE", look)
            with self.load() as obj:
                link = obj.programs["on_probe"].attach(f"{self.PATH}:p:n", cookie=7)
                assert lists == {
                    "offsets": [CODE_AT, CODE_AT + 16, CODE_AT + 32],
                    "ref_ctr_offsets": [DATA_AT + 2, DATA_AT + 4, 0],
                    "cookies": [0, 0, 1],  # equal places share a specification
                }
                value = obj.maps["__bpf_usdt_specs"][1]
                assert (value.count, value.cookie) == (2, 7)
                assert (value.args[0].reg, value.args[0].shift) == (104, 0)
                assert (value.args[1].value, value.args[1].shift) == ((1 << 64) - 1, 32)
                assert value.args[1].is_signed
                assert not list(obj.maps["__bpf_usdt_ip_to_spec_id"])
                link.close()
            assert not fake.leaked()

    def test_a_link_for_each_site(self, machine):
        with self.kernel(self.builder(), "5.15") as fake:
            with self.load() as obj:
                link = obj.programs["on_probe"].attach(f"{self.PATH}:p:n")
                assert len(link.links) == 3
                cookies = [
                    c.fields.get("bpf_cookie") for c in fake.calls if c.command == "LINK_CREATE"
                ]
                assert cookies[-3:] == [0, 0, 1]
                link.close()
                link.close()
            assert not fake.leaked()

    def test_addresses_on_kernels_without_cookies(self, machine):
        with self.kernel(self.builder(), "5.10") as fake:
            with self.load("on_probe", "on_another") as obj:
                link = obj.programs["on_probe"].attach(f"{self.PATH}:p:n")
                start = 0x400000 + CODE_ADDRESS
                addresses = obj.maps["__bpf_usdt_ip_to_spec_id"]
                assert dict(addresses.items()) == {start: 0, start + 16: 0, start + 32: 1}
                with pytest.raises(AttachError, match="cannot tell them apart"):
                    obj.programs["on_another"].attach(f"{self.PATH}:p:n")
                assert len(dict(addresses.items())) == 3
                link.close()
                assert not dict(addresses.items())
                with obj.programs["on_another"].attach(f"{self.PATH}:p:n"):
                    assert len(dict(addresses.items())) == 3
            assert not fake.leaked()

    def test_addresses_in_a_process(self, machine):
        builder = UserBinaryBuilder()
        builder.probe("p", "n", "", 0x20)
        fake = self.kernel(builder, "5.10")
        line = f"7f0000001000-7f0000002000 {{}} {CODE_AT:08x} fe:00 99   {{}}\n"
        fake.files["/proc/77/maps"] = "".join(
            [
                "00400000-00401000 r-xp 00000000 fe:00 98   /bin/other\n",
                line.format("r--p", self.PATH).replace("7f0", "7e0"),
                line.format("r-xp", "/usr/lib/other.so").replace("7f0", "7d0"),
                line.format("r-xp", self.PATH),
                "7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0 \n",
            ]
        ).encode()
        fake.files["/proc/78/maps"] = b"00400000-00401000 r-xp 00000000 fe:00 98   /bin/other\n"
        with fake:
            with self.load() as obj:
                program, target = obj.programs["on_probe"], f"{self.PATH}:p:n"
                with program.attach(target, pid=77):
                    keys = list(obj.maps["__bpf_usdt_ip_to_spec_id"])
                    assert keys == [0x7F0000001020]
                with pytest.raises(AttachError, match="process 78 has not loaded"):
                    program.attach(target, pid=78)
                with pytest.raises(pybpfload.KernelError, match="/proc/79/maps"):
                    program.attach(target, pid=79)
                with pytest.raises(NotSupportedError, match=r"needs Linux 5\.15"):
                    program.attach(target)
            assert not fake.leaked()

    @pytest.mark.parametrize("version", ["", "5.15", "5.10"])
    def test_nothing_is_left_whatever_fails(self, machine, version):
        """Each call of the attachment fails in its turn; afterwards it works as if nothing was."""
        for after in range(30):
            with self.kernel(self.builder(), version) as fake:
                with self.load() as obj:
                    program, target = obj.programs["on_probe"], f"{self.PATH}:p:n"
                    program.attach(target).close()  # features are known from here on
                    open_before = len(fake.leaked())
                    fake.fail(after)
                    try:
                        link = program.attach(target)
                    except BpfError:
                        assert len(fake.leaked()) == open_before
                        assert not dict(obj.maps["__bpf_usdt_ip_to_spec_id"].items())
                        with program.attach(target):
                            assert len(fake.leaked()) > open_before
                    else:
                        link.close()
                        break
                assert not fake.leaked()
        assert after == {"": 3, "5.15": 5, "5.10": 5}[version]

    def test_semaphores_are_too_young(self, machine):
        fake = self.kernel(self.builder(), "5.10")
        del fake.files["/sys/bus/event_source/devices/uprobe/format/ref_ctr_offset"]
        with fake, self.load() as obj:
            with pytest.raises(NotSupportedError, match=r"semaphores.*needs Linux 4\.20"):
                obj.programs["on_probe"].attach(f"{self.PATH}:p:n")
