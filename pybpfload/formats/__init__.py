"""construct descriptions of every format: the only place that knows offsets and sizes.

Read them to learn a format, build synthetic input with them in tests, parse small and cold data
with them. Bulk data is decoded by :mod:`struct`, whose format strings
:func:`pybpfload.formats.flat.flat` derives from these descriptions; those that every run needs are
restated in :mod:`pybpfload.formats.packed`, so that construct is not imported for them.

construct's *compiled* parsers are never used: its documentation rules them out for untrusted input.
"""
