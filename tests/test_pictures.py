"""Grey pictures on the tiles' scale, whatever camera and program wrote them; masks that other programs read."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from lib.figures import PALETTE
from lib.pictures import BadPicture, made_by, open_picture, size_of, write_mask

GREY = np.random.default_rng(0).integers(0, 256, (70, 45)).astype(np.uint8)
TWELVE = np.random.default_rng(1).integers(0, 4096, (70, 45)).astype(np.uint16)
TWELVE[3, 4] = 4095


def read(path) -> np.ndarray:
    with open_picture(path) as picture:
        assert (picture.height, picture.width) == size_of(path)
        return np.concatenate([picture.rows(0, 50), picture.rows(50, picture.height)])


@pytest.mark.parametrize("name", ("a.png", "a.tif", "a.TIFF"))
@pytest.mark.parametrize("channels", ("L", "RGB", "RGBA", "LA", "P"))
def test_grey_is_read_as_it_is_whatever_the_channels(tmp_path, name, channels):
    Image.fromarray(GREY).convert(channels).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), GREY)


def test_jpeg(tmp_path):
    smooth = np.linspace(0, 255, 70 * 45).reshape(70, 45).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpeg", quality=95)
    assert np.abs(read(tmp_path / "a.jpeg").astype(int) - smooth).max() < 5


@pytest.mark.parametrize("name", ("a.png", "a.tif"))
@pytest.mark.parametrize(("bits", "divided"), ((8, 1), (9, 2), (12, 16), (16, 256)))
def test_sixteen_bits_are_divided_so_that_the_brightest_pixel_fits(tmp_path, name, bits, divided):
    deep = (TWELVE.astype(np.uint32) * (2**bits - 1) // 4095).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), deep // divided)
    with open_picture(tmp_path / name) as picture:
        said = str(picture)
    assert said == "45x70, 16 bit" + (f", {bits} of them used, divided by {divided}" if divided > 1 else "")


def test_the_scale_is_the_whole_frame_s(tmp_path):
    """Not the strip's: else a frame's dark half would look as bright as its bright half."""
    deep = np.full((1500, 3), 200, np.uint16)
    deep[1400:] = 60000
    Image.fromarray(deep).save(tmp_path / "a.png")
    with open_picture(tmp_path / "a.png") as picture:
        assert (picture.rows(0, 10) == 200 // 256).all() and (picture.rows(1400, 1500) == 60000 // 256).all()


def test_big_endian_tiff(tmp_path):
    Image.fromarray(TWELVE.astype(">u2")).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), TWELVE // 16)


def bad(image) -> bytes:
    """A PNG of something."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def cut_off(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.tile(GREY, (4, 4))).save(stream, kind)
    return stream.getvalue()[:-2000]


COLOUR = Image.merge("RGB", [Image.fromarray(GREY), Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())])
VEILED = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY)])
BAD = {
    "text.png": (b"no picture", "not a whole PNG picture; make or copy it again"),
    "empty.jpg": (b"", "not a whole JPEG picture; make or copy it again"),
    "really.tif": (bad(Image.fromarray(GREY)), "not a whole TIFF picture"),
    "cut.jpg": (cut_off("JPEG"), "not a whole JPEG picture (image file is truncated"),
    "cut.png": (cut_off("PNG"), "not a whole PNG picture (image file is truncated"),
    "colour.png": (bad(COLOUR), "is a colour picture, and networks know grey ones; convert it"),
    "alpha.png": (bad(VEILED), "is transparent in places; save it without an alpha channel"),
    "mask.png": (bad(Image.fromarray(GREY > 99)), "holds black and white only; save it as a grey picture"),
    "huge.png": (bad(Image.fromarray(GREY))[:16] + b"\0\xff\xff\xff" * 2, "PNG picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_grey_picture_is_refused_by_its_name(tmp_path, name):
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadPicture) as refused, open_picture(tmp_path / name):
        pass
    assert str(refused.value).startswith(f"{tmp_path / name}: ") and words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pixels", "words"),
    (
        (GREY.astype(np.float32), "holds floating-point numbers; save it"),
        (np.array([[-1, 5]], np.int32), "has pixels from -1 to 5; save it as grey of 16 bits"),
        (np.array([[0, 65536]], np.int32), "has pixels from 0 to 65536"),
    ),
)
def test_numbers_of_other_kinds_are_refused(tmp_path, pixels, words):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(BadPicture, match=words), open_picture(tmp_path / "a.tif"):
        pass


def test_a_picture_larger_than_any_is_not_decoded(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr("lib.pictures.LARGEST", GREY.size - 1)
    with pytest.raises(BadPicture, match="claims to have 45x70 pixels"), open_picture(tmp_path / "a.png"):
        pass
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit, which frames may exceed
    monkeypatch.setattr("lib.pictures.LARGEST", GREY.size)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), GREY)
    assert Image.MAX_IMAGE_PIXELS == 10


def vicar(pixels: np.ndarray) -> bytes:
    """A VICAR file of one band."""
    kind = {"|u1": "BYTE", ">i2": "HALF"}[pixels.dtype.str]
    size, lines, samples = 600, *pixels.shape
    label = (
        f"LBLSIZE={size}  FORMAT='{kind}'  TYPE='IMAGE'  BUFSIZ={samples}  DIM=3  EOL=0  RECSIZE={pixels[0].nbytes}  "
        f"ORG='BSQ'  NL={lines}  NS={samples}  NB=1  N1={samples}  N2={lines}  N3=1  N4=0  NBB=0  NLB=0  "
        "HOST='SUN-SOLR'  INTFMT='HIGH'  REALFMT='IEEE'  BHOST='SUN-SOLR'  BINTFMT='HIGH'  BREALFMT='IEEE'  "
    )
    return label.encode().ljust(size, b"\0") + pixels.tobytes()


def test_vicar_is_read_where_rasterio_is(tmp_path):
    pytest.importorskip("rasterio", reason="rasterio is optional, and not installed")
    (tmp_path / "a.vic").write_bytes(vicar(GREY))
    (tmp_path / "b.IMG").write_bytes(vicar(TWELVE.astype(">i2")))
    np.testing.assert_array_equal(read(tmp_path / "a.vic"), GREY)
    np.testing.assert_array_equal(read(tmp_path / "b.IMG"), TWELVE // 16)
    for content, words in (
        (b"nothing", "not a whole IMG picture"),
        (vicar((-TWELVE.astype(int)).astype(">i2")), "pixels from -4095"),
    ):
        (tmp_path / "c.img").write_bytes(content)
        with pytest.raises(BadPicture, match=words), open_picture(tmp_path / "c.img"):
            pass


def test_without_rasterio_img_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    (tmp_path / "a.img").write_bytes(vicar(GREY))
    with pytest.raises(BadPicture, match=r"a.img: IMG and VICAR need rasterio; pip install rasterio, or save it as"):
        size_of(tmp_path / "a.img")


LABELS = np.random.default_rng(2).integers(0, 5, (60, 33)).astype(np.uint8)


@pytest.fixture
def mask(tmp_path):
    with open(tmp_path / "mask.png", "wb") as stream:
        write_mask(stream, iter((LABELS[:7], LABELS[7:8], LABELS[8:])), *LABELS.shape, '{"made": "of it"}')
    return tmp_path / "mask.png"


def test_a_mask_is_an_indexed_png_whose_pixels_are_the_labels(mask):
    with Image.open(mask) as image:
        assert image.format == "PNG" and image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), LABELS)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), PALETTE[LABELS])
    assert made_by(mask) == '{"made": "of it"}'


def test_a_mask_that_is_not_whole_was_made_by_nobody(mask, tmp_path):
    whole = mask.read_bytes()
    assert made_by(tmp_path / "other.png") is None
    for damaged in (whole[:-30], whole[: len(whole) // 2], whole.replace(b"of it", b"of us"), b""):
        mask.write_bytes(damaged)
        assert made_by(mask) is None
    Image.fromarray(LABELS).save(mask)
    assert made_by(mask) is None  # somebody else's picture
