"""ELF files: sections, symbols and relocations of objects; BTF out of kernel images."""
