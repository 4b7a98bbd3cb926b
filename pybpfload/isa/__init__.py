"""BPF instructions: decoding, encoding, the instruction table, disassembly.

The modules are imported by name (``from pybpfload.isa import insn``); this one imports nothing, so
that whoever only moves instructions does not pay for the table.

* :mod:`pybpfload.isa.insn`: the 8-byte slot, opcode constants, constructors.
* :mod:`pybpfload.isa.table`: which instructions exist and since when.
* :mod:`pybpfload.isa.disasm`: instructions as text.
"""
