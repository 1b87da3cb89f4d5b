"""What a file holds that should hold text in UTF-8, from its first bytes."""

import codecs
from pathlib import Path

BINARY = {
    b"\x1f\x8b": "gzip; let its name end in .gz",
    b"PK\x03\x04": "a zip archive or an Excel file; unpack it, or pandas.read_excel and Labelled.from_pandas",
    b"\xd0\xcf\x11\xe0": "an Excel file; pandas.read_excel and Labelled.from_pandas",
    b"PAR1": "parquet; let its name end in .parquet",
    b"ARROW1": "Arrow; pandas.read_feather and Labelled.from_pandas",
    b"BZh": "bzip2; unpack it",
    b"\xfd7zXZ": "xz; unpack it",
    b"\x28\xb5\x2f\xfd": "zstd; unpack it",
    b"%PDF": "a PDF; save its texts as .csv or .jsonl",
    b"SQLite": "a database; pandas.read_sql and Labelled.from_pandas",
    b"\x80": "a pickle, which may run code; save its texts as .csv or .jsonl",
}
"""How files of other kinds begin, what they are and what to do with them."""


def check_text(content: bytes, path: Path) -> None:
    """Raise where bytes of a file are of another kind, or text in UTF-16 or UTF-32.

    What is UTF-8 without a zero in it is text, however it begins.

    Raises:
        ValueError: they are; the message says what to do.

    Example:
        >>> check_text("café".encode(), Path("x.csv"))
        >>> check_text(bytes([0x1F, 0x8B, 8]), Path("x.csv"))
        Traceback (most recent call last):
            ...
        ValueError: x.csv: holds no text but gzip; let its name end in .gz
    """
    kind = next((kind for begin, kind in BINARY.items() if content.startswith(begin)), None)
    if kind is not None and not _is_text(content):
        raise ValueError(f"{path}: holds no text but {kind}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        wide = b"\0\0" in content[:4]
        what = "UTF-32" if wide else "UTF-16, which Excel calls Unicode text"
        raise ValueError(
            f"{path}: is not UTF-8 but {what}; convert the file, e.g. "
            f"`iconv -f utf-{32 if wide else 16} -t utf-8 {path.name}`, or save it as CSV UTF-8"
        )


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False
