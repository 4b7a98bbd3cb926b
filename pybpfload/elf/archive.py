"""Libraries inside zip archives, as Android's APKs keep them and its loader maps them."""

from __future__ import annotations

import io
import struct
import zipfile

from pybpfload.errors import FormatError

__all__ = ["stored_member"]

# The header in front of each member (APPNOTE.TXT of the zip format, 4.3.7): the lengths of name and
# extra field, which come before the data, are its end.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"


def stored_member(archive: bytes, member: str, file: str) -> tuple[int, bytes] | None:
    """Find a member that the kernel can map from the archive as it is.

    Args:
        archive: The whole archive.
        member: Name of the member.
        file: What the archive is called in messages.

    Returns:
        Offset of its content in the archive, and the content; ``None`` if there is no such member.

    Raises:
        FormatError: It is no zip archive, damaged, or the member is compressed or encrypted.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            if member not in opened.namelist():
                return None
            info = opened.getinfo(member)
    except Exception as error:  # zipfile lets several kinds escape when an archive is damaged
        raise FormatError(f"no zip archive, or damaged: {error}", file=file) from None
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        how = "encrypted" if info.flag_bits & 1 else "compressed"
        raise FormatError(
            f"it is {how}, so that no process can run it from the archive",
            file=file,
            section=member,
            hint="probe the file that it is unpacked to",
        )
    start = info.header_offset  # zipfile works it out, and may come to something before the file
    if not 0 <= start <= len(archive) - _LOCAL_HEADER.size:
        raise FormatError("cut short", file=file, section=member)
    signature, name_size, extra_size = _LOCAL_HEADER.unpack_from(archive, start)
    start += _LOCAL_HEADER.size + name_size + extra_size
    if signature != _SIGNATURE or start + info.file_size > len(archive):
        raise FormatError("damaged header of a member", file=file, section=member)
    return start, archive[start : start + info.file_size]
