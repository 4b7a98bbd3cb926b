"""Will an object load on a kernel? Asked of BTF, offline, on any system."""
