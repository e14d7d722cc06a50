"""Unreadable records of faulty clients: each is reported and affects no other."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecord, DefaultRecordBatchBuilder

from scorer.stream.dead_letters import UNREADABLE
from scorer.stream.kafka.records import MAX_HEADERS, HeaderName, TolerantBatch

Header = tuple[str, bytes | None]


def pack(*headers: Sequence[Header], values: Sequence[bytes] = ()) -> bytearray:
    """Return the batch of a record for each list of headers."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**30)
    for offset, each in enumerate(headers):
        value = values[offset] if values else b"value %d" % offset
        builder.append(offset, 1000 + offset, b"key", value, list(each))
    return bytearray(builder.build())


def unpack(data: bytes | bytearray) -> list[DefaultRecord]:
    """Return the records of a batch."""
    return list(iter(TolerantBatch(data)))


def test_names_of_any_bytes_and_absent_values_are_kept() -> None:
    """Names keep their bytes, and absent values stay absent."""
    name = b"a\xff\xc3"
    records = unpack(pack([], [(HeaderName(name.decode("utf-8", "surrogateescape")), b"v"), ("null", None)], []))
    assert [record.value for record in records] == [b"value 0", b"value 1", b"value 2"]
    assert [(each.encode(), value) for each, value in records[1].headers] == [(name, b"v"), (b"null", None)]
    assert [record.timestamp for record in records] == [1000, 1001, 1002]


def test_a_record_with_too_many_headers_is_unreadable() -> None:
    """It is replaced by a record that states the reason; its neighbours are read."""
    before, bad, after = unpack(pack([], [("", b"")] * (MAX_HEADERS + 1), [("n", b"v")] * MAX_HEADERS))
    assert (before.value, after.value, len(after.headers)) == (b"value 0", b"value 2", MAX_HEADERS)
    assert (bad.offset, bad.key, bad.value) == (1, None, None)
    assert bad.headers == [(UNREADABLE, b"it has 1001 headers; at most 1000 are read")]


def test_a_record_whose_parts_do_not_fit_is_unreadable() -> None:
    """A value longer than its record is not read from the next one."""
    data = pack([], [], [], values=[b"aaaa", b"bbbb", b"cccc"])
    data[data.index(b"bbbb") - 1] += 2 * 40
    before, bad, after = unpack(data)
    assert (before.value, after.value) == (b"aaaa", b"cccc")
    assert (bad.offset, bad.value, bad.headers[0][0]) == (1, None, UNREADABLE)


def test_a_wrong_length_makes_the_rest_of_the_batch_unreadable() -> None:
    """One record replaces all that cannot be found and names their offsets."""
    data = pack([], [], [])
    _, bad = unpack(data[:-12])[1:]
    assert (bad.offset, bad.value) == (2, None)
    data[61] = 0x7F  # the length of the first record: -64
    (bad,) = unpack(data)
    assert bad.headers == [(UNREADABLE, b"the batch ends within a record (offsets 0 to 2 with it)")]


def test_a_batch_that_cannot_be_unpacked_is_one_record() -> None:
    """A batch with invalid compressed bytes is replaced by one record."""
    data = pack([], [])
    data[22] |= 1  # gzip
    (bad,) = unpack(data)
    assert bad.offset == 0
    assert bad.headers[0][1].startswith(b"the batch cannot be unpacked")


@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_batches_end(data: st.DataObject) -> None:
    """With any bytes offsets rise within the batch, and reading ends without an error."""
    batch = pack([], [("name", b"v")], [("other", None)])
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(61, len(batch) - 1))
        batch[position] = data.draw(st.integers(0, 255))
    offsets = [record.offset for record in unpack(batch)]
    assert set(offsets) <= {0, 1, 2}
    assert offsets == sorted(set(offsets))
