"""Which features the kernel has, found out by trying."""
