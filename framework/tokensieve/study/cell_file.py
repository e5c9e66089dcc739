"""The file of a finished cell: Parquet with the cell in its metadata, and a checksum of all its bytes.

The checksum lies between the columns and the footer. Every reader of Parquet skips these bytes, because footers name
columns by their place in the file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from tokensieve.errors import StudyError, listing
from tokensieve.study.rows import FORMAT, Cell, Row

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"tokensieve"
_MAGIC = b"PAR1"
_TAIL = 8
"""The bytes after a footer: its length in four bytes, and `PAR1`."""
_MARK = b"tokensieve-sha256:"
_DIGEST = hashlib.sha256().digest_size


def schema() -> pa.Schema:
    """Return the columns of a cell's file: the fields of `Row`, in their order."""
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "int | None": pa.int64(),
        "float | None": pa.float64(),
        "dict[str, float]": pa.map_(pa.string(), pa.float64()),
        "tuple[int, ...]": pa.list_(pa.int32()),
        "tuple[tuple[int, ...], ...]": pa.list_(pa.list_(pa.int32())),
        "tuple[dict[str, float], ...]": pa.list_(pa.map_(pa.string(), pa.float64())),
    }
    return pa.schema([pa.field(one.name, kinds[str(one.type)]) for one in fields(Row)])


def encode_cell(cell: Cell, rows: Sequence[Row]) -> bytes:
    """Return the content of a cell's file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Field by field, because `asdict` copies every id separately.
    columns = {one.name: [getattr(row, one.name) for row in rows] for one in fields(Row)}
    for name in ("grades", "shares"):
        columns[name] = [_pairs(value) for value in columns[name]]
    metadata = {METADATA: json.dumps({"format": FORMAT, **asdict(cell)}).encode()}
    table = pa.table(columns, schema=schema().with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = bytes(sink.getvalue().to_pybytes())
    footer = _footer_start(content)
    return content[:footer] + _MARK + hashlib.sha256(content).digest() + content[footer:]


def decode_header(content: bytes, key: str, path: str) -> Cell:
    """Return the cell of a file, after its checksum was compared.

    Args:
        content: the content of the file.
        key: the key under which the file lies.
        path: the path of the file, for messages.

    Raises:
        StudyError: if the file is damaged, was not written by this version of tokensieve, or holds another cell.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check(content, path)
    try:
        metadata = pq.read_schema(io.BytesIO(content)).metadata
        data = json.loads(metadata[METADATA])
        written = data.pop("format")
        cell = cell_of(data) if written == FORMAT else None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, StudyError) as error:
        raise _refused(path, f"was not written by this version of tokensieve ({_text(error)})") from None
    if cell is None:
        raise _refused(path, f"was written by another version of tokensieve, as {written}; this one reads {FORMAT}")
    if cell.key != key:
        raise _refused(path, f"holds another cell, {cell.key}: {cell.method} of {cell.model} on {cell.task}")
    return cell


def decode_cell(content: bytes, key: str, path: str) -> tuple[Cell, list[Row]]:
    """Return the cell of a file and its rows; see `decode_header`.

    Raises:
        StudyError: if the file is damaged, was not written by this version of tokensieve, or holds another cell.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    cell = decode_header(content, key, path)
    try:
        return cell, [_row(line) for line in pq.read_table(pa.BufferReader(content)).to_pylist()]
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _refused(path, f"has rows of another form ({_text(error)})") from None


def cell_of(data: dict[str, Any]) -> Cell:
    """Return a cell from plain data.

    Raises:
        StudyError: if the data has fields that a cell does not have, or lacks some.
    """
    known = {one.name for one in fields(Cell)}
    if set(data) - known:
        raise StudyError(f"a cell has no {listing(set(data) - known)}; it was written by another version of tokensieve")
    try:
        grid = data["grid"]
        return Cell(**{**data, "grid": None if grid is None else (grid[0], grid[1]), "notes": tuple(data["notes"])})
    except (KeyError, TypeError, IndexError) as error:
        raise StudyError(f"a cell cannot be read: {_text(error)}") from None


def _check(content: bytes, path: str) -> None:
    """Raise a StudyError if a file is empty, cut off, or its checksum is missing or wrong."""
    if not content:
        raise _refused(path, "is empty")
    footer = _footer_start(content)
    begin = footer - _DIGEST - len(_MARK)
    if content[:4] != _MAGIC or content[-4:] != _MAGIC or begin < len(_MAGIC):
        raise _refused(path, f"is damaged or cut off: its {len(content):,} bytes are no whole Parquet file")
    mark, digest = content[begin : begin + len(_MARK)], content[footer - _DIGEST : footer]
    if mark != _MARK:
        raise _refused(path, "has no checksum: it is damaged, or was not written by this version of tokensieve")
    if hashlib.sha256(content[:begin] + content[footer:]).digest() != digest:
        raise _refused(path, "is damaged: its content does not match its checksum")


def _footer_start(content: bytes) -> int:
    return len(content) - _TAIL - int.from_bytes(content[-_TAIL:-4], "little")


def _refused(path: str, what: str) -> StudyError:
    return StudyError(f"{path} {what}; run the study again to replace it, or remove it")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _pairs(value: Any) -> Any:
    return list(value.items()) if isinstance(value, dict) else [list(one.items()) for one in value]


def _row(line: dict[str, Any]) -> Row:
    line["grades"] = dict(line["grades"])
    line["shares"] = tuple(dict(one) for one in line["shares"])
    line["per_layer"] = tuple(line["per_layer"])
    line["kept"] = tuple(tuple(one) for one in line["kept"])
    return Row(**line)
