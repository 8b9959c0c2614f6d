"""Arrays read from an npz file in blocks."""

import io
import zipfile

import numpy as np
import pytest

from lib import npz
from lib.console import UserError
from lib.npz import ArrayReader

TILES = np.random.default_rng(0).integers(0, 255, (300, 4, 6), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["uint8", "float64", ">i4"])
def test_blocks_are_the_array(tmp_path, save, dtype):
    save(tmp_path / "a.npz", other=np.arange(3), tiles=TILES.astype(dtype))
    with ArrayReader(tmp_path / "a.npz", "tiles") as reader:
        blocks = list(reader.blocks(128))
        assert (reader.shape, reader.dtype) == (TILES.shape, np.dtype(dtype))
    assert [len(block) for block in blocks] == [128, 128, 44]
    assert np.array_equal(np.concatenate(blocks), TILES)


def test_take_goes_on_where_it_stopped(tmp_path):
    np.savez(tmp_path / "a.npz", tiles=TILES)
    with ArrayReader(tmp_path / "a.npz", "tiles") as reader:
        parts = [reader.take(count) for count in (10, 0, 280, 99, 1)]
    assert [len(part) for part in parts] == [10, 0, 280, 10, 0]
    assert np.array_equal(np.concatenate(parts), TILES)


def test_opening_reads_no_more_than_the_header(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10022, 64, 128)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("tiles.npy", header.getvalue())  # and no data
    with ArrayReader(tmp_path / "a.npz", "tiles") as reader:
        assert len(reader) == 10022
        with pytest.raises(UserError, match="cut off"):
            reader.take(1)


def test_keys(tmp_path):
    np.savez(tmp_path / "a.npz", tiles=TILES, note="text")
    assert npz.keys(tmp_path / "a.npz") == ["tiles", "note"]


def test_missing_key_names_those_there(tmp_path):
    np.savez(tmp_path / "a.npz", tiles=TILES, note="text")
    with pytest.raises(UserError, match="no array 'masks'.*tiles, note"):
        ArrayReader(tmp_path / "a.npz", "masks")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="a.npz: no such file"):
        ArrayReader(tmp_path / "a.npz", "tiles")


@pytest.mark.parametrize("cut", [0, 1, 1000, -30])
def test_cut_off_file(tmp_path, cut):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, tiles=TILES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="a.npz: not a whole npz file"):
        ArrayReader(path, "tiles")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_file(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, tiles=TILES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.npz: not a whole npz file"), ArrayReader(path, "tiles") as reader:
        list(reader.blocks())


@pytest.mark.parametrize("array", [np.asfortranarray(TILES), np.array([None]), np.array(["1"]), np.array(3)])
def test_other_kinds_of_array(tmp_path, array):
    np.savez(tmp_path / "a.npz", tiles=array)
    with pytest.raises(UserError, match="no array of numbers"):
        ArrayReader(tmp_path / "a.npz", "tiles")
