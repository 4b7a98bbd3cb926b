"""Everything that touches the running kernel, behind :mod:`pybpfload.kernel.door`."""
