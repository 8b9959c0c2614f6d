"""Arrays read from an npz file in blocks."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from lib import npz
from lib.console import UserError
from lib.npz import ArrayReader

KNOWN = ("tiles", "other", "note")
TILES = np.random.default_rng(0).integers(0, 255, (300, 4, 6), dtype=np.uint8)
PACKINGS = dict(
    stored=zipfile.ZIP_STORED, deflated=zipfile.ZIP_DEFLATED, bzip2=zipfile.ZIP_BZIP2, lzma=zipfile.ZIP_LZMA
)


def npy(shape, array=TILES) -> bytes:
    """The bytes of `array` behind a header that says `shape`, whatever that is."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + array.tobytes()


def write(path, members: list[tuple[str, bytes]], packing=zipfile.ZIP_STORED, **stated):
    """An archive of named members; `stated` is what its directory says of the first one instead of the truth."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, packing)
        for name, value in stated.items():
            setattr(archive.filelist[0], name, value)
    return path


def read_all(path) -> dict[str, np.ndarray]:
    found = {}
    for key in npz.keys(path, KNOWN):
        with ArrayReader(path, key, KNOWN) as reader:
            found[key] = np.concatenate([np.empty((0, *reader.shape[1:]), reader.dtype), *reader.blocks(128)])
    return found


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["uint8", "float64", ">i4"])
def test_blocks_are_the_array(tmp_path, save, dtype):
    save(tmp_path / "a.npz", other=np.arange(3), tiles=TILES.astype(dtype))
    with ArrayReader(tmp_path / "a.npz", "tiles", KNOWN) as reader:
        blocks = list(reader.blocks(128))
        assert (reader.shape, reader.dtype) == (TILES.shape, np.dtype(dtype))
    assert [len(block) for block in blocks] == [128, 128, 44]
    assert np.array_equal(np.concatenate(blocks), TILES)


def test_take_goes_on_where_it_stopped(tmp_path):
    np.savez(tmp_path / "a.npz", tiles=TILES)
    with ArrayReader(tmp_path / "a.npz", "tiles", KNOWN) as reader:
        parts = [reader.take(count) for count in (10, 0, 280, 99, 1)]
    assert [len(part) for part in parts] == [10, 0, 280, 10, 0]
    assert np.array_equal(np.concatenate(parts), TILES)


def test_opening_reads_no_more_than_the_header(tmp_path):
    path = write(tmp_path / "a.npz", [("tiles.npy", npy(TILES.shape))], CRC=1)
    with ArrayReader(path, "tiles", KNOWN) as reader:
        assert len(reader) == 300
        with pytest.raises(UserError, match=r"a.npz: .*Bad CRC-32"):
            list(reader.blocks(100))


def test_keys(tmp_path):
    np.savez(tmp_path / "a.npz", tiles=TILES, note="text")
    assert npz.keys(tmp_path / "a.npz", KNOWN) == ["tiles", "note"]


def test_missing_key_names_those_there(tmp_path):
    np.savez(tmp_path / "a.npz", tiles=TILES, note="text")
    with pytest.raises(UserError, match="no array 'masks'.*tiles, note"):
        ArrayReader(tmp_path / "a.npz", "masks", KNOWN)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="a.npz: no such file"):
        ArrayReader(tmp_path / "a.npz", "tiles", KNOWN)


@pytest.mark.parametrize("cut", [0, 1, 1000, -30])
def test_cut_off_file(tmp_path, cut):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, tiles=TILES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="a.npz: not a whole npz file"):
        ArrayReader(path, "tiles", KNOWN)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_file(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, tiles=TILES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.npz: not a whole npz file"), ArrayReader(path, "tiles", KNOWN) as reader:
        list(reader.blocks())


@pytest.mark.parametrize("array", [np.asfortranarray(TILES), np.array([None]), np.array(["1"]), np.array(3)])
def test_other_kinds_of_array(tmp_path, array):
    np.savez(tmp_path / "a.npz", tiles=array)
    with pytest.raises(UserError, match="no array of numbers"):
        ArrayReader(tmp_path / "a.npz", "tiles", KNOWN)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, packing):
    few = {"tiles": TILES[:2], "other": TILES[2:3]}
    path = write(tmp_path / "a.npz", [(f"{key}.npy", npy(array.shape, array)) for key, array in few.items()], packing)
    content, refused, bits = path.read_bytes(), 0, list(range(0, 8 * path.stat().st_size, 9))
    if packing == zipfile.ZIP_STORED:
        bits += range(8 * content.index(b"PK\1\2"), 8 * len(content))  # each one of the directory
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_all(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert found.keys() == few.keys() and all(np.array_equal(found[key], few[key]) for key in few), bit
    assert refused > 0.5 * len(bits)  # the others are dates, attributes and the like


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(299, 4, 6)", r"shape \(299, 4, 6\) takes 7,[0-9]+ bytes, but has 7,"),
        ("(301, 4, 6)", "takes"),
        ("(9999999999999999999999, 4, 6)", "takes"),
        ("(-300, -4, 6)", r"has the shape \(-300, -4, 6\)"),
        ("(True, 4, 1800)", "has the shape"),
        ("(300.0, 4, 6)", "shape is not valid"),
        ("(300, 4, 6", "not a whole npz file"),
        ("(300L, 4, 6)", "not a whole npz file"),
        ("300", "shape is not valid"),
    ],
)
def test_headers_that_lie(tmp_path, shape, message):
    path = write(tmp_path / "a.npz", [("tiles.npy", npy(shape))])  # with the right checksum
    with pytest.raises(UserError, match="a.npz: .*" + message):
        ArrayReader(path, "tiles", KNOWN)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tiles.npy", "tiles.npy"], "a member is listed twice"),
        (["tiles.npy", "thles.npy"], "unknown thles.npy in it, where only tiles, other, note"),
        (["tiles.npy", "tiles"], "unknown tiles"),
        (["tiles.npy", "other/"], "unknown other/"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_and_unknown_arrays(tmp_path, names, message):
    path = write(tmp_path / "a.npz", [(name, npy(TILES.shape)) for name in names])
    for read in (npz.keys, lambda path, known: ArrayReader(path, "tiles", known)):
        with pytest.raises(UserError, match="a.npz: .*" + message):
            read(path, KNOWN)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_more_than_can_be_stored_takes_no_memory(tmp_path, packing):
    data = npy((5 << 30,), np.zeros(0, np.uint8))
    path = write(tmp_path / "a.npz", [("tiles.npy", data)], packing, file_size=(5 << 30) + len(data))
    with pytest.raises(UserError, match="a.npz: .*'tiles' cannot have 5,368,[0-9]+,[0-9]+ bytes"):
        ArrayReader(path, "tiles", KNOWN)


def test_a_block_of_a_dense_archive_takes_little_memory(tmp_path):
    array = np.zeros((256, 1 << 16), np.uint8)
    array[:, :4096] = np.random.default_rng(0).integers(0, 256, (256, 4096))  # 16 times smaller when packed
    path = write(tmp_path / "a.npz", [("tiles.npy", npy(array.shape, array))], zipfile.ZIP_LZMA)
    with ArrayReader(path, "tiles", KNOWN) as reader:
        tracemalloc.start()
        assert sum(len(block) for block in reader.blocks(16)) == 256
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < array.nbytes / 3


def test_load_gives_whole_arrays_and_text(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", tiles=TILES, note="text", other=np.float32(3))
    found = npz.load(tmp_path / "a.npz", ["note", "tiles"], known=["other"])
    assert list(found) == ["note", "tiles"] and str(found["note"]) == "text"
    assert np.array_equal(found["tiles"], TILES)
    assert npz.load(tmp_path / "a.npz", ["other"], known=KNOWN)["other"] == 3
    with pytest.raises(UserError, match="unknown other.npy"):
        npz.load(tmp_path / "a.npz", ["note", "tiles"])
    with pytest.raises(UserError, match="no array 'more' in it"):
        npz.load(tmp_path / "a.npz", ["more"], known=KNOWN)


@pytest.mark.parametrize("array", [np.array([None]), np.asfortranarray(TILES)])
def test_load_refuses_other_kinds(tmp_path, array):
    np.savez(tmp_path / "a.npz", tiles=array)
    with pytest.raises(UserError, match="no array of numbers"):
        npz.load(tmp_path / "a.npz", ["tiles"])


def test_a_device_is_no_file():
    with pytest.raises(UserError, match="/dev/zero: is no regular file"):
        ArrayReader("/dev/zero", "a", ("a",))
