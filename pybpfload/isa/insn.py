"""BPF instructions as values: decode, encode, opcode constants and constructors.

An instruction is one slot of 8 bytes, :class:`Insn`; only ``LDIMM64`` takes two, and its second
half is a slot of its own here (opcode 0, upper 32 bits of the constant in ``imm``), so that an
index into a list of slots is what the kernel, branch offsets and BTF.ext mean by an instruction
index.

The layout is described in :mod:`pybpfload.formats.insn`.

Sources: RFC 9669 sections 3 (encoding), 4 (arithmetic and jumps), 5 (loads and stores);
``include/uapi/linux/bpf_common.h`` and ``bpf.h`` for the names.
"""

from __future__ import annotations

from struct import error as _StructError  # noqa: N812
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from pybpfload.errors import FormatError
from pybpfload.formats.packed import packed

if TYPE_CHECKING:
    from collections.abc import Iterable

ByteOrder: TypeAlias = Literal["<", ">"]
"""``"<"`` for little endian, ``">"`` for big endian."""

INSN_SIZE: Final = 8
"""Bytes of one slot."""

# Instruction classes, code & 0x07 (RFC 9669 section 3.3).
CLASS_MASK: Final = 0x07
LD: Final = 0x00
LDX: Final = 0x01
ST: Final = 0x02
STX: Final = 0x03
ALU: Final = 0x04
JMP: Final = 0x05
JMP32: Final = 0x06
ALU64: Final = 0x07

# Loads and stores: width of the access, code & 0x18, and mode, code & 0xe0 (RFC 9669 section 5).
SIZE_MASK: Final = 0x18
SIZE_W: Final = 0x00
SIZE_H: Final = 0x08
SIZE_B: Final = 0x10
SIZE_DW: Final = 0x18
MODE_MASK: Final = 0xE0
MODE_IMM: Final = 0x00
MODE_ABS: Final = 0x20
MODE_IND: Final = 0x40
MODE_MEM: Final = 0x60
MODE_MEMSX: Final = 0x80
MODE_ATOMIC: Final = 0xC0

# Arithmetic and jumps: where the second operand is, code & 0x08 (RFC 9669 section 4).
SRC_MASK: Final = 0x08
SRC_K: Final = 0x00
SRC_X: Final = 0x08
OP_MASK: Final = 0xF0

# Arithmetic operations, code & 0xf0 (RFC 9669 section 4.1).
ALU_ADD: Final = 0x00
ALU_SUB: Final = 0x10
ALU_MUL: Final = 0x20
ALU_DIV: Final = 0x30
ALU_OR: Final = 0x40
ALU_AND: Final = 0x50
ALU_LSH: Final = 0x60
ALU_RSH: Final = 0x70
ALU_NEG: Final = 0x80
ALU_MOD: Final = 0x90
ALU_XOR: Final = 0xA0
ALU_MOV: Final = 0xB0
ALU_ARSH: Final = 0xC0
ALU_END: Final = 0xD0

# Jump operations, code & 0xf0 (RFC 9669 section 4.3); JCOND is may_goto, Linux 6.9.
JMP_JA: Final = 0x00
JMP_JEQ: Final = 0x10
JMP_JGT: Final = 0x20
JMP_JGE: Final = 0x30
JMP_JSET: Final = 0x40
JMP_JNE: Final = 0x50
JMP_JSGT: Final = 0x60
JMP_JSGE: Final = 0x70
JMP_CALL: Final = 0x80
JMP_EXIT: Final = 0x90
JMP_JLT: Final = 0xA0
JMP_JLE: Final = 0xB0
JMP_JSLT: Final = 0xC0
JMP_JSLE: Final = 0xD0
JMP_JCOND: Final = 0xE0

# Atomic operations, imm of STX | ATOMIC (RFC 9669 section 5.3); LOAD_ACQ, STORE_REL: Linux 6.15.
ATOMIC_ADD: Final = 0x00
ATOMIC_OR: Final = 0x40
ATOMIC_AND: Final = 0x50
ATOMIC_XOR: Final = 0xA0
ATOMIC_FETCH: Final = 0x01
ATOMIC_XCHG: Final = 0xE1
ATOMIC_CMPXCHG: Final = 0xF1
ATOMIC_LOAD_ACQ: Final = 0x100
ATOMIC_STORE_REL: Final = 0x110

# Whole opcodes.
LDIMM64: Final = 0x18
CALL: Final = 0x85
EXIT: Final = 0x95

# src of LDIMM64 (RFC 9669 section 5.4).
PSEUDO_MAP_FD: Final = 1
PSEUDO_MAP_VALUE: Final = 2
PSEUDO_BTF_ID: Final = 3
PSEUDO_FUNC: Final = 4
PSEUDO_MAP_IDX: Final = 5
PSEUDO_MAP_IDX_VALUE: Final = 6

# src of CALL (RFC 9669 section 4.3.1); 0 is a helper.
PSEUDO_CALL: Final = 1
PSEUDO_KFUNC_CALL: Final = 2

_SIZE_BYTES: Final = {SIZE_B: 1, SIZE_H: 2, SIZE_W: 4, SIZE_DW: 8}
_SLOT: Final = {order: packed("insn", order).slot for order in "<>"}


class Insn(NamedTuple):
    """One slot of 8 bytes.

    Attributes:
        code: Opcode, 0 to 255.
        dst: Destination register, 0 to 15 (the kernel accepts 0 to 10).
        src: Source register, or what kind of thing ``imm`` is (``PSEUDO_*``), 0 to 15.
        off: Signed 16-bit offset: bytes for memory, slots for jumps, a variant for some arithmetic.
        imm: Signed 32-bit constant.
    """

    code: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0

    @property
    def insn_class(self) -> int:
        """Class, one of ``LD`` to ``ALU64``."""
        return self.code & CLASS_MASK

    @property
    def op(self) -> int:
        """Operation of an arithmetic or jump instruction, one of ``ALU_*`` or ``JMP_*``."""
        return self.code & OP_MASK

    @property
    def mode(self) -> int:
        """Mode of a load or store, one of ``MODE_*``."""
        return self.code & MODE_MASK

    @property
    def size_bytes(self) -> int:
        """Width in bytes of the memory access of a load or store: 1, 2, 4 or 8."""
        return _SIZE_BYTES[self.code & SIZE_MASK]

    @property
    def is_alu(self) -> bool:
        """Whether this is arithmetic, 32 or 64 bits wide."""
        return self.code & CLASS_MASK in (ALU, ALU64)

    @property
    def is_jmp(self) -> bool:
        """Whether the class is ``JMP`` or ``JMP32``: jumps, calls and exit."""
        return self.code & CLASS_MASK in (JMP, JMP32)

    @property
    def is_load(self) -> bool:
        """Whether this is ``LDX``: a load from memory into ``dst``."""
        return self.code & CLASS_MASK == LDX

    @property
    def is_store(self) -> bool:
        """Whether this is ``ST`` or ``STX``: a store to memory or an atomic operation."""
        return self.code & CLASS_MASK in (ST, STX)

    @property
    def is_ldimm64(self) -> bool:
        """Whether this is the first of the two slots of a 64-bit constant or reference."""
        return self.code == LDIMM64

    @property
    def is_call(self) -> bool:
        """Whether this calls a helper, a subprogram or a kfunc."""
        return self.code == CALL

    @property
    def is_helper_call(self) -> bool:
        """Whether this calls the helper whose number is ``imm``."""
        return self.code == CALL and self.src == 0

    @property
    def is_subprog_call(self) -> bool:
        """Whether this calls another BPF function, ``imm`` slots after the next slot."""
        return self.code == CALL and self.src == PSEUDO_CALL

    @property
    def is_kfunc_call(self) -> bool:
        """Whether this calls the kernel function whose BTF id is ``imm`` (Linux 5.13)."""
        return self.code == CALL and self.src == PSEUDO_KFUNC_CALL

    @property
    def is_func_reference(self) -> bool:
        """Whether this loads the address of the BPF function ``imm`` slots further (Linux 5.13)."""
        return self.code == LDIMM64 and self.src == PSEUDO_FUNC

    @property
    def is_exit(self) -> bool:
        """Whether this returns from the function."""
        return self.code == EXIT


def decode(data: bytes | bytearray | memoryview, byteorder: ByteOrder) -> list[Insn]:
    """Decode slots of 8 bytes. Any content is accepted; only the length is checked.

    Args:
        data: The code, a multiple of 8 bytes.
        byteorder: ``"<"`` for little endian, ``">"`` for big endian.

    Returns:
        One :class:`Insn` per slot; the second half of ``LDIMM64`` is its own slot.

    Raises:
        FormatError: The length is not a multiple of 8.
    """
    size = memoryview(data).nbytes
    if size % INSN_SIZE:
        whole = size - size % INSN_SIZE
        raise FormatError(
            f"code of {size} bytes is not a whole number of 8-byte instructions", offset=whole
        )
    slots = _SLOT[byteorder].iter_unpack(data)
    new = tuple.__new__  # half the time of Insn(...), which only wraps it
    # The registers share a byte: dst is its low half on little endian, its high half on big endian.
    if byteorder == "<":
        return [new(Insn, (code, regs & 15, regs >> 4, off, imm)) for code, regs, off, imm in slots]
    return [new(Insn, (code, regs >> 4, regs & 15, off, imm)) for code, regs, off, imm in slots]


def encode(insns: Iterable[Insn], byteorder: ByteOrder) -> bytes:
    """Encode slots; the reverse of :func:`decode`.

    Args:
        insns: The slots.
        byteorder: ``"<"`` for little endian, ``">"`` for big endian.

    Raises:
        FormatError: A field does not fit; ``offset`` is that of the slot in bytes.
    """
    pack = _SLOT[byteorder].pack
    little = byteorder == "<"
    out = []
    for code, dst, src, off, imm in insns:
        try:
            if (dst | src) & ~15:
                raise FormatError("register outside 0 to 15")
            out.append(pack(code, dst | src << 4 if little else dst << 4 | src, off, imm))
        except (_StructError, FormatError):
            raise FormatError(
                f"a field of instruction {len(out)} is out of range: "
                f"code {code:#x}, dst {dst}, src {src}, off {off}, imm {imm}",
                offset=len(out) * INSN_SIZE,
            ) from None
    return b"".join(out)


def to_s32(value: int) -> int:
    """Keep the low 32 bits of a number, as the signed value ``imm`` holds."""
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def imm64(first: Insn, second: Insn) -> int:
    """Give the unsigned 64-bit constant that the two slots of ``LDIMM64`` hold."""
    return (second.imm & 0xFFFFFFFF) << 32 | first.imm & 0xFFFFFFFF


def mov64_imm(dst: int, imm: int) -> Insn:
    """``dst = imm``, sign-extended to 64 bits."""
    return Insn(ALU64 | ALU_MOV | SRC_K, dst, imm=imm)


def mov64_reg(dst: int, src: int) -> Insn:
    """``dst = src``."""
    return Insn(ALU64 | ALU_MOV | SRC_X, dst, src)


def alu64_imm(op: int, dst: int, imm: int) -> Insn:
    """``dst op= imm`` on 64 bits; ``op`` is one of ``ALU_*``."""
    return Insn(ALU64 | op | SRC_K, dst, imm=imm)


def alu64_reg(op: int, dst: int, src: int) -> Insn:
    """``dst op= src`` on 64 bits; ``op`` is one of ``ALU_*``."""
    return Insn(ALU64 | op | SRC_X, dst, src)


def ld_imm64(dst: int, value: int, src: int = 0) -> tuple[Insn, Insn]:
    """Load a 64-bit constant, or with ``src`` one of ``PSEUDO_*`` a reference; two slots.

    Args:
        dst: Register.
        value: Signed or unsigned 64-bit constant; the first slot gets its low 32 bits, the second
            its high 32 bits.
        src: What the constant means.
    """
    return Insn(LDIMM64, dst, src, imm=to_s32(value)), Insn(0, imm=to_s32(value >> 32))


def ldx(size: int, dst: int, src: int, off: int = 0) -> Insn:
    """``dst = *(size *)(src + off)``, zero-extended; ``size`` is one of ``SIZE_*``."""
    return Insn(LDX | MODE_MEM | size, dst, src, off)


def stx(size: int, dst: int, src: int, off: int = 0) -> Insn:
    """``*(size *)(dst + off) = src``; ``size`` is one of ``SIZE_*``."""
    return Insn(STX | MODE_MEM | size, dst, src, off)


def st(size: int, dst: int, off: int, imm: int) -> Insn:
    """``*(size *)(dst + off) = imm``; ``size`` is one of ``SIZE_*``."""
    return Insn(ST | MODE_MEM | size, dst, 0, off, imm)


def atomic(size: int, op: int, dst: int, src: int, off: int = 0) -> Insn:
    """Atomic operation ``op`` (``ATOMIC_*``) at ``dst + off`` with ``src``.

    For ``ATOMIC_LOAD_ACQ`` the address is ``src + off`` and the result goes to ``dst``.
    """
    return Insn(STX | MODE_ATOMIC | size, dst, src, off, op)


def ja(off: int) -> Insn:
    """Jump ``off`` slots past the next one."""
    return Insn(JMP | JMP_JA, off=off)


def jmp_imm(op: int, dst: int, imm: int, off: int) -> Insn:
    """If ``dst op imm`` on 64 bits, jump ``off`` slots past the next; ``op``: ``JMP_*``."""
    return Insn(JMP | op | SRC_K, dst, 0, off, imm)


def jmp_reg(op: int, dst: int, src: int, off: int) -> Insn:
    """If ``dst op src`` on 64 bits, jump ``off`` slots past the next; ``op``: ``JMP_*``."""
    return Insn(JMP | op | SRC_X, dst, src, off)


def call(imm: int, src: int = 0, off: int = 0) -> Insn:
    """Call helper ``imm``, or what ``src`` says: a subprogram or a kfunc.

    Args:
        imm: Helper number, distance in slots, or BTF id.
        src: 0, ``PSEUDO_CALL`` or ``PSEUDO_KFUNC_CALL``.
        off: For a kfunc, index of its module's BTF in the program's fd array; 0 is vmlinux.
    """
    return Insn(CALL, 0, src, off, imm)


def exit_() -> Insn:
    """Return ``r0``."""
    return Insn(EXIT)
