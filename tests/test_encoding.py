"""Submission files: the bytes, the checker, the score."""

import gzip
import tracemalloc
import zipfile

import numpy as np
import pandas
import pytest

from lib import encoding, metrics
from lib.console import UserError
from lib.records import Origin

TILES = 230  # ids of one, two and three digits, and more than a block


@pytest.fixture(scope="module")
def masks():
    return np.random.default_rng(0).integers(1, 5, (TILES, 64, 128), dtype=np.uint8)


@pytest.fixture
def lines(tmp_path, masks):
    """The lines of a good submission."""
    encoding.write(tmp_path / "good.csv", [masks])
    return (tmp_path / "good.csv").read_text().splitlines()


def edited(lines, line, column, value):
    """`lines` with one cell replaced (both counted from 0)."""
    cells = lines[line].split(",")
    cells[column] = value
    return [*lines[:line], ",".join(cells), *lines[line + 1 :]]


def save(path, lines, end="\n"):
    path.write_bytes((end.join(lines) + end).encode())
    return path


def organisers_csv(path, masks):
    table = pandas.DataFrame(masks.reshape(len(masks), -1))
    table["id"] = np.arange(len(masks))
    table[["id", *(column for column in table.columns if column != "id")]].to_csv(path, index=False)
    return path.read_bytes()


# Writing


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_bytes_are_those_of_the_organisers_code(tmp_path, masks, dtype):
    masks = masks.astype(dtype)
    assert encoding.write(tmp_path / "ours.csv", [masks]) == TILES
    assert (tmp_path / "ours.csv").read_bytes() == organisers_csv(tmp_path / "theirs.csv", masks)


def test_bytes_with_background(tmp_path, masks):
    masks = masks[:12] - 1
    encoding.write(tmp_path / "ours.csv", [masks], allow_background=True)
    assert (tmp_path / "ours.csv").read_bytes() == organisers_csv(tmp_path / "theirs.csv", masks)


def test_blocks_do_not_show(tmp_path, masks):
    encoding.write(tmp_path / "one.csv", [masks])
    encoding.write(tmp_path / "many.csv", np.split(masks, [3, 3, 10, 11, 150]))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "many.csv").read_bytes()


def test_whole_test_set_in_little_memory(tmp_path):
    path = tmp_path / "submission.csv"
    masks = np.broadcast_to(np.uint8(2), (10022, 64, 128))
    tracemalloc.start()
    encoding.write(path, [masks])
    encoding.check(path, tiles=10022)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size == encoding.csv_size(10022) == 164_289_323
    assert peak < 32e6


@pytest.mark.parametrize("tiles", [1, 10, 11, 101])
def test_csv_size(tmp_path, masks, tiles):
    encoding.write(tmp_path / "a.csv", [masks[:tiles]])
    assert (tmp_path / "a.csv").stat().st_size == encoding.csv_size(tiles)


def test_zip_holds_the_same_csv_and_no_time(tmp_path, masks):
    encoding.write(tmp_path / "a.csv", [masks])
    encoding.write(tmp_path / "a.zip", [masks], zipped=True)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        (member,) = archive.infolist()
        assert archive.read(member) == (tmp_path / "a.csv").read_bytes()
    assert (member.filename, member.date_time) == ("submission.csv", (1980, 1, 1, 0, 0, 0))
    assert member.compress_size < member.file_size / 4


@pytest.mark.parametrize(
    ("value", "message"), [(0, "masks: tile 200, row 3, column 5: 0 is background"), (7, "column 5: 7 is no label")]
)
def test_wrong_label_leaves_the_older_file(tmp_path, masks, value, message):
    (tmp_path / "a.csv").write_text("older")
    masks = masks.copy()
    masks[200, 3, 5] = value
    with pytest.raises(UserError, match=message):
        encoding.write(tmp_path / "a.csv", [masks])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "older")]


def test_integers_beyond_a_byte_are_no_labels(tmp_path, masks):
    with pytest.raises(UserError, match="tile 0, row 0, column 0: 25[789]"):
        encoding.write(tmp_path / "a.csv", [masks.astype(np.int32) + 256])


def test_no_tiles(tmp_path):
    with pytest.raises(UserError, match="no tiles"):
        encoding.write(tmp_path / "a.csv", [])
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_written(tmp_path, masks):
    with pytest.raises(UserError, match="no regular file"):
        encoding.write(tmp_path, [masks])


# The masks file


def test_masks_file(tmp_path, masks):
    np.savez_compressed(tmp_path / "masks.npz", masks=masks, made_by='{"runs": ["a"]}')
    with encoding.open_masks(tmp_path / "masks.npz") as reader:
        assert np.array_equal(np.concatenate(list(reader.blocks())), masks)
    assert encoding.made_by(tmp_path / "masks.npz").runs == ("a",)


def test_masks_without_a_note(tmp_path, masks):
    np.savez(tmp_path / "masks.npz", masks=masks[:2])
    assert encoding.made_by(tmp_path / "masks.npz") == Origin()


@pytest.mark.parametrize("note", ["not JSON", "[1]", '{"runs": "a"}', '{"run": ["a"]}', np.array([None])])
def test_masks_with_a_foreign_note(tmp_path, masks, note):
    np.savez(tmp_path / "masks.npz", masks=masks[:2], made_by=note)
    with pytest.raises(UserError, match="masks.npz: .*made_by"):
        encoding.made_by(tmp_path / "masks.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(masks=np.ones((2, 128, 64), np.uint8)), r"shape \(2, 128, 64\), wanted \(tiles, 64, 128\)"),
        (dict(masks=np.ones((2, 8192), np.uint8)), "shape"),
        (dict(masks=np.ones((2, 64, 128))), "float64, wanted integers"),
        (dict(labels=np.ones((2, 64, 128), np.uint8)), "unknown labels.npy in it, where only masks, made_by"),
    ],
)
def test_other_masks_files(tmp_path, arrays, message):
    np.savez(tmp_path / "masks.npz", **arrays)
    with pytest.raises(UserError, match=message):
        encoding.open_masks(tmp_path / "masks.npz")


def test_missing_masks_file_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="infer.py"):
        encoding.open_masks(tmp_path / "masks.npz")


def test_count_test_tiles(tmp_path):
    np.savez(tmp_path / "a.npz", test_set=np.zeros((7, 64, 128)))
    assert encoding.count_test_tiles(tmp_path / "a.npz") == 7


def test_count_test_tiles_of_real_data(standin):
    assert encoding.count_test_tiles(standin) == 10022


# Reading and checking


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("lowest", [0, 1])
def test_read_gives_the_masks_back(tmp_path, masks, zipped, lowest):
    masks = np.maximum(masks - 1, lowest)
    path = tmp_path / ("a.csv.zip" if zipped else "a.csv")
    encoding.write(path, [masks], zipped, allow_background=lowest == 0)
    labels = np.concatenate(list(encoding.read(path, allow_background=lowest == 0)))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, masks.reshape(TILES, -1))


def test_pandas_file_is_good(tmp_path, masks):
    organisers_csv(tmp_path / "a.csv", masks)
    assert encoding.check(tmp_path / "a.csv", TILES) == TILES


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("tiles", [10, 128, TILES])
def test_line_endings(tmp_path, lines, end, tiles):
    path = save(tmp_path / "a.csv", lines[: tiles + 1], end)
    assert encoding.check(path) == tiles
    path.write_bytes(path.read_bytes().removesuffix(end.encode()))
    assert encoding.check(path) == tiles


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.0", r"line 202 \(id 200\), column '17': '1.0' is a decimal"),
        ("0", r"line 202 \(id 200\), column '17': '0' is background"),
        ("5", r"line 202 \(id 200\), column '17': '5' is no label; labels are plain integers 1..4"),
        ("255", "column '17': '255' is no label"),
        ("-1", "column '17': '-1' is no label"),
        ("", "column '17': '' is no label"),
        (" 1", "column '17': ' 1' is no label"),
        ('"1"', "column '17': .* is no label"),
        ("x" * 100, "column '17': 'x{20}...' is no label"),
        ("\xff", "column '17': .* is no label"),
    ],
)
def test_first_bad_label_is_named(tmp_path, lines, value, message):
    bad = edited(edited(edited(lines, 201, 18, value), 201, 19, "9"), 205, 1, "9")
    with pytest.raises(UserError, match="a.csv: .*" + message):
        encoding.check(save(tmp_path / "a.csv", bad))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_lone_label_beyond_the_last_is_refused(tmp_path, lines, allowed):
    path = save(tmp_path / "a.csv", edited(lines, 201, 18, "5"))
    with pytest.raises(UserError, match="column '17': '5' is no label"):
        encoding.check(path, allow_background=allowed)


def test_background_is_read_where_allowed(tmp_path, lines):
    path = save(tmp_path / "a.csv", edited(lines, 201, 18, "0"))
    assert encoding.check(path, allow_background=True) == TILES


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: edited(lines, 5, 0, "5"), "line 6, column 'id': '5', wanted 4"),
        (lambda lines: edited(lines, 5, 0, "04"), "line 6, column 'id': '04', wanted 4"),
        (lambda lines: lines[:4] + lines[5:], "line 5, column 'id': '4', wanted 3"),
        (lambda lines: [lines[0], *lines[2:], lines[1]], "line 2, column 'id': '1', wanted 0"),
        (lambda lines: [*lines[:12], lines[12][:-2], *lines[13:]], r"line 13 \(id 11\): 8,192 columns, wanted 8,193"),
        (lambda lines: [*lines[:12], lines[12] + ",1", *lines[13:]], r"line 13 \(id 11\): 8,194 columns"),
        (lambda lines: [*lines[:12], lines[12] + ",", *lines[13:]], r"line 13 \(id 11\): 8,194 columns"),
        (lambda lines: [*lines[:-1], lines[-1][:-2]], rf"line {TILES + 1} \(id {TILES - 1}\): 8,192 columns"),
        (lambda lines: [*lines[:12], "", *lines[12:]], "line 13: empty"),
        (lambda lines: [*lines, ""], f"line {TILES + 2}: empty"),
        (lambda lines: [*lines, "sum"], f"line {TILES + 2}, column 'id': 'sum'"),
        (lambda lines: [*lines[:12], lines[12] + "\r", *lines[13:]], r"line 13 \(id 11\): ends in another line ending"),
        (lambda lines: lines[:1], "no lines"),
        (lambda lines: lines[1:], "line 1, column 1: '0', wanted 'id'"),
        (lambda lines: edited(lines, 0, 0, "\ufeffid"), "line 1, column 1: .*wanted 'id'"),
        (lambda lines: edited(lines, 0, 9, "9"), "line 1, column 10: '9', wanted '8'"),
        (lambda lines: [lines[0] + ",8192", *lines[1:]], "line 1: 8,194 columns, wanted 8,193"),
        (lambda lines: [lines[0].removesuffix(",8191"), *lines[1:]], "line 1: 8,192 columns"),
        (lambda lines: [""], "line 1"),
    ],
)
def test_first_bad_line_is_named(tmp_path, lines, edit, message):
    with pytest.raises(UserError, match="a.csv: .*" + message):
        encoding.check(save(tmp_path / "a.csv", edit(lines)))


def test_other_number_of_tiles(tmp_path, masks):
    encoding.write(tmp_path / "a.csv", [masks])
    with pytest.raises(UserError, match="230 tiles, but 10,022 test tiles"):
        encoding.check(tmp_path / "a.csv", tiles=10022)


def test_file_that_is_no_csv(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)) * 9000)
    with pytest.raises(UserError, match="line 1, column 1"):
        encoding.check(tmp_path / "a.csv")


def test_masks_file_is_no_submission(tmp_path, masks):
    np.savez(tmp_path / "masks.npz", masks=masks[:2])
    with pytest.raises(UserError, match="a zip file with masks.npy in it; zip one CSV file"):
        encoding.check(tmp_path / "masks.npz")


@pytest.mark.parametrize("cut", [10, 3000, -10])
def test_cut_off_zip(tmp_path, masks, cut):
    path = tmp_path / "a.zip"
    encoding.write(path, [masks], zipped=True)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="not a whole zip file"):
        encoding.check(path)


def test_damaged_zip(tmp_path, masks):
    path = tmp_path / "a.zip"
    encoding.write(path, [masks], zipped=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError):
        encoding.check(path)


def archive(path, members, packing=zipfile.ZIP_DEFLATED, **stated):
    """A zip file of named members; `stated` is what its directory says of the first one instead of the truth."""
    with zipfile.ZipFile(path, "w", packing) as made:
        for name, content in members.items():
            made.writestr(name, content)
        for name, value in stated.items():
            setattr(made.filelist[0], name, value)
    return path


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"more.csv": ""}, "a zip file with submission.csv, more.csv in it; zip one CSV file and nothing else"),
        ({"notes.txt": ""}, "submission.csv, notes.txt in it"),
        ({"folder/": ""}, "submission.csv, folder/ in it"),
        ({"__MACOSX/._submission.csv": ""}, "submission.csv, __MACOSX/"),
    ],
)
def test_archives_of_more_than_the_csv(tmp_path, lines, others, message):
    path = archive(tmp_path / "a.zip", {"submission.csv": "\n".join(lines[:4]), **others})
    with pytest.raises(UserError, match="a.zip: .*" + message):
        encoding.check(path)


@pytest.mark.parametrize(
    ("packing", "stated", "message"),
    [
        (zipfile.ZIP_BZIP2, {}, "packed otherwise than by deflate"),
        (zipfile.ZIP_LZMA, {}, "packed otherwise than by deflate"),
        (zipfile.ZIP_DEFLATED, dict(compress_type=97), "packed otherwise than by deflate"),
        (zipfile.ZIP_DEFLATED, dict(flag_bits=1), "not a whole zip file .*encrypted"),
        (zipfile.ZIP_DEFLATED, dict(CRC=0), "not a whole zip file .*CRC"),
        (zipfile.ZIP_DEFLATED, dict(file_size=56_000), "not a whole zip file .*CRC"),  # the header and one line
        (zipfile.ZIP_DEFLATED, dict(filename="other.csv"), "not a whole zip file .*differ"),
    ],
)
def test_archives_that_not_every_reader_reads_alike(tmp_path, lines, packing, stated, message):
    path = archive(tmp_path / "a.zip", {"submission.csv": "\n".join(lines[:4])}, packing, **stated)
    with pytest.raises(UserError, match="a.zip: " + message):
        encoding.check(path)


@pytest.mark.parametrize(
    "edit",
    [lambda content: content + b"x", lambda content: content * 2, lambda content: content[:200] + content],
    ids=["behind", "doubled", "before"],
)
def test_archives_with_something_beside(tmp_path, masks, edit):
    path = tmp_path / "a.zip"
    encoding.write(path, [masks[:3]], zipped=True)
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(UserError, match="a.zip: not a whole zip file"):
        encoding.check(path)


def test_archives_that_are_good(tmp_path, lines):
    text = "\n".join(lines[:4])
    assert encoding.check(archive(tmp_path / "a.zip", {"submission.csv": text}, zipfile.ZIP_STORED)) == 3
    with zipfile.ZipFile(tmp_path / "A.CSV.ZIP", "w") as made, made.open("b.csv", "w", force_zip64=True) as member:
        member.write(text.encode())
    assert encoding.check(tmp_path / "A.CSV.ZIP") == 3


def test_a_name_that_contradicts_the_content(tmp_path, masks):
    encoding.write(tmp_path / "a.csv", [masks[:3]])
    encoding.write(tmp_path / "b.zip", [masks[:3]], zipped=True)
    (tmp_path / "a.csv").rename(tmp_path / "c.zip")
    (tmp_path / "b.zip").rename(tmp_path / "d.csv")
    with pytest.raises(UserError, match="c.zip: a plain CSV whose name ends in .zip"):
        encoding.check(tmp_path / "c.zip")
    with pytest.raises(UserError, match="d.csv: a zip file whose name does not end in .zip"):
        encoding.check(tmp_path / "d.csv")
    before = (tmp_path / "c.zip").read_bytes()
    with pytest.raises(UserError, match="c.zip: a plain CSV whose name ends in .zip"):
        encoding.write(tmp_path / "c.zip", [masks[:4]])
    assert (tmp_path / "c.zip").read_bytes() == before


def test_packed_otherwise(tmp_path, lines):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(UserError, match="a.csv.gz: line 1, column 1"):
        encoding.check(tmp_path / "a.csv.gz")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace(",", "\t"), r"line 1, column 1: 'id\\t0\\t1"),
        (lambda text: text.replace(",", ";"), "line 1, column 1: 'id;0;1"),
        (lambda text: text.replace("\n", "\r"), r"line 1, column 8193: '8191\\r0', wanted '8191'"),
        (lambda text: text.replace("\n", " \n"), "line 1, column 8193: '8191 ', wanted '8191'"),
        (lambda text: text.replace("\n", " \n").replace(" ", "", 1), r"line 2 \(id 0\), column '8191': '. ' is no"),
        (lambda text: text.replace("id", '"id"'), "line 1, column 1: .*id.*, wanted 'id'"),
        (lambda text: "\n" + text, "line 1, column 1: '', wanted 'id'"),
        (lambda text: text.replace("\n", "\n\n", 1), "line 2: empty"),
        (lambda text: text + "\n\n", "line 5: empty"),
        (lambda text: text + "\x00", r"line 4 \(id 2\), column '8191'"),
    ],
)
def test_other_ways_to_write_a_table(tmp_path, lines, edit, message):
    (tmp_path / "a.csv").write_bytes(edit("\n".join(lines[:4])).encode())
    with pytest.raises(UserError, match="a.csv: .*" + message):
        encoding.check(tmp_path / "a.csv")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="a.csv: no such file"):
        encoding.check(tmp_path / "a.csv")


# The score


def organisers_score(truth, prediction):
    """Mean IoU over the classes seen, on the pixels whose true label is not 0, without a confusion matrix."""
    scored = truth != 0
    truth, prediction = truth[scored], prediction[scored]
    unions = [((truth == k) | (prediction == k)).sum() for k in range(5)]
    return np.mean([((truth == k) & (prediction == k)).sum() / unions[k] for k in range(5) if unions[k]])


@pytest.fixture
def truth(masks):
    """Labels 0..4 that agree with `masks` in most pixels."""
    noise = np.random.default_rng(1).integers(0, 5, masks.shape, dtype=np.uint8)
    return np.where(np.random.default_rng(2).random(masks.shape) < 0.7, masks, noise)


def test_score_is_the_competitions(tmp_path, masks, truth):
    encoding.write(tmp_path / "a.csv", [masks])
    np.savez(tmp_path / "truth.npz", test_masks=truth, training_set=np.zeros((1, 2, 64, 128)))
    confusion = encoding.score(tmp_path / "a.csv", tmp_path / "truth.npz")
    assert np.array_equal(confusion, metrics.confusion_matrix(truth, masks))
    assert metrics.mean_iou(confusion) == pytest.approx(organisers_score(truth, masks), abs=1e-12)


def test_predicted_background_costs_a_fifth(tmp_path, masks):
    np.savez(tmp_path / "truth.npz", test_masks=masks)
    masks = masks.copy()
    masks[0, 0, 0] = 0
    encoding.write(tmp_path / "a.csv", [masks], allow_background=True)
    confusion = encoding.score(tmp_path / "a.csv", tmp_path / "truth.npz")
    assert metrics.mean_iou(confusion) == pytest.approx(0.8, abs=1e-4)


def test_training_masks_are_the_truth_where_there_are_no_test_masks(tmp_path, masks, truth):
    encoding.write(tmp_path / "a.csv", [masks])
    both = np.stack([np.full_like(truth, 200), truth], axis=1).astype(np.float64)
    np.savez_compressed(tmp_path / "truth.npz", training_set=both, test_set=masks)
    confusion = encoding.score(tmp_path / "a.csv", tmp_path / "truth.npz")
    assert np.array_equal(confusion, metrics.confusion_matrix(truth, masks))


def test_score_against_real_labels(tmp_path, standin):
    with np.load(standin) as archive:
        labels = archive["training_set"][:, 1].astype(np.uint8)
    encoding.write(tmp_path / "a.csv", [np.maximum(labels, 1)])
    confusion = encoding.score(tmp_path / "a.csv", standin)
    assert confusion.sum() == np.count_nonzero(labels)
    assert metrics.mean_iou(confusion) == 1.0


@pytest.mark.parametrize("tiles", [TILES - 1, TILES + 1, 1])
def test_score_wants_as_many_labels(tmp_path, masks, tiles):
    encoding.write(tmp_path / "a.csv", [masks])
    np.savez(tmp_path / "truth.npz", test_masks=np.ones((tiles, 64, 128), np.uint8))
    with pytest.raises(UserError, match=f"230 tiles, but {tiles} in test_masks"):
        encoding.score(tmp_path / "a.csv", tmp_path / "truth.npz")


@pytest.mark.parametrize("value", [7.0, np.nan, 1.5, -1.0, 257.0])
def test_truth_with_other_labels(tmp_path, masks, value):
    encoding.write(tmp_path / "a.csv", [masks])
    truth = masks.astype(np.float64)
    truth[150, 3, 5] = value
    np.savez(tmp_path / "truth.npz", test_masks=truth)
    with pytest.raises(UserError, match=f"test_masks: tile 150, row 3, column 5: {value} is no label"):
        encoding.score(tmp_path / "a.csv", tmp_path / "truth.npz")


def test_truth_without_labels(tmp_path, masks):
    encoding.write(tmp_path / "a.csv", [masks])
    np.savez(tmp_path / "truth.npz", test_set=masks)
    with pytest.raises(UserError, match="no labels"):
        encoding.score(tmp_path / "a.csv", tmp_path / "truth.npz")
