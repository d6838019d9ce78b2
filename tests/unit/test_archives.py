"""service/trainer/archives.py: what strangers send is read within bounds, or refused in one error."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidArchive
from service.trainer.archives import HEADER_BYTES, Limits, open_archive

LIMITS = Limits(members=100, unpacked_bytes=200 * 2**20, member_bytes=2**20)
FILES = {"cats/a.jpg": b"A" * 700, "dogs/b.jpg": b"B" * 512, "metadata.csv": b"file_name,label\n"}
MiB = 2**20


def zip_of(files, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_gz_of(files):
    return tar_of(files, "w:gz")


def opened(folder: Path, data: bytes, limits=LIMITS):
    path = folder / "archive"
    path.write_bytes(data)
    return open_archive(path, limits, lambda name: name.endswith("metadata.csv"))


def contents_of(archive):
    wanted = {member.index: member.path for member in archive.members}
    return {wanted[index]: data for index, data in archive.contents(wanted)}


def link(name, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize("pack", [zip_of, tar_of, tar_gz_of])
def test_members_and_documents_are_read_as_they_were_packed(pack, tmp_path):
    archive = opened(tmp_path, pack(FILES))
    assert [member.path for member in archive.members] == list(FILES)
    assert [member.error for member in archive.members] == [None] * 3
    assert archive.documents == {"metadata.csv": FILES["metadata.csv"]}
    assert contents_of(archive) == FILES


@pytest.mark.parametrize("pack", [zip_of, tar_of, tar_gz_of])
def test_only_wanted_members_are_read(pack, tmp_path):
    archive = opened(tmp_path, pack(FILES))
    assert list(archive.contents({1})) == [(1, FILES["dogs/b.jpg"])]


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_hidden_files_and_macos_leftovers_are_no_members(pack, tmp_path):
    names = ["__MACOSX/cats/._a.jpg", "cats/.DS_Store", ".git/x.jpg", "./cats/a.jpg"]
    archive = opened(tmp_path, pack(dict.fromkeys(names, b"x")))
    assert [member.path for member in archive.members] == ["cats/a.jpg"]


def test_folders_are_no_members(tmp_path):
    folder = tarfile.TarInfo("cats")
    folder.type = tarfile.DIRTYPE
    assert opened(tmp_path, tar_of({folder: b""})).members == ()
    assert opened(tmp_path, zip_of({"cats/": b""})).members == ()


@pytest.mark.parametrize("pack", [zip_of, tar_of, tar_gz_of])
@pytest.mark.parametrize(
    "name",
    ["../x.jpg", "cats/../../x.jpg", "/etc/x.jpg", "..\\x.jpg", "C:\\x.jpg", "cats/.."],
)
def test_a_path_that_leads_out_condemns_the_archive(pack, name, tmp_path):
    with pytest.raises(InvalidArchive, match="leads out of it"):
        opened(tmp_path, pack({"cats/a.jpg": b"fine", name: b"x"}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"Hello, this is text, not an archive.\n" * 40,
        zip_of(FILES)[:-30],
        tar_of(FILES)[:1500],
        tar_gz_of(FILES)[:-20],
        gzip.compress(b"no tar at all"),
        b"\x1f\x8b\x08\x00garbage",
        b"7z\xbc\xaf'\x1c" + bytes(600),
    ],
    ids=["empty", "zip-magic-only", "text", "zip-cut", "tar-cut", "gz-cut", "gz-of-text", "gz-broken", "7z"],
)
def test_what_is_no_whole_archive_is_refused(data, tmp_path):
    with pytest.raises(InvalidArchive):
        opened(tmp_path, data)


@pytest.mark.parametrize("data", [zip_of({}), tar_of({}), tar_gz_of({})], ids=["zip", "tar", "gz"])
def test_an_archive_of_nothing_has_no_members(data, tmp_path):
    assert opened(tmp_path, data).members == ()


@pytest.mark.parametrize("pack", [zip_of, tar_gz_of])
def test_a_bomb_is_refused_before_it_is_unpacked(pack, tmp_path):
    data = pack({f"{number}.jpg": bytes(30 * MiB) for number in range(3)})
    assert len(data) < MiB
    with pytest.raises(InvalidArchive, match="unpacks to more"):
        opened(tmp_path, data)


def test_a_zip_that_lies_about_a_size_loses_that_member_only(tmp_path):
    """zipfile stops at the size that was declared, so the bomb's rest is never inflated."""
    data = zip_of({"a.jpg": bytes(MiB), "b.jpg": b"fine"})
    lie = data.replace(struct.pack("<L", MiB), struct.pack("<L", 10))
    found = contents_of(opened(tmp_path, lie))
    assert isinstance(found["a.jpg"], InvalidArchive)
    assert found["b.jpg"] == b"fine"


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_member_over_the_limit_fails_alone(pack, tmp_path):
    archive = opened(tmp_path, pack({"big.jpg": os.urandom(MiB + 1), "a.jpg": b"fine"}))
    assert [bool(member.error) for member in archive.members] == [True, False]


@pytest.mark.parametrize("pack", [zip_of, tar_of, tar_gz_of])
def test_too_many_members_are_refused(pack, tmp_path):
    with pytest.raises(InvalidArchive, match="more than the 100 members"):
        opened(tmp_path, pack({f"{number}.jpg": b"" for number in range(101)}))


def test_a_zip_directory_is_bounded_before_it_is_parsed(tmp_path):
    limits = Limits(members=1, unpacked_bytes=MiB)
    names = {f"{number}" + "x" * 60_000: b"" for number in range(20)}
    with pytest.raises(InvalidArchive, match="directory is larger"):
        opened(tmp_path, zip_of(names), limits)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE], ids=list("slcp")
)
def test_links_and_devices_in_a_tar_are_not_followed(kind, tmp_path):
    archive = opened(tmp_path, tar_of({link("x.jpg", kind): b"", "a.jpg": b"fine"}))
    assert [bool(member.error) for member in archive.members] == [True, False]


def test_links_in_a_zip_are_not_followed(tmp_path):
    info = zipfile.ZipInfo("x.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = opened(tmp_path, zip_of({info: "/etc/passwd"}))
    assert "link" in str(archive.members[0].error)


def test_an_encrypted_member_says_so(tmp_path):
    data = bytearray(zip_of({"a.jpg": b"secret", "b.jpg": b"fine"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the first directory entry
    archive = opened(tmp_path, bytes(data))
    assert "encrypted" in str(archive.members[0].error)
    assert archive.members[1].error is None


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compressions_fail_alone(method, tmp_path):
    """Their dictionaries may take gigabytes to read a small member."""
    assert opened(tmp_path, zip_of(FILES, method)).members[0].error is not None


def test_damage_within_a_zip_stays_with_its_member(tmp_path):
    data = zip_of({"a.jpg": b"A" * 50, "b.jpg": b"B" * 50}, zipfile.ZIP_STORED).replace(b"AAA", b"AXA", 1)
    found = contents_of(opened(tmp_path, data))
    assert isinstance(found["a.jpg"], InvalidArchive)
    assert found["b.jpg"] == b"B" * 50


def test_a_tar_header_that_would_fill_the_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"comment": "x" * (HEADER_BYTES * 2)}
    with pytest.raises(InvalidArchive, match="header"):
        opened(tmp_path, tar_of({info: b""}))


def test_a_negative_tar_size_is_refused(tmp_path):
    """Sizes in base 256 may be negative, which sends naive readers backwards for ever."""
    header = bytearray(tar_of({"a.jpg": b"x"}))
    header[124:136] = b"\xff" * 10 + b"\x00\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header[:512])
    with pytest.raises(InvalidArchive):
        opened(tmp_path, bytes(header))


def test_accents_have_one_form_whoever_packed_them(tmp_path):
    """macOS decomposes them, and a label must equal the one that is typed."""
    archive = opened(tmp_path, zip_of({"cafe\u0301/a.jpg": b"x"}))
    assert archive.members[0].path == "caf\u00e9/a.jpg"


def test_names_from_macos_are_read_as_utf8(tmp_path):
    """Its zips hold UTF-8 without the flag that says so."""
    data = bytearray(zip_of({"caféx/a.jpg": b"x"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + offset
        data[at : at + 2] = (int.from_bytes(data[at : at + 2], "little") & ~0x800).to_bytes(2, "little")
    assert opened(tmp_path, bytes(data)).members[0].path == "caféx/a.jpg"


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "x" * 1100 + ".jpg", b"\xff\xfe.jpg".decode("utf-8", "surrogateescape")]
)
def test_a_name_that_can_not_be_shown_fails_alone_and_becomes_printable(name, tmp_path):
    info = tarfile.TarInfo(name)
    archive = opened(tmp_path, tar_of({info: b"x", "b.jpg": b"fine"}))
    assert archive.members[0].error is not None
    assert archive.members[0].path.isprintable()
    assert archive.members[1].error is None


def test_a_name_that_damage_has_ended_before_its_first_letter_leaves_the_others_readable(tmp_path):
    """A zip's names end at a zero byte; Python's own look for a folder fails on what is left."""
    data = zip_of({"a.jpg": b"x", "b.jpg": b"fine"}, zipfile.ZIP_STORED).replace(b"a.jpg", b"\0.jpg")
    archive = opened(tmp_path, data)
    (fine,) = [member for member in archive.members if member.path == "b.jpg"]
    assert fine.error is None
    assert b"fine" in [read for _, read in archive.contents({fine.index})]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_one_kind_of_error(data, tmp_path):
    """Flipped, cut and repeated bytes: nothing but InvalidArchive ever comes out."""
    packed = bytearray(data.draw(st.sampled_from([zip_of(FILES), tar_of(FILES), tar_gz_of(FILES)])))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(packed)), st.integers(1, len(packed))))
    try:
        found = contents_of(opened(tmp_path, bytes(packed[:cut])))
    except InvalidArchive:
        return
    assert all(isinstance(content, bytes | InvalidArchive) for content in found.values())


def test_damaged_deflate_is_an_error_value(tmp_path):
    data = bytearray(zip_of({"a.jpg": os.urandom(3000)}))
    data[60:80] = b"\xff" * 20
    with pytest.raises(zlib.error):
        zlib.decompress(bytes(data[35:200]), -15)
    assert isinstance(contents_of(opened(tmp_path, bytes(data)))["a.jpg"], InvalidArchive)
