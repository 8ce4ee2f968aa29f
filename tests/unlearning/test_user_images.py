"""The user's own images: what is read, and every mistake in a folder on one line with the file's name."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fdiv_jax.unlearning.user_images import latent_mask, read_images

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(h=8, w=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def metadata(folder, *entries):
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def test_a_folder_of_images(tmp_path):
    first, second = picture(seed=1), picture(seed=2)
    save(tmp_path / "b.PNG", second)
    save(tmp_path / "a.bmp", first)
    save(tmp_path / ".hidden.png", first)
    save(tmp_path / "below" / "c.png", first)
    (tmp_path / "notes.txt").write_text("of no concern")
    found = read_images(tmp_path, (8, 8))
    assert found.files == ("a.bmp", "b.PNG")
    assert found.captions == (None, None)
    assert found.masks is None
    assert found.pixels.dtype == np.uint8
    np.testing.assert_array_equal(found.pixels, [first, second])


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "JPG"])
def test_formats(tmp_path, suffix):
    values = np.full((6, 10, 3), (200, 40, 90), np.uint8)
    save(tmp_path / f"a.{suffix}", values)
    found = read_images(str(tmp_path), (6, 10))
    np.testing.assert_allclose(found.pixels[0].astype(int), values, atol=3)


def test_captions_and_masks(tmp_path):
    save(tmp_path / "deep" / "b.png", picture(seed=1))
    save(tmp_path / "a.png", picture(seed=2))
    save(tmp_path / "c.png", picture(seed=3))
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    mask[4] = 51
    save(tmp_path / "m.png", mask)
    metadata(
        tmp_path,
        {"file_name": "./deep/b.png", "text": "a shoe", "mask_file_name": "m.png", "licence": "ours"},
        "",
        {"file_name": "c.png", "text": None, "mask_file_name": None},
        {"file_name": "a.png", "text": ""},
    )
    found = read_images(tmp_path, (8, 8))
    assert found.files == ("a.png", "c.png", "deep/b.png")
    assert found.captions == ("", None, "a shoe")
    np.testing.assert_array_equal(found.pixels[2], picture(seed=1))
    assert found.masks.dtype == np.float32
    np.testing.assert_array_equal(found.masks[:2], 1)
    np.testing.assert_allclose(found.masks[2], mask / 255, rtol=1e-6)


def test_what_is_transparent_is_laid_on_white(tmp_path):
    values = np.zeros((2, 3, 4), np.uint8)
    values[0] = [(*RED, 255), (*RED, 0), (*RED, 51)]
    save(tmp_path / "a.png", values)
    flat = Image.new("P", (3, 2))
    flat.putpalette([*BLUE, *GREEN])
    flat.putdata([0, 1, 0, 1, 1, 1])
    flat.save(tmp_path / "b.png", transparency=bytes([255, 0]))
    Image.fromarray(np.array([[[0, 255], [0, 0], [0, 51]]] * 2, np.uint8)).save(tmp_path / "c.png")
    found = read_images(tmp_path, (2, 3)).pixels
    np.testing.assert_array_equal(found[0, 0], [RED, (255, 255, 255), (255, 204, 204)])
    np.testing.assert_array_equal(found[1, 0], [BLUE, (255, 255, 255), BLUE])
    np.testing.assert_array_equal(found[2, 0], [(0, 0, 0), (255, 255, 255), (204, 204, 204)])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "16 bits"])
def test_other_modes_become_rgb(tmp_path, mode):
    if mode == "16 bits":
        values, name = np.array([[0, 65535], [257 * 100, 257 * 7 + 40]], np.uint16), "a.png"
        save(tmp_path / name, values)
        expected = np.repeat([[[0], [255]], [[100], [7]]], 3, axis=2)
    elif mode == "CMYK":
        Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
        expected = np.full((2, 2, 3), RED)
    else:
        Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert(mode).save(tmp_path / "a.png")
        expected = np.repeat([[[0], [255]], [[255], [0]]], 3, axis=2)
    np.testing.assert_allclose(read_images(tmp_path, (2, 2)).pixels[0].astype(int), expected, atol=3)


def test_the_orientation_is_applied(tmp_path):
    values = np.full((4, 6, 3), BLUE, np.uint8)
    values[:2, :2] = RED  # top left on the sensor, top right when turned by a quarter
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", values, exif=exif)
    found = read_images(tmp_path, (6, 4)).pixels[0]
    np.testing.assert_array_equal(found, np.rot90(values, -1))
    with pytest.raises(ValueError, match="6 x 4 pixels; expected 4 x 6"):
        read_images(tmp_path, (4, 6))


def test_resize_cuts_the_middle(tmp_path):
    values = np.full((8, 32, 3), BLUE, np.uint8)
    values[:, 12:20] = RED
    save(tmp_path / "a.png", values)
    save(tmp_path / "b.png", np.swapaxes(values, 0, 1))
    save(tmp_path / "c.png", np.full((2, 2, 3), GREEN, np.uint8))
    found = read_images(tmp_path, (4, 4), resize=True).pixels
    np.testing.assert_array_equal(found[:2], np.broadcast_to(RED, (2, 4, 4, 3)))
    np.testing.assert_array_equal(found[2], np.broadcast_to(GREEN, (4, 4, 3)))


def test_resize_is_lanczos_and_leaves_what_fits(tmp_path):
    values = picture(12, 12)
    save(tmp_path / "a.png", values)
    expected = Image.fromarray(values).resize((6, 6), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(read_images(tmp_path, (6, 6), resize=True).pixels[0], expected)
    np.testing.assert_array_equal(read_images(tmp_path, (12, 12), resize=True).pixels[0], values)


def test_a_mask_is_cut_and_scaled_with_its_image(tmp_path):
    mask = np.zeros((8, 16), np.uint8)
    mask[:, 4:8] = 255
    save(tmp_path / "a.png", picture(8, 16))
    save(tmp_path / "m.png", mask)
    metadata(tmp_path, {"file_name": "a.png", "text": "x", "mask_file_name": "m.png"})
    found = read_images(tmp_path, (4, 4), resize=True).masks[0]
    np.testing.assert_array_equal(found, np.tile([1.0, 1.0, 0.0, 0.0], (4, 1)))


def test_the_digest_is_of_the_content(tmp_path):
    digests = []
    for name, seed, caption, mask in (
        ("one", 1, "x", None),
        ("same", 1, "x", None),
        ("pixels", 2, "x", None),
        ("caption", 1, "y", None),
        ("mask", 1, "x", "m.png"),
    ):
        folder = tmp_path / name
        save(folder / "a.png", picture(seed=seed))
        save(folder / "m.png", np.full((8, 8), 9, np.uint8))
        metadata(
            folder,
            {"file_name": "a.png", "text": caption, "mask_file_name": mask},
            *([] if mask else [{"file_name": "m.png", "text": caption}]),
        )
        digests.append(read_images(folder, (8, 8)).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_a_latent_mask_is_the_mean_of_areas():
    mask = np.zeros((2, 4, 8), np.float32)
    mask[0, :2, :2] = 1
    mask[1, 3, 7] = 0.5
    found = latent_mask(mask, 2)
    assert found.dtype == np.float32
    expected = np.zeros((2, 2, 4))
    expected[0, 0, 0], expected[1, 1, 3] = 1, 0.125
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(latent_mask(mask[0], 2), expected[0])
    np.testing.assert_array_equal(latent_mask(mask, 1), mask)
    with pytest.raises(ValueError, match="4 x 8 for a factor of 3"):
        latent_mask(mask, 3)


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_images(tmp_path / "nowhere", (8, 8))
    one_line(error, "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as error:
        read_images(tmp_path / "file", (8, 8))
    one_line(error, "file", "expected a folder")


@pytest.mark.parametrize("content", ["nothing", "text", "hidden", "metadata"])
def test_no_images(tmp_path, content):
    folder = tmp_path / "images"
    folder.mkdir()
    if content == "text":
        (folder / "a.txt").write_text("x")
    elif content == "hidden":
        save(folder / ".a.png", picture())
    elif content == "metadata":
        (folder / "metadata.jsonl").write_text("\n\n")
    with pytest.raises(ValueError) as error:
        read_images(folder, (8, 8))
    one_line(error, str(folder), "no images", ".webp")


def _bomb(side=30_000):
    """A small PNG file that says it has 900 million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "another format"])
def test_a_damaged_image(tmp_path, suffix, damage):
    good = tmp_path / f"a.{suffix}"
    save(good, picture(64, 64))
    bad = tmp_path / f"b.{suffix}"
    if damage == "another format":
        Image.fromarray(picture(64, 64)).save(bad, format="GIF")
    else:
        content = good.read_bytes()
        bad.write_bytes(
            {"empty": b"", "text": b"hello\nworld", "truncated": content[: len(content) // 2]}[damage]
        )
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (64, 64))
    one_line(error, f"b.{suffix}", "cannot be read as an image")


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(_bomb(side))
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 8), resize=True)
    one_line(error, "bomb.png", "too many pixels")


def test_wrong_and_mixed_sizes(tmp_path):
    save(tmp_path / "a.png", picture(8, 12))
    save(tmp_path / "b.png", picture(8, 8))
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 8))
    one_line(error, "a.png", "8 x 12 pixels;", "expected 8 x 8", "images.resize")
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 12))
    one_line(error, "b.png", "8 x 8 pixels, the ones before it 8 x 12;", "expected 8 x 12")
    with pytest.raises(ValueError, match="size must be an integer >= 1"):
        read_images(tmp_path, (0, 8))


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("{'file_name'}", ValueError, ["not JSON"]),
        ("[" * 100_000, ValueError, ["nested more than 64 deep"]),
        ('["a.png"]', ValueError, ["expected an object with file_name, text"]),
        ({"text": "x"}, ValueError, ["no file_name"]),
        ({"file_name": "a.png"}, ValueError, ["no text"]),
        ({"file_name": "a.png", "text": 3}, ValueError, ["text must be a string or null, got 3"]),
        ({"file_name": 3, "text": "x"}, ValueError, ["file_name must be the name of a file, got 3"]),
        ({"file_name": "", "text": "x"}, ValueError, ["file_name must be the name of a file"]),
        ({"file_name": "a\0.png", "text": "x"}, ValueError, ["file_name must be the name of a file"]),
        ({"file_name": "a.png", "txt": "x"}, ValueError, ["unknown key 'txt'", "did you mean 'text'"]),
        (
            {"file_name": "a.png", "text": "x", "mask_filename": "m.png"},
            ValueError,
            ["did you mean 'mask_file_name'"],
        ),
        ({"file_name": "z.png", "text": "x"}, FileNotFoundError, ["'z.png'", "no such file"]),
        ({"file_name": "notes.txt", "text": "x"}, ValueError, ["'notes.txt' is not one of .png"]),
        ({"file_name": "../out.png", "text": "x"}, ValueError, ["leads out of the folder"]),
        ({"file_name": "below/../../out.png", "text": "x"}, ValueError, ["leads out of the folder"]),
        ({"file_name": "..\\out.png", "text": "x"}, ValueError, ["leads out of the folder"]),
        ({"file_name": "/etc/out.png", "text": "x"}, ValueError, ["leads out of the folder"]),
        ({"file_name": "C:/out.png", "text": "x"}, ValueError, ["leads out of the folder"]),
        ({"file_name": "b.png", "text": "x"}, ValueError, ["'b.png' again, as in line 1"]),
        ({"file_name": "./b.png", "text": "x"}, ValueError, ["'b.png' again, as in line 1"]),
        (
            {"file_name": "a.png", "text": "x", "mask_file_name": "../m.png"},
            ValueError,
            ["mask_file_name", "leads out of the folder"],
        ),
        (
            {"file_name": "a.png", "text": "x", "mask_file_name": "m.png"},
            FileNotFoundError,
            ["mask_file_name 'm.png'", "no such file"],
        ),
    ],
)
def test_a_wrong_line(tmp_path, line, kind, words):
    folder = tmp_path / "images"
    for place in (folder / "a.png", folder / "b.png", tmp_path / "out.png", tmp_path / "m.png"):
        save(place, picture())
    (folder / "notes.txt").write_text("x")
    metadata(folder, {"file_name": "b.png", "text": "x"}, "", line)
    with pytest.raises(kind) as error:
        read_images(folder, (8, 8))
    one_line(error, *words)
    assert re.search(r"metadata\.jsonl, line 3(, column \d+)?: ", str(error.value))
    assert len(str(error.value)) < 400


def test_an_image_that_metadata_leaves_out(tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "b.png", picture())
    metadata(tmp_path, {"file_name": "a.png", "text": "x"})
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 8))
    one_line(error, "b.png is not in metadata.jsonl")


def test_other_metadata(tmp_path):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 8))
    one_line(error, "metadata.csv", "expected metadata.jsonl")
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "\xff"}')
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 8))
    one_line(error, "metadata.jsonl", "not UTF-8")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full((8, 4), 255, np.uint8), ["8 x 4", "a.png of 8 x 8", "expected the same size"]),
        (np.zeros((8, 8), np.uint8), ["black everywhere"]),
        (np.full((8, 8, 4), 255, np.uint8), ["transparency"]),
    ],
)
def test_a_wrong_mask(tmp_path, mask, words):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "masks" / "m.png", mask)
    metadata(tmp_path, {"file_name": "a.png", "text": "x", "mask_file_name": "masks/m.png"})
    with pytest.raises(ValueError) as error:
        read_images(tmp_path, (8, 8))
    one_line(error, "m.png", *words)
