from __future__ import annotations

import io
import itertools
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.tar import (
    BLOCK,
    END_OF_ARCHIVE,
    FILE,
    Member,
    iter_members,
    scan,
    tar_bytes,
    walk,
)

LONG = "folder/" + "x" * 120 + "/" + "ü" * 90 + ".jpg"


def foreign(names: list[str], tar_format: int = tarfile.USTAR_FORMAT, **attributes: object) -> bytes:
    """A tar by Python's tarfile, whose members hold their own name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            content = name.encode() if info.isreg() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def walked(data: bytes) -> list[Member]:
    return list(walk(lambda position, size: data[position : position + size], len(data)))


def read(data: bytes) -> list[tuple[str, bytes]]:
    return [(name, bytes(content)) for name, content in iter_members(data)]


@given(st.lists(st.tuples(st.from_regex(r"\A[\wäöü-][\wäöü.-]{0,149}\.jpg\Z"), st.binary(max_size=1100)), max_size=5))
def test_tar_bytes__is_read_by_tarfile_and_by_us(members: list[tuple[str, bytes]]) -> None:
    data = b"".join(tar_bytes(name, content) for name, content in members) + END_OF_ARCHIVE
    assert len(data) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        theirs = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert read(data) == theirs == members


def test_tar_bytes__holds_no_time_and_no_owner() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_bytes("a.jpg", b"x") + END_OF_ARCHIVE)) as tar:
        (info,) = tar
    assert (info.mtime, info.uid, info.gid, info.mode, info.uname, info.gname) == (0, 0, 0, 0o644, "", "")


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_walk__reads_long_names_of_others(tar_format: int) -> None:
    names = ["a.jpg", LONG, "b.jpg"]
    assert read(foreign(names, tar_format)) == [(name, name.encode()) for name in names]


def test_walk__a_long_name_starts_at_its_own_header() -> None:
    data = tar_bytes("a.jpg", b"x") + tar_bytes(LONG, b"y")
    members = walked(data)
    assert [member.start for member in members] == [0, 2 * BLOCK]
    assert [member.end for member in members] == [2 * BLOCK, len(data)]


def test_walk__reads_the_ustar_prefix() -> None:
    name = "p" * 100 + "/" + "n" * 90 + ".jpg"
    assert read(foreign([name])) == [(name, name.encode())]


def test_walk__passes_over_folders_and_a_leading_dot() -> None:
    data = foreign(["./"], type=tarfile.DIRTYPE)[:BLOCK] + foreign(["./a.jpg"])
    assert read(data) == [("a.jpg", b"./a.jpg")]


@pytest.mark.parametrize("version", [b"GNU.sparse.size=4194304", b"GNU.sparse.map=0,512", b"GNU.sparse.major=1"])
def test_walk__a_file_with_holes_is_refused_in_pax_too(version: bytes) -> None:
    record = b" %s\n" % version
    record = b"%d%s" % (len(record) + 2, record)
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    data = info.tobuf() + record + bytes(-len(record) % BLOCK) + tar_bytes("a.jpg", b"x")
    with pytest.raises(BadSample, match="holes") as caught:
        read(data)
    assert caught.value.reason == "not_a_file"


def test_iter_members__reads_what_walk_finds_whatever_stands_first() -> None:
    plain, long, folder = tar_bytes("a.jpg", b"x"), tar_bytes(LONG, b"y"), foreign(["c/"], type=tarfile.DIRTYPE)[:BLOCK]
    for parts in itertools.permutations([plain, long, folder, foreign(["./c/b.png"])[: 2 * BLOCK]]):
        data = b"".join(parts)
        files = [member for member in walked(data) if member.kind in FILE]
        expected = [(member.name, data[member.offset : member.offset + member.size]) for member in files]
        assert read(data) == expected
        assert sorted(name for name, _ in expected) == sorted(["a.jpg", LONG, "c/b.png"])


def test_iter_members__leaves_out_hidden_files_but_not_those_in_hidden_folders() -> None:
    data = foreign([".DS_Store", "a/._b.jpg", "a/b.jpg", ".c/d.jpg", ".jpg"])
    assert [name for name, _ in read(data)] == ["a/b.jpg", ".c/d.jpg"]


def test_walk__reads_sizes_in_base_256() -> None:
    header = bytearray(tar_bytes("a.jpg", b"hello")[:BLOCK])
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert read(bytes(header) + b"hello" + bytes(BLOCK - 5)) == [("a.jpg", b"hello")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_walk__refuses_links_and_devices(kind: bytes) -> None:
    with pytest.raises(BadSample, match=r"evil\.jpg") as caught:
        read(foreign(["evil.jpg"], type=kind, linkname="/etc/passwd"))
    assert caught.value.reason == "not_a_file"


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.jpg", "a/../../up.jpg"])
def test_walk__refuses_names_that_leave_the_folder(name: str) -> None:
    with pytest.raises(BadSample) as caught:
        read(foreign([name]))
    assert caught.value.reason == "unsafe_name"


def test_walk__finds_a_cut_inside_a_member() -> None:
    data = tar_bytes("a.jpg", bytes(600)) + tar_bytes("b.jpg", bytes(600))
    whole = len(data) // 2
    for length in (1, 511, 512, 513, 1200, whole + 1, whole + 600, len(data) - 1):
        with pytest.raises(BadSample) as caught:
            walked(data[:length])
        assert caught.value.reason in ("truncated_tar", "damaged_tar")


def test_walk__finds_every_flipped_bit_of_a_header() -> None:
    data = tar_bytes("a.jpg", b"x") + END_OF_ARCHIVE
    fixed = [*range(148), *range(156, BLOCK)]  # the checksum's own field has spare spaces
    for byte in fixed:
        flipped = bytearray(data)
        flipped[byte] ^= 1 << byte % 8
        with pytest.raises(BadSample):
            walked(bytes(flipped))


@pytest.mark.parametrize("records", [b"30 path=too-long.jpg\n", b"x path=a\n", b"0 path=a\n", b"nothing"])
def test_walk__a_damaged_extended_header_is_named(records: bytes) -> None:
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf() + records + bytes(-len(records) % BLOCK) + tar_bytes("a.jpg", b"x")
    with pytest.raises(BadSample) as caught:
        read(data)
    assert caught.value.reason == "damaged_tar"


def test_walk__noise_is_a_named_error() -> None:
    with pytest.raises(BadSample, match="no tar"):
        walked(np.random.default_rng(0).bytes(2048))


def scanned(data: bytes) -> list[tuple[str, bool, bytes]]:
    members = scan(lambda position, size: data[position : position + size])
    return [(name, kind in FILE, data[offset : offset + size]) for name, kind, _, offset, size in members]


def test_scan__passes_on_links_which_have_no_content_and_long_targets() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, target in (
            ("soft.jpg", tarfile.SYMTYPE, LONG),
            (LONG, tarfile.LNKTYPE, LONG),
            ("a.jpg", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 4  # links state a size, as some writers do
            tar.addfile(info, io.BytesIO(b"here") if kind == tarfile.REGTYPE else None)
    assert scanned(file.getvalue()) == [("soft.jpg", False, b""), (LONG, False, b""), ("a.jpg", True, b"here")]


def test_scan__a_name_of_gigabytes_is_not_read() -> None:
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    with pytest.raises(BadSample, match="4,294,967,296 bytes"):
        scanned(info.tobuf() + END_OF_ARCHIVE)
