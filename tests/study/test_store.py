"""The store: what is written is read back, whole or not at all, once."""

import errno
import json
import os
import random
import threading
import time
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokensieve.errors import StudyError
from tokensieve.study import cell_file
from tokensieve.study import store as module
from tokensieve.study.cell_file import METADATA, schema
from tokensieve.study.rows import Failure, Row
from tokensieve.study.store import Store

from .made import cell, row, write_forever


def names(store, folder):
    return sorted(path.name for path in Path(store.path, folder).iterdir())


def test_what_is_written_is_read_back(store):
    rows = [row(i, recall=None if i else 0.5, kept=((), (i,)), answer="ä\0漢") for i in range(3)]
    assert store.write(cell(), rows)
    assert store.read(cell().key) == (cell(), rows)
    assert list(store.cells()) == [cell()]
    assert store.keys() == [cell().key]
    empty = cell("1" * 32, grid=None, recipe=None, notes=())
    store.write(empty, [])
    assert store.read(empty.key) == (empty, [])


ids = st.integers(0, 2**31 - 1)
number = st.floats(allow_nan=False)
KINDS = {
    "str": st.text(),
    "int": st.integers(0, 2**63 - 1),
    "float": number,
    "int | None": st.none() | st.integers(0, 2**63 - 1),
    "float | None": st.none() | number,
    "dict[str, float]": st.dictionaries(st.text(), number, max_size=3),
    "tuple[int, ...]": st.lists(ids, max_size=4).map(tuple),
    "tuple[tuple[int, ...], ...]": st.lists(st.lists(ids, max_size=4).map(tuple), max_size=3).map(tuple),
    "tuple[dict[str, float], ...]": st.lists(st.dictionaries(st.text(), number, max_size=3), max_size=3).map(tuple),
}


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.builds(Row, **{one.name: KINDS[one.type] for one in fields(Row)}), max_size=3))
def test_any_row_survives(tmp_path_factory, rows):
    store = Store(tmp_path_factory.mktemp("rows"))
    store.begin("", {})
    store.write(cell(), rows)
    assert store.read(cell().key)[1] == rows


def test_the_file_is_what_the_contract_says(store):
    store.write(cell(), [row()])
    table = pq.read_table(Path(store.path, "cells", f"{cell().key}.parquet"))
    assert table.schema.names == [one.name for one in fields(Row)]
    assert table.schema.field("grades").type == pa.map_(pa.string(), pa.float64())
    assert table.schema.field("per_layer").type.value_type == pa.int32()
    assert table.schema.field("kept").type.value_type.value_type == pa.int32()
    assert table.schema.field("shares").type.value_type == pa.map_(pa.string(), pa.float64())
    assert json.loads(table.schema.metadata[METADATA])["card"] == cell().card
    assert schema().names == table.schema.names


def test_nothing_is_overwritten(store):
    assert store.write(cell(), [row(1)])
    assert not store.write(cell(), [row(2)])
    assert store.read(cell().key)[1] == [row(1)]
    assert names(store, "cells") == [f"{cell().key}.parquet"]


def test_nothing_is_overwritten_where_two_come_at_once(store, monkeypatch):
    """The other one writes after we looked and before our file has its name."""
    real = os.fsync

    def late(descriptor):
        monkeypatch.setattr(os, "fsync", real)
        assert Store(store.path).write(cell(), [row(1)])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    assert not store.write(cell(), [row(2)])
    assert store.read(cell().key)[1] == [row(1)]
    assert len(names(store, "cells")) == 1


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_leaves_nothing_behind(store, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    if call == "fsync":
        with pytest.raises(OSError, match="No space left"):
            store.write(cell(), [row()])
        assert names(store, "cells") == []
        assert not store.has(cell().key)
    else:
        # A file system without links takes another way.
        assert store.write(cell(), [row()])
        assert names(store, "cells") == [f"{cell().key}.parquet"]


def test_failures_until_it_succeeds(store):
    before = time.time()
    store.write_failure(Failure(cell(), "ValueError: no", "Traceback"))
    assert store.failures() == [Failure(cell(), "ValueError: no", "Traceback")]
    assert store.failed_since(cell().key, before)
    assert not store.failed_since(cell().key, time.time() + 1)
    assert not store.failed_since("f" * 32, 0)
    store.write(cell(), [row()])
    assert store.failures() == []
    assert names(store, "failures") == []


def test_only_cells_of_the_latest_plan_count(store):
    old, new = cell("a" * 32), cell("b" * 32)
    for one in (old, new):
        store.write(one, [row()])
    store.write_failure(Failure(cell("c" * 32), "x", ""))
    assert store.keys() == [old.key, new.key]
    store.begin("name: later\n", {"keys": [new.key, "d" * 32], "skipped": []})
    assert store.keys() == [new.key]
    assert list(store.cells()) == [new]
    assert store.failures() == []
    assert store.finished() == {old.key, new.key}
    assert store.study() == "name: later\n"
    assert store.plan()["skipped"] == []


def test_what_is_no_store(tmp_path, store):
    with pytest.raises(StudyError, match="no folder of a study"):
        Store(tmp_path / "none").study()
    assert Store(tmp_path / "none").keys() == []
    assert Store(tmp_path / "none").failures() == []
    with pytest.raises(StudyError, match="has no cell"):
        store.read("0" * 32)
    file = Path(store.path, "cells", f"{'0' * 32}.parquet")
    file.write_bytes(b"no parquet")
    with pytest.raises(StudyError, match="no whole Parquet file"):
        store.read("0" * 32)
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(StudyError, match="not written by this version of tokensieve"):
        store.read("0" * 32)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="nothing can be written"):
        Store(tmp_path / "file").begin("", {})


def test_other_versions_are_told_apart(store, monkeypatch):
    monkeypatch.setattr(cell_file, "FORMAT", "tokensieve.cell/0")
    store.write(cell(), [row()])
    monkeypatch.undo()
    with pytest.raises(StudyError, match="another version"):
        store.read(cell().key)


# Damage


def damaged_copies(content, draw):
    """Return copies of a file that are not the file."""
    yield b""
    for _ in range(20):
        yield content[: draw.randrange(len(content))]
    for _ in range(200):
        place = draw.randrange(len(content))
        yield content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    for _ in range(20):
        first, last = sorted(draw.sample(range(len(content)), 2))
        yield content[:first] + bytes(last - first) + content[last:]
    yield content + b"more"
    yield content[:100] + content


def test_a_damaged_file_is_no_finished_cell_and_is_named(store):
    store.write(cell(), [row(i, answer="word " * i) for i in range(20)])
    file = Path(store.path, "cells", f"{cell().key}.parquet")
    whole = file.read_bytes()
    for content in damaged_copies(whole, random.Random(5)):  # noqa: S311 - places, no secrets
        if content == whole:
            continue
        file.write_bytes(content)
        with pytest.raises(StudyError, match=f"{file} .*run the study again") as caught:
            store.read(cell().key)
        again = Store(store.path)
        assert not again.has(cell().key)
        assert (again.finished(), again.keys(), list(again.cells())) == (set(), [], [])
        assert again.damaged() == {cell().key: str(caught.value)}


def test_the_damage_of_a_file_that_was_read_before_is_seen(store):
    store.write(cell(), [row()])
    assert store.finished() == {cell().key}
    file = Path(store.path, "cells", f"{cell().key}.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    assert store.finished() == set()
    assert not store.has(cell().key)


def test_a_damaged_file_is_replaced_and_kept_aside(store):
    file = Path(store.path, "cells", f"{cell().key}.parquet")
    file.write_bytes(b"PAR1")
    assert store.write(cell(), [row()])
    assert store.read(cell().key) == (cell(), [row()])
    assert names(store, "cells") == [file.name, f"{file.name}.damaged"]
    assert store.damaged() == {}


def test_another_cell_s_file_is_not_this_cell_s(store):
    store.write(cell(), [row()])
    file, other = (Path(store.path, "cells", f"{digit * 32}.parquet") for digit in "01")
    other.write_bytes(file.read_bytes())
    assert store.finished() == {"0" * 32}
    with pytest.raises(StudyError, match=rf"{other} holds another cell, {'0' * 32}: gsp of m on t"):
        store.read("1" * 32)


def test_a_damaged_file_elsewhere_is_seen(remote):
    remote.write(cell(), [row()])
    place = f"{remote._root}/cells/{cell().key}.parquet"
    remote._fs.pipe_file(place, remote._fs.cat_file(place)[:-9])
    assert not remote.has(cell().key)
    assert remote.write(cell(), [row(1)])
    assert remote.read(cell().key)[1] == [row(1)]


BROKEN = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"keys": 3}', b'{"keys": [1]}', b'{"keys": ["a"], "skipped": [1]}']


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_plan_names_itself(store, content):
    file = Path(store.path, "plan.json")
    file.write_bytes(content)
    for call in (store.plan, store.keys, store.failures):
        with pytest.raises(StudyError, match=f"{file} cannot be read"):
            call()


@pytest.mark.parametrize("content", [*BROKEN, b'{"cell": {}, "reason": "", "trace": ""}'])
def test_a_broken_failure_names_itself_and_its_cell_is_tried_again(store, content):
    file = Path(store.path, "failures", f"{cell().key}.json")
    file.write_bytes(content)
    with pytest.raises(StudyError, match=f"{file} cannot be read"):
        store.failures()
    assert not store.failed_since(cell().key, 0)
    store.write_failure(Failure(cell(), "no", ""))
    assert [one.reason for one in store.failures()] == ["no"]


def test_a_broken_study_names_itself(store):
    file = Path(store.path, "study.yaml")
    file.write_bytes(b"name: \xff")
    with pytest.raises(StudyError, match=f"{file} cannot be read"):
        store.study()


def test_what_a_killed_writer_left_is_cleared_when_it_is_old(store):
    fresh, old = (Path(store.path, "cells", f".x.{name}.part") for name in ("fresh", "old"))
    for file in (fresh, old):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert store.keys() == []
    store.begin("", {})
    assert fresh.exists()
    assert not old.exists()


# Claims


def test_a_claim_is_one_process_s(store):
    other = Store(store.path)
    with store.claim("k") as ours:
        assert ours
        with other.claim("k") as theirs, other.claim("l") as free:
            assert not theirs
            assert free
    with other.claim("k") as theirs:
        assert theirs
    assert names(store, "claims") == []


def test_a_claim_of_many_threads_at_once_is_one_s(store):
    holders, most = [0], [0]

    def work():
        for _ in range(40):
            with Store(store.path).claim("k") as ours:
                if ours:
                    holders[0] += 1
                    most[0] = max(most[0], holders[0])
                    time.sleep(0.0005)
                    holders[0] -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1]


@pytest.fixture
def remote(tmp_path):
    """A store that is no folder."""
    made = Store(f"memory://{tmp_path.name}")
    made.begin("name: far\n", {})
    return made


def test_a_store_that_is_no_folder(remote):
    assert remote.study() == "name: far\n"
    assert remote.write(cell(), [row()])
    assert not remote.write(cell(), [row(1)])
    assert remote.has(cell().key)
    assert Store(remote.path).read(cell().key) == (cell(), [row()])
    assert remote.keys() == [cell().key]
    remote.write_failure(Failure(cell("1" * 32), "no", ""))
    assert [failure.reason for failure in remote.failures()] == ["no"]


def test_leases_are_taken_over_when_their_owner_is_silent(remote, monkeypatch):
    with remote.claim("k") as ours:
        assert ours
        with Store(remote.path).claim("k") as theirs:
            assert not theirs
    monkeypatch.setattr(module, "STALE_SECONDS", 0.2)
    # Its owner was killed: nobody removed it and it beats no more.
    remote._write_heartbeat(f"{remote._root}/claims/k", "a dead process")
    with remote.claim("k") as ours:
        assert not ours
    time.sleep(0.25)
    with remote.claim("k") as ours:
        assert ours


def test_a_lease_beats_while_its_owner_lives(remote, monkeypatch):
    monkeypatch.setattr(module, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    with remote.claim("k") as ours:
        assert ours
        time.sleep(0.5)
        with Store(remote.path).claim("k") as theirs:
            assert not theirs


# Killed at any moment


def test_killed_writers_lose_and_double_nothing(store, processes):
    draw = random.Random(1)  # noqa: S311 - moments, no secrets
    for turn in range(4):
        workers = [processes.Process(target=write_forever, args=(store.path, turn * 2 + n)) for n in range(2)]
        for worker in workers:
            worker.start()
        # Not before the first has written something.
        patience = time.monotonic() + 20
        known = len(store.finished())
        while len(store.finished()) == known and time.monotonic() < patience and known < 40:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.03)
        for worker in workers:
            worker.kill()
            worker.join()
    # A claim of a killed process is free at once.
    for number in range(40):
        with store.claim(f"{number:032x}") as ours:
            assert ours
    assert store.finished()
    for key in store.finished():
        found, rows = store.read(key)
        assert found == cell(key)
        assert [(one.sample, one.answer) for one in rows] == [(f"s{i}", key) for i in range(20)]
