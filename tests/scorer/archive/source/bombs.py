"""Decompression bombs: small or sparse archives that state, or inflate to, gigabytes."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GIB = 2**30


def write_parquet_values(path: Path, rows: int = 8, mib: int = 200) -> None:
    """Write rows that inflate to 200 MiB, each in its own page."""
    value = b"\xff\xd8\xff" + bytes(mib << 20)
    schema = pa.schema([("jpg", pa.large_binary())])
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=False, write_batch_size=1, data_page_size=1
    ) as writer:
        column = pa.chunked_array([pa.array([value], pa.large_binary())] * rows)
        writer.write_table(pa.table({"jpg": column}), row_group_size=rows)


def write_parquet_dictionary(path: Path) -> None:
    """Write 1,000 rows that refer to one dictionary value of 100 MiB."""
    values = pa.array([bytes(100 << 20)], pa.large_binary())
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), values)
    pq.write_table(pa.table({"jpg": column}), path, compression="zstd", dictionary_pagesize_limit=GIB)


def write_parquet_page(path: Path) -> None:
    """Write a page whose header falsely states that it inflates to 2 GiB."""
    table = pa.table({"jpg": [bytes(1000)] * 3})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    # A header begins with its type (2 bytes) and the field of the inflated size.
    assert data[start : start + 3] == b"\x15\x00\x15"
    old = data[start + 3 : start + 5]  # a little more than 3,000: a number of two bytes
    assert old[1] < 128 <= old[0]
    longer = b"\xfe\xff\xff\xff\x0f"  # 2^31 - 1
    data[start + 3 : start + 5] = longer
    footer = int.from_bytes(data[-8:-4], "little")
    del data[-8 - footer :]
    grown = pq.read_metadata(path)
    assert grown.num_rows == 3
    data += path.read_bytes()[-8 - footer :]
    path.write_bytes(data)


def write_parquet_footer(path: Path) -> None:
    """Write a footer of 9 MB whose structures take 2 GiB of memory."""

    def many(item: bytes, count: int) -> bytes:
        digits = bytearray()
        while count > 127:
            digits.append(count & 127 | 128)
            count >>= 7
        return b"\xfc" + bytes([*digits, count]) + item * (count if not digits else 0)

    columns = 300_000
    chunk = b"\x26\x00\x00"
    group = b"\x19" + many(b"", columns) + chunk * columns + b"\x16\x00\x16\x00\x00"
    schema = b"\x2c\x48\x01r\x15\x02\x00\x15\x0c\x25\x00\x18\x01a\x00"
    footer = b"\x15\x02\x19" + schema + b"\x16\x00\x19" + many(b"", 16) + group * 16 + b"\x00"
    path.write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")


def write_parquet_lists(path: Path) -> None:
    """Write a row whose list has 2^25 equal boxes."""
    values = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()).take(pa.array([0] * 2**20)), pa.array([1.5]))
    numbers = pa.concat_arrays([values] * 32).cast(pa.float64())
    column = pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)
    pq.write_table(pa.table({"jpg": [b"a"], "faces": column}), path, compression="zstd")


def _member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def write_tar_size(path: Path) -> None:
    """Write a member that states 8 EiB."""
    path.write_bytes(_member("a.jpg", 2**63 - 1) + bytes(1024))


def write_tar_name(path: Path) -> None:
    """Write a long name of 1 GiB, as a sparse file."""
    _write_hole(path, _member("././@LongLink", GIB, tarfile.GNUTYPE_LONGNAME))


def write_tar_pax(path: Path) -> None:
    """Write an extended header of 1 GiB, as a sparse file."""
    _write_hole(path, _member("pax", GIB, tarfile.XHDTYPE))


def write_tar_chain(path: Path) -> None:
    """Write a chain of 700 long names of 1 MiB each, as a sparse file."""
    header = _member("././@LongLink", 2**20, tarfile.GNUTYPE_LONGNAME)
    with path.open("wb") as file:
        for link in range(700):
            file.seek(link * (2**20 + 512))
            file.write(header)
        file.truncate(700 * (2**20 + 512) + 1024)


def write_tar_globals(path: Path) -> None:
    """Write 500 global headers of 256 KiB with different names, each followed by a member."""
    with path.open("wb") as file:
        for number in range(500):
            record = f"{2**18} k{number:06d}=".encode()
            file.write(_member("pax", 2**18, tarfile.XGLTYPE))
            file.write(record + b"x" * (2**18 - len(record) - 1) + b"\n")
            file.write(_member(f"{number}.jpg", 0))
        file.write(bytes(1024))


def write_tar_sparse(path: Path) -> None:
    """Write a member whose map of a sparse file is 64 MiB long."""
    header = io.BytesIO()
    with tarfile.open(fileobj=header, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
        member.size = 64 << 20
        archive.addfile(member)
    path.write_bytes(header.getvalue()[:1536] + b"99999999\n" + b"0\n" * (32 << 20) + bytes(1024))


def _write_hole(path: Path, header: bytes) -> None:
    with path.open("wb") as file:
        file.write(header)
        file.truncate(GIB + 2048)


def write_csv_line(path: Path) -> None:
    """Write a valid header and a line of 1 GiB, as a sparse file."""
    with path.open("wb") as file:
        file.write(b"uri\n" + b"a" * 2048)
        file.truncate(GIB)


def write_csv_row(path: Path) -> None:
    """Write a row of 100 MiB of quoted lines."""
    path.write_bytes(b"uri\n" + b'"a\nb",' * (100 << 20 >> 3))


def write_csv_columns(path: Path) -> None:
    """Write a header of 200,000 columns, and 20,000 short rows."""
    path.write_bytes(b"uri" + b",a" * 200_000 + b"\n" + b"a.jpg\n" * 20_000)


def write_jsonl_line(path: Path) -> None:
    """Write a line of 64 MiB that contains only empty lists."""
    path.write_bytes(b'{"uri": [' + b"[]," * (64 << 20 >> 2) + b"[]]}\n")


def write_jsonl_faces(path: Path) -> None:
    """Write a row whose faces are 900 kB of JSON text with only empty lists."""
    path.write_text(json.dumps({"uri": "a.jpg", "faces": "[" + "[]," * 300_000 + "[]]"}) + "\n", encoding="utf-8")


BOMBS: dict[str, Callable[[Path], None]] = {
    "values.parquet": write_parquet_values,
    "dictionary.parquet": write_parquet_dictionary,
    "page.parquet": write_parquet_page,
    "footer.parquet": write_parquet_footer,
    "lists.parquet": write_parquet_lists,
    "size.tar": write_tar_size,
    "name.tar": write_tar_name,
    "pax.tar": write_tar_pax,
    "chain.tar": write_tar_chain,
    "globals.tar": write_tar_globals,
    "sparse.tar": write_tar_sparse,
    "line.csv": write_csv_line,
    "row.csv": write_csv_row,
    "columns.csv": write_csv_columns,
    "line.jsonl": write_jsonl_line,
    "faces.jsonl": write_jsonl_faces,
}
